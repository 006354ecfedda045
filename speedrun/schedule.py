"""Schedules as pure functions of progress (0 at the start, 1 at the end)."""


def one_cycle(progress: float, warmup: float = 0.0, start: float = 0.2) -> float:
    """Share of the peak rate: from `start` linearly to 1 at `warmup`, then linearly to exactly 0 at the end.

    Source: Leslie Smith, "Super-Convergence" (arXiv 1708.07120); piecewise linear as in davidcpage/cifar10-fast.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return start + (1.0 - start) * progress / warmup
    return (1.0 - progress) / (1.0 - warmup)


def fade(progress: float, end: float) -> float:
    """From 1 linearly to exactly 0 at `end`, and 0 from there on."""
    return max(0.0, 1.0 - progress / end) if end > 0 else 0.0
