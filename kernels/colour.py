"""Brightness and contrast; hue, saturation and value; grayscale. Values are floats in 0..255, before normalising."""

import torch
from torch import Tensor

from kernels import philox
from kernels.augmentation import Augmentation
from kernels.backend import constant, jit, tl
from kernels.philox import Words, chance, chance_jit, signed, signed_jit, words_jit

_TONE, _HUE, _GRAY = constant(philox.TONE), constant(philox.HUE), constant(philox.GRAY)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL's "L"
_SURE = 0.01 * 255  # the difference of channels from which on hue and saturation move all the way
_CERTAIN = constant(_SURE)


def streams(augmentation: Augmentation) -> list[int]:
    """The random streams that the colour operations need."""
    wanted = ((augmentation.tone, philox.TONE), (augmentation.hue, philox.HUE), (augmentation.grayscale, philox.GRAY))
    return [stream for probability, stream in wanted if probability > 0]


def colour(batch: Tensor, augmentation: Augmentation, words: dict[int, Words]) -> Tensor:
    """All colour operations that are on, on float32 (B, S, S, 3), which may be changed in place."""
    if augmentation.tone > 0:
        batch = _tone(batch, augmentation, words[philox.TONE])
    if augmentation.hue > 0:
        rows = chance(words[philox.HUE][0], augmentation.hue).nonzero()[:, 0]
        some = (word[rows] for word in words[philox.HUE][1:])
        batch.index_copy_(0, rows, _shift_hue(batch.index_select(0, rows), augmentation, *some))
    if augmentation.grayscale > 0:
        rows = chance(words[philox.GRAY][0], augmentation.grayscale).nonzero()[:, 0]
        gray = luma(batch.index_select(0, rows))[..., None]
        batch.index_copy_(0, rows, gray.expand(*gray.shape[:3], 3).contiguous())
    return batch


