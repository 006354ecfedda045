"""The planner's knowledge: trains its nets for several lengths on the 45,000/5,000 split and fits its table.

    python -m benchmarks.scaling --measure [--only 32/128/128] [--seeds 1]
    python -m benchmarks.scaling --fit          # records -> speedrun/planner.json

A point that is recorded already (same net, epochs and seed) is not run again. The table holds hyper-parameters, costs
and held-out accuracies; it never sees the test set.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.curve import RESULTS, recorded, run_main_job
from speedrun import models, record
from speedrun.config import ModelConfig
from speedrun.errors import SpeedrunError

TABLE = Path(__file__).parent.parent / "speedrun" / "planner.json"
HELD_OUT_TRAINING = 45_000
ABOUT = (
    "Made by `python -m benchmarks.scaling --fit` from the committed records; not edited by hand. A point is a net "
    "trained for `epochs` on 45,000 training images: its training operations (three forward passes an image) and its "
    "accuracy on the other 5,000 with six views, mean over seeds. speed: operations a second as a share of the "
    "probe's, as timed on two cores of the CPU that measured the points. forward_flops: operations to evaluate an "
    "image at the last resolution. `measured: false` marks nets for budgets that no CPU reaches, whose one point is a "
    "guess after published test accuracies of similar nets."
)


@dataclass(frozen=True)
class Candidate:
    """A net with its dials and the lengths, in epochs, at which it is measured."""

    widths: tuple[int, ...]
    depth: int
    resolutions: tuple[int, ...]
    batch_size: int
    cutout: int
    lr: float
    speed: float
    epochs: tuple[float, ...]

    @property
    def name(self) -> str:
        return "/".join(map(str, self.widths)) + ("" if self.depth == 2 else f" depth {self.depth}")

    def flags(self, epochs: float) -> list[str]:
        """The command line of the main job that measures a point."""
        steps = round(epochs * (HELD_OUT_TRAINING // self.batch_size))
        fields = {
            "model.widths": ",".join(map(str, self.widths)),
            "model.depth": self.depth,
            "resolutions": ",".join(map(str, self.resolutions)),
            "batch_size": self.batch_size,
            "augment.cutout": self.cutout,
            "optim.lr": self.lr,
        }
        settings = [word for name, value in fields.items() for word in ("--set", f"{name}={value}")]
        return ["--steps", str(steps), "--holdout", "--tta", "full", "--dataset", "cifar10", *settings]

    def matches(self, run: dict[str, Any]) -> bool:
        """Whether a record is of this net with these dials, on the split and to the end of a fixed number of steps."""
        config = run.get("config", {})
        return (
            run["kind"] == "run"
            and run["status"] == "complete"
            and run["budget_seconds"] is None
            and run["dataset"] == "cifar10"
            and "held out" in run["split"]["scored"]
            and tuple(config["model"]["widths"]) == self.widths
            and config["model"]["depth"] == self.depth
            and tuple(config["resolutions"]) == self.resolutions
            and config["batch_size"] == self.batch_size
            and config["augment"]["cutout"] == self.cutout
            and config["optim"]["lr"] == self.lr
        )

    def flops(self, size: int) -> int:
        """Operations of an image's forward pass."""
        return models.forward_flops(models.build(ModelConfig(widths=self.widths, depth=self.depth), 10), size)


CANDIDATES = (
    Candidate((32, 64, 64), 2, (16, 20, 24), 250, 0, 0.24, 0.75, (0.5, 1.0, 2.0)),
    Candidate((32, 64, 128), 2, (20, 24, 28), 250, 0, 0.24, 0.9, (0.6, 1.5, 3.0)),
    Candidate((32, 128, 128), 2, (24, 28, 32), 500, 0, 0.2, 1.05, (0.7, 1.5, 3.0, 6.0)),
    Candidate((64, 128, 256), 2, (24, 28, 32), 500, 0, 0.2, 1.3, (1.5, 4.0)),
    Candidate((64, 256, 256), 2, (24, 28, 32), 1000, 0, 0.24, 1.5, (1.0, 3.0, 8.0)),
)

