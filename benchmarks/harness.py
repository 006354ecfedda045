"""What benchmarks of operations share: timings with their ends, calls in turn, a cold cache, the bandwidth; the record
of a measurement with the machine's state before and after it.

Not by `triton.testing.do_bench` nor `torch.utils.benchmark`, which time one call to its end and then the next, so that
what the machine does meanwhile falls on one of them; which keep no order of the measurements, from which a drift shows;
and in which the host's launches count where the device is the faster of the two. The first knows no CPU.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks import results, sensors
from benchmarks.results import config_hash
from benchmarks.rows import rows
from speedrun import record
from speedrun.device import describe, synchronize

Call = Callable[[], object]
Key = TypeVar("Key")

# How far two measurements of one thing on a quiet machine may lie apart.
AGREEMENT = 0.05
_FLUSH = 256 * 2**20  # bytes: larger than the last-level cache of every device that this has run on
_COPY = 512 * 2**20  # bytes, each way
_CYCLES = 2e9  # a second, about, of a CUDA device
_AHEAD = 0.05  # seconds that a device is held back at most
_MOST = 200  # measurements; a record holds each
_WARM = 0.05  # seconds in which clocks have risen
# What is timed together, so that the half microsecond by which events are off does not count: this long, so many.
_BATCH, _BATCHED = 1e-3, 50
_PARTS = 5


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median, and the ends between which the middle 60 % lie; measurements that it is of.

    drift: the median of the later half over that of the earlier, less 1: what the machine did meanwhile. parts: the
    medians of up to five equal parts, in order, from which an interval can be had.
    """

    median: float
    p20: float
    p80: float
    calls: int
    drift: float
    parts: tuple[float, ...]

    @classmethod
    def of(cls, times: Sequence[float]) -> "Timing":
        """The timing that measurements come to, in their order."""
        ends = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
        p20, median, p80 = torch.tensor(times, dtype=torch.float64).quantile(ends).tolist()
        half = max(1, len(times) // 2)
        drift = statistics.median(times[-half:]) / statistics.median(times[:half]) - 1
        count = min(_PARTS, len(times))
        bounds = [len(times) * part // count for part in range(count + 1)]
        parts = tuple(statistics.median(times[begin:end]) for begin, end in pairwise(bounds))
        return cls(median, p20, p80, len(times), drift, parts)


def measure(call: Call, device: torch.device, *, cold: bool, seconds: float = 0.5, together: int | None = 1) -> Timing:
    """Times one call; see `in_turn`."""
    return Timing.of(in_turn({"": call}, device, cold=cold, seconds=seconds, together=together)[""])


def in_turn(
    calls: Mapping[str, Call],
    device: torch.device,
    *,
    cold: bool,
    seconds: float = 0.5,
    together: int | None = 1,
    ahead: bool = True,
) -> dict[str, list[float]]:
    """Seconds of each call, measured in turn for about `seconds` each, at least 3 times, after some that warm up.

    In turn, and every other time in reverse, so that what the machine does meanwhile falls on all alike.
    cold: the caches are flushed before every call, outside the measurement. together: calls to a measurement, which
    counts as their mean; cold, 1; None: as many as take a millisecond, 50 at most. On CUDA by events. ahead: the device
    begins only when the host has asked for everything, so that a call which never waits for the device is timed without
    the host; else as it comes.
    """
    flush = _Flush(device) if cold else None
    together = 1 if cold else together
    timers = {name: _timer(call, device, together, ahead) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    order = list(timers)
    for done in range(_MOST):
        if done >= 3 and time.perf_counter() >= end:
            break
        for name in order:
            if flush is not None:
                flush()
            times[name].append(timers[name]())
        order.reverse()
    return times


def _timer(call: Call, device: torch.device, together: int | None, ahead: bool) -> Callable[[], float]:
    """What measures the call once: its seconds, the mean of `together` calls. Warms up."""
    last = _warm_up(call, device)
    together = together or max(1, min(_BATCHED, round(_BATCH / max(last, 1e-9))))
    if device.type == "cuda":
        return _OnCuda(call, together, ahead)

    def timer() -> float:
        seconds = _on_host(call, together)
        if device.type != "cpu":  # Metal: its events cannot be asked for their time
            start = time.perf_counter()
            synchronize(device)
            seconds += (time.perf_counter() - start) / together
        return seconds

    return timer


def _warm_up(call: Call, device: torch.device) -> float:
    """Call twice, and then until the clocks have had time to rise; the seconds of the last call."""
    begun, done, last = time.perf_counter(), 0, 0.0
    while done < 2 or time.perf_counter() - begun < _WARM:
        start = time.perf_counter()
        call()
        synchronize(device)
        last = time.perf_counter() - start
        done += 1
    return last


def _on_host(call: Call, together: int) -> float:
    start = time.perf_counter()
    for _ in range(together):
        call()
    return (time.perf_counter() - start) / together


class _Flush:
    """Empties the caches: writes one buffer, then reads another, for lines that are still to be written cost the next
    call what they are replaced by."""

    def __init__(self, device: torch.device) -> None:
        self.written, self.read = torch.ones((2, _FLUSH // 4), device=device)

    def __call__(self) -> Tensor:
        self.written.zero_()
        return self.read.amax()


class _OnCuda:
    """Times calls by events; `ahead`, behind a pause of the device that is as long as the host needs to ask."""

    def __init__(self, call: Call, together: int, ahead: bool) -> None:
        self.call, self.together = call, together
        host = _on_host(call, 1) * together
        self.cycles = int(_CYCLES * min(2 * host + 1e-4, _AHEAD)) if ahead else 0
        torch.cuda.synchronize()

    def __call__(self) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if self.cycles:
            torch.cuda._sleep(self.cycles)
        start.record()
        for _ in range(self.together):
            self.call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000 / self.together


def copy_bandwidth(device: torch.device, size: int = _COPY) -> float:
    """Bytes a second, read and written together, of torch's copy of `size` bytes; by default more than caches hold."""
    source = torch.ones(size // 4, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    return 2 * size / measure(lambda: target.copy_(source), device, cold=False).median


def disagreement(now: Mapping[Key, float], before: Mapping[Key, float]) -> float | None:
    """How far two measurements of the same things, seconds by what was measured, lie apart: median ratio less 1.

    None where they have nothing in common. The median, because one thing that was disturbed says nothing of the rest.
    """
    ratios = [seconds / before[key] for key, seconds in now.items() if key in before]
    return statistics.median(ratios) - 1 if ratios else None


def changed(line: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """One line where the timings of a record lie further from those of the newest of its kind, on this machine and of
    these settings, than a quiet machine's would; else empty."""
    same = ("kind", "device", "versions", "config_hash")
    earlier = [other for other in records if all(other.get(name) == line[name] for name in same)]
    if not earlier:
        return ""
    newest = max(earlier, key=lambda other: other["started"])
    now, before = ({row.reading.key: row.reading.median for row in rows(each, "")} for each in (line, newest))
    off = disagreement(now, before)
    if off is None or abs(off) <= AGREEMENT:
        return ""
    return f"{off:+.1%} against the record of {newest['started']}: the machine was not quiet, or the code has changed"


def drifted(line: Mapping[str, Any]) -> str:
    """One line where the machine changed while some of a record's timings were made, else empty."""
    found = [line["seconds"]] if "seconds" in line else line["rows"] if "rows" in line else line["values"]["rows"]
    drifts = [row.get("seconds", row)["drift"] for row in found if "error" not in row]
    far = [drift for drift in drifts if abs(drift) > AGREEMENT]
    if not far:
        return ""
    return f"the machine was not quiet: {len(far)} of {len(drifts)} timings drifted, one by {max(far, key=abs):+.0%}"


def report(line: Mapping[str, Any], *, keep: bool) -> None:
    """Say what speaks against the timings of a record, and add it to the results if it is to be kept."""
    for problem in filter(None, (drifted(line), changed(line, results.recorded()))):
        print(problem, file=sys.stderr, flush=True)
    if keep:
        results.add(line)


class Session:
    """Measurements on one device: its description, and its state before and after those of each record."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.about = describe(device)
        if problem := sensors.warning(device, self.about["cores"]):
            print(problem, file=sys.stderr)
        self.begin()

    def begin(self) -> None:
        """Note the machine's state: the measurements of the next record begin now."""
        self.before, self.begun = sensors.state(self.device), time.monotonic()

    def line(self, kind: str, settings: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """A record of a benchmark of this session, made of plain values."""
        threads = torch.get_num_threads() if self.device.type == "cpu" else None
        settings = {**settings, "threads": threads}
        before, self.before = self.before, sensors.state(self.device)
        if problem := sensors.stolen(before, self.before, time.monotonic() - self.begun):
            print(problem, file=sys.stderr)
        circumstances = {
            "settings": settings,
            "config_hash": config_hash(settings),
            "state": {"before": before, "after": self.before},
        }
        whole = {**record.envelope(kind, self.about), **circumstances, **fields}
        return json.loads(json.dumps(whole))  # tuples become lists, as they will be read
