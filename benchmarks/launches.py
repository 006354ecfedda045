"""Operations that several contenders do, timed in turn: the rows of a record, and a table of them."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.harness import Call, Timing, in_turn
from benchmarks.rows import place
from speedrun.device import synchronize

Contender = tuple[str, Callable[[], Call | None]]  # a name, and what makes its call, None where it cannot
DIGITS = 4  # of the seconds of each measurement: a record has thousands


def rows(
    about: Mapping[str, Any],
    contenders: Iterable[Contender],
    device: torch.device,
    *,
    seconds: float,
    moved: int,
    bandwidth: float,
) -> Iterator[dict[str, Any]]:
    """One measurement a row: of each contender with caches flushed and warm, all of them in turn for `seconds` each.

    about: what the rows share, `operation`, `batch` and `size`. moved: bytes that must move at least. bandwidth: bytes
    a second of a copy. A contender that raises, for which it is tried alone, gives one row that says what.
    """
    calls: dict[str, Call] = {}
    problems: dict[str, str] = {}
    for name, make in contenders:
        try:
            if (call := make()) is None:
                continue
            call()
            synchronize(device)
        except Exception as error:  # others' code, or a compiler: whatever it raises must not cost the rest
            problems[name] = failure(error)
        else:
            calls[name] = call
    times = {cold: in_turn(calls, device, cold=cold, seconds=seconds, together=None) for cold in (True, False)}
    for name, call in calls.items():
        besides = getattr(call, "besides", 0.0)  # seconds of what is done once for many calls, for each
        for cold, by_name in times.items():
            whole = [each + besides for each in by_name[name]]
            yield {**about, "contender": name, "cold": cold, **result(whole, about["batch"], moved, bandwidth)}
    for name, problem in problems.items():
        yield {**about, "contender": name, "cold": True, "error": problem}


def failure(error: Exception) -> str:
    """An error in one line for a record, which goes to others, whom the folders of this machine do not concern."""
    first = f"{type(error).__name__}: {error}".splitlines()[0]
    return re.sub(r"(/[^\s/'\":,]+){2,}/?", "...", first)


def result(times: Sequence[float], count: int, moved: int, bandwidth: float) -> dict[str, Any]:
    """What the seconds of each measurement come to, for `count` images and `moved` bytes a call."""
    timing = Timing.of(times)
    return {
        **asdict(timing),
        "runs": [float(f"{each:.{DIGITS}g}") for each in times],
        "images_per_second": count / timing.median,
        "bytes": moved,
        "bandwidth_share": moved / timing.median / bandwidth,
    }


def markdown(measured: Sequence[dict[str, Any]]) -> str:
    """All rows as a table, caches flushed and warm side by side."""
    lines = [
        "| operation | by | batch | pixels | median, cold | p20 to p80 | images/s | of copy bandwidth | median, warm |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    warm = {place(line): line for line in measured if not line["cold"]}
    for line in measured:
        about = f"| {line['operation']} | {line['contender']} | {line['batch']:,} | {line['size']} "
        if "error" in line:
            lines.append(f"{about}| {line['error']} | | | | |")
        elif line["cold"]:
            other = f"{_duration(warm[place(line)]['median'])}" if place(line) in warm else ""
            lines.append(
                f"{about}| {_duration(line['median'])} | {_duration(line['p20'])} to {_duration(line['p80'])} "
                f"| {line['images_per_second']:,.0f} | {100 * line['bandwidth_share']:.1f} % | {other} |"
            )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"
