"""Memory that runs out: how it is recognised, what is done about it, what is said."""

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from speedrun import models
from speedrun.config import Config
from speedrun.errors import SpeedrunError

# Bytes of a step by those that its convolutions give: what is kept of them for the way back, and gradients. 64/256/256
# took 2.4 at 24 pixels on a CPU (benchmarks/results); the rest is for convolutions' own space.
STEP_SHARE = 3.0
# Numbers by weight: its gradient, momentum and update, each float32, and copies of the whole where they are averaged.
WEIGHT_COPIES = 5
# Share of what is free that a step may be thought to take.
FREE_SHARE = 0.8
# Batch normalisation needs a batch; what does not fit into memory with so few images is too large a net.
SMALLEST_BATCH = 16

# Where the control group of a process says what it may take.
GROUP = Path("/sys/fs/cgroup")

T = TypeVar("T")


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, a device's or the machine's own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # of torch's CPU allocator


def wanted(error: BaseException) -> str:
    """What an error says was asked for, such as "2.00 GiB"."""
    found = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
    return found[1] if found else "more"


def retry(work: Callable[[], T], give_way: Callable[[str], None]) -> T:
    """`work()`, and again after each `give_way(what was wanted)` while memory runs out. Other errors pass through."""
    while True:
        try:
            return work()
        except Exception as error:
            if not ran_out(error):
                raise
            asked = wanted(error)
        # Only here, with the error gone, are the tensors of the frames that failed gone too.
        release()
        give_way(asked)


@contextmanager
def room_for(what: str, device: torch.device) -> Iterator[None]:
    """Raise SpeedrunError that names what is free and what is needed where the body runs out of memory."""
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        raise SpeedrunError(f"no room for {what} on {device}: {describe(device, wanted(error))}") from None


def release() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def step_bytes(net: nn.Module, size: int, images: int, dtype: torch.dtype) -> float:
    """What a step of so many images of `size` pixels is thought to take on top of the net."""
    outputs = models.outputs(net, size) * images * dtype.itemsize
    return STEP_SHARE * outputs + 4 * WEIGHT_COPIES * models.parameters(net)


def smaller_batch(config: Config, device: torch.device, asked: str, why: str = "out of memory") -> tuple[Config, str]:
    """A planned config with half the batch and the rate for it, and the line that says so.

    SpeedrunError at the smallest batch.
    """
    assert config.batch_size is not None
    batch_size = config.batch_size // 2
    if batch_size < SMALLEST_BATCH:
        raise SpeedrunError(
            f"out of memory with batches of {config.batch_size} images: {describe(device, asked)}; "
            "free some, or ask for a narrower net (--set model.widths=...) or fewer pixels (--set resolutions=...)"
        )
    before, lr = config.optim.filter_lr, config.optim.lr_for(batch_size / config.batch_size)
    rule = "linear" if config.optim.filters == "sgd" else "square-root"
    line = (
        f"{why} ({describe(device, asked)}): batch {config.batch_size} -> {batch_size}, "
        f"optim.lr {before:.3g} -> {lr:.3g} by the {rule} rule"
    )
    return replace(config, batch_size=batch_size, optim=replace(config.optim, lr=lr)), line


def describe(device: torch.device, asked: str) -> str:
    """What was needed and what is free, for an error."""
    free = free_bytes(device)
    return f"{asked} needed" + ("" if free is None else f", {free / 2**30:.2f} GiB free on {device}")


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be taken on a device; None where nobody says."""
    if device.type == "cuda":  # what torch keeps for itself it takes first
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    known = [1024 * int(found[1])] if found else []
    return min([*known, *_group_bytes(GROUP)], default=None)


def _group_bytes(folder: Path) -> list[int]:
    """Bytes that the control group leaves, cached files not counted; none where it has no limit."""
    try:
        limit, used = (int((folder / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        cached = re.search(r"^inactive_file (\d+)$", (folder / "memory.stat").read_text(encoding="ascii"), re.MULTILINE)
    except (OSError, ValueError):  # "max" is no number
        return []
    return [limit - used + (int(cached[1]) if cached else 0)]
