"""Activations and their derivatives, by name: gelu (exact, by the error function), silu, relu."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from kernels.backend import jit, tl

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "silu": F.silu, "relu": F.relu}


@jit
def activation_jit(z, NAME: tl.constexpr):
    """Of float32 z."""
    if NAME == "gelu":
        value = 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))
    elif NAME == "silu":
        value = z / (1.0 + tl.exp(-z))
    else:
        value = tl.where(z > 0.0, z, z * 0.0)  # NaN stays NaN
    return value


@jit
def slope_jit(z, NAME: tl.constexpr):
    """The derivative at float32 z."""
    if NAME == "gelu":
        slope = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476)) + z * 0.3989422804014327 * tl.exp(-0.5 * z * z)
    elif NAME == "silu":
        share = 1.0 / (1.0 + tl.exp(-z))
        slope = share * (1.0 + z * (1.0 - share))
    else:
        slope = tl.where(z > 0.0, 1.0, 0.0)
    return slope
