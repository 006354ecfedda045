"""Timing that every benchmark of a single operation shares: medians, both ends, a cold cache, the copy bandwidth."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_FLUSH = 256 * 2**20  # bytes: larger than the last-level cache of every device that this has run on
_COPY = 512 * 2**20  # bytes, each way
_CYCLES = 2e9  # a second, about, of a CUDA device
_AHEAD = 0.05  # seconds that a device is held back at most


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median, and the ends between which the middle 60 % lie; measurements that it is of."""

    median: float
    p20: float
    p80: float
    calls: int


def measure(
    call: Callable[[], object], device: torch.device, *, cold: bool, seconds: float = 0.5, together: int = 1
) -> Timing:
    """Times `call` for about `seconds`, at least 3 times, after two calls that warm up.

    cold: the caches are flushed before every call, outside the measurement. together: calls to a measurement, which
    counts as their mean; cold, 1. On CUDA by events, and the device begins only when the host has asked for everything,
    so that a call which never waits for the device is timed without the host.
    """
    flush = _Flush(device) if cold else None
    together = 1 if cold else together
    for _ in range(2):
        call()
    once = _once if device.type == "cpu" else _OnCuda(call, together)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 1000):
        if flush is not None:
            flush()
        times.append(once(call, together))
    p20, median, p80 = (
        torch.tensor(times, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8]).double()).tolist()
    )
    return Timing(median, p20, p80, len(times))


class _Flush:
    """Empties the caches: writes one buffer, then reads another, for lines that are still to be written cost the next
    call what they are replaced by."""

    def __init__(self, device: torch.device) -> None:
        self.written, self.read = torch.ones((2, _FLUSH // 4), device=device)

    def __call__(self) -> Tensor:
        self.written.zero_()
        return self.read.amax()


def _once(call: Callable[[], object], together: int) -> float:
    start = time.perf_counter()
    for _ in range(together):
        call()
    return (time.perf_counter() - start) / together


class _OnCuda:
    """Times calls by events, behind a pause of the device that is as long as the host needs to ask for them."""

    def __init__(self, call: Callable[[], object], together: int) -> None:
        torch.cuda.synchronize()
        host = _once(call, 1) * together
        self.cycles = int(_CYCLES * min(2 * host + 1e-4, _AHEAD))
        torch.cuda.synchronize()

    def __call__(self, call: Callable[[], object], together: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(self.cycles)
        start.record()
        for _ in range(together):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000 / together


def copy_bandwidth(device: torch.device, size: int = _COPY) -> float:
    """Bytes a second, read and written together, of torch's copy of `size` bytes; by default more than caches hold."""
    source = torch.ones(size // 4, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    return 2 * size / measure(lambda: target.copy_(source), device, cold=False).median
