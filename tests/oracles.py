"""What the kernels should compute: plain numpy, PIL and Python integers, one image at a time, clear above all.

Nothing here is shared with `kernels` but the description of an augmentation: the random numbers too are made anew.
Pictures are float64 (S, S, 3), normalised.
"""

import cmath
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from oracle_colours import hue_shifted, luma, recoloured

from kernels.augmentation import Augmentation

FLIP, TRANSLATE, CUTOUT, AFFINE, TONE, HUE, GRAY, POLICY, MIX, PARTNER, PLACE_Y, PLACE_X = range(12)
ERASE, HOLES = 15, 16
FAR = 150  # how many pixels a coordinate may lie outside an image


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox 4x32-10 as its paper has it."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        high0, low0 = divmod(c[0] * 0xD2511F53, 1 << 32)
        high1, low1 = divmod(c[2] * 0xCD9E8D57, 1 << 32)
        c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0]
        k0, k1 = (k0 + 0x9E3779B9) % (1 << 32), (k1 + 0xBB67AE85) % (1 << 32)
    return tuple(c)


def words(seed: int, epoch: int, index: int, stream: int) -> tuple[int, ...]:
    return philox((index % (1 << 32), index >> 32, epoch, stream), (seed % (1 << 32), seed >> 32))


def below(word: int, n: int) -> int:
    return word * n // (1 << 32)


def signed(word: int) -> float:
    return (word >> 8) / 2**23 - 1


def happens(word: int, probability: float) -> bool:
    return (word >> 8) / 2**24 < probability


