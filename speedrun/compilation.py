"""What compiling a net takes and gains, and by what name its code is known. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from speedrun.config import Config, ModelConfig


@dataclass(frozen=True)
class Compiling:
    """Seconds to compile a net at three resolutions, without and with its code in the cache; the gain in speed.

    On a GPU what is compiled is captured too, where it can be.
    """

    cold_seconds: float
    warm_seconds: float
    gain: float


# What compiling the net takes and gains, by device and mode. On a CPU: measured on two cores, eager was faster. On a
# GPU: after what github.com/KellerJordan/cifar10-airbench and others tell, not measured here.
COMPILING = {
    "cpu": {"default": Compiling(cold_seconds=20, warm_seconds=5, gain=0.83)},
    "cuda": {
        # The step in a graph as it is: what the host takes to ask for it. github.com/fulcrumresearch/cifar-10-speedrun
        # gained 0.3 % where the device was the slower one, as much as the host lags where it is not.
        "captured": Compiling(cold_seconds=2, warm_seconds=2, gain=1.05),
        "default": Compiling(cold_seconds=60, warm_seconds=15, gain=1.2),
        "max-autotune": Compiling(cold_seconds=300, warm_seconds=20, gain=1.25),
    },
}


def capturable(config: Config) -> bool:
    """Whether a step of this config can be captured in a graph: dropout draws from torch's generators, AdamW counts its
    steps on the host, and a proxy learns on some steps only, beside nets whose steps leave the host time."""
    return config.model.dropout == 0 and config.optim.filters != "adamw" and not config.select.picks


def modes(device: str, config: Config, devices: int = 1) -> list[str]:
    """The modes to choose from on so many devices of a type, eager first; what is asked for alone, if something is."""
    if config.compile != "auto":
        return [config.compile]
    captures = devices == 1 and capturable(config)
    return ["off", *(mode for mode in COMPILING.get(device, {}) if mode != "captured" or captures)]


def code_name(model: ModelConfig, dials: Mapping[str, Any], mode: str) -> str:
    """A name for the compiled code of a net, the same where it would be compiled alike. dials: they fill in `model`."""
    sizes = ",".join(map(str, sorted(set(dials["resolutions"]))))
    filled = {name.removeprefix("model."): value for name, value in dials.items() if name.startswith("model.")}
    net = " ".join(f"{name}={value}" for name, value in sorted({**vars(model), **filled}.items()))
    return f"{mode} {net} {sizes} {dials['batch_size']}"
