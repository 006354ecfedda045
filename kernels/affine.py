"""Shift, scale and rotate about the centre, as a map from output to input coordinates.

Output point p shows input point R(-angle) (p - centre - shift) / scale + centre. Angle, scale and both shifts are
uniform and independent. The map joins the crop's and the down-sampling's: the image is interpolated once.
"""

import math

import torch
from torch import Tensor

from kernels import philox
from kernels.augmentation import Augmentation
from kernels.backend import constant, jit, tl
from kernels.philox import Words, chance, chance_jit, signed, signed_jit, words_jit

_STREAM = constant(philox.AFFINE)
_RADIANS = constant(math.pi / 180)


def affine(
    y: Tensor, x: Tensor, side: tuple[int, int], augmentation: Augmentation, words: Words
) -> tuple[Tensor, Tensor]:
    """Maps output coordinates, float32 that broadcast to (B, S, S), to input coordinates (B, S, S): the images that the
    operation applies to, and no change for the others."""
    h, w = side
    some = applied(augmentation, words)
    angle = math.radians(augmentation.affine_rotate) * signed(words[1])
    scale = 1.0 + augmentation.affine_scale * signed(words[2])
    # The last word gives 16 bits to each axis, and no bit to both.
    move_y = augmentation.affine_shift * h * signed(words[3] & 0xFFFF0000)
    move_x = augmentation.affine_shift * w * signed(words[3] << 16 & 0xFFFF0000)
    cos = torch.where(some, torch.cos(angle) / scale, 1.0)[:, None, None]
    sin = torch.where(some, torch.sin(angle) / scale, 0.0)[:, None, None]
    v = y - (h - 1) / 2 - torch.where(some, move_y, 0.0)[:, None, None]
    u = x - (w - 1) / 2 - torch.where(some, move_x, 0.0)[:, None, None]
    return cos * v - sin * u + (h - 1) / 2, sin * v + cos * u + (w - 1) / 2


def applied(augmentation: Augmentation, words: Words) -> Tensor:
    """Which images the map applies to: bool (B,)."""
    return chance(words[0], augmentation.affine)


@jit
def affine_jit(seed, epoch, index, y, x, H: tl.constexpr, W: tl.constexpr, A: tl.constexpr):
    """`affine` of images `index`."""
    PROBABILITY: tl.constexpr = A.value.affine
    ROTATE: tl.constexpr = A.value.affine_rotate
    SCALE: tl.constexpr = A.value.affine_scale
    SHIFT: tl.constexpr = A.value.affine_shift
    first, turn, zoom, move = words_jit(seed, epoch, index, _STREAM)
    some = chance_jit(first, PROBABILITY)
    angle = ROTATE * _RADIANS * signed_jit(turn)
    scale = 1.0 + SCALE * signed_jit(zoom)
    cos = tl.where(some, tl.cos(angle) / scale, 1.0)
    sin = tl.where(some, tl.sin(angle) / scale, 0.0)
    move_y = tl.where(some, SHIFT * H * signed_jit(move >> 16 << 16), 0.0)
    move_x = tl.where(some, SHIFT * W * signed_jit(move << 16), 0.0)
    v = y - (H - 1) / 2 - move_y
    u = x - (W - 1) / 2 - move_x
    return cos * v - sin * u + (H - 1) / 2, sin * v + cos * u + (W - 1) / 2