def luma(batch: Tensor) -> Tensor:
    """(..., 3) to (...): the weighted mean of the channels."""
    red, green, blue = batch.unbind(-1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _tone(batch: Tensor, augmentation: Augmentation, words: Words) -> Tensor:
    some = chance(words[0], augmentation.tone)
    offset = torch.where(some, 255.0 * augmentation.brightness * signed(words[1]), 0.0)
    factor = torch.where(some, 1.0 + augmentation.contrast * signed(words[2]), 1.0)
    shape = (-1, 1, 1, 1)
    return batch.mul_(factor.view(shape)).add_(offset.view(shape)).clamp_(0.0, 255.0)


def _shift_hue(batch: Tensor, augmentation: Augmentation, turn: Tensor, chroma: Tensor, light: Tensor) -> Tensor:
    """Adds to hue, saturation and value; the last two are clipped to their range.

    Near gray and near black, where hue and saturation mean nothing, a pixel's spread of channels moves only part of the
    way, so that a rounding error of the spread stays small and gray stays gray.
    """
    planes = batch.permute(3, 0, 1, 2).contiguous()
    red, green, blue = planes
    value, spread = planes.amax(0), planes.amax(0) - planes.amin(0)
    inverse = 1.0 / spread.clamp(min=1e-12)
    sixth = torch.where(
        value == red,
        (green - blue) * inverse,
        torch.where(value == green, 2.0 + (blue - red) * inverse, 4.0 + (red - green) * inverse),
    )
    saturation, sure = spread / value.clamp(min=1e-12), (spread * (1.0 / _SURE)).clamp_(max=1.0)
    shape = (-1, 1, 1)
    sixth = sixth + (6.0 * augmentation.hue_shift * signed(turn)).view(shape)
    saturation = (saturation + (augmentation.saturation_shift * signed(chroma)).view(shape)).clamp_(0.0, 1.0)
    value = (value + (255.0 * augmentation.value_shift * signed(light)).view(shape)).clamp_(0.0, 255.0)
    moved = torch.lerp(spread, value * saturation, sure)
    spread = torch.minimum(moved, value)
    channels = []
    for channel in (5.0, 3.0, 1.0):
        k = sixth + channel
        k -= 6.0 * (k * (1.0 / 6.0)).floor_()  # torch.remainder does not vectorise
        channels.append(value - spread * torch.minimum(k, 4.0 - k).clamp_(0.0, 1.0))
    return torch.stack(channels, dim=-1)


@jit
def colour_jit(seed, epoch, index, red, green, blue, A: tl.constexpr):
    """`colour` of the three channels of images `index`."""
    TONE: tl.constexpr = A.value.tone
    HUE: tl.constexpr = A.value.hue
    GRAY: tl.constexpr = A.value.grayscale
    if TONE > 0.0:
        BRIGHTNESS: tl.constexpr = A.value.brightness
        CONTRAST: tl.constexpr = A.value.contrast
        word, first, second, _ = words_jit(seed, epoch, index, _TONE)
        some = chance_jit(word, TONE)
        offset = tl.where(some, 255.0 * BRIGHTNESS * signed_jit(first), 0.0)
        factor = tl.where(some, 1.0 + CONTRAST * signed_jit(second), 1.0)
        red, green, blue = (
            _clip_jit(red * factor + offset, 255.0),
            _clip_jit(green * factor + offset, 255.0),
            _clip_jit(blue * factor + offset, 255.0),
        )
    if HUE > 0.0:
        word, turn, chroma, light = words_jit(seed, epoch, index, _HUE)
        some = chance_jit(word, HUE)
        r, g, b = _shift_hue_jit(red, green, blue, signed_jit(turn), signed_jit(chroma), signed_jit(light), A)
        red, green, blue = tl.where(some, r, red), tl.where(some, g, green), tl.where(some, b, blue)
    if GRAY > 0.0:
        word, _, _, _ = words_jit(seed, epoch, index, _GRAY)
        some = chance_jit(word, GRAY)
        gray = luma_jit(red, green, blue)
        red, green, blue = tl.where(some, gray, red), tl.where(some, gray, green), tl.where(some, gray, blue)
    return red, green, blue


@jit
def luma_jit(red, green, blue):
    """`luma`."""
    return 0.299 * red + 0.587 * green + 0.114 * blue


@jit
def _shift_hue_jit(red, green, blue, turn, chroma, light, A: tl.constexpr):
    HUE: tl.constexpr = A.value.hue_shift
    SATURATION: tl.constexpr = A.value.saturation_shift
    VALUE: tl.constexpr = A.value.value_shift
    value = tl.maximum(red, tl.maximum(green, blue))
    spread = value - tl.minimum(red, tl.minimum(green, blue))
    inverse = 1.0 / tl.maximum(spread, 1e-12)
    other = tl.where(value == green, 2.0 + (blue - red) * inverse, 4.0 + (red - green) * inverse)
    sixth = tl.where(value == red, (green - blue) * inverse, other) + 6.0 * HUE * turn
    saturation = _clip_jit(spread / tl.maximum(value, 1e-12) + SATURATION * chroma, 1.0)
    value = _clip_jit(value + 255.0 * VALUE * light, 255.0)
    moved = spread + _clip_jit(spread * (1.0 / _CERTAIN), 1.0) * (value * saturation - spread)
    spread = tl.minimum(moved, value)
    return (
        value - spread * _ramp_jit(sixth + 5.0),
        value - spread * _ramp_jit(sixth + 3.0),
        value - spread * _ramp_jit(sixth + 1.0),
    )


@jit
def _ramp_jit(sixth):
    k = sixth - 6.0 * tl.floor(sixth * (1.0 / 6.0))
    return _clip_jit(tl.minimum(k, 4.0 - k), 1.0)


@jit
def _clip_jit(value, HIGH: tl.constexpr):
    return tl.minimum(tl.maximum(value, 0.0), HIGH)
