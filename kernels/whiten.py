"""The whitening layer and its activation in one launch: the map between them is not written. Forward alone.

The filters are frozen, and once the bias is too nothing before this layer is trained: no gradient is wanted of it.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import norm
from kernels.activation import ACTIVATIONS, activation_jit
from kernels.backend import check_dtype, jit, on_device, tl, wanted
from kernels.dot import dot_jit, precision
from kernels.patches import filter_rows, patch_jit, place_jit, power_of_two

_ROWS = 128  # pixels of a program: its products are few, its bytes many
LONGEST = 64  # values of a patch


def whiten(x: Tensor, filters: Tensor, bias: Tensor, activation: str, method: str = "auto") -> Tensor:
    """activation(conv2d(x, filters, bias)), without padding: (N, F, H - k + 1, W - k + 1), dtype of x.

    x: (N, C, H, W) of float16, bfloat16 or float32; the kernel wants channels-last memory and copies what is not.
    filters: (F, C, k, k) of at most 64 values each; bias: (F,); computed in the dtype of x. activation: gelu, silu or
    relu. method: "fused", "torch" or "auto", the kernel on CUDA where no gradient is wanted, which it has none of.
    Raises ValueError for other names, shapes or dtypes, and for "fused" where a gradient is wanted.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    square = filters.dim() == 4 and filters.shape[2] == filters.shape[3]
    if x.dim() != 4 or not square or filters.shape[1] != x.shape[1] or bias.shape != filters.shape[:1]:
        raise ValueError(
            "x must be (N, C, H, W), filters (F, C, k, k), bias (F,), not "
            f"{tuple(x.shape)}, {tuple(filters.shape)}, {tuple(bias.shape)}"
        )
    if filters[0].numel() > LONGEST or min(x.shape[2:]) < filters.shape[2]:
        raise ValueError(f"filters of {tuple(filters.shape[1:])} are too large for the kernel or for {tuple(x.shape)}")
    check_dtype(x)
    if wanted(method, x):
        if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, filters, bias))):
            return _launch(x, filters, bias, activation)
        if method == "fused":
            raise ValueError("the kernel of whitening has no gradient")
    return ACTIVATIONS[activation](F.conv2d(x, filters.to(x.dtype), bias.to(x.dtype)))


twin = partial(whiten, method="torch")
fused = partial(whiten, method="fused")


def _launch(x: Tensor, filters: Tensor, bias: Tensor, activation: str) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    n, c, h, w = x.shape
    side, width = filters.shape[2], norm.tile_channels(len(filters))
    shape = (n, len(filters), h - side + 1, w - side + 1)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    count = out.numel() // len(filters)
    with on_device(x):
        _kernel[(-(-count // _ROWS), -(-len(filters) // width))](
            x, filter_rows(filters, x.dtype), bias, out, count, h, w,
            CHANNELS=c, SIDE=side, FILTERS=len(filters), ACTIVATION=activation,
            ROWS=_ROWS, LENGTH=power_of_two(filters[0].numel()), WIDTH=width, PRECISION=precision(x.dtype),
        )  # fmt: skip
    return out


@jit
def _kernel(
    x, filters, bias, out, count, height, width,
    CHANNELS: tl.constexpr, SIDE: tl.constexpr, FILTERS: tl.constexpr, ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr, LENGTH: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # FILTERS is a constant: only so does the compiler know that rows of 24 can be written by 16 bytes.
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    channel = (tl.program_id(1) * WIDTH + tl.arange(0, WIDTH))[None, :]
    k = tl.arange(0, LENGTH)
    image, line, column = place_jit(row, height - SIDE + 1, width - SIDE + 1)
    patch = patch_jit(x, image, line, column, row < count, k[None, :], height, width, CHANNELS, SIDE)
    mine = (k < SIDE * SIDE * CHANNELS)[:, None] & (channel < FILTERS)
    taps = tl.load(filters + channel * (SIDE * SIDE * CHANNELS) + k[:, None], mask=mine, other=0.0)
    shift = tl.load(bias + channel, mask=channel < FILTERS, other=0.0).to(tl.float32)
    z = dot_jit(patch, taps, tl.zeros((ROWS, WIDTH), tl.float32), PRECISION) + shift
    place = row.to(tl.int64) * FILTERS + channel
    value = activation_jit(z, ACTIVATION).to(out.dtype.element_ty)
    tl.store(out + place, value, mask=(row < count) & (channel < FILTERS))
