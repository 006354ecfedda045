"""What a convolution multiplies: pixels of a channels-last map, and patches that begin at them, as rows of a matrix.

A patch is taken out of the map as it is needed; none is ever written. Its values are counted by line, column and
channel, as those of a filter are whose weight is channels-last.
"""

import torch
from torch import Tensor

from kernels.backend import jit, tl


def filter_rows(filters: Tensor, dtype: torch.dtype) -> Tensor:
    """Filters (F, C, k, k) as rows (F, k * k * C), contiguous, of `dtype`."""
    return filters.detach().to(dtype).permute(0, 2, 3, 1).reshape(len(filters), -1).contiguous()


def as_filters(rows: Tensor, like: Tensor) -> Tensor:
    """Rows (F, k * k * C) as filters of the shape and dtype of `like`, channels-last."""
    count, channels, side, _ = like.shape
    return rows.to(like.dtype).view(count, side, side, channels).permute(0, 3, 1, 2)


def power_of_two(n: int) -> int:
    """The smallest that is at least n, and 16, the least that matrix units take."""
    return max(16, 1 << (n - 1).bit_length())


@jit
def place_jit(row, height, width):
    """Image, line and column of pixels counted through maps of height x width. Divided as 32 bits, which is quick; the
    image has 64, for offsets may need them."""
    return (row // (height * width)).to(tl.int64), (row // width) % height, row % width


@jit
def patch_jit(x, image, line, column, inside, k, height, width, CHANNELS: tl.constexpr, SIDE: tl.constexpr):
    """Values k (1, K) of the patches that begin at these pixels (R, 1), which may lie outside: (R, K), zeros out there.

    x: (N, height, width, CHANNELS). Patches: SIDE x SIDE.
    """
    tap = k // CHANNELS
    down, right = tap // SIDE, tap % SIDE
    y, z = line + down, column + right
    known = inside & (k < SIDE * SIDE * CHANNELS) & (y >= 0) & (y < height) & (z >= 0) & (z < width)
    first = x + ((image * height + line) * width + column) * CHANNELS
    return tl.load(first + ((down * width + right) * CHANNELS + k % CHANNELS), mask=known, other=0.0)
