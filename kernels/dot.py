"""Products of tiles, the same on a device and under Triton's interpreter."""

import torch

from kernels.backend import INTERPRETED, constant, jit, tl

_INTERPRETED = constant(INTERPRETED)


def precision(dtype: torch.dtype) -> str:
    """How `dot_jit` takes float32: in three passes of the matrix units, which come to its full length."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


@jit
def dot_jit(a, b, total, PRECISION: tl.constexpr):
    """total + a b, in float32."""
    if _INTERPRETED:  # which would multiply the bits of bfloat16 as whole numbers; in float32 these products are exact
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)
