"""Means over seeds and how far to trust them. Standard library only."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Sample(NamedTuple):
    """Mean of n measurements, their sample deviation (n - 1) and the half width of the interval of the mean.

    Deviation and half width are NaN for a single measurement: it says nothing about either.
    """

    n: int
    mean: float
    deviation: float
    half_width: float


def describe(values: Sequence[float], confidence: float = 0.95) -> Sample:
    """Mean, deviation and Student's confidence interval of `values`, taken as independent draws of one normal."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Sample(n, mean, math.nan, math.nan)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Sample(n, mean, deviation, student_quantile(0.5 + confidence / 2, n - 1) * deviation / math.sqrt(n))


def student_quantile(probability: float, freedom: int) -> float:
    """The t below which a Student variable of `freedom` degrees stays with `probability`, to nine digits.

    With t = sqrt(freedom) tan(angle) the density becomes cos(angle)^(freedom - 1) on a finite range, which Simpson's
    rule integrates; the quantile is then found by bisection.
    """
    if not (0 < probability < 1 and freedom >= 1):
        raise ValueError(f"no Student quantile for probability {probability} and {freedom} degrees of freedom")
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(math.pi) / 2
    wanted = abs(probability - 0.5) / math.exp(log_scale)
    low, high = 0.0, math.pi / 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _cosine_area(middle, freedom - 1) < wanted else (low, middle)
    return math.copysign(math.sqrt(freedom) * math.tan(low), probability - 0.5)


def _cosine_area(angle: float, power: int, panels: int = 200) -> float:
    """Integral of cos(x)^power from 0 to `angle`, by Simpson's rule."""
    width = angle / panels
    heights = [math.cos(index * width) ** power for index in range(panels + 1)]
    return width / 3 * (heights[0] + 4 * sum(heights[1::2]) + 2 * sum(heights[2:-1:2]) + heights[-1])
