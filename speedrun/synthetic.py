"""Ten classes of 32x32 colour images made from a seed, for machines without CIFAR-10 and without a network. numpy only.

A class is a shape. Place, size, tilt, colours, sign and strength of their contrast, a smooth background, a spot that
may cover a part of the shape, and noise are drawn for each image alike in all classes: no pixel and no colour gives a
class away, and a linear model stays far below 60 %. Every class is its own mirror image and survives shifts of a few
pixels, so that the usual augmentation is right for it.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from speedrun.formats import Splits, planes_to_nhwc

SEED = 20_090_408
TRAIN_COUNT, TEST_COUNT = 20_000, 4_000
SIZE = 32  # pixels a side
CHUNK = 100  # images drawn together: arrays of a megabyte, which stay in the core's own cache
GRID = 4  # the background is interpolated between GRID x GRID colours

# What is drawn for an image, uniformly; pixels, radians, and fractions of full brightness.
CENTRE = 5.0  # the shape's centre is at most this far from the image's, in x and in y
HALF_SIZE = (6.5, 11.0)
TILT = 0.2
CONTRAST = (0.35, 0.70)
BACKGROUND = (0.2, 0.8)
BACKGROUND_SPREAD = 0.18
SPOT_RADIUS = (1.5, 3.5)
NOISE = 0.10

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]

# A shape is a field over coordinates (u, v) with the origin at its centre and its half-size as the unit, v downwards:
# positive inside, zero on the edge, and about as steep as a distance, so that edges are equally soft everywhere.
_HALF = np.float32(0.5**0.5)
SHAPES: dict[str, Field] = {
    "disc": lambda u, v: 0.95 - np.hypot(u, v),
    "ring": lambda u, v: 0.23 - np.abs(np.hypot(u, v) - 0.75),
    "square": lambda u, v: 0.85 - np.maximum(np.abs(u), np.abs(v)),
    "frame": lambda u, v: 0.20 - np.abs(np.maximum(np.abs(u), np.abs(v)) - 0.68),
    "diamond": lambda u, v: (1.1 - np.abs(u) - np.abs(v)) * _HALF,
    "plus": lambda u, v: _cross(np.abs(u), np.abs(v)),
    "saltire": lambda u, v: _cross(np.abs(u + v) * _HALF, np.abs(u - v) * _HALF),
    "triangle": lambda u, v: np.minimum(0.75 - v, ((v + 1.0) * 0.55 - np.abs(u)) * 0.88),
    "hourglass": lambda u, v: np.minimum(0.9 - np.abs(v), (0.85 * np.abs(v) + 0.1 - np.abs(u)) * 0.76),
    "bars": lambda u, v: np.minimum(0.9 - np.abs(u), 0.19 - np.abs(np.abs(np.abs(v) - 0.35) - 0.35)),
}
CLASSES = tuple(SHAPES)


def generate(seed: int = SEED, train: int = TRAIN_COUNT, test: int = TEST_COUNT) -> Splits:
    """Both splits: images uint8 (N, 32, 32, 3), labels int64 (N,), the classes balanced.

    Image i of a split is a function of (seed, split, i) alone, however many there are and however many cores draw them.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return Splits(*_split(seed, 0, train, pool), *_split(seed, 1, test, pool))


def _split(seed: int, stream: int, count: int, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    labels = np.empty(count, np.int64)

    def fill(start: int) -> None:
        rng = np.random.Generator(np.random.Philox(key=[seed, 2 * start + stream]))
        drawn = rng.permutation(CHUNK) % len(CLASSES)
        planes = _draw(rng, drawn)
        stop = min(start + CHUNK, count)
        labels[start:stop] = drawn[: stop - start]
        planes_to_nhwc(planes[: stop - start], images[start:stop])

    list(pool.map(fill, range(0, count, CHUNK)))
    return images, labels


def _draw(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """One image for each label, as planes, uint8 (N, 3072): planes because all three share the shape, row by row."""
    count = len(labels)
    image = _background(rng, count)
    colour = rng.standard_normal((count, 3, 1), np.float32)
    colour *= _uniform(rng, CONTRAST, count, 1, 1) / np.abs(colour).max(1, keepdims=True)
    shape = _shapes(rng, labels)[:, None]
    image += shape * colour
    spot = _spots(rng, count)[:, None]
    image += spot * (rng.random((count, 3, 1), np.float32) - image)
    noise = rng.integers(0, 256, image.shape, np.uint8).astype(np.float32)
    noise -= 127.5
    noise *= NOISE / 127.5
    image += noise
    image *= 255
    np.clip(image, 0, 255, out=image)
    return image.astype(np.uint8).reshape(count, -1)


def _background(rng: np.random.Generator, count: int) -> np.ndarray:
    """Smooth random colours, float32 (N, 3, 1024), mostly 0 to 1."""
    grid = rng.random((count, 3, GRID, GRID), np.float32) * (2 * BACKGROUND_SPREAD) - BACKGROUND_SPREAD
    grid += _uniform(rng, BACKGROUND, count, 3, 1, 1)
    # By hand and not as a matrix product: the threads of a BLAS under these threads, beside an import of torch, fight.
    rows = grid[..., _CELL] * (1 - _WITHIN) + grid[..., _CELL + 1] * _WITHIN
    within = _WITHIN[:, None]
    return (rows[:, :, _CELL] * (1 - within) + rows[:, :, _CELL + 1] * within).reshape(count, 3, -1)


def _shapes(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """How much of each pixel the image's shape covers, float32 (N, 1024)."""
    x, y = _around(rng, len(labels), CENTRE)
    half_size = _uniform(rng, HALF_SIZE, len(labels), 1)
    tilt = _uniform(rng, (-TILT, TILT), len(labels), 1)
    cos, sin = np.cos(tilt) / half_size, np.sin(tilt) / half_size
    u, v = x * cos + y * sin, y * cos - x * sin
    covered = np.empty_like(u)
    for label, shape in enumerate(SHAPES.values()):
        mine = labels == label
        covered[mine] = shape(u[mine], v[mine])
    covered *= half_size  # the distance from the edge in pixels: a pixel's width of softness
    covered += 0.5
    return np.clip(covered, 0, 1, out=covered)


def _spots(rng: np.random.Generator, count: int) -> np.ndarray:
    """How much of each pixel a small disc anywhere in the image covers, float32 (N, 1024)."""
    x, y = _around(rng, count, SIZE / 2)
    return np.clip(_uniform(rng, SPOT_RADIUS, count, 1) + 0.5 - np.hypot(x, y), 0, 1)


def _around(rng: np.random.Generator, count: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel's x and y as seen from one random centre an image, float32 (N, 1024) each."""
    return _X - _uniform(rng, (-reach, reach), count, 1), _Y - _uniform(rng, (-reach, reach), count, 1)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The field of two bars that cross, over the distances from their axes."""
    return np.minimum(0.95 - np.maximum(a, b), 0.28 - np.minimum(a, b))


def _uniform(rng: np.random.Generator, between: tuple[float, float], *shape: int) -> np.ndarray:
    low, high = between
    return rng.random(shape, np.float32) * np.float32(high - low) + np.float32(low)


_Y, _X = (axis.reshape(-1).astype(np.float32) for axis in np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2)
_AT = np.linspace(0, GRID - 1, SIZE, dtype=np.float32)  # where each pixel lies on the background's grid
_CELL = np.minimum(_AT.astype(np.int64), GRID - 2)
_WITHIN = _AT - _CELL.astype(np.float32)
