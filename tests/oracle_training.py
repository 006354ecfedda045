"""What the kernels of training should compute: plain numpy in float64, clear above all."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


def newton_schulz(matrix: np.ndarray, steps: int) -> np.ndarray:
    """The quintic, applied to each singular value; the singular vectors stay. (rows, columns)."""
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ vh


ACTIVATIONS = {
    "gelu": lambda z: z * (1 + math.erf(z / math.sqrt(2))) / 2,
    "silu": lambda z: z / (1 + math.exp(-z)),
    "relu": lambda z: max(z, 0.0),
}


@dataclass(frozen=True)
class Normed:
    """What `pool_norm` comes to: its result, its gradients, the statistics of the batch (variance unbiased)."""

    out: np.ndarray
    dx: np.ndarray
    dweight: np.ndarray
    dbias: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def pool_norm(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float, activation: str, pool: int, grad: np.ndarray
) -> Normed:
    """Max pooling, batch normalisation, activation of x (N, C, H, W), and the gradients of sum(out * grad)."""
    pooled, maxima = max_pool(x, pool)
    mean, variance = pooled.mean((0, 2, 3)), pooled.var((0, 2, 3))
    along = (slice(None), None, None)
    deviation = np.sqrt(variance + eps)[along]
    normal = (pooled - mean[along]) / deviation
    z = normal * weight[along] + bias[along]
    act = np.vectorize(ACTIVATIONS[activation])
    step = 1e-6  # central differences: no formula of a derivative to be wrong in
    dz = grad * (act(z + step) - act(z - step)) / (2 * step)
    dnormal = dz * weight[along]
    centred = dnormal - dnormal.mean((0, 2, 3))[along] - normal * (dnormal * normal).mean((0, 2, 3))[along]
    dx = np.zeros_like(x)
    for place in np.ndindex(pooled.shape):
        dx[maxima[place]] += (centred / deviation)[place]
    count = pooled.size / len(mean)
    return Normed(act(z), dx, (dz * normal).sum((0, 2, 3)), dz.sum((0, 2, 3)), mean, variance * count / (count - 1))


def convolution(x: np.ndarray, filters: np.ndarray, padding: int) -> np.ndarray:
    """x (N, C, H, W) with filters (F, C, k, k): each pixel the products with the patch around it."""
    out = np.zeros((len(x), len(filters), *(side + 2 * padding - filters.shape[2] + 1 for side in x.shape[2:])))
    for line, column, patch in _patches(_padded(x, padding), filters.shape[2]):
        out[:, :, line, column] = np.tensordot(patch, filters, ([1, 2, 3], [1, 2, 3]))
    return out


def convolution_gradients(
    x: np.ndarray, filters: np.ndarray, padding: int, grad: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of sum(convolution * grad): that of x, and that of the filters."""
    dx, dfilters = _padded(np.zeros_like(x), padding), np.zeros_like(filters)
    around = _patches(_padded(x, padding), filters.shape[2])
    for (line, column, patch), (*_, target) in zip(around, _patches(dx, filters.shape[2]), strict=True):
        dfilters += np.tensordot(grad[:, :, line, column], patch, (0, 0))
        target += np.tensordot(grad[:, :, line, column], filters, (1, 0))
    return dx[:, :, padding : dx.shape[2] - padding, padding : dx.shape[3] - padding], dfilters


def _padded(x: np.ndarray, padding: int) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))


def _patches(x: np.ndarray, side: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Line and column of each patch of side x side, and a view of it in all images: (N, C, side, side)."""
    for line, column in np.ndindex(x.shape[2] - side + 1, x.shape[3] - side + 1):
        yield line, column, x[:, :, line : line + side, column : column + side]


def rounded(x: np.ndarray, bits: int, least: int, end: int) -> np.ndarray:
    """To floats of so many bits behind the point and 2^least as their least normal number, times the power of two that
    brings the largest value just below 2^end."""
    scale = 2.0 ** (np.floor(np.log2(np.abs(x).max())) + 1 - end)
    exponent = np.floor(np.log2(np.maximum(np.abs(x) / scale, 2.0**least)))
    step = scale * 2.0 ** (exponent - bits)
    return np.round(x / step) * step  # half to even


def max_pool(x: np.ndarray, pool: int) -> tuple[np.ndarray, dict[tuple[int, ...], tuple[int, ...]]]:
    """The pooled map, and for each of its places that of the first largest pixel; what fills no window is left out."""
    n, c, h, w = x.shape
    pooled, maxima = np.zeros((n, c, h // pool, w // pool)), {}
    for place in np.ndindex(pooled.shape):
        image, channel, line, column = place
        window = [(image, channel, line * pool + dy, column * pool + dx) for dy in range(pool) for dx in range(pool)]
        maxima[place] = max(window, key=lambda pixel: x[pixel])  # the first of several
        pooled[place] = x[maxima[place]]
    return pooled, maxima
