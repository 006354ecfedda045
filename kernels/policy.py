"""TrivialAugment: one of fourteen operations an image, at one of 31 strengths, both uniform.

The operations and their ranges are those of the paper's wide space as torchvision has it. Ours differ in two ways:
results are not rounded to whole bytes, and geometric operations turn about the image's centre, interpolate and pad as
the rest of the augmentation does, so that pixels are interpolated once. The policy comes first: its statistics are
those of the image in the data set, before any crop.

Source: S. G. Müller and F. Hutter, "TrivialAugment", arXiv 2103.10158.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kernels.colour import luma
from kernels.philox import Words, below

NAMES = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE = range(1, 6)
BRIGHTNESS, COLOR, CONTRAST, SHARPNESS, POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE = range(6, 14)
LEVELS = 31
SHEAR = 0.99  # pixels across a pixel down, at full strength; also the change of the colour operations' factor
TURN = math.radians(135)


def _strength(words: Words) -> Tensor:
    """In [-1, 1], float32 (B,): a level and a sign."""
    sign = 1 - 2 * (words[2] >> 31)
    return (sign * below(words[1], LEVELS)).to(torch.float32) * (1.0 / (LEVELS - 1))


def moves(words: Words) -> Tensor:
    """Which images have a geometric operation: bool (B,)."""
    operation = below(words[0], len(NAMES))
    return (operation >= SHEAR_X) & (operation <= ROTATE)


def move(y: Tensor, x: Tensor, side: tuple[int, int], words: Words) -> tuple[Tensor, Tensor]:
    """Input coordinates, float32 that broadcast to (B, S, S), as the geometric operations change them."""
    h, w = side
    operation, strength = below(words[0], len(NAMES)), _strength(words)

    def amount(which: int, most: float) -> Tensor:
        return torch.where(operation == which, strength * most, 0.0)[:, None, None]

    angle = amount(ROTATE, TURN)
    v, u = y - (h - 1) / 2, x - (w - 1) / 2
    moved_y = torch.cos(angle) * v - torch.sin(angle) * u + amount(SHEAR_Y, SHEAR) * u - amount(TRANSLATE_Y, h)
    moved_x = torch.sin(angle) * v + torch.cos(angle) * u + amount(SHEAR_X, SHEAR) * v - amount(TRANSLATE_X, w)
    return moved_y + (h - 1) / 2, moved_x + (w - 1) / 2


def recolour(images: Tensor, words: Words) -> Tensor:
    """uint8 (B, H, W, 3) to float32 of that shape, as the colour operations change them."""
    out = images.to(torch.float32)
    operation, level, factor = below(words[0], len(NAMES)), below(words[1], LEVELS), 1.0 + SHEAR * _strength(words)
    for which, apply in _COLOURS.items():
        rows = (operation == which).nonzero()[:, 0]
        some = apply(out.index_select(0, rows), factor[rows, None, None, None], level[rows, None, None, None])
        out.index_copy_(0, rows, some)
    return out


def _blend(degenerate: Tensor | float, images: Tensor, factor: Tensor) -> Tensor:
    return (degenerate + factor * (images - degenerate)).clamp_(0.0, 255.0)


def _sharpness(images: Tensor, factor: Tensor, level: Tensor) -> Tensor:
    """Away from, or towards, a blur whose 3 x 3 kernel has ones and a 5 in the centre; border pixels stay."""
    h, w = images.shape[1:3]
    total = 4.0 * images[:, 1:-1, 1:-1]
    for dy in range(3):
        for dx in range(3):
            total = total + images[:, dy : h - 2 + dy, dx : w - 2 + dx]
    blurred = images.clone()
    blurred[:, 1:-1, 1:-1] = total * (1.0 / 13.0)
    return _blend(blurred, images, factor)


def _posterize(images: Tensor, factor: Tensor, level: Tensor) -> Tensor:
    """Keeps the upper 8 to 2 bits."""
    dropped = (2 * level + 5) // 10
    return ((images.long() >> dropped) << dropped).to(torch.float32)


def _autocontrast(images: Tensor, factor: Tensor, level: Tensor) -> Tensor:
    """Stretches each channel to 0..255; a channel of one value stays."""
    low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
    scale = torch.where(high > low, 255.0 / (high - low).clamp(min=1.0), 1.0)
    return (images - torch.where(high > low, low, 0.0)) * scale


def _equalize(images: Tensor, factor: Tensor, level: Tensor) -> Tensor:
    """Flattens each channel's histogram, by PIL's integer rule."""
    values = images.long().permute(0, 3, 1, 2).flatten(2)
    counts = torch.zeros((*values.shape[:2], 256), dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    last = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - last) // 255
    table = ((step // 2 + counts.cumsum(2) - counts) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    shape = (len(images), 3, *images.shape[1:3])
    return table.gather(2, values).view(shape).permute(0, 2, 3, 1).to(torch.float32)


_COLOURS: dict[int, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    BRIGHTNESS: lambda images, factor, level: _blend(0.0, images, factor),
    COLOR: lambda images, factor, level: _blend(luma(images)[..., None], images, factor),
    CONTRAST: lambda images, factor, level: _blend(luma(images).mean((1, 2))[:, None, None, None], images, factor),
    SHARPNESS: _sharpness,
    POSTERIZE: _posterize,
    SOLARIZE: lambda images, factor, level: torch.where(images >= 255.0 - 8.5 * level, 255.0 - images, images),
    AUTOCONTRAST: _autocontrast,
    EQUALIZE: _equalize,
}
