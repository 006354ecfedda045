"""A 3x3 convolution whose weight gradient is made of matrix products, for the small maps that oneDNN is slow at.

Plain torch, on a CPU, in bfloat16. oneDNN's weight gradient goes along the rows of one image's map, and those are short
at the end of a net. Two ways to have long ones:

- By taps. With the images of the gradient innermost, one tap of the kernel is a product over a run of pixels and all
  images. It leaves out the pixels that the tap does not reach: at 7, 5, 3 and 2 a side 0.82, 0.75, 0.60 and 0.44 of the
  operations are left. Two cores of an AMD EPYC with AVX512-BF16, 1,000 images, 256 -> 256 channels, ms: oneDNN 82, 47,
  25, 16; this 67, 31, 9, 3.
- By patches, where the processor has AMX, whose tiles of 16 rows oneDNN fills with 5 pixels where a map has 5 a side:
  with the patches of all pixels as rows they are full, for a copy of nine times the map. Two cores of an Intel Xeon, as
  above: oneDNN 311, 253, 162, 155; this 130, 90, 36, 20.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import native

# Fewest channels, in and out, that each way pays for, by the largest side of a map. Patches were timed with as many out
# as in, or more.
PATCHES = {11: 64}
TAPS = {3: 64, 5: 128, 7: 256}
# Images whose patches are laid out at once: 5 to 70 MB, of which the last cache keeps what it can.
CHUNK = 125


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `conv_cpu` is the faster way to train on `x` (N, C, H, W) with `weight` (K, C, k, k), on this machine."""
    if x.device.type != "cpu" or x.dtype != torch.bfloat16 or weight.shape[2:] != (3, 3):
        return False
    side, channels = max(x.shape[2:]), min(x.shape[1], len(weight))
    fewest = PATCHES if native.has("amx_tile") else TAPS if native.has("avx512_bf16") else {}
    return any(side <= largest and channels >= least for largest, least in fewest.items())


def conv_cpu(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution of x (N, C, H, W) with weight (K, C, 3, 3) of one dtype, padded to keep the size: (N, K, H, W).

    Raises ValueError for another kernel.
    """
    if weight.shape[2:] != (3, 3):
        raise ValueError(f"weight must be (K, C, 3, 3), not {tuple(weight.shape)}")
    out: Tensor = _ConvCpu.apply(x, weight)
    return out


class _ConvCpu(torch.autograd.Function):
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
            way = by_patches if native.has("amx_tile") else by_taps
            of_weight = way(x, gradient).to(weight.dtype)
        return of_x, of_weight


def by_taps(x: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the weights, (K, C, 3, 3) float32 in channels-last memory format, from that of the output.

    Products of a tap's runs of pixels are rounded to the dtype of `x`, and added up in float32.
    """
    count, channels, height, width = x.shape
    filters = gradient.shape[1]
    pixels = x.permute(2, 3, 0, 1).reshape(-1, channels)  # of all images, a place in the map after the other
    # Turned in two steps, the second of which moves whole rows of images: in one it takes three times as long.
    turned = gradient.permute(0, 2, 3, 1).reshape(count, -1).T.contiguous()
    of_pixels = turned.view(height * width, filters, count).transpose(0, 1).reshape(filters, -1)
    total = torch.zeros(filters, 3, 3, channels, dtype=torch.float32)
    for row in range(3):
        for column in range(3):
            tap, offset = total[:, row, column], ((row - 1) * width + column - 1) * count
            for first, last in _runs(height, width, row - 1, column - 1):
                start, end = first * count, last * count
                tap += of_pixels[:, start:end] @ pixels[start + offset : end + offset]
    return total.permute(0, 3, 1, 2)


def _runs(height: int, width: int, down: int, right: int) -> Iterator[tuple[int, int]]:
    """Runs of places of a map, the first and the one after the last, whose neighbour `down` and `right` is on it."""
    rows = range(max(0, -down), height - max(0, down))
    if right == 0:
        yield rows.start * width, rows.stop * width  # one after the other
    else:
        for row in rows:
            yield row * width + max(0, -right), (row + 1) * width - max(0, right)


def by_patches(x: Tensor, gradient: Tensor) -> Tensor:
    """As `by_taps`; products of chunks of images are rounded to the dtype of `x`."""
    channels, filters = x.shape[1], gradient.shape[1]
    total = torch.zeros(filters, 9 * channels, dtype=torch.float32)
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
