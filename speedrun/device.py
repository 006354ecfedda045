"""Which device and dtype a run uses, and why; what the machine is; the bounded queue in front of the device."""

import ctypes
import os
import platform
import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speedrun import launcher
from speedrun.distributed import World
from speedrun.errors import SpeedrunError, UsageError


@dataclass(frozen=True)
class Choice:
    """A device and a compute dtype, each with the reason it was chosen."""

    device: torch.device
    device_reason: str
    dtype: torch.dtype
    dtype_reason: str


def check_kernels() -> None:
    """Raise SpeedrunError where another package of the name hides our `kernels`."""
    import kernels

    ours = Path(__file__).resolve().parents[1] / "kernels"
    found = [Path(place).resolve() for place in kernels.__path__]
    if ours not in found:
        raise SpeedrunError(f"another package named kernels, in {found[0]}, hides ours: start in the checkout instead")


def of_rank(name: str, world: World) -> str:
    """The name of the device that a rank is to take where `name` is asked for: each a GPU of its own, if there are.

    UsageError where one GPU is named for several ranks of this machine.
    """
    if world.local_size > 1 and name.startswith("cuda:"):
        raise UsageError(f"{name} would be shared by {world.local_size} ranks: --device cuda gives each its own")
    several = world.size > 1 and name in ("auto", "cuda") and torch.cuda.is_available()
    return f"cuda:{world.local_rank}" if several else name


def choose(device: str = "auto", dtype: str = "auto") -> Choice:
    """Pick the device and dtype. Raises UsageError for an unknown name, SpeedrunError for a device that is not here."""
    chosen, device_reason = _choose_device(device)
    if dtype == "auto":
        return Choice(chosen, device_reason, *_choose_dtype(chosen))
    return Choice(chosen, device_reason, getattr(torch, dtype), "asked for")


def _choose_device(name: str) -> tuple[torch.device, str]:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device()), "a CUDA device is here"
        if torch.backends.mps.is_available():
            return torch.device("cpu"), "Metal is here but nobody has tried it; --device mps does"
        return torch.device("cpu"), "no CUDA device here"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}: auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise SpeedrunError("device cuda: torch finds no CUDA device here; leave --device out to run on the CPU")
        if (device.index or 0) >= torch.cuda.device_count():
            raise SpeedrunError(f"device {name}: only {torch.cuda.device_count()} CUDA device(s) here")
        # Without an index torch means the current device, but does not let it be made current.
        return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index), "asked for"
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SpeedrunError("device mps: Metal is not available here")
    if device.type not in ("cpu", "mps"):
        raise UsageError(f"unknown device {name!r}: auto, cpu, cuda, cuda:N or mps")
    return device, "asked for"


def _choose_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8 or torch.version.hip:
            return torch.bfloat16, "its matrix units take it and it cannot overflow"
        if major == 7:
            return torch.float16, f"capability {major}.{minor} has no bfloat16 units; gradients are scaled"
        return torch.float32, f"capability {major}.{minor} has no half-precision matrix units"
    if device.type == "mps":
        return torch.float32, "half precision is not tried on Metal"
    units = cpu_features() & {"avx512_bf16", "amx_bf16", "bf16"}  # the last as Linux names it on Arm
    if units:
        return torch.bfloat16, f"the processor has {', '.join(sorted(units))}"
    return torch.float32, "the processor has no bfloat16 units"


def cpu_features() -> set[str]:
    """The processor's features as Linux names them; empty elsewhere."""
    info = _cpuinfo()
    return set(info.get("flags", info.get("Features", "")).split())  # x86 and Arm


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in reversed(lines) if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def cores() -> int:
    """Processors this process may use: its affinity, bounded by the control group's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            allowed = min(allowed, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return allowed


def prepare(device: torch.device, processes: int = 1) -> None:
    """Settings that make steps faster and change no result worth naming; before the first large allocation.

    processes: of this job on this machine, which share its cores.
    """
    if device.type == "cpu":
        if not launcher.threads_given():
            torch.set_num_threads(max(1, cores() // processes))
        keep_memory()
    elif device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")


def keep_memory() -> None:
    """Tell glibc to keep freed memory instead of giving it back after each step; elsewhere do nothing.

    A step frees and takes again gigabytes of activations. Clearing fresh pages for them was a third of a step.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # names and values: malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)  # never
    mallopt(top_pad, 256 * 2**20)


def describe(device: torch.device) -> dict[str, Any]:
    """The device as a record holds it: the fields of `speedrun.schema.DEVICE`."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "name": properties.name,
            "kind": "cuda",
            "memory": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "driver": _driver(),
            "cores": cores(),
            "multiprocessors": properties.multi_processor_count,
            "cpu": _processor(),
        }
    units = sorted(cpu_features() & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "name": _with_family(_processor()),
        "kind": device.type,
        "memory": memory,
        "capability": " ".join(units) or None,
        "driver": None,
        "cores": cores(),
        "multiprocessors": None,
        "cpu": None,
    }


def _processor() -> str:
    """The processor's name as its maker calls it, or at least its architecture."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def _with_family(name: str) -> str:
    """With family and model where the name has no number: a hypervisor may hide it, and one "AMD EPYC" is twice as fast
    as another."""
    info = _cpuinfo()
    hidden = {"cpu family", "model"} <= info.keys() and not re.search(r"\d{3}", name.partition("@")[0])
    return f"{name} (family {info['cpu family']}, model {info['model']})" if hidden else name


def _driver() -> str | None:
    try:
        return Path("/sys/module/nvidia/version").read_text(encoding="ascii").strip()
    except OSError:
        return None


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Window:
    """Bounds how far the host runs ahead of the device, and hands out numbers without waiting for newer work.

    `push` queues a small tensor of numbers; once more than `depth` steps are queued it waits for the oldest and returns
    its numbers. On the CPU, where a step is done when it returns, numbers come back at once.
    """

    def __init__(self, device: torch.device, depth: int = 8) -> None:
        self._queued = device.type == "cuda"
        self._depth = depth
        self._pending: deque[tuple[Any, Tensor]] = deque()

    @property
    def pending(self) -> int:
        """Steps that are queued and not known to be finished."""
        return len(self._pending)

    def push(self, numbers: Tensor) -> list[float] | None:
        """Queue the numbers of one step; returns those of the oldest finished step, or None while filling up."""
        if not self._queued:
            return numbers.tolist()
        host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        host.copy_(numbers, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append((event, host))
        return self._pop() if len(self._pending) > self._depth else None

    def drain(self) -> list[float] | None:
        """Wait for everything queued; the numbers of the newest step, or None if nothing was queued."""
        newest = None
        while self._pending:
            newest = self._pop()
        return newest

    def _pop(self) -> list[float]:
        event, host = self._pending.popleft()
        event.synchronize()
        return host.tolist()
