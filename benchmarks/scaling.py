"""The planner's knowledge: trains its nets for several lengths on the 45,000/5,000 split and fits its table.

    python -m benchmarks.scaling                # both: measure what is not recorded yet, then fit
    python -m benchmarks.scaling --measure [--only 32/128/128] [--seeds 1] [--most TFLOP]
    python -m benchmarks.scaling --measure --only "128/384/512 depth 3" --device cuda      # of the nets for GPUs
    python -m benchmarks.scaling --fit          # records -> speedrun/planner.json

A point that is recorded already (same net, epochs, seed and tenth) is not run again. How fast each net is beside the
planner's probe, `python -m benchmarks.step` records, alone on a quiet machine. The table holds hyper-parameters,
costs and held-out accuracies; it never sees the test set.
"""

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.children import command
from benchmarks.curve import run_main_job
from benchmarks.results import recorded
from speedrun import config as configs
from speedrun import models
from speedrun.config import Config
from speedrun.errors import SpeedrunError, UsageError
from speedrun.planner import MOMENTUM

TABLE = Path(__file__).parent.parent / "speedrun" / "planner.json"
HELD_OUT_TRAINING = 45_000
# How far apart in log-error two points are whose tenths' hardness is alike, as the deviation of a Gaussian: a factor of
# 1.5. Of 0.2 to 2 it foretold a tenth left out best, to 0.035 in log-error; where all points count the same, to 0.044.
ALIKE = 0.4
USUAL_MOMENTUM = Config().optim.filter_momentum  # where a net has none of its own
# Config fields that do not touch what is learned; a point's record may have any value in them.
FREE = (
    "steps",
    "seed",
    "device",
    "dtype",
    "compile",
    "data_dir",
    "dataset",
    "out",
    "holdout",
    "holdout_fold",
    "quiet",
    "json",
)
UNTIMED = ("device", "tta", "uncertain_share")  # those that do not touch how long a step takes
SCORED = {"tta": "full", "uncertain_share": 1.0}  # how the images held out are: all six views of each
ABOUT = (
    "Made by `python -m benchmarks.scaling --fit` from the committed records; not edited by hand. A point is a net "
    "trained for `epochs` on 45,000 training images: its training operations (three forward passes an image) and its "
    "accuracy on the other 5,000 with six views, mean over runs, each of which holds out one of ten tenths; by how "
    "much a tenth is harder or easier than their mean, for nets about as good, is taken out of it. speed: operations a "
    "second as a share of the probe's on one CPU: of steps that were timed in turn with it, on the one whose steps of "
    "all nets are the newest, or, where none timed all, of the runs on the one that made most, the median; a net that "
    "was not timed has that of the one before it. forward_flops: operations to evaluate an image at the last "
    "resolution. `measured: false` marks nets for budgets that no CPU reaches, whose one point is a guess after "
    "published test accuracies of similar nets."
)


