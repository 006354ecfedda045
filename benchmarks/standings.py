"""What `benchmarks.records` has recorded, as a table: who reaches an accuracy, how surely, and in how many seconds."""

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.results import Records
from speedrun import stats

OURS = "speedrun"  # the plain one; words after it make another training


def table(records: Sequence[dict[str, Any]], *, others: bool = False) -> str:
    """Markdown: a row a device, target and contender, of the newest settings that were measured; ours first, with the
    plain one at the head, against which the others are held.

    others: images other than CIFAR-10's are shown too.
    """
    lines = [line for line in records if line["kind"] == "record" and (others or line["dataset"] == "cifar10")]
    groups: dict[tuple[str, float], dict[str, Records]] = {}
    for line in sorted(lines, key=lambda each: each["started"]):
        place = groups.setdefault((line["device"]["name"], line["target"]), {})
        before = place.setdefault(line["contender"], [])
        if before and any(before[-1][name] != line[name] for name in ("config_hash", "versions", "device")):
            before.clear()
        before.append(line)
    if not groups:
        return ""
    head = ("device", "target", "who", "accuracy, mean ± interval", "p", "seconds, mean ± interval", "ours", "p", "n")
    rows = [head, ("---",) * len(head)]
    for (device, target), place in sorted(groups.items()):
        for name in sorted(place, key=lambda name: (name.split()[0] != OURS, name)):
            rows.append((device, f"{100 * target:g} %", name, *_cells(place[name], place.get(OURS, []), target)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cells(lines: Records, ours: Records, target: float) -> tuple[str, ...]:
    accuracies, seconds = _column(lines, "accuracies"), _column(lines, "seconds")
    accuracy, time_taken = stats.describe(accuracies), stats.describe(seconds)
    half = "" if accuracy.n < 2 else f" ± {100 * accuracy.half_width:.3f}"
    half_time = "" if accuracy.n < 2 else f" ± {time_taken.half_width:.3f}"
    against, p = "", ""
    if ours and lines is not ours and _code(lines) in (None, _code(ours)):
        mine = _column(ours, "seconds")
        ratio = stats.ratio(mine, seconds)
        ends = "" if math.isnan(ratio.low) else f" [{ratio.low:.3f}, {ratio.high:.3f}]"
        against = f"{ratio.value:.3f}x{ends}"
        p = _p(stats.below(mine, seconds))
    shown = f"{100 * accuracy.mean:.3f}{half} %", _p(stats.exceeds(accuracies, target).p)
    return (*shown, f"{time_taken.mean:.3f}{half_time}", against, p, str(accuracy.n))


def _code(lines: Records) -> str | None:
    """What tells the code of ours; None of another's script. A training of other code than the plain one is no trial
    of the words that it was changed by."""
    return lines[-1]["settings"].get("code")


def _column(lines: Records, name: str) -> list[float]:
    return [value for line in lines for value in line[name]]


def _p(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}"
