"""Shift by whole pixels, with what lies outside the image reflected, repeated or black."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.philox import below


def shifts(limit: int, words: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """(dy, dx), int64 (B,), uniform in [-limit, limit]: output pixel (y, x) shows input pixel (y + dy, x + dx)."""
    return below(words[0], 2 * limit + 1) - limit, below(words[1], 2 * limit + 1) - limit


def pad(images: Tensor, margin: int, padding: str) -> Tensor:
    """Pads uint8 (B, H, W, 3) by `margin` pixels on each side. Returns (B, H + 2 margin, W + 2 margin, 3).

    Column by column: on the CPU three times as fast as a flipped copy of the border, four times as torch's own padding.
    """
    if margin == 0:
        return images
    b, h, w, c = images.shape
    padded = images.new_zeros if padding == "zero" else images.new_empty
    out = padded((b, h + 2 * margin, w + 2 * margin, c))
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


def crop(
    images: Tensor, index: Tensor, mirror: Tensor | None, shift: tuple[Tensor, Tensor], margin: int, padding: str
) -> Tensor:
    """Takes rows `index` of uint8 (N, H, W, 3), shifts and then mirrors them. Returns uint8 (B, H, W, 3).

    mirror: bool (B,), or None for no image. shift: (dy, dx), int64 (B,) each, within [-margin, margin].
    """
    taken = images.index_select(0, index)
    dy, dx = shift
    if mirror is not None:
        rows = mirror.nonzero()[:, 0]
        taken.index_copy_(0, rows, taken.index_select(0, rows).flip(2))
        dx = torch.where(mirror, -dx, dx)  # for the mirror comes before the shift here, and after it in what we promise
    if margin == 0:
        return taken
    return _windows(pad(taken, margin, padding), (images.shape[1], images.shape[2]), margin + dy, margin + dx)


def _windows(padded: Tensor, size: tuple[int, int], top: Tensor, left: Tensor) -> Tensor:
    """The window of `size` at (top, left) of each image, by one gather: a window is a strided view of the memory, every
    byte starts one, and an image's choice among them is a row of that view."""
    b, h, w, c = padded.shape
    height, width = size
    starts = (torch.arange(b, device=padded.device) * h + top) * (w * c) + left * c
    span = (height - 1) * w * c + width * c
    views = padded.as_strided((padded.numel() - span + 1, height, width * c), (1, w * c, 1))
    return views.index_select(0, starts).view(b, height, width, c)
