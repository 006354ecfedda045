"""The README's picture: accuracy against seconds, a line a device, drawn from the committed records.

`python -m benchmarks.readme` draws it. What it was drawn from stands in its metadata, so that a test can tell whether
the records have changed since; two versions of matplotlib do not write the same bytes.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import curve
from speedrun import stats
from speedrun.errors import SpeedrunError
from speedrun.files import atomic_path

PATH = Path(__file__).parent / "curve.svg"

# Where the axis of accuracy, which is one of the error's logarithm, has its lines.
_LINES = (40, 50, 60, 70, 80, 85, 90, 92, 94, 95, 96, 97, 98, 99)

# A device's points: seconds, mean accuracy in percent, its deviation (0 of a single run), number of runs.
Points = dict[str, list[tuple[float, float, float, int]]]


def points(records: Sequence[dict[str, Any]]) -> tuple[Points, Points]:
    """By device: the budgets that were measured, and the targets at the seconds that they took from outside."""
    budgets, targets = curve.by_budget(records), curve.by_target(records)
    return _points(budgets), _points({(where, _mean_seconds(runs)): runs for (where, _), runs in targets.items()})


def digest(drawn: tuple[Points, Points]) -> str:
    """Sixteen hexadecimal digits that two pictures share where they show the same."""
    return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:16]


def draw(records: Sequence[dict[str, Any]], path: Path = PATH) -> None:
    """Write the picture, in SVG. Raises SpeedrunError where matplotlib is missing or nothing was measured."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise SpeedrunError("the picture of the curve needs matplotlib: pip install 'speedrun[plots]'") from None
    budgets, targets = drawn = points(records)
    if not budgets:
        raise SpeedrunError("the picture of the curve has nothing to draw: no accuracy was recorded")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for where, measured in budgets.items():
        seconds, means, deviations, _ = zip(*measured, strict=True)
        errors = [100 - mean for mean in means]
        line = axes.errorbar(seconds, errors, deviations, marker="o", capsize=3, label=f"{where}: --seconds")
        if where in targets:
            reached = [(point[0], 100 - point[1]) for point in targets[where]]
            style = {"marker": "*", "markersize": 13, "linestyle": "", "color": line[0].get_color()}
            axes.plot(*zip(*reached, strict=True), **style, markeredgecolor="white", label=f"{where}: --target")
    axes.set(xscale="log", yscale="log", xlabel="seconds from process start to exit")
    axes.set_ylabel("accuracy on the test set, %")
    seen = [point[:2] for measured in (*budgets.values(), *targets.values()) for point in measured]
    ticks = sorted({point[0] for measured in budgets.values() for point in measured})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    lowest, highest = min(mean for _, mean in seen), max(mean for _, mean in seen)
    lines = [accuracy for accuracy in _LINES if lowest - 10 <= accuracy <= highest + 1]
    axes.set_yticks([100 - accuracy for accuracy in lines], [str(accuracy) for accuracy in lines])
    axes.invert_yaxis()
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    # Text stays text, and no run of this differs from another by a date or a random name.
    plain = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "curve"})
    with plain, atomic_path(path, durable=False) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Description": digest(drawn)})


def shows(path: Path, records: Sequence[dict[str, Any]]) -> bool:
    """Whether the picture at `path` was drawn from what the records say now."""
    return path.exists() and digest(points(records)) in path.read_text(encoding="utf-8")


def _points(groups: dict[tuple[str, float], Any]) -> Points:
    found: Points = defaultdict(list)
    for (where, seconds), runs in sorted(groups.items()):
        sample = stats.describe([100 * run["accuracy"] for run in runs])
        deviation = sample.deviation if sample.n > 1 else 0.0
        found[where].append((round(seconds, 2), round(sample.mean, 3), round(deviation, 3), sample.n))
    return dict(found)


def _mean_seconds(runs: Sequence[dict[str, Any]]) -> float:
    return stats.describe([run.get("outside_seconds", run["wall_seconds"]) for run in runs]).mean
