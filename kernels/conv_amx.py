"""A 3x3 convolution whose weight gradient is a matrix product, where AMX would otherwise idle. Plain torch, on a CPU.

AMX multiplies tiles of 16 rows. oneDNN's weight gradient fills them with the pixels of one image's row, 5 of 16 where a
map has 5 a side; with the patches of all pixels as rows they are full. That is a copy of nine times the map, so it
pays for small maps of many channels alone. Measured on two cores of an Intel Xeon, 1,000 images, 256 -> 256 channels,
ms at 7, 5, 3 and 2 pixels: oneDNN 311, 253, 162, 155; this 130, 90, 36, 20. Processors without AMX keep oneDNN's.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Largest side of a map, and fewest input channels, that it pays for.
LARGEST_SIDE, FEWEST_CHANNELS = 11, 64
# Images whose patches are laid out at once: 5 to 70 MB, of which the last cache keeps what it can.
CHUNK = 125


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `conv_amx` is the faster way to train on `x` (N, C, H, W) with `weight` (K, C, k, k), on this machine."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and weight.shape[2:] == (3, 3)
        and x.shape[1] >= FEWEST_CHANNELS
        and max(x.shape[2:]) <= LARGEST_SIDE
        and has_amx()
    )


@cache
def has_amx() -> bool:
    """Whether the processor has AMX; not where this torch has lost the name, a private one, by which to ask."""
    ask = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return ask is not None and bool(ask())


def conv_amx(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution of x (N, C, H, W) with weight (K, C, 3, 3) of one dtype, padded to keep the size: (N, K, H, W).

    Raises ValueError for another kernel.
    """
    if weight.shape[2:] != (3, 3):
        raise ValueError(f"weight must be (K, C, 3, 3), not {tuple(weight.shape)}")
    out: Tensor = _ConvAmx.apply(x, weight)
    return out


class _ConvAmx(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            ones, mask = [1, 1], [True, False, False]
            of_x = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, ones, ones, ones, False, [0, 0], 1, mask
            )[0]
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(x, gradient).to(weight.dtype)
        return of_x, of_weight


def weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the weights, (K, C, 3, 3) float32 in channels-last memory format, from that of the output.

    Products of chunks are rounded to the dtype of `x`, and added up in float32.
    """
    channels, filters = x.shape[1], gradient.shape[1]
    total = torch.zeros(filters, 9 * channels)
    for some, of_some in zip(x.split(CHUNK), gradient.split(CHUNK), strict=True):
        total += of_some.permute(1, 0, 2, 3).reshape(filters, -1) @ _patches(some)
    return total.view(filters, 3, 3, channels).permute(0, 3, 1, 2)


def _patches(x: Tensor) -> Tensor:
    """The 3x3 patches around all pixels of x (N, C, H, W), zeros beyond its edges: (N * H * W, 9 * C)."""
    count, channels, height, width = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    image, row, pixel, channel = padded.stride()
    shape, strides = (count, height, width, 3, 3, channels), (image, row, pixel, row, pixel, channel)
    return padded.as_strided(shape, strides).reshape(count * height * width, 9 * channels)