@dataclass(frozen=True)
class Oracle:
    """Makes pictures of the uint8 images (N, H, W, 3) of one data set."""

    images: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    augmentation: Augmentation
    seed: int = 0
    epoch: int = 0
    step: int = 0
    offset: tuple[int, int] = (0, 0)

    def words(self, index: int, stream: int) -> tuple[int, ...]:
        return words(self.seed, self.epoch, index, stream)

    def mirrored(self, index: int) -> bool:
        flip = self.augmentation.flip
        if flip == "alternating":
            return (words(self.seed, 0, index, FLIP)[0] >> 31) != self.epoch % 2
        return flip == "always" or (flip == "random" and self.words(index, FLIP)[0] >= 1 << 31)

    def shift(self, index: int) -> tuple[int, int]:
        limit = self.augmentation.translate
        dy, dx = (below(word, 2 * limit + 1) - limit for word in self.words(index, TRANSLATE)[:2])
        return dy + self.offset[0], dx + self.offset[1]

    def picture(self, index: int) -> np.ndarray:
        a = self.augmentation
        image = self.images[index].astype(float)
        if a.policy != "none":
            image = recoloured(self.images[index], *self.policy(index))
        picture = self.warped(index, image) if a.warps else shrunk(self.cropped(index, image), a.size)
        picture = self.coloured(index, picture)
        picture = (picture / 255 - self.mean) / self.std
        for y, x, side in self.squares(index):
            picture[y : y + side, x : x + side] = 0
        return picture

    def cropped(self, index: int, image: np.ndarray) -> np.ndarray:
        h, w = image.shape[:2]
        dy, dx = self.shift(index)
        crop = padded(image, self.augmentation.padding)[FAR + dy : FAR + dy + h, FAR + dx : FAR + dx + w]
        return crop[:, ::-1] if self.mirrored(index) else crop

    def warped(self, index: int, image: np.ndarray) -> np.ndarray:
        """Pixel by pixel: where in the image does this output pixel come from?"""
        h, w = image.shape[:2]
        size = self.augmentation.size
        around = padded(image, self.augmentation.padding)
        picture = np.zeros((size, size, 3))
        for row in range(size):
            for column in range(size):
                y, x = (row + 0.5) * h / size - 0.5, (column + 0.5) * w / size - 0.5
                y, x = self.affine(index, y, x, h, w)
                if self.mirrored(index):
                    x = w - 1 - x
                dy, dx = self.shift(index)
                y, x = self.move(index, y + dy, x + dx, h, w)
                picture[row, column] = interpolated(around, y, x)
        return picture

    def affine(self, index: int, y: float, x: float, h: int, w: int) -> tuple[float, float]:
        a = self.augmentation
        some, turn, zoom, move = self.words(index, AFFINE)
        if not happens(some, a.affine):
            return y, x
        angle, scale = math.radians(a.affine_rotate * signed(turn)), 1 + a.affine_scale * signed(zoom)
        point = complex(x - (w - 1) / 2, y - (h - 1) / 2)
        point -= complex(a.affine_shift * w * signed(move % 65536 << 16), a.affine_shift * h * signed(move >> 16 << 16))
        point *= cmath.exp(-1j * angle) / scale
        return point.imag + (h - 1) / 2, point.real + (w - 1) / 2

    def policy(self, index: int) -> tuple[int, int, float]:
        """(operation, level in 0..30, strength in -1..1)."""
        first, second, third, _ = self.words(index, POLICY)
        level = below(second, 31)
        return below(first, 14), level, (-level if third >= 1 << 31 else level) / 30

    def move(self, index: int, y: float, x: float, h: int, w: int) -> tuple[float, float]:
        """The policy's geometric operations, the other way round: from output to input."""
        if self.augmentation.policy == "none":
            return y, x
        operation, _, strength = self.policy(index)
        v, u = y - (h - 1) / 2, x - (w - 1) / 2
        if operation == 1:
            u += 0.99 * strength * v
        elif operation == 2:
            v += 0.99 * strength * u
        elif operation == 3:
            u -= w * strength
        elif operation == 4:
            v -= h * strength
        elif operation == 5:
            point = complex(u, v) * cmath.exp(-1j * math.radians(135) * strength)
            u, v = point.real, point.imag
        return v + (h - 1) / 2, u + (w - 1) / 2

    def coloured(self, index: int, picture: np.ndarray) -> np.ndarray:
        a = self.augmentation
        some, first, second, _ = self.words(index, TONE)
        if happens(some, a.tone):
            picture = np.clip(picture * (1 + a.contrast * signed(second)) + 255 * a.brightness * signed(first), 0, 255)
        some, *amounts = self.words(index, HUE)
        if happens(some, a.hue):
            shifts = np.array([a.hue_shift, a.saturation_shift, a.value_shift]) * [signed(word) for word in amounts]
            picture = np.array([[hue_shifted(pixel / 255, shifts) * 255 for pixel in row] for row in picture])
        if happens(self.words(index, GRAY)[0], a.grayscale):
            picture = np.repeat(luma(picture)[..., None], 3, axis=2)
        return picture

    def squares(self, index: int) -> list[tuple[int, int, int]]:
        """(y, x, side) of what is erased."""
        a = self.augmentation
        squares = []
        if a.cutout:
            y, x, _, _ = self.words(index, CUTOUT)
            squares.append((y, x, a.cutout))
        if happens(self.words(index, ERASE)[0], a.holes):
            for hole in range(a.hole_count):
                four = self.words(index, HOLES + hole // 2)
                y, x = four[2 * (hole % 2) :][:2]
                squares.append((y, x, a.hole_size))
        return [(below(y, a.size - side + 1), below(x, a.size - side + 1), side) for y, x, side in squares]

    def mixed(self, rows: list[int], row: int) -> tuple[np.ndarray, list[int], np.ndarray]:
        """(picture, images, weights) of row `row` of the batch of images `rows`, mixed as the augmentation says.

        The weight of an image is what share of the picture's light it gives: counted pixel by pixel.
        """
        a, index, size = self.augmentation, rows[row], self.augmentation.size
        batch = a.mix_per == "batch"
        key, epoch = (self.step, 0) if batch else (index, self.epoch)
        which, first, second, _ = words(self.seed, epoch, key, MIX)
        partners = words(self.seed, epoch, key, PARTNER)[: a.members - 1]
        if batch:
            others = [rows[(row + 1 + below(word, len(rows) - 1)) % len(rows)] for word in partners]
        else:
            others = [below(word, len(self.images)) for word in partners]
        members = [index, *others]
        shares = np.zeros((a.members, size, size))
        places = [(0, 0)] * a.members
        y, x = words(self.seed, epoch, key, PLACE_Y), words(self.seed, epoch, key, PLACE_X)
        draw = which / 2**32
        shares[0] = 1
        if draw < a.mixup:
            share = round((1 - beta_quantile(a.mixup_alpha, first)) * 65536) / 65536
            shares[0], shares[1] = 1 - share, share
        elif draw < a.mixup + a.cutmix:
            side = round(size * math.sqrt(1 - beta_quantile(a.cutmix_alpha, first)))
            top, left = below(y[0], size) - side // 2, below(x[0], size) - side // 2
            box = np.s_[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
            shares[1][box], shares[0][box] = 1, 0
        elif draw < a.mixup + a.cutmix + a.ricap:
            cut_y, cut_x = (round(size * beta_quantile(a.ricap_alpha, word)) for word in (first, second))
            quadrants = [(r, c) for r in ((0, cut_y), (cut_y, size)) for c in ((0, cut_x), (cut_x, size))]
            for k, ((top, bottom), (left, right)) in enumerate(quadrants):
                shares[:, top:bottom, left:right] = 0
                shares[k, top:bottom, left:right] = 1
                places[k] = (
                    below(y[k], size + 1 - (bottom - top)) - top,
                    below(x[k], size + 1 - (right - left)) - left,
                )
        picture = np.zeros((size, size, 3))
        for member, share, place in zip(members, shares, places, strict=True):
            if share.any():
                picture += share[..., None] * np.roll(self.picture(member), (-place[0], -place[1]), (0, 1))
        return picture, members, shares.mean((1, 2))


def padded(image: np.ndarray, padding: str) -> np.ndarray:
    mode = {"reflect": "reflect", "edge": "edge", "zero": "constant"}[padding]
    return np.pad(image, ((FAR, FAR), (FAR, FAR), (0, 0)), mode)


def interpolated(around: np.ndarray, y: float, x: float) -> np.ndarray:
    """Bilinear, in an image that is padded by FAR."""
    top, left = math.floor(y), math.floor(x)
    down, right = y - top, x - left
    four = around[top + FAR : top + FAR + 2, left + FAR : left + FAR + 2]
    return (four[0, 0] * (1 - right) + four[0, 1] * right) * (1 - down) + (
        four[1, 0] * (1 - right) + four[1, 1] * right
    ) * down


def shrunk(image: np.ndarray, size: int) -> np.ndarray:
    """Bilinear down-sampling, first every row, then every column."""

    def along(values: np.ndarray) -> np.ndarray:
        side = len(values)
        return np.interp((np.arange(size) + 0.5) * side / size - 0.5, np.arange(side), values)

    return np.apply_along_axis(along, 0, np.apply_along_axis(along, 1, image))


@cache
def beta_quantiles(alpha: float) -> np.ndarray:
    """Beta(alpha, alpha) at the 4096 probabilities (i + 1/2) / 4096.

    By the midpoint rule over t with x = (1 + tanh(pi/2 sinh t)) / 2, under which both ends decay double exponentially.
    """
    t = np.linspace(-6.5, 6.5, 1_000_001)
    logit = np.pi * np.sinh(t)  # log(x / (1 - x))
    log_density = -alpha * (np.logaddexp(0, logit) + np.logaddexp(0, -logit)) + np.log(np.cosh(t))
    mass = np.cumsum(np.exp(log_density))
    mass = (mass - np.exp(log_density) / 2) / mass[-1]
    wanted = np.interp((np.arange(4096) + 0.5) / 4096, mass, logit)
    return 1 / (1 + np.exp(-wanted))


def beta_quantile(alpha: float, word: int) -> float:
    return float(beta_quantiles(alpha)[word >> 20])
