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

from kernels import philox
from kernels.backend import constant, jit, tl
from kernels.colour import luma, luma_jit
from kernels.philox import Words, below, below_jit, words_jit
from kernels.sample import border_jit, lerp_jit

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
_SHEAR = 0.99  # pixels across a pixel down, at full strength; also the change of the colour operations' factor
_TURN = math.radians(135)


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

    angle = amount(ROTATE, _TURN)
    v, u = y - (h - 1) / 2, x - (w - 1) / 2
    moved_y = torch.cos(angle) * v - torch.sin(angle) * u + amount(SHEAR_Y, _SHEAR) * u - amount(TRANSLATE_Y, h)
    moved_x = torch.sin(angle) * v + torch.cos(angle) * u + amount(SHEAR_X, _SHEAR) * v - amount(TRANSLATE_X, w)
    return moved_y + (h - 1) / 2, moved_x + (w - 1) / 2


def recolour(images: Tensor, words: Words) -> Tensor:
    """uint8 (B, H, W, 3) to float32 of that shape, as the colour operations change them."""
    out = images.to(torch.float32)
    operation, level, factor = below(words[0], len(NAMES)), below(words[1], LEVELS), 1.0 + _SHEAR * _strength(words)
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


_STREAM = constant(philox.POLICY)
_SHEAR_X, _SHEAR_Y = constant(SHEAR_X), constant(SHEAR_Y)
_TRANSLATE_X, _TRANSLATE_Y, _ROTATE = constant(TRANSLATE_X), constant(TRANSLATE_Y), constant(ROTATE)
_BRIGHTNESS, _COLOR, _CONTRAST, _SHARPNESS = (constant(n) for n in (BRIGHTNESS, COLOR, CONTRAST, SHARPNESS))
_POSTERIZE, _SOLARIZE, _AUTOCONTRAST, _EQUALIZE = (constant(n) for n in (POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE))
_MOST, _RADIANS = constant(_SHEAR), constant(_TURN)


@jit
def draw_jit(seed, epoch, index):
    """(operation, level, strength) of the image `index`: int32, int32, float32."""
    first, second, third, _ = words_jit(seed, epoch, index, _STREAM)
    level = below_jit(second, 31)
    sign = 1 - 2 * (third >> 31).to(tl.int32)
    return below_jit(first, 14), level, (sign * level).to(tl.float32) * (1.0 / 30.0)


@jit
def move_jit(seed, epoch, index, y, x, H: tl.constexpr, W: tl.constexpr):
    """`move`."""
    operation, _, strength = draw_jit(seed, epoch, index)
    angle = tl.where(operation == _ROTATE, strength * _RADIANS, 0.0)
    v, u = y - (H - 1) / 2, x - (W - 1) / 2
    shear_y = tl.where(operation == _SHEAR_Y, strength * _MOST, 0.0)
    shear_x = tl.where(operation == _SHEAR_X, strength * _MOST, 0.0)
    down = tl.where(operation == _TRANSLATE_Y, strength * H, 0.0)
    right = tl.where(operation == _TRANSLATE_X, strength * W, 0.0)
    cos, sin = tl.cos(angle), tl.sin(angle)
    return cos * v - sin * u + shear_y * u - down + (H - 1) / 2, sin * v + cos * u + shear_x * v - right + (W - 1) / 2


@jit
def sample_recoloured_jit(
    seed,
    epoch,
    index,
    images,
    y,
    x,
    valid,
    H: tl.constexpr,
    W: tl.constexpr,
    PIXELS: tl.constexpr,
    PADDING: tl.constexpr,
):
    """Red, green and blue of the one image `index`, (1, 1, 1), at float coordinates, recoloured before interpolating.

    PIXELS: the power of two that H * W fits in. As there is one image, its operation is a scalar: a program takes one
    branch and pays for no other.
    """
    operation, level, strength = draw_jit(seed, epoch, index)
    operation, level, factor = tl.max(operation), tl.max(level), 1.0 + _MOST * tl.max(strength)
    image = images + tl.max(index) * (H * W * 3)
    mean = 0.0
    if operation == _CONTRAST:
        mean = _mean_jit(image, H, W, PIXELS)
    red = _table_jit(image, operation, level, factor, mean, H, W, PIXELS)
    green = _table_jit(image + 1, operation, level, factor, mean, H, W, PIXELS)
    blue = _table_jit(image + 2, operation, level, factor, mean, H, W, PIXELS)
    row, column = tl.floor(y), tl.floor(x)
    down, right = y - row, x - column
    row, column = row.to(tl.int32), column.to(tl.int32)
    r00, g00, b00 = _tap_jit(image, row, column, valid, operation, factor, red, green, blue, H, W, PADDING)
    r01, g01, b01 = _tap_jit(image, row, column + 1, valid, operation, factor, red, green, blue, H, W, PADDING)
    r10, g10, b10 = _tap_jit(image, row + 1, column, valid, operation, factor, red, green, blue, H, W, PADDING)
    r11, g11, b11 = _tap_jit(image, row + 1, column + 1, valid, operation, factor, red, green, blue, H, W, PADDING)
    return (
        lerp_jit(lerp_jit(r00, r01, right), lerp_jit(r10, r11, right), down),
        lerp_jit(lerp_jit(g00, g01, right), lerp_jit(g10, g11, right), down),
        lerp_jit(lerp_jit(b00, b01, right), lerp_jit(b10, b11, right), down),
    )


