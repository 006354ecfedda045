"""What the colour operations should compute, for `oracles`: numpy, PIL and colorsys, a pixel or an image at a time."""

import colorsys
import math

import numpy as np
from PIL import Image, ImageOps


def luma(picture: np.ndarray) -> np.ndarray:
    return picture @ np.array([0.299, 0.587, 0.114])


def hue_shifted(pixel: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Where red, green and blue differ by less than 0.01, their difference moves only that part of its way."""
    before = pixel.max() - pixel.min()
    hue, saturation, value = np.array(colorsys.rgb_to_hsv(*pixel)) + shifts
    value = min(max(value, 0), 1)
    after = before + min(before / 0.01, 1) * (value * min(max(saturation, 0), 1) - before)
    return np.array(colorsys.hsv_to_rgb(hue % 1, min(after / value, 1) if value else 0, value))


def recoloured(image: np.ndarray, operation: int, level: int, strength: float) -> np.ndarray:
    """The policy's colour operations: PIL's where they give whole bytes, their formulas where PIL would round."""
    picture = Image.fromarray(image)
    pixels, factor = image.astype(float), 1 + 0.99 * strength
    if operation == 10:
        return np.asarray(ImageOps.posterize(picture, 8 - round(level / 5))).astype(float)
    if operation == 11:
        solarized = ImageOps.solarize(picture, math.ceil(255 - 8.5 * level))
        return np.asarray(solarized).astype(float)
    if operation == 12:
        low, high = pixels.min((0, 1)), pixels.max((0, 1))
        return np.where(high > low, (pixels - low) * 255 / np.maximum(high - low, 1), pixels)
    if operation == 13:
        return np.asarray(ImageOps.equalize(picture)).astype(float)
    degenerate = {
        6: lambda: np.zeros_like(pixels),
        7: lambda: luma(pixels)[..., None],
        8: lambda: luma(pixels).mean(),
        9: lambda: smoothed(pixels),
    }
    if operation not in degenerate:
        return pixels
    base = degenerate[operation]()
    return np.clip(base + factor * (pixels - base), 0, 255)


def smoothed(pixels: np.ndarray) -> np.ndarray:
    """PIL's SMOOTH filter without its rounding."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    out = pixels.copy()
    for y in range(1, len(pixels) - 1):
        for x in range(1, pixels.shape[1] - 1):
            out[y, x] = np.tensordot(kernel, pixels[y - 1 : y + 2, x - 1 : x + 2], 2)
    return out