@dataclass(frozen=True)
class Candidate:
    """A net with its dials, config fields by dotted name, and the lengths, in epochs, at which it is measured."""

    dials: dict[str, Any]
    epochs: tuple[float, ...]

    @property
    def name(self) -> str:
        widths, depth = configs.as_text(self.dials["model.widths"], "/"), self.dials["model.depth"]
        momentum = self.dials[MOMENTUM]
        deeper = "" if depth == 2 else f" depth {configs.as_text(depth, '/')}"
        return f"{widths}{deeper}" if momentum == USUAL_MOMENTUM else f"{widths}{deeper} momentum {momentum:g}"

    @property
    def timing(self) -> dict[str, Any]:
        """The dials on which it depends how long a step takes."""
        return {name: value for name, value in self.dials.items() if name != MOMENTUM}

    def steps(self, epochs: float) -> int:
        """Steps of so many epochs."""
        return round(epochs * (HELD_OUT_TRAINING // self.dials["batch_size"]))

    def flags(self, epochs: float) -> list[str]:
        """The command line of the main job that measures a point."""
        settings = [
            word for name, value in self.dials.items() for word in ("--set", f"{name}={configs.as_text(value)}")
        ]
        return ["--steps", str(self.steps(epochs)), "--holdout", "--tta", "full", "--dataset", "cifar10", *settings]

    def matches(self, run: dict[str, Any]) -> bool:
        """Whether a record is of this net with these dials, on the split and to the end of a fixed number of steps."""
        return (
            run["kind"] == "run"
            and run["status"] == "complete"
            and run["budget_seconds"] is None
            and run["dataset"] == "cifar10"
            and "held out" in run["split"]["scored"]
            and self._configured(run["config"], FREE, SCORED)
        )

    def timed_by(self, step: Mapping[str, Any]) -> bool:
        """Whether a record of `benchmarks.step` is of this net's step, as a CPU makes it in a run, and the probe's."""
        if step["kind"] != "step" or "probe_flops_per_second" not in step or step["dtype"] == "float32":
            return False
        plain = step["settings"]["config"]
        return self._configured(plain, UNTIMED, {"compile": "off", MOMENTUM: plain["optim"].get("momentum")})

    def _configured(self, plain: dict[str, Any], free: Sequence[str], held: Mapping[str, Any]) -> bool:
        """Whether a config, as JSON values, is of this net and has what is `held`; what is `free` is taken from it."""
        try:
            given = configs.from_dict(Config, plain)
        except UsageError:  # another version's, with fields of which nothing is known here
            return False
        taken = {name: getattr(given, name) for name in free}
        return given == configs.override(replace(Config(), **taken), {**self.dials, **held})

    def flops(self, size: int) -> int:
        """Operations of an image's forward pass."""
        model = configs.override(Config(), self.dials).model
        return models.forward_flops(models.build(model, 10), size)

    def training_flops(self) -> float:
        """Operations to train on one image: three forward passes, each resolution for an equal share."""
        sizes = self.dials["resolutions"]
        return 3 * sum(map(self.flops, sizes)) / len(sizes)


def candidate(
    widths: tuple[int, ...],
    resolutions: tuple[int, ...],
    batch_size: int,
    lr: float,
    epochs: tuple[float, ...],
    *,
    depth: int | tuple[int, ...] = 2,
    momentum: float = USUAL_MOMENTUM,
    cutout: int = 0,
) -> Candidate:
    """A candidate of the family `speednet`."""
    dials = {
        "model.widths": widths,
        "model.depth": depth,
        "resolutions": resolutions,
        "batch_size": batch_size,
        "augment.cutout": cutout,
        "optim.lr": lr,
        MOMENTUM: momentum,
    }
    return Candidate(dials, epochs)


CANDIDATES = (
    candidate((32, 64, 64), (16, 20, 24), 250, 0.24, (0.5, 1.0, 2.0)),
    candidate((32, 64, 128), (20, 24, 28), 250, 0.24, (0.6, 1.5, 3.0)),
    candidate((32, 128, 128), (24, 28, 32), 500, 0.2, (0.7, 1.5, 3.0, 6.0)),
    candidate((64, 128, 256), (24, 28, 32), 500, 0.2, (1.5, 4.0, 6.0)),
    candidate((64, 256, 256), (24, 28, 32), 1000, 0.24, (1.0, 3.0, 5.0, 8.0, 15.0)),
    candidate((64, 256, 256), (24, 28, 32), 1000, 0.24, (1.0, 3.0, 8.0, 12.0), depth=(2, 2, 3)),
    candidate((64, 256, 256), (24, 28, 32), 1000, 0.24, (1.0, 3.0, 8.0, 12.0), depth=(2, 2, 3), momentum=0.4),
    candidate((64, 256, 256), (24, 28, 32), 1000, 0.24, (1.0, 3.0, 5.88, 11.24), depth=3),
)

# Nets for budgets that no CPU reaches, so that a GPU has something to choose, and what similar nets reached elsewhere
# (airbench96's, trained by SGD with a proxy, 0.9603 in 45 epochs; twice its width for 250 epochs, about 0.972): that
# guess stands in the table, marked `measured: false`, until a net has been measured at all its lengths. `--measure`
# takes them where they are named.
PUBLISHED = (
    (candidate((128, 384, 512), (24, 28, 32), 1024, 0.24, (8.0, 16.0, 32.0, 64.0), depth=3, cutout=12), 45.0, 0.9603),
    (candidate((256, 768, 1024), (24, 28, 32), 1024, 0.24, (10.0, 30.0, 80.0), depth=3, cutout=12), 250.0, 0.972),
)


def measure(candidates: Sequence[Candidate], seeds: int, most_flops: float, extra: Sequence[str]) -> None:
    """Run and record every point of at most `most_flops` that is not recorded yet, cheapest net first."""
    for candidate in candidates:
        for epochs in candidate.epochs:
            if epochs * HELD_OUT_TRAINING * candidate.training_flops() > most_flops:
                continue
            flags = candidate.flags(epochs)
            for seed in range(seeds):
                if any(candidate.matches(run) and _is_point(run, flags, seed) for run in recorded()):
                    continue
                run = run_main_job([*flags, "--seed", str(seed), "--set", f"holdout_fold={seed % 10}", *extra])
                results.add(run)
                print(f"{candidate.name}, {epochs:g} epochs, seed {seed}: {run['accuracy']:.4f}", flush=True)


def _chosen(names: str | None) -> list[Candidate]:
    """The nets of these names, separated by commas; for None all candidates. Raises UsageError."""
    known = {each.name: each for each in (*CANDIDATES, *(large for large, *_ in PUBLISHED))}
    chosen = [each.name for each in CANDIDATES] if names is None else names.split(",")
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise UsageError(f"no net is named {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in known if name in chosen]


def _is_point(run: dict[str, Any], flags: Sequence[str], seed: int) -> bool:
    return run["config"]["steps"] == int(flags[1]) and run["seed"] == seed and _fold(run) == seed % 10


def fit() -> dict[str, Any]:
    """The planner's table from the records of all devices. Raises SpeedrunError where a candidate has no point."""
    runs = recorded()
    candidates = [*CANDIDATES, *(large for large, *_ in PUBLISHED)]
    measured = [[run for run in runs if candidate.matches(run)] for candidate in candidates]
    speeds = _speeds(candidates, runs)
    guesses = {large.name: (epochs, accuracy) for large, epochs, accuracy in PUBLISHED}
    rungs: list[dict[str, Any]] = []
    for candidate, of_it, known in zip(candidates, measured, speeds, strict=True):
        # A net that was not timed is as fast as the last.
        speed = known or (rungs[-1]["speed"] if rungs else 1.0)
        # A few short trainings would hide what long ones are thought to reach.
        missing = {candidate.steps(epochs) for epochs in candidate.epochs} - {run["steps"] for run in of_it}
        if candidate.name in guesses and missing:
            rungs.append(_guessed(candidate, *guesses[candidate.name], speed))
        else:
            rungs.append(_rung(candidate, of_it, measured, speed))
    return {"about": ABOUT, "rungs": rungs}


def fold_hardness(measured: Sequence[Sequence[dict[str, Any]]], log_error: float) -> dict[int, float]:
    """By how much the log-error on each tenth lies above the mean of all tenths, at equal net and length, for a point
    of about this log-error.

    One tenth was found 1.6 points harder than another, far more than seeds differ. Each run's log-error is taken for
    the sum of its point's and its tenth's; alternating means give the least squares. Good nets do not find the same
    tenths hard as poor ones do, so a run counts less the further its point is from this one, by `ALIKE`.
    """
    errors: dict[tuple[int, int], list[tuple[int, float]]] = defaultdict(list)
    for rung, runs in enumerate(measured):
        for run in runs:
            errors[rung, run["steps"]].append((_fold(run), math.log(1 - run["accuracy"])))
    hardness = dict.fromkeys((fold for same in errors.values() for fold, _ in same), 0.0)
    for _ in range(100):
        over, weights = dict.fromkeys(hardness, 0.0), dict.fromkeys(hardness, 0.0)
        for same in errors.values():
            point = statistics.fmean(error - hardness[fold] for fold, error in same)
            weight = math.exp(-(((point - log_error) / ALIKE) ** 2) / 2)
            for fold, error in same:
                over[fold] += weight * (error - point)
                weights[fold] += weight
        means = {fold: over[fold] / weights[fold] for fold in over}
        centre = statistics.fmean(means.values()) if means else 0.0
        hardness = {fold: mean - centre for fold, mean in means.items()}
    return hardness


def _fold(run: dict[str, Any]) -> int:
    return run["config"].get("holdout_fold", 0)


def _described(candidate: Candidate) -> dict[str, Any]:
    return {"dials": candidate.dials, "forward_flops": candidate.flops(candidate.dials["resolutions"][-1])}


def _speeds(candidates: Sequence[Candidate], records: Sequence[dict[str, Any]]) -> list[float | None]:
    """Each net's speed, None where it is not known; all of one processor, for they differ in more than their probe.

    That is the one with steps of every one of CANDIDATES whose newest is the newest; where none has them, the one that
    made most of the trainings, whose speeds are taken then.
    """
    timed = [each for each in records if any(net.timed_by(each) for net in candidates)]
    for steps in sorted(_by_processor(timed), key=lambda steps: max(step["started"] for step in steps), reverse=True):
        speeds = [_speed_of_steps(net, [step for step in steps if net.timed_by(step)]) for net in candidates]
        if None not in speeds[: len(CANDIDATES)]:
            print(f"speeds are of steps on {steps[0]['device']['name']}", file=sys.stderr)
            return speeds
    print("speeds are of runs: no processor has timed every net by benchmarks.step", file=sys.stderr)
    trainings = [each for each in records if any(net.matches(each) for net in candidates)]
    ours = max(_by_processor(trainings), key=len, default=[])
    alike = [[other for other in candidates if other.timing == net.timing] for net in candidates]
    return [
        _speed_of_runs(net, [run for run in ours if any(other.matches(run) for other in same)])
        for net, same in zip(candidates, alike, strict=True)
    ]


def _by_processor(records: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Those that each CPU made."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for each in records:
        if each["device"]["kind"] == "cpu":
            groups[each["device"]["name"]].append(each)
    return list(groups.values())


def _speed_of_steps(candidate: Candidate, steps: Sequence[dict[str, Any]]) -> float | None:
    """A net's operations a second as a share of the probe's, from records of its `steps`; None where a size has none.

    Of each size, those of the newest commit. A training takes as many steps at one size as at another.
    """
    newest = results.by_newest_commit(steps, lambda step: step["size"])
    flops, probe_flops = 0.0, 0.0  # and those that the probe makes meanwhile
    for size in candidate.dials["resolutions"]:
        if size not in newest:
            return None
        shares = [step["flops_per_second"] / step["probe_flops_per_second"] for step in newest[size]]
        flops += candidate.flops(size)
        probe_flops += candidate.flops(size) / statistics.median(shares)
    return round(flops / probe_flops, 3)


def _speed_of_runs(candidate: Candidate, runs: Sequence[dict[str, Any]]) -> float | None:
    """The same, the median over its trainings; None where there are none that know the probe's speed."""
    flops = candidate.training_flops()
    timed = [run for run in runs if "flops_per_second" in run]
    shares = [run["images_per_second"] * flops / run["flops_per_second"] for run in timed]
    return round(statistics.median(shares), 3) if shares else None


def _guessed(candidate: Candidate, epochs: float, accuracy: float, speed: float) -> dict[str, Any]:
    """The entry of a net that nobody has measured."""
    flops = epochs * 50_000 * candidate.training_flops()
    return {
        **_described(candidate),
        "speed": speed,
        "measured": False,
        "source": "a guess after published results of similar nets",
        "points": [{"epochs": epochs, "flops": flops, "accuracy": accuracy}],
    }


def _rung(
    candidate: Candidate, runs: Sequence[dict[str, Any]], measured: Sequence[Sequence[dict[str, Any]]], speed: float
) -> dict[str, Any]:
    """The entry of a net from its runs and those of all nets. Raises SpeedrunError where it has none."""
    if not runs:
        raise SpeedrunError(f"{candidate.name} has not been measured: python -m benchmarks.scaling --measure")
    image_flops, batch_size = candidate.training_flops(), candidate.dials["batch_size"]
    by_steps: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_steps[run["steps"]].append(run)
    points = [
        {
            "epochs": round(same[0]["epochs"], 3),
            "flops": round(steps * batch_size * image_flops),
            "accuracy": round(_accuracy(same, measured), 4),
            "seeds": len(same),
        }
        for steps, same in sorted(by_steps.items())
    ]
    return {
        **_described(candidate),
        "speed": speed,
        "measured": True,
        "source": f"measured on the split on {', '.join(sorted({run['device']['name'] for run in runs}))}",
        "points": points,
    }


def _accuracy(same: Sequence[dict[str, Any]], measured: Sequence[Sequence[dict[str, Any]]]) -> float:
    """Of a point's runs, as on a tenth of mean hardness."""
    log_error = statistics.mean(math.log(1 - run["accuracy"]) for run in same)
    hardness = fold_hardness(measured, log_error)
    return 1 - math.exp(log_error - statistics.mean(hardness[_fold(run)] for run in same))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="run what is not recorded yet")
    parser.add_argument("--only", help="names of nets, separated by commas")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to this, exclusive; each holds out its own tenth")
    parser.add_argument("--most", type=float, default=math.inf, metavar="TFLOP", help="only points that cost no more")
    parser.add_argument("--fit", action="store_true", help="write the planner's table from the records")
    options, extra = parser.parse_known_args()
    both = not (options.measure or options.fit)
    if options.measure or both:
        measure(_chosen(options.only), options.seeds, 1e12 * options.most, extra)
    if options.fit or both:
        TABLE.write_text(json.dumps(fit(), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(command("scaling", main))