@jit
def _tap_jit(
    image, y, x, valid, operation, factor, red, green, blue, H: tl.constexpr, W: tl.constexpr, PADDING: tl.constexpr
):
    """The three recoloured channels at whole coordinates. red, green, blue: the channels' tables."""
    inside = valid
    if PADDING == "zero":
        inside = valid & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    row, column = border_jit(y, H, PADDING), border_jit(x, W, PADDING)
    place = image + (row * W + column) * 3
    r, g, b = _load_jit(place, inside), _load_jit(place + 1, inside), _load_jit(place + 2, inside)
    if operation == _COLOR:
        gray = luma_jit(r, g, b)
        r, g, b = _blend_jit(gray, r, factor), _blend_jit(gray, g, factor), _blend_jit(gray, b, factor)
    elif operation == _SHARPNESS:
        interior = inside & (row > 0) & (row < H - 1) & (column > 0) & (column < W - 1)
        r = tl.where(interior, _blend_jit(_blur_jit(place, r, interior, W), r, factor), r)
        g = tl.where(interior, _blend_jit(_blur_jit(place + 1, g, interior, W), g, factor), g)
        b = tl.where(interior, _blend_jit(_blur_jit(place + 2, b, interior, W), b, factor), b)
    elif operation >= _BRIGHTNESS:
        r, g, b = _look_up_jit(red, r), _look_up_jit(green, g), _look_up_jit(blue, b)
    return tl.where(inside, r, 0.0), tl.where(inside, g, 0.0), tl.where(inside, b, 0.0)


@jit
def _load_jit(place, inside):
    return tl.load(place, mask=inside, other=0).to(tl.float32)


@jit
def _blend_jit(degenerate, value, factor):
    return tl.minimum(tl.maximum(degenerate + factor * (value - degenerate), 0.0), 255.0)


@jit
def _blur_jit(place, centre, interior, W: tl.constexpr):
    total = 4.0 * centre
    for dy in tl.static_range(3):
        for dx in tl.static_range(3):
            total += _load_jit(place + ((dy - 1) * W + dx - 1) * 3, interior)
    return total * (1.0 / 13.0)


@jit
def _look_up_jit(table, value):
    flat = tl.reshape(value.to(tl.int32), (value.numel,))
    return tl.reshape(tl.gather(table, flat, 0), value.shape)


@jit
def _mean_jit(image, H: tl.constexpr, W: tl.constexpr, PIXELS: tl.constexpr):
    """The mean luma of an image."""
    offset = tl.arange(0, PIXELS)
    place, inside = image + offset * 3, offset < H * W
    gray = luma_jit(_load_jit(place, inside), _load_jit(place + 1, inside), _load_jit(place + 2, inside))
    return tl.sum(gray) * (1.0 / (H * W))


@jit
def _table_jit(channel, operation, level, factor, mean, H: tl.constexpr, W: tl.constexpr, PIXELS: tl.constexpr):
    """What the operation makes of each byte of one channel, float32 (256,). channel: a pointer to its first byte."""
    byte = tl.arange(0, 256)
    value = byte.to(tl.float32)
    if operation == _BRIGHTNESS:
        value = _blend_jit(0.0, value, factor)
    elif operation == _CONTRAST:
        value = _blend_jit(mean, value, factor)
    elif operation == _POSTERIZE:
        dropped = (2 * level + 5) // 10
        value = ((byte >> dropped) << dropped).to(tl.float32)
    elif operation == _SOLARIZE:
        value = tl.where(value >= 255.0 - 8.5 * level, 255.0 - value, value)
    elif operation >= _AUTOCONTRAST:
        offset = tl.arange(0, PIXELS)
        inside = offset < H * W
        pixels = tl.load(channel + offset * 3, mask=inside, other=0).to(tl.int32)
        low, high = tl.min(tl.where(inside, pixels, 255)), tl.max(pixels)
        if operation == _AUTOCONTRAST:
            scale = 255.0 / tl.maximum(high - low, 1).to(tl.float32)
            value = tl.where(high > low, (value - low) * scale, value)
        else:
            counts = tl.histogram(pixels, 256) - tl.where(byte == 0, PIXELS - H * W, 0)
            step = (H * W - tl.sum(tl.where(byte == high, counts, 0))) // 255
            rank = tl.cumsum(counts, 0) - counts
            level_of = tl.minimum((step // 2 + rank) // tl.maximum(step, 1), 255)
            value = tl.where(step > 0, level_of, byte).to(tl.float32)
    return value
