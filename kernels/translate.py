"""Shift by whole pixels, with what lies outside the image reflected, repeated or black."""

import torch
from torch import Tensor

from kernels import philox
from kernels.backend import constant, jit, tl
from kernels.philox import Words, below, below_jit, words_jit

_STREAM = constant(philox.TRANSLATE)


def shifts(limit: int, words: Words) -> tuple[Tensor, Tensor]:
    """(dy, dx), int64 (B,), uniform in [-limit, limit]: output pixel (y, x) shows input pixel (y + dy, x + dx)."""
    return below(words[0], 2 * limit + 1) - limit, below(words[1], 2 * limit + 1) - limit


@jit
def shifts_jit(seed, epoch, index, A: tl.constexpr):
    """`shifts` of images `index`, int32."""
    LIMIT: tl.constexpr = A.value.translate
    first, second, _, _ = words_jit(seed, epoch, index, _STREAM)
    return below_jit(first, 2 * LIMIT + 1) - LIMIT, below_jit(second, 2 * LIMIT + 1) - LIMIT


def crop(images: Tensor, mirror: Tensor | None, shift: tuple[Tensor, Tensor], margin: int, padding: str) -> Tensor:
    """Shifts and then mirrors (B, H, W, 3) images. Returns a new tensor of that shape, or `images` if nothing is to do.

    mirror: bool (B,), or None for no image. shift: (dy, dx), int64 (B,) each, within [-margin, margin].
    """
    dy, dx = shift
    if mirror is not None:
        rows = mirror.nonzero()[:, 0]
        images = images.index_copy(0, rows, images.index_select(0, rows).flip(2))
        dx = torch.where(mirror, -dx, dx)  # for the mirror comes before the shift here, after it in what is promised
    if margin == 0:
        return images
    return _windows(pad(images, margin, padding), images.shape[1], images.shape[2], margin + dy, margin + dx)


def pad(images: Tensor, margin: int, padding: str) -> Tensor:
    """Pads (B, H, W, 3) by `margin` pixels on each side. Returns (B, H + 2 margin, W + 2 margin, 3).

    Column by column: on the CPU three times as fast as a flipped copy of the border, four times as torch's own padding.
    """
    b, h, w, c = images.shape
    empty = images.new_zeros if padding == "zero" else images.new_empty
    out = empty((b, h + 2 * margin, w + 2 * margin, c))
    out[:, margin : margin + h, margin : margin + w] = images
    if padding == "zero":
        return out
    for k in range(1, margin + 1):
        inward = k if padding == "reflect" else 0
        out[:, margin : margin + h, margin - k] = images[:, :, inward]
        out[:, margin : margin + h, margin + w - 1 + k] = images[:, :, w - 1 - inward]
    for k in range(1, margin + 1):
        inward = k if padding == "reflect" else 0
        out[:, margin - k] = out[:, margin + inward]
        out[:, margin + h - 1 + k] = out[:, margin + h - 1 - inward]
    return out


def _windows(padded: Tensor, height: int, width: int, top: Tensor, left: Tensor) -> Tensor:
    """The window at (top, left) of each image, by one gather of a row for each image.

    A window is a strided view of the memory, and every element starts one: an image's choice is a row of that view.
    """
    b, h, w, c = padded.shape
    starts = (torch.arange(b, device=padded.device) * h + top) * (w * c) + left * c
    span = (height - 1) * w * c + width * c
    views = padded.as_strided((padded.numel() - span + 1, height, width * c), (1, w * c, 1))
    return views.index_select(0, starts).view(b, height, width, c)
