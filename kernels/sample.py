"""Read an image at any coordinate: whole or fractional, inside or beyond its border.

Fractional coordinates count from the centre of the first pixel and are interpolated between their four neighbours.
Beyond the border, "reflect" mirrors about the centre of the border pixels (which are not repeated), however far,
"edge" repeats them, "zero" is black.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kernels.backend import jit, tl

_TORCH_PADDING = {"reflect": "reflection", "edge": "border", "zero": "zeros"}


def sample(images: Tensor, y: Tensor, x: Tensor, padding: str) -> Tensor:
    """(B, H, W, 3) images at float32 coordinates (B, S, S) of their own: float32 (B, S, S, 3)."""
    h, w = images.shape[1:3]
    grid = torch.empty((*x.shape, 2), device=x.device)
    torch.mul(x, 2.0 / (w - 1), out=grid[..., 0])
    torch.mul(y, 2.0 / (h - 1), out=grid[..., 1])
    grid -= 1.0
    planes = images.permute(0, 3, 1, 2).to(torch.float32)
    found = functional.grid_sample(planes, grid, "bilinear", _TORCH_PADDING[padding], align_corners=True)
    return found.permute(0, 2, 3, 1)


@jit
def border_jit(coordinate, SIDE: tl.constexpr, PADDING: tl.constexpr):
    """The coordinate in 0..SIDE-1 that is shown at `coordinate`; for "zero", any: the caller masks it."""
    if PADDING == "reflect":
        folded = tl.abs(coordinate) % (2 * SIDE - 2)
        shown = tl.minimum(folded, 2 * SIDE - 2 - folded)
    else:
        shown = tl.minimum(tl.maximum(coordinate, 0), SIDE - 1)
    return shown


@jit
def tap_jit(image, y, x, channel, valid, H: tl.constexpr, W: tl.constexpr, PADDING: tl.constexpr):
    """The byte of `channel` at whole coordinates (y, x), as float32. image: pointers to each image's first byte."""
    inside = valid
    if PADDING == "zero":
        inside = valid & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    offset = border_jit(y, H, PADDING) * (W * 3) + (border_jit(x, W, PADDING) * 3 + channel)
    return tl.load(image + offset, mask=inside, other=0).to(tl.float32)


@jit
def sample_jit(image, y, x, channel, valid, H: tl.constexpr, W: tl.constexpr, PADDING: tl.constexpr):
    """`channel` at (y, x): one tap for integers, four for floats."""
    if y.dtype == tl.int32:
        value = tap_jit(image, y, x, channel, valid, H, W, PADDING)
    else:
        top, left = tl.floor(y), tl.floor(x)
        down, right = y - top, x - left
        row, column = top.to(tl.int32), left.to(tl.int32)
        upper = lerp_jit(
            tap_jit(image, row, column, channel, valid, H, W, PADDING),
            tap_jit(image, row, column + 1, channel, valid, H, W, PADDING),
            right,
        )
        lower = lerp_jit(
            tap_jit(image, row + 1, column, channel, valid, H, W, PADDING),
            tap_jit(image, row + 1, column + 1, channel, valid, H, W, PADDING),
            right,
        )
        value = lerp_jit(upper, lower, down)
    return value


@jit
def lerp_jit(a, b, weight):
    """a at weight 0, b at weight 1."""
    return a + weight * (b - a)
