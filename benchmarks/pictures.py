"""A comparison as one picture, by matplotlib: accuracy against seconds, time to target, a step's time, bandwidth."""

import math
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison, Group
from benchmarks.kinds import KINDS
from benchmarks.rows import PARTS
from speedrun.errors import SpeedrunError, UsageError
from speedrun.files import atomic_path


def draw(comparison: Comparison, path: Path) -> None:
    """Write a picture in the format that the name of `path` asks for.

    Raises SpeedrunError where matplotlib is missing or there is nothing to draw, UsageError for an unknown format.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise SpeedrunError("--png needs matplotlib: pip install 'speedrun[plots]'") from None
    kind = path.suffix.lstrip(".") or "png"
    if kind not in FigureCanvasAgg.get_supported_filetypes():
        raise UsageError(f"--png {path}: matplotlib does not write .{kind}")
    panels: dict[str, Callable[[Any, Comparison], None]] = {"accuracy": _accuracy, "target": _target, "step": _step}
    panels |= {name: partial(_bandwidth, name=name) for name in ("kernel", "training_kernel")}
    present = [name for name in panels if comparison.of(PARTS[name])]
    if not present:
        raise SpeedrunError("--png has nothing to draw: no accuracy, target, step or kernel was recorded")
    height = max(4.0, 1.5 + 0.3 * len(comparison.machines))
    figure = Figure(figsize=(12, height * math.ceil(len(present) / 2)), layout="constrained")
    FigureCanvasAgg(figure)
    for number, name in enumerate(present, 1):
        axes = figure.add_subplot(math.ceil(len(present) / 2), min(2, len(present)), number)
        axes.set_title(PARTS[name].title, loc="left")
        panels[name](axes, comparison)
    with atomic_path(path, durable=False) as temporary:
        figure.savefig(temporary, dpi=120, format=kind)


def _fullest(comparison: Comparison, name: str) -> Group:
    """The row of a part that most machines have, the first of several."""
    return max(comparison.of(PARTS[name]), key=lambda group: len(group.cells))


def _under(unit: str, group: Group) -> str:
    return f"{unit}\n{_text(textwrap.fill(group.title, 60))}"


def _text(name: str) -> str:
    """Anybody's name as what matplotlib does not take for a formula."""
    return name.replace("$", r"\$")


def _accuracy(axes: Any, comparison: Comparison) -> None:
    """Accuracy against seconds, of the data set and split that most machines have."""
    like = _fullest(comparison, "accuracy").key
    at = PARTS["accuracy"].fields.index("seconds")
    groups = [group for group in comparison.of(PARTS["accuracy"]) if _without(group.key, at) == _without(like, at)]
    for machine in comparison.machines:
        points = sorted((float(group.key[at]), group.cells[machine]) for group in groups if machine in group.cells)
        if points:
            seconds, cells = zip(*points, strict=True)
            errors = [0 if math.isnan(cell.half_width) else 100 * cell.half_width for cell in cells]
            reached = [100 * cell.value for cell in cells]
            axes.errorbar(seconds, reached, errors, marker="o", capsize=3, label=_text(machine))
    what = _text(", ".join(_without(like, at)))
    axes.set(xscale="log", xlabel="seconds, strict clock", ylabel=f"accuracy, % ({what})")
    ticks = sorted({float(group.key[at]) for group in groups})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _without(key: tuple[str, ...], at: int) -> tuple[str, ...]:
    return key[:at] + key[at + 1 :]


def _target(axes: Any, comparison: Comparison) -> None:
    group = _fullest(comparison, "target")
    cells = [(machine, group.cells[machine]) for machine in comparison.machines if machine in group.cells]
    errors = [0 if math.isnan(cell.half_width) else cell.half_width for _, cell in cells]
    axes.barh([_text(name) for name, _ in cells], [cell.value for _, cell in cells], xerr=errors, capsize=3)
    axes.set_xlabel(_under("seconds", group), fontsize="small")
    axes.invert_yaxis()


def _step(axes: Any, comparison: Comparison) -> None:
    group = _fullest(comparison, "step")
    names = [machine for machine in comparison.machines if machine in group.cells]
    left = [0.0] * len(names)
    for kind in KINDS:
        widths = [1e3 * group.cells[name].value * group.cells[name].breakdown.get(kind, 0.0) for name in names]
        if any(widths):
            axes.barh(list(map(_text, names)), widths, left=left, label=kind)
            left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_xlabel(_under("ms", group), fontsize="small")
    axes.invert_yaxis()
    axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.01, 1))


def _bandwidth(axes: Any, comparison: Comparison, name: str) -> None:
    group = _fullest(comparison, name)
    names = [machine for machine in comparison.machines if machine in group.cells]
    axes.barh(list(map(_text, names)), [group.cells[name].extras["GB/s"] for name in names])
    axes.set_xlabel(_under("GB/s", group), fontsize="small")
    axes.invert_yaxis()
