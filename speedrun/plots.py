"""Pictures of a run or a job, drawn from what it left in its folder. Needs matplotlib: the extra `plots`."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speedrun import config as configs
from speedrun import metrics, scores
from speedrun.background import Background
from speedrun.errors import SpeedrunError
from speedrun.files import atomic_path, read_sealed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# To import matplotlib and draw.
SECONDS = 3.0
_LONGEST = 60.0
# A range drawn from over more than this factor is shown by its logarithm.
_LOG_SPREAD = 50
_MOST_FIELDS = 9


def available() -> bool:
    """Whether matplotlib is installed. Does not import it."""
    return importlib.util.find_spec("matplotlib") is not None


def affordable(budget: float | None, share: float) -> bool:
    """Whether a picture can be drawn and takes no more than `share` of a budget in seconds, or of none."""
    return available() and (budget is None or share * budget >= SECONDS)


def draw_within(folder: Path, seconds: float, warn: Callable[[str], None]) -> None:
    """As `draw`, but given up after so many seconds; tells `warn` why there is no picture, where there is none.

    In a thread, for the first import of matplotlib may take longer than there is time.
    """
    try:
        Background(lambda: draw(folder)).result(min(seconds, _LONGEST))
    except (SpeedrunError, TimeoutError) as error:
        reason = str(error) or "no time was left"
        warn(f"no picture ({reason}); python -m speedrun plot {folder} draws it")


def draw(folder: Path) -> Path:
    """Draw the picture of the run or job that `folder` holds, as `<kind>.png` in it; returns its path.

    Raises SpeedrunError where matplotlib or a record is missing, or the picture cannot be written.
    """
    if not available():
        raise SpeedrunError("pictures need matplotlib: pip install 'speedrun[plots]'")
    record = read_sealed(folder / "result.json")
    try:
        figure = figure_of(record, folder)
        path = folder / f"{record['kind']}.png"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=110, format="png")
    except ImportError as error:
        raise SpeedrunError(f"matplotlib cannot be imported: {error}") from None
    except OSError as error:
        raise SpeedrunError(f"{error.filename or folder}: {error.strerror}") from None
    except (ValueError, KeyError) as error:
        raise SpeedrunError(f"{folder / 'result.json'} is no record of a run or a job: {error}") from None
    return path


def figure_of(record: Mapping[str, Any], folder: Path) -> "Figure":
    """The picture of a record, its files in `folder`. KeyError for a kind that has none."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    painters = {"run": _run, "ensemble": _ensemble, "search": _search, "ablation": _ablation}
    painters[record["kind"]](figure, record, folder)
    return figure


def _run(figure: "Figure", record: Mapping[str, Any], folder: Path) -> None:
    left, right = figure.subplots(1, 2)
    _curves(left, right, record["recipe"], folder)
    if record["accuracy"] is not None:
        right.axhline(100 * record["accuracy"], linestyle="--", color="black", linewidth=1, label="scored at the end")
    right.legend()


def _curves(left: "Axes", right: "Axes", label: str, folder: Path) -> None:
    """Loss of the batches at the left; their accuracy, and that on held-out images, at the right."""
    epochs, losses, accuracies = _columns(folder / "metrics.jsonl", "epoch", "loss", "accuracy")
    left.plot(epochs, losses, linewidth=1)
    left.set(xlabel="epoch", ylabel="loss of the batch", title=label)
    right.plot(epochs, [100 * value for value in accuracies], linewidth=0.5, alpha=0.6, label="training batch")
    if curve := scores.read(folder):
        epochs, accuracies = [score.epoch for score in curve], [100 * score.accuracy for score in curve]
        right.plot(epochs, accuracies, marker="o", markersize=3, label="held out")
    right.set(xlabel="epoch", ylabel="accuracy, %")


def _ensemble(figure: "Figure", record: Mapping[str, Any], folder: Path) -> None:
    axes = figure.subplots()
    own = [100 * trial["accuracy"] for trial in record["trials"] if trial["accuracy"] is not None]
    numbers = range(1, len(own) + 1)
    axes.plot(numbers, own, "o", label="each member")
    axes.plot(numbers, [100 * accuracy for accuracy in record["by_members"]], "-s", label="mean of the first n")
    if own:
        axes.axhline(sum(own) / len(own), linestyle="--", linewidth=1, color="gray", label="mean of the members")
    axes.set(xlabel="members", ylabel="accuracy, %", title=f"ensemble of {record['recipe']}", xticks=list(numbers))
    axes.legend()


def _search(figure: "Figure", record: Mapping[str, Any], folder: Path) -> None:
    names = list(record["space"])[:_MOST_FIELDS]
    trials = [trial for trial in record["trials"] if trial["accuracy"] is not None]
    across = min(3, len(names))
    figure.set_figheight(2 + 3 * -(-len(names) // across))
    panels = figure.subplots(-(-len(names) // across), across, squeeze=False, sharey=True)
    for axes, name in zip(panels.flat, names, strict=False):
        values = [trial["changes"][name] for trial in trials]
        _scatter(axes, values, [100 * trial["accuracy"] for trial in trials])
        axes.set(xlabel=name)
    for axes in panels[:, 0]:
        axes.set(ylabel="held out, %")
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    figure.suptitle(f"search of {record['recipe']}: {len(trials)} trials, later ones darker")


def _scatter(axes: "Axes", values: Sequence[Any], accuracies: Sequence[float]) -> None:
    """Accuracy by value: numbers on an axis, anything else by its text."""
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    shown = list(values) if numeric else [configs.as_text(value) for value in values]
    axes.scatter(shown, accuracies, c=range(len(shown)), cmap="Blues", vmin=-len(shown), edgecolors="gray")
    if numeric and values and min(values) > 0 and max(values) > _LOG_SPREAD * min(values):
        axes.set_xscale("log")
    if not numeric:
        axes.tick_params(axis="x", labelrotation=45)


def _ablation(figure: "Figure", record: Mapping[str, Any], folder: Path) -> None:
    axes = figure.subplots()
    rows = [row for row in record["rows"] if row["accuracy"] is not None][::-1]
    names, accuracies = [row["change"] for row in rows], [100 * row["accuracy"] for row in rows]
    errors = [100 * (row["deviation"] or 0.0) for row in rows]
    bars = axes.barh(names, accuracies, xerr=errors, capsize=3, color=["tab:blue"] * (len(rows) - 1) + ["tab:gray"])
    axes.bar_label(bars, fmt="%.2f", padding=4)
    if rows:
        low, high = min(accuracies) - max(errors), max(accuracies) + max(errors)
        room = max(high - low, 0.5)
        axes.set_xlim(max(low - 0.5 * room, 0), min(high + 0.2 * room, 105))
    axes.set(xlabel="held out, % (bars: one deviation between runs)", title=f"ablation of {record['recipe']}")


def _columns(path: Path, *names: str) -> list[list[float]]:
    """Columns of a file of lines, NaN where a number is not known."""
    lines = metrics.read(path)
    return [[float("nan") if (value := line[name]) is None else value for line in lines] for name in names]
