"""3x3 convolutions whose products are of 8-bit floats: e4m3 forward, e5m2 gradients in the way back to the input.

Every tensor has one scale, a power of two, so that to scale is exact, found from its largest value. The filters'
gradient sums over pixels, along which neither of its operands lies in memory, as matrix units want 8-bit ones: it stays
torch's, of what was not rounded. The twin rounds the same numbers to 8 bits and convolves them in the dtype of x.

Source: Micikevicius et al., "FP8 formats for deep learning", arXiv 2209.05433.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.backend import INTERPRETED, check_dtype, constant, jit, on_device, tl, wanted
from kernels.patches import as_filters, filter_rows, patch_jit, place_jit, power_of_two

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
_ROWS, _FILTERS, _LENGTH = 128, 128, 64  # of a tile: pixels, filters at most, values of a patch at a time
_OPTIONS = {"num_warps": 8, "num_stages": 4}
_BLOCK = 4096  # values that a program rounds
_INTERPRETED = constant(INTERPRETED)


def conv_fp8(x: Tensor, filters: Tensor, method: str = "auto") -> Tensor:
    """conv2d(x, filters, padding=1), its operands rounded to e4m3: (N, F, H, W), dtype of x, channels-last.

    x: (N, C, H, W) of float16, bfloat16 or float32. filters: (F, C, 3, 3). Gradients for both, which have none
    of their own; that of x is the product of rounded numbers too. method: "fused", the Triton kernels; "torch", the
    twin; "auto", the kernels on CUDA of capability 8.9 or later, which has such matrix units. Raises ValueError for
    other shapes, dtypes or names.
    """
    if x.dim() != 4 or filters.shape[1:] != (x.shape[1], 3, 3):
        raise ValueError(f"x must be (N, C, H, W), filters (F, C, 3, 3), not {tuple(x.shape)}, {tuple(filters.shape)}")
    check_dtype(x)
    return _ConvFp8.apply(x, filters, wanted(method, x) and (method == "fused" or _capable(x.device)))


def _capable(device: torch.device) -> bool:
    """Whether its matrix units take these formats; AMD's have others of 8 bits."""
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 9)


class _Format(NamedTuple):
    """Of floats: bits behind the point, exponent of the least normal number, and of the power of two that scaled values
    stay below; the largest number is 1.75 times that."""

    bits: int
    least: int
    end: int


_FORMATS = {FORWARD: _Format(3, -6, 8), BACKWARD: _Format(2, -14, 15)}


class Rounded(NamedTuple):
    """A tensor in 8 bits. values: of FORWARD or BACKWARD; what they stand for is values x scale, float32 ()."""

    values: Tensor
    scale: Tensor

    def back(self, dtype: torch.dtype) -> Tensor:
        """What is left of it."""
        return (self.values.float() * self.scale).to(dtype)


