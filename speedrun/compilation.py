"""What compiling a net takes and gains, and by what name its code is known. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from speedrun.config import ModelConfig


@dataclass(frozen=True)
class Compiling:
    """Seconds to compile a net at three resolutions, without and with its code in the cache; the gain in speed."""

    cold_seconds: float
    warm_seconds: float
    gain: float


# What compiling the net takes and gains, by device and mode. On a CPU: measured on two cores, eager was faster. On a
# GPU: after what github.com/KellerJordan/cifar10-airbench and others tell, not measured here.
COMPILING = {
    "cpu": {"default": Compiling(cold_seconds=20, warm_seconds=5, gain=0.83)},
    "cuda": {
        "default": Compiling(cold_seconds=60, warm_seconds=15, gain=1.2),
        "max-autotune": Compiling(cold_seconds=300, warm_seconds=20, gain=1.25),
    },
}


def code_name(model: ModelConfig, dials: Mapping[str, Any], mode: str) -> str:
    """A name for the compiled code of a net, the same where it would be compiled alike. dials: they fill in `model`."""
    sizes = ",".join(map(str, sorted(set(dials["resolutions"]))))
    filled = {name.removeprefix("model."): value for name, value in dials.items() if name.startswith("model.")}
    net = " ".join(f"{name}={value}" for name, value in sorted({**vars(model), **filled}.items()))
    return f"{mode} {net} {sizes} {dials['batch_size']}"
