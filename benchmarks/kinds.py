"""The kinds of operation that a training step is made of, by torch's names of operations and of their callers.

Without torch, for those who only show what was recorded.
"""

import re
from collections.abc import Iterable

AUGMENTATION, OPTIMISER, OTHER = "augmentation", "optimiser", "other"
# An operation is of the first kind whose pattern is found in its name or, if it has none, in that of its caller.
PATTERNS = {
    "convolutions, backward": r"convolution_backward|Conv\w+Backward",
    "convolutions, forward": r"conv2d|convolution|^_Conv\w+$",
    "pooling": r"max_pool|avg_pool|amax|MaxPool|AvgPool|Amax",
    "normalisation": r"batch_norm|group_norm|layer_norm|BatchNorm|NormBackward|NormCpuBackward|^_(PoolNorm|NormCpu)$",
    "activation": r"gelu|silu|relu|threshold_backward|Gelu|Silu|Relu",
    "head and loss": r"\b(linear|mm|addmm|bmm)\b|softmax|nll_loss|cross_entropy|MmBackward|Softmax|NllLoss",
    "fused by the compiler": r"triton_|CompiledFxGraph|CompiledFunction",
}
# Regions, those that the profiler marks and those of functions that compute by other operations: all inside is theirs.
_REGIONS = {
    AUGMENTATION: r"^augmentation$",
    OPTIMISER: r"^Optimizer\.(step|zero_grad)#",
    "convolutions, backward": r"^_(ConvCpu|Winograd)Backward$",
    "convolutions, forward": r"^_Winograd$",
}
KINDS = (*PATTERNS, AUGMENTATION, OPTIMISER, OTHER)


def kind_of(names: Iterable[str]) -> str:
    """The kind of an operation, from its name and its callers', innermost first."""
    names = list(names)
    for kind, pattern in _REGIONS.items():
        if any(re.search(pattern, name) for name in names):
            return kind
    for name in names:
        for kind, pattern in PATTERNS.items():
            if re.search(pattern, name):
                return kind
    return OTHER
