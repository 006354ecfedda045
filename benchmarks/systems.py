"""The five published systems and a baseline, each beside its published numbers, in one table.

    python -m benchmarks.systems [--scale small] [--seconds N] [--seeds N] [--recipe NAME,NAME] [--data-dir DIR]
    python -m benchmarks.systems --table --png curves.png      # only show what is recorded

Every run is a process of its own, timed from outside, and is appended to benchmarks/results/<device-slug>.jsonl. A
tenth of the training images is held out for the curve, whose deviation over the last tenth of training is the
stability; accuracy is of the test set, read once. p is that of a one-sided test that the mean is above the published
accuracy. A GPU has two minutes for each and ten for an ensemble of ten. `--scale small` is for two processor cores:
150 s each, and 300 for an ensemble of one, which would not be scored in less where the cores are slow.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import results, sensors
from benchmarks.children import command
from benchmarks.curve import circumstances, run_main_job
from benchmarks.results import recorded
from speedrun import metrics, models, planner, recipes, schema, scores, stats
from speedrun.errors import SpeedrunError, UsageError
from speedrun.files import SEAL, atomic_path

# Enough for three scorings in the last tenth of training.
SCORINGS = 20
ENSEMBLE = "resnet34-ensemble"


@dataclass(frozen=True)
class Published:
    """What a system's author reports: accuracy in percent, and the time with its device."""

    accuracy: float
    time: str


@dataclass(frozen=True)
class Scale:
    """seconds: of each run; the ensemble, of `members`, has `times` as many."""

    seconds: float
    members: int
    times: float


# The first is the baseline of the second.
SYSTEMS = {
    "resnet18": Published(73.6, "360 s, T4"),
    "mynet": Published(83.84, "9.2 min, T4"),
    "dsnet": Published(87.42, "0.23 h, a GPU"),
    ENSEMBLE: Published(95.09, "2.5 h, L4"),
    "resnet5m": Published(94.60, "200 epochs"),
    "resnet4.9m": Published(93.93, "50 epochs"),
}
SCALES = {"full": Scale(120.0, members=10, times=5), "small": Scale(150.0, members=1, times=2)}


def measure(recipe: str, scale: Scale, seed: int, extra: Sequence[str], device: str = "auto") -> dict[str, Any]:
    """Train one system once; its record, of kind "system". Raises SpeedrunError where it does not run to its end."""
    from speedrun import device as devices  # which imports torch, and a table needs none

    about = results.this_device(device)
    ensemble = recipe == ENSEMBLE
    seconds = scale.seconds * (scale.times if ensemble else 1)
    words = ["ensemble", f"--members={scale.members}"] if ensemble else []
    words += [f"--recipe={recipe}", f"--seconds={seconds:g}", f"--seed={seed}", f"--set=validation.count={SCORINGS}"]
    words += [f"--device={device}"]
    with TemporaryDirectory() as folder:
        with sensors.watched(devices.choose(device).device, about["cores"]) as state:
            run = run_main_job([*words, *extra], Path(folder) / "run")
        last = Path(folder) / "run" / (run["trials"][-1]["name"] if ensemble else "")
        curve = scores.read(last)
        loss = metrics.newest_loss(last)
    values = {
        "recipe": recipe,
        "seed": seed,
        "seconds": seconds,
        "members": scale.members if ensemble else 1,
        "dataset": run["dataset"],
        "status": run["status"],
        "parameters": run["trials"][0]["parameters"] if ensemble else run["parameters"],
        "receptive_field": receptive_field(recipe),
        "accuracy": run["accuracy"],
        "outside_seconds": run["outside_seconds"],
        "loss": loss,
        "stability": scores.stability(curve),
        "curve": [[score.seconds, score.accuracy] for score in curve],
    }
    shared = {name: run[name] for name in schema.ENVELOPE if name in run and name != SEAL}
    return {**shared, "kind": "system", "values": values, **circumstances(run, state)}