# Nets for budgets that no CPU reaches, so that a GPU has something to choose: guesses after what similar nets reached
# elsewhere (airbench96's, trained by SGD with a proxy, 0.9603; twice its width for 250 epochs, about 0.972). They stand
# in the table marked `measured: false` until a GPU has measured them on the split.
PUBLISHED = (
    (Candidate((128, 384, 512), 3, (24, 28, 32), 1024, 12, 0.24, 1.5, (45.0,)), 0.9603),
    (Candidate((256, 768, 1024), 3, (24, 28, 32), 1024, 12, 0.24, 1.5, (250.0,)), 0.972),
)


def measure(candidates: Sequence[Candidate], seeds: int, extra: Sequence[str]) -> None:
    """Run and record every point that is not recorded yet, cheapest net first."""
    for candidate in candidates:
        for epochs in candidate.epochs:
            flags = candidate.flags(epochs)
            for seed in range(seeds):
                if any(candidate.matches(run) and _is_point(run, flags, seed) for run in recorded()):
                    continue
                run = run_main_job([*flags, "--seed", str(seed), *extra])
                record.append(RESULTS / f"{record.device_slug(run['device']['name'])}.jsonl", run)
                print(f"{candidate.name}, {epochs:g} epochs, seed {seed}: {run['accuracy']:.4f}", flush=True)


def _is_point(run: dict[str, Any], flags: Sequence[str], seed: int) -> bool:
    return run["config"]["steps"] == int(flags[1]) and run["seed"] == seed


def fit() -> dict[str, Any]:
    """The planner's table from the records of all devices. Raises SpeedrunError where a candidate has no point."""
    runs = recorded()
    rungs = [_rung(candidate, [run for run in runs if candidate.matches(run)]) for candidate in CANDIDATES]
    for candidate, accuracy in PUBLISHED:
        rung = _rung(candidate, [])
        flops = candidate.epochs[0] * 50_000 * _training_flops(candidate)
        rung["points"] = [{"epochs": candidate.epochs[0], "flops": flops, "accuracy": accuracy}]
        rungs.append({**rung, "measured": False, "source": "a guess after published results of similar nets"})
    return {"about": ABOUT, "rungs": rungs}


def _training_flops(candidate: Candidate) -> float:
    """Operations to train on one image: three forward passes, each resolution for an equal share."""
    return 3 * sum(map(candidate.flops, candidate.resolutions)) / len(candidate.resolutions)


def _rung(candidate: Candidate, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    by_steps: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_steps[run["steps"]].append(run)
    points = []
    for steps, same in sorted(by_steps.items()):
        points.append(
            {
                "epochs": round(same[0]["epochs"], 3),
                "flops": round(steps * candidate.batch_size * _training_flops(candidate)),
                "accuracy": round(sum(run["accuracy"] for run in same) / len(same), 4),
                "seeds": len(same),
            }
        )
    return {
        "widths": candidate.widths,
        "depth": candidate.depth,
        "resolutions": candidate.resolutions,
        "batch_size": candidate.batch_size,
        "cutout": candidate.cutout,
        "lr": candidate.lr,
        "speed": candidate.speed,
        "forward_flops": candidate.flops(candidate.resolutions[-1]),
        "measured": True,
        "source": f"measured on the split on {runs[0]['device']['name'] if runs else 'no device yet'}",
        "points": points,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="run what is not recorded yet")
    parser.add_argument("--only", help="names of nets, separated by commas")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--fit", action="store_true", help="write the planner's table from the records")
    options, extra = parser.parse_known_args()
    if options.measure:
        chosen = options.only.split(",") if options.only else [candidate.name for candidate in CANDIDATES]
        measure([candidate for candidate in CANDIDATES if candidate.name in chosen], options.seeds, extra)
    if options.fit:
        TABLE.write_text(json.dumps(fit(), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpeedrunError as error:
        print(f"scaling: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