def rounded(x: Tensor, kind: torch.dtype, kernels: bool) -> Rounded:
    """x in 8 bits, in its own memory format: each value to the nearest that `kind` has, the largest near its end.

    The scale is NaN where a value is not finite, so that what is made with it shows that.
    """
    largest = torch.linalg.vector_norm(x, torch.inf, dtype=torch.float32)
    if not kernels:
        exponent = largest.view(torch.int32) >> 23
        scale = ((exponent + 1 - _FORMATS[kind].end).clamp(min=1) << 23).view(torch.float32)
        scale = torch.where(exponent < 255, scale, torch.nan)
        return Rounded((x.float() / scale).to(kind), scale)
    values, scale = torch.empty_like(x, dtype=kind), torch.empty_like(largest)
    form = _FORMATS[kind]
    with on_device(x):
        _round_kernel[(-(-x.numel() // _BLOCK),)](
            x, largest, scale, values, x.numel(), BITS=form.bits, LEAST=form.least, END=form.end, BLOCK=_BLOCK
        )
    return Rounded(values, scale)


class _ConvFp8(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor, kernels: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.kernels = kernels
        ctx.save_for_backward(x, filters)
        return _product(x, FORWARD, filters, kernels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, filters = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        dx = dfilters = None
        if ctx.needs_input_grad[0]:  # the convolution with the filters turned about, outputs and inputs exchanged
            dx = _product(grad, BACKWARD, filters.transpose(0, 1).flip(2, 3), ctx.kernels)
        if ctx.needs_input_grad[1]:
            _, dfilters, _ = torch.ops.aten.convolution_backward(
                grad, x, filters.to(x.dtype), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False]
            )
            dfilters = dfilters.to(filters.dtype)
        return dx, dfilters, None


def _product(x: Tensor, kind: torch.dtype, filters: Tensor, kernels: bool) -> Tensor:
    """The convolution of x, rounded to `kind`, with filters, rounded to FORWARD. x: channels-last."""
    pixels, taps = rounded(x, kind, kernels), rounded(filter_rows(filters, filters.dtype), FORWARD, kernels)
    if not kernels:
        return F.conv2d(pixels.back(x.dtype), as_filters(taps.back(x.dtype), filters).to(x.dtype), padding=1)
    n, c, h, w = x.shape
    out = torch.empty((n, len(filters), h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    count, width = n * h * w, min(_FILTERS, power_of_two(len(filters)))
    with on_device(x):
        _product_kernel[(-(-count // _ROWS), -(-len(filters) // width))](
            pixels.values, taps.values, pixels.scale, taps.scale, out, count, h, w, len(filters),
            CHANNELS=c, ROWS=_ROWS, LENGTH=_LENGTH, FILTERS=width, **_OPTIONS,
        )  # fmt: skip
    return out


@jit
def _power_jit(biased):
    """The power of two whose exponent has these bits, and its reciprocal, float32. No division makes it: a device's is
    only nearly exact."""
    return (biased << 23).to(tl.float32, bitcast=True), ((254 - biased) << 23).to(tl.float32, bitcast=True)


@jit
def _nearest_jit(value, BITS: tl.constexpr, LEAST: tl.constexpr):
    """Float32 value as a float of so many bits behind the point would be, half to even."""
    exponent = ((value.to(tl.int32, bitcast=True) >> 23) & 255) - 127
    step, inverse = _power_jit(tl.maximum(exponent, LEAST) - BITS + 127)
    return ((value * inverse + 12582912.0) - 12582912.0) * step  # 1.5 x 2^23: numbers this large are whole


@jit
def _round_kernel(
    x, largest, scale, out, count, BITS: tl.constexpr, LEAST: tl.constexpr, END: tl.constexpr, BLOCK: tl.constexpr
):
    exponent = tl.load(largest).to(tl.int32, bitcast=True) >> 23  # its bits are the exponent's, for it has no sign
    power, inverse = _power_jit(tl.maximum(exponent + 1 - END, 1))
    power = tl.where(exponent < 255, power, float("nan"))
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + place, mask=place < count, other=0.0).to(tl.float32)
    value = tl.where(exponent < 255, value * inverse, float("nan"))
    if _INTERPRETED:  # which carries nothing when it rounds to 8 bits
        value = _nearest_jit(value, BITS, LEAST)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=place < count)
    if tl.program_id(0) == 0:
        tl.store(scale, power)


@jit
def _product_kernel(
    x, filters, x_scale, filters_scale, out, count, height, width, channels,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, LENGTH: tl.constexpr, FILTERS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    channel = (tl.program_id(1) * FILTERS + tl.arange(0, FILTERS))[None, :]
    image, line, column = place_jit(row, height, width)
    total = tl.zeros((ROWS, FILTERS), tl.float32)
    for begin in range(0, 9 * CHANNELS, LENGTH):
        k = begin + tl.arange(0, LENGTH)
        patch = patch_jit(x, image, line - 1, column - 1, row < count, k[None, :], height, width, CHANNELS, 3)
        mine = (k < 9 * CHANNELS)[:, None] & (channel < channels)
        taps = tl.load(filters + channel * (9 * CHANNELS) + k[:, None], mask=mine, other=0.0)
        if _INTERPRETED:
            total = tl.dot(patch.to(tl.float32), taps.to(tl.float32), total)
        else:  # Hopper's units keep 14 bits of a sum: it is added to a full one after each tile
            total = tl.dot(patch, taps, total, max_num_imprecise_acc=LENGTH)
    total *= tl.load(x_scale) * tl.load(filters_scale)
    place = row.to(tl.int64) * channels + channel
    tl.store(out + place, total.to(out.dtype.element_ty), mask=(row < count) & (channel < channels))
