"""What a summary says, as rows of a label and a text, however it is drawn. Standard library only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speedrun import stats


def summary_rows(record: Mapping[str, Any], files: Path | None) -> list[tuple[str, str]]:
    """What a run's summary says, as labels and texts. Leaves out what an unfinished run does not know."""
    accuracy, plain, device = record["accuracy"], record["accuracy_plain"], record["device"] or {}
    views = f" with test views, {percent(plain)} without" if plain is not None and plain != accuracy else ""
    rows = [
        ("accuracy", "not evaluated" if accuracy is None else percent(accuracy) + views),
        ("target", _target_text(record)),
        ("expected", _expected_text(record)),
        ("time", _time_text(record)),
        ("device", _device_text(device)),
        ("dtype", f"{record['dtype']}: {record['dtype_reason']}" if record["dtype"] else ""),
        ("dataset", _dataset_text(record)),
        ("recipe", f"{record['recipe']}, {_parameters_text(record['parameters'])}seed {record['seed']}"),
        ("trained", f"{record['epochs']:.4g} epochs, {record['steps']:,} steps{_rate_text(record)}"),
        ("plan", ", ".join(_plan_texts(record["plan"] or {}))),
        ("files", "could not be saved" if files is None else str(files)),
    ]
    return [(label, text) for label, text in rows if text]


def runs_rows(accuracies: Sequence[float]) -> list[tuple[str, str]]:
    """What the summary of several runs says: each accuracy, mean, deviation and the 95 % interval of the mean."""
    if not accuracies:
        return [("runs", "0")]
    sample = stats.describe(accuracies)
    rows = [
        ("runs", str(sample.n)),
        ("accuracies", "  ".join(percent(accuracy) for accuracy in accuracies)),
        ("mean", percent(sample.mean)),
    ]
    if sample.n > 1:
        low, high = sample.mean - sample.half_width, sample.mean + sample.half_width
        rows.append(("deviation", f"{percent(sample.deviation)} between runs"))
        rows.append(("interval", f"{percent(low)} to {percent(high)} holds the true mean with 95 % confidence"))
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, the columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def percent(fraction: float, digits: int = 2) -> str:
    """A fraction of 1 for people: 0.9402 gives 94.02 %."""
    return f"{100 * fraction:.{digits}f} %"


def rounded(number: float, digits: int) -> str:
    """A number for people, to so many digits or to all before the point: to two, 0.512 is 0.51 and 1234 is 1,234."""
    return f"{number:.{digits}g}" if number < 10 ** (digits - 1) else f"{number:,.0f}"


def minutes(seconds: float) -> str:
    """Seconds for people: 288 gives 4:48, 3723 gives 1:02:03."""
    whole = max(round(seconds), 0)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def _target_text(record: Mapping[str, Any]) -> str:
    target, accuracy = record["config"].get("target"), record["accuracy"]
    if target is None or accuracy is None:
        return ""
    missed = "" if accuracy >= target else f", missed by {percent(target - accuracy)}"
    return f"{percent(target)} was the target{missed}"


def _expected_text(record: Mapping[str, Any]) -> str:
    expected, planned = record.get("expected_accuracy"), (record["plan"] or {}).get("expected_accuracy")
    if expected is None:
        return ""
    return percent(expected) + ("" if planned in (None, expected) else f", {percent(planned)} before steps were timed")


def _time_text(record: Mapping[str, Any]) -> str:
    budget, fetched = record["budget_seconds"], record["fetch_seconds"]
    used = f"{record['wall_seconds']:.1f} s" if budget is None else f"{record['wall_seconds']:.1f} of {budget:g} s"
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in record["phases"].items() if seconds >= 0.05)
    return used + (f", {fetched:.1f} s more for download" if fetched else "") + (f": {phases}" if phases else "")


def _device_text(device: Mapping[str, Any]) -> str:
    if not device:
        return ""
    memory = f"{device['memory'] / 2**30:.0f} GiB" if device["memory"] else ""
    cores = f"{device['cores']} cores" if device["kind"] == "cpu" else ""
    driver = f"driver {device['driver']}" if device["driver"] else ""
    return ", ".join(filter(None, (device["name"], cores, memory, driver)))


def _dataset_text(record: Mapping[str, Any]) -> str:
    name = "SYNTHETIC images, not CIFAR-10" if record["dataset"] == "synthetic" else record["dataset"]
    split = record["split"]
    return f"{name}; trained on {split['train']}, scored on {split['scored']}" if name and split else name or ""


def _parameters_text(parameters: int | None) -> str:
    if parameters is None:
        return ""
    return f"{parameters / 1e6:.2f} M parameters, " if parameters >= 1e6 else f"{parameters:,} parameters, "


def _rate_text(record: Mapping[str, Any]) -> str:
    rate = record["images_per_second"]
    return f", {rate:,.0f} images/s" if rate else ""


def _plan_texts(plan: Mapping[str, Any]) -> list[str]:
    texts = ((name, _value_text(value)) for name, value in plan.items() if name != "expected_accuracy")
    return [f"{name} {text}" for name, text in texts if text]


def _value_text(value: object) -> str:
    """A plain value or a list of them; nothing for what is nested deeper, which the record holds."""
    if isinstance(value, list | tuple):
        return " ".join(map(_value_text, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if isinstance(value, bool | int | str) else ""
