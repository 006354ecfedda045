"""Timing that every benchmark of a single operation shares: medians, both ends, a cold cache, the copy bandwidth."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_FLUSH = 256 * 2**20  # bytes: larger than the last-level cache of every device that this has run on
_COPY = 512 * 2**20  # bytes, each way


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median, and the ends between which the middle 60 % lie."""

    median: float
    p20: float
    p80: float
    calls: int


def measure(call: Callable[[], object], device: torch.device, *, cold: bool, seconds: float = 0.5) -> Timing:
    """Times `call` for about `seconds`, at least 3 calls, after two that warm up.

    cold: the caches are flushed before every call, outside the measurement. On CUDA by events, one pair a call.
    """
    flush = torch.empty(_FLUSH // 4, dtype=torch.int32, device=device) if cold else None
    once = _once_on_cuda if device.type == "cuda" else _once
    for _ in range(2):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 1000):
        if flush is not None:
            flush.zero_()
        times.append(once(call))
    p20, median, p80 = (
        torch.tensor(times, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8]).double()).tolist()
    )
    return Timing(median, p20, p80, len(times))


def _once(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _once_on_cuda(call: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written together, of torch's copy of a tensor that no cache holds."""
    source = torch.zeros(_COPY // 4, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    return 2 * _COPY / measure(lambda: target.copy_(source), device, cold=False).median
