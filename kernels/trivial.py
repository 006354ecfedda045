"""The kernel's half of TrivialAugment: what `kernels.policy` does to a batch, done to one image."""

from kernels import philox, policy
from kernels.backend import constant, jit, tl
from kernels.colour import luma_jit
from kernels.philox import below_jit, words_jit
from kernels.sample import border_jit, lerp_jit

_STREAM = constant(philox.POLICY)
_SHEAR_X, _SHEAR_Y = constant(policy.SHEAR_X), constant(policy.SHEAR_Y)
_TRANSLATE_X, _TRANSLATE_Y = constant(policy.TRANSLATE_X), constant(policy.TRANSLATE_Y)
_ROTATE, _BRIGHTNESS, _COLOR = constant(policy.ROTATE), constant(policy.BRIGHTNESS), constant(policy.COLOR)
_CONTRAST, _SHARPNESS = constant(policy.CONTRAST), constant(policy.SHARPNESS)
_POSTERIZE, _SOLARIZE = constant(policy.POSTERIZE), constant(policy.SOLARIZE)
_AUTOCONTRAST = constant(policy.AUTOCONTRAST)
_MOST, _RADIANS = constant(policy.SHEAR), constant(policy.TURN)
_MOST_PIXELS = constant(1024)  # of an image that are looked at together for its statistics


@jit
def draw_jit(seed, epoch, index):
    """(operation, level, strength) of the image `index`: int32, int32, float32."""
    first, second, third, _ = words_jit(seed, epoch, index, _STREAM)
    level = below_jit(second, 31)
    sign = 1 - 2 * (third >> 31).to(tl.int32)
    return below_jit(first, 14), level, (sign * level).to(tl.float32) * (1.0 / 30.0)


@jit
def move_jit(seed, epoch, index, y, x, H: tl.constexpr, W: tl.constexpr):
    """`policy.move`."""
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
    STEP: tl.constexpr = _MOST_PIXELS if PIXELS > _MOST_PIXELS else PIXELS
    gray = tl.zeros((STEP,), tl.float32)
    for start in range(0, H * W, STEP):
        offset = start + tl.arange(0, STEP)
        place, inside = image + offset * 3, offset < H * W
        gray += luma_jit(_load_jit(place, inside), _load_jit(place + 1, inside), _load_jit(place + 2, inside))
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
        counts = _histogram_jit(channel, H, W, PIXELS)
        low = tl.min(tl.where(counts > 0, byte, 255))
        high = tl.max(tl.where(counts > 0, byte, 0))
        if operation == _AUTOCONTRAST:
            scale = 255.0 / tl.maximum(high - low, 1).to(tl.float32)
            value = tl.where(high > low, (value - low) * scale, value)
        else:
            step = (H * W - tl.sum(tl.where(byte == high, counts, 0))) // 255
            rank = tl.cumsum(counts, 0) - counts
            level_of = tl.minimum((step // 2 + rank) // tl.maximum(step, 1), 255)
            value = tl.where(step > 0, level_of, byte).to(tl.float32)
    return value


@jit
def _histogram_jit(channel, H: tl.constexpr, W: tl.constexpr, PIXELS: tl.constexpr):
    """How often each byte occurs in one channel, int32 (256,)."""
    STEP: tl.constexpr = _MOST_PIXELS if PIXELS > _MOST_PIXELS else PIXELS
    counts = tl.zeros((256,), tl.int32)
    for start in range(0, H * W, STEP):
        offset = start + tl.arange(0, STEP)
        pixels = tl.load(channel + offset * 3, mask=offset < H * W, other=0).to(tl.int32)
        counts += tl.histogram(pixels, 256)
    beyond = (H * W + STEP - 1) // STEP * STEP - H * W  # read as 0
    return counts - tl.where(tl.arange(0, 256) == 0, beyond, 0)
