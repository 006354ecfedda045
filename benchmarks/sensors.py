"""Clocks, power, temperature and load of a device, as far as the machine tells them: what a timing was made under.

A virtual machine's cores may want to run and not be let: that time is stolen, and what differs from run to run most.
NVML where its Python binding is installed (nvidia-ml-py), else nvidia-smi; neither is needed.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Reading = float | None
_NAMES = (
    "clock_mhz",
    "memory_clock_mhz",
    "power_watts",
    "power_limit_watts",
    "temperature_celsius",
    "utilization_percent",
)
# nvidia-smi's names, in this order
_QUERY = "clocks.sm,clocks.mem,power.draw,power.limit,temperature.gpu,utilization.gpu"
_SMI_SECONDS = 10.0
_THERMAL = Path("/sys/class/thermal")
_LOAD, _STAT = Path("/proc/loadavg"), Path("/proc/stat")
_LOOKS, _LOOK_SECONDS = 5, 0.1
# More of the cores than this wanted by others: on two cores, by one of them, which can slow a step a hundredfold.
BUSY_SHARE = 0.25
# Of a GPU's time, in percent, more than what a desktop takes; of the cores' time, more than timings may differ by.
BUSY_PERCENT, STOLEN_SHARE = 10.0, 0.05


def state(device: "torch.device") -> dict[str, Reading]:
    """The fields of `speedrun.schema.STATE`, None where the machine does not tell. Takes up to a second."""
    readings = [_processor_clock(), None, None, None, _processor_temperature(), None]
    if device.type == "cuda":
        import torch

        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        readings = _by_nvml(uuid) or _by_smi(uuid) or [None] * len(_NAMES)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {**dict(zip(_NAMES, readings, strict=True)), "load": load, "stolen_seconds": _stolen_seconds()}


@contextmanager
def watched(device: "torch.device", cores: int) -> Iterator[dict[str, dict[str, Reading]]]:
    """What a record has as `state`, complete once the body has ended; says what speaks against its measurements."""
    found: dict[str, dict[str, Reading]] = {}
    problems = [warning(device, cores)]
    found["before"], begun = state(device), time.monotonic()
    yield found
    found["after"] = state(device)
    problems.append(stolen(found["before"], found["after"], time.monotonic() - begun))
    for problem in filter(None, problems):
        print(problem, file=sys.stderr, flush=True)


def warning(device: "torch.device", cores: int) -> str:
    """One line that says why a measurement begun now is not to be trusted, empty where nothing speaks against it.

    Takes half a second and more. The load of the last minute would not do: in it counts what was measured before. A GPU
    must be idle: what it does is taken for that of others.
    """
    before, begun = {"stolen_seconds": _stolen_seconds()}, time.monotonic()
    others = _others()
    now = state(device)
    problems = [stolen(before, now, time.monotonic() - begun)]
    if others > BUSY_SHARE * cores:
        problems.append(f"the machine is busy: threads of others that want one of its {cores} cores: {others:g}")
    if (used := now["utilization_percent"] or 0.0) > BUSY_PERCENT:
        problems.append(f"the GPU is busy: others use it {used:g} % of the time")
    return "; ".join(filter(None, problems))


def stolen(before: Mapping[str, Reading], after: Mapping[str, Reading], seconds: float) -> str:
    """One line where the host kept too much of the cores' time from this virtual machine between two states that lie
    `seconds` apart; else empty."""
    first, last = before["stolen_seconds"], after["stolen_seconds"]
    if first is None or last is None:
        return ""
    share = (last - first) / (max(seconds, 1e-3) * (os.cpu_count() or 1))
    return f"the host withheld {share:.0%} of the cores' time" if share > STOLEN_SHARE else ""


def _stolen_seconds() -> Reading:
    """Of all cores, since the machine started, as Linux tells it."""
    with suppress(OSError, ValueError, IndexError):
        words = _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()
        return int(words[8]) / os.sysconf("SC_CLK_TCK")
    return None


def _others() -> float:
    """Threads besides this one that are running or want to, the median of a few looks; 0 where Linux does not tell."""
    found: list[int] = []
    with suppress(OSError, ValueError, IndexError):
        for _ in range(_LOOKS):
            found.append(int(_LOAD.read_text(encoding="ascii").split()[3].partition("/")[0]) - 1)
            time.sleep(_LOOK_SECONDS)
    return statistics.median(found) if found else 0.0


def _by_nvml(uuid: str) -> list[Reading] | None:
    """By NVIDIA's own binding; None where it is not installed or does not know the device."""
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # the binding's errors cannot be named where it is not installed
        return None
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        return [
            _asked(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            _asked(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            _asked(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            _asked(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
            _asked(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            _asked(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        ]
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def _asked(question: Callable[[], Any]) -> Reading:
    with suppress(Exception):  # a device may not know one of them
        return float(question())
    return None


def _by_smi(uuid: str) -> list[Reading] | None:
    command = ["nvidia-smi", f"--id={uuid}", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    words = done.stdout.strip().split(",")
    return [_number(word) for word in words] if len(words) == len(_NAMES) else None


def _number(word: str) -> Reading:
    """nvidia-smi writes `[N/A]` where a device does not tell."""
    with suppress(ValueError):
        return float(word)
    return None


def _processor_clock() -> Reading:
    """Mean over the processors, as Linux tells it."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
        return sum(clocks) / len(clocks)
    return None


def _processor_temperature() -> Reading:
    """The hottest zone that is the processor's package."""
    found = []
    for zone in _THERMAL.glob("thermal_zone*"):
        with suppress(OSError, ValueError):
            kind = (zone / "type").read_text(encoding="ascii")
            if "pkg" in kind or "cpu" in kind:
                found.append(int((zone / "temp").read_text(encoding="ascii")) / 1000)
    return max(found, default=None)
