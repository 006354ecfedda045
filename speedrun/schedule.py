"""Schedules as pure functions of progress (0 at the start, 1 at the end)."""

import math


def rate_share(kind: str, progress: float, warmup: float = 0.0, start: float = 0.2) -> float:
    """Share of the peak rate: from `start` linearly to 1 at `warmup`, then down as `kind` has it.

    "linear" and "cosine" end at exactly 0. "step": a tenth from half of the way down, a hundredth from three quarters.
    "fixed": stays at 1. Sources: Leslie Smith, "Super-Convergence" (arXiv 1708.07120), linear as in
    davidcpage/cifar10-fast; Loshchilov and Hutter, "SGDR" (arXiv 1608.03983); He et al. (arXiv 1512.03385).
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return start + (1.0 - start) * progress / warmup
    left = (1.0 - progress) / (1.0 - warmup)
    if kind == "cosine":
        return math.sin(math.pi / 2 * left) ** 2
    if kind == "step":
        return 1.0 if left > 0.5 else 0.1 if left > 0.25 else 0.01
    return left if kind == "linear" else 1.0


def fade(progress: float, end: float) -> float:
    """From 1 linearly to exactly 0 at `end`, and 0 from there on."""
    return max(0.0, 1.0 - progress / end) if end > 0 else 0.0
