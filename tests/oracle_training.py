"""What the kernels of training should compute: plain numpy in float64, clear above all."""

import math
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
