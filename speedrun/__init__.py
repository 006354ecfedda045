"""speedrun: the most accurate CIFAR-10 network that N seconds can buy.

>>> import speedrun
>>> result = speedrun.train(speedrun.Config(seconds=60))
>>> net = speedrun.load(result.folder)      # uint8 (N, 32, 32, 3) images -> float32 (N, classes) logits

`Stream`, `Augmentation`, `Normalization` and `in_order` are the loader alone, for a training loop of your own.
Importing this does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speedrun.config import Config
    from speedrun.errors import DataError, SpeedrunError, UsageError
    from speedrun.predictor import Predictor, load
    from speedrun.run import Result, train
    from speedrun.stream import Augmentation, Normalization, Stream, in_order

__version__ = "0.1.0"
__all__ = [
    "Augmentation",
    "Config",
    "DataError",
    "Normalization",
    "Predictor",
    "Result",
    "SpeedrunError",
    "Stream",
    "UsageError",
    "__version__",
    "in_order",
    "load",
    "train",
]

_HOMES = {
    "Config": "config",
    "DataError": "errors",
    "SpeedrunError": "errors",
    "UsageError": "errors",
    "Predictor": "predictor",
    "load": "predictor",
    "Result": "run",
    "train": "run",
    "Augmentation": "stream",
    "Normalization": "stream",
    "Stream": "stream",
    "in_order": "stream",
}
_ON_KERNELS = ("predictor", "stream")  # import `kernels` at once; `run` looks itself, before it does


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name] in _ON_KERNELS:
        importlib.import_module(f"{__name__}.device").check_kernels()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