def receptive_field(recipe: str) -> int:
    """Side in pixels of what the recipe's net sees, counted from its layers."""
    from speedrun import anatomy  # which imports torch, and a table needs none

    config = recipes.get(recipe)
    config = planner.choose(config, planner.Situation("cpu", 1.0), None).apply(config)
    return anatomy.receptive_field(models.sketch(config.model, 10))


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a device, system and budget, means over the seeds of the newest commit that was measured."""
    groups = _groups(records)
    if not groups:
        return ""
    head = ("recipe", "parameters", "sees", "published", "in", "accuracy", "n", "p", "in", "loss", "stability", "on")
    rows = [_cells([line["values"] for line in same], device) for (device, *_), same in groups.items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows))


def picture(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy on held-out images while training, the newest run of each row. SpeedrunError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SpeedrunError("a picture needs matplotlib: pip install 'speedrun[plots]'") from None
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="seconds of training", ylabel="accuracy on held-out images, %")
    for (device, _, _), lines in _groups(records).items():
        values = lines[-1]["values"]
        seconds = [score[0] for score in values["curve"]]
        accuracies = [100 * score[1] for score in values["curve"]]
        axes.plot(seconds, accuracies, marker="o", markersize=3, label=f"{values['recipe']}, {device}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    with atomic_path(path, durable=False) as temporary:
        figure.savefig(temporary, dpi=120, format=path.suffix.lstrip(".") or "png")


def _groups(records: Sequence[dict[str, Any]]) -> dict[tuple[str, int, float], list[dict[str, Any]]]:
    """Records of CIFAR-10 by device, system and seconds, sorted; of each the newest commit's."""
    order = list(SYSTEMS)

    def key(line: dict[str, Any]) -> tuple[str, int, float]:
        return line["device"]["name"], order.index(line["values"]["recipe"]), line["values"]["seconds"]

    lines = (line for line in records if line["kind"] == "system" and line["values"]["dataset"] == "cifar10")
    return results.by_newest_commit((line for line in lines if line["git"]), key)


def _cells(runs: Sequence[dict[str, Any]], device: str) -> tuple[str, ...]:
    first, accuracies = runs[0], [run["accuracy"] for run in runs]
    accuracy, published = stats.describe(accuracies), SYSTEMS[first["recipe"]]
    deviation = f" ± {100 * accuracy.deviation:.2f}" if accuracy.n > 1 else ""
    losses = [run["loss"] for run in runs if run["loss"] is not None]
    stabilities = [run["stability"] for run in runs if run["stability"] is not None]
    return (
        first["recipe"] + (f", {first['members']} member(s)" if first["recipe"] == ENSEMBLE else ""),
        f"{first['parameters']:,}",
        f"{first['receptive_field']} px",
        f"{published.accuracy:g} %",
        published.time,
        f"{100 * accuracy.mean:.2f}{deviation} %",
        str(accuracy.n),
        f"{stats.exceeds(accuracies, published.accuracy / 100).p:.2g}" if accuracy.n > 1 else "-",
        f"{stats.describe([run['outside_seconds'] for run in runs]).mean:.0f} s",
        f"{stats.describe(losses).mean:.3f}" if losses else "-",
        f"{100 * stats.describe(stabilities).mean:.2f} %" if stabilities else "-",
        device,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="full", help="small: for two processor cores")
    parser.add_argument("--seconds", type=float, help="seconds of each run, in place of the scale's")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to this, exclusive")
    parser.add_argument("--recipe", metavar="NAME,NAME", default=",".join(SYSTEMS), help="only these")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is recorded")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the curves of what is recorded")
    options, extra = parser.parse_known_args()
    wanted = options.recipe.split(",")
    if unknown := set(wanted) - set(SYSTEMS):
        raise UsageError(f"--recipe: {', '.join(sorted(unknown))} is none of {', '.join(SYSTEMS)}")
    scale = SCALES[options.scale]
    scale = replace(scale, seconds=options.seconds or scale.seconds)
    failed = 0
    for recipe in () if options.table else wanted:
        for seed in range(options.seeds):
            try:
                line = measure(recipe, scale, seed, extra, options.device)
            except SpeedrunError as error:  # the other systems are measured all the same
                print(f"{recipe}, seed {seed}: {error}", file=sys.stderr, flush=True)
                failed = error.exit_code
                continue
            results.add(line)
            values = line["values"]
            print(f"{recipe}, seed {seed}: {values['accuracy']:.4f} in {values['outside_seconds']:.1f} s", flush=True)
    found = recorded()
    print(table(found))
    if options.png:
        picture(found, options.png)
    return failed


if __name__ == "__main__":
    sys.exit(command("systems", main))
