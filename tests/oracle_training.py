"""What the kernels of training should compute: plain numpy in float64, clear above all."""

import numpy as np


def newton_schulz(matrix: np.ndarray, steps: int) -> np.ndarray:
    """The quintic, applied to each singular value; the singular vectors stay. (rows, columns)."""
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ vh
