"""Means over seeds and how far to trust them. Standard library only."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

_ALMOST_UPRIGHT = math.pi / 2 - 1e-12


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


class OneSided(NamedTuple):
    """Whether the mean lies above a target: Student's t, and the probability of such a t or a larger one if it did not.

    Both are NaN where they cannot be known: for a single measurement, or for several that are all equal to the target.
    """

    t: float
    p: float


def exceeds(values: Sequence[float], target: float) -> OneSided:
    """Student's one-sided test that `values`, independent draws of one normal, have a mean above `target`."""
    sample = describe(values)
    t = _quotient(sample.mean - target, sample.deviation / math.sqrt(sample.n))
    return OneSided(t, 1 - student_probability(t, sample.n - 1) if sample.n > 1 else math.nan)


class Welch(NamedTuple):
    """The difference of two means: its half width, Student's t, its degrees of freedom, the two-sided p.

    All but the difference are NaN where a side has a single measurement: nothing is known of its deviation then.
    """

    difference: float
    half_width: float
    t: float
    freedom: float
    p: float


def welch(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Welch:
    """Mean of `a` less mean of `b`, whose deviations may differ. Source: Welch 1947, Satterthwaite 1946."""
    first, second = describe(a), describe(b)
    difference = first.mean - second.mean
    if min(first.n, second.n) < 2:
        return Welch(difference, math.nan, math.nan, math.nan, math.nan)
    parts = [(sample.deviation**2 / sample.n, sample.n - 1) for sample in (first, second)]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        freedom = float(first.n + second.n - 2)
    else:
        # By shares, not by squares of variances: those of a microsecond's deviation underflow.
        freedom = 1 / sum((part / variance) ** 2 / each for part, each in parts)
    t = _quotient(difference, math.sqrt(variance))
    half_width = student_quantile(0.5 + confidence / 2, freedom) * math.sqrt(variance)
    return Welch(difference, half_width, t, freedom, 2 * (1 - student_probability(abs(t), freedom)))


def below(a: Sequence[float], b: Sequence[float]) -> float:
    """The one-sided p of Welch's test that the mean of `a` lies below that of `b`; NaN where `welch` has none."""
    test = welch(a, b)
    return test.p / 2 if test.difference < 0 else 1 - test.p / 2


class Ratio(NamedTuple):
    """A ratio of two means and its interval; the ends are NaN where a side has a single measurement."""

    value: float
    low: float
    high: float


def ratio(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Ratio:
    """The geometric mean of `a` over that of `b`, all above 0, with Welch's interval of the logarithms.

    Logarithms, because a time can be off by a factor and never lies below 0.
    """
    logarithms = welch([math.log(value) for value in a], [math.log(value) for value in b], confidence)
    low, high = (logarithms.difference + sign * logarithms.half_width for sign in (-1, 1))
    return Ratio(math.exp(logarithms.difference), math.exp(low), math.exp(high))


def power(n: int, difference: float, deviation: float, alpha: float = 0.05) -> float:
    """How likely n runs an arm, n at least 2, show a true `difference` of two means, by Student's two-sided test.

    The test variable is a non-central t: a normal of mean `difference` in units of its error, over an estimate of the
    deviation, which is chi-distributed. Simpson's rule integrates over that estimate.
    """
    freedom = 2 * (n - 1)
    shift = abs(difference) / deviation * math.sqrt(n / 2)
    critical = student_quantile(1 - alpha / 2, freedom)
    log_scale = math.log(2) + freedom / 2 * math.log(freedom / 2) - math.lgamma(freedom / 2)

    def seen(estimate: float) -> float:
        """Density of the estimate, in units of the true deviation, times the chance to see the difference with it."""
        density = math.exp(log_scale + (freedom - 1) * math.log(estimate) - freedom * estimate**2 / 2)
        return density * (_normal(shift - critical * estimate) + _normal(-shift - critical * estimate))

    # Twelve deviations of the estimate, 1 / sqrt(2 freedom), each way hold all of it that counts.
    reach = 12 / math.sqrt(2 * freedom)
    return _simpson(seen, max(1e-9, 1 - reach), 1 + reach, 400)


def runs_to_see(difference: float, deviation: float, alpha: float = 0.05, chance: float = 0.8) -> int:
    """The fewest runs an arm that show a true `difference` of two means with probability `chance`.

    Raises ValueError where the difference is 0: no number of runs shows that.
    """
    if difference == 0:
        raise ValueError("no number of runs shows a difference of 0")
    high = 2
    while power(high, difference, deviation, alpha) < chance:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power(middle, difference, deviation, alpha) < chance else (low, middle)
    return high


@lru_cache(maxsize=1024)  # a page of comparisons asks for the same few again and again
def student_quantile(probability: float, freedom: float) -> float:
    """The t below which a Student variable of `freedom` degrees stays with `probability`.

    For probabilities from 0.005 to 0.995, to seven digits; to five for degrees between 1 and 2 that are not whole,
    which only Welch's test has.

    With t = sqrt(freedom) tan(angle) the density becomes cos(angle)^(freedom - 1) on a finite range, whose integral
    Newton's method inverts: the density falls, so that no step from 0 goes too far.
    """
    if not (0 < probability < 1 and freedom >= 1):
        raise ValueError(f"no Student quantile for probability {probability} and {freedom} degrees of freedom")
    wanted = abs(probability - 0.5) / math.exp(_log_scale(freedom))
    angle = 0.0
    for _ in range(100):
        slope = math.cos(angle) ** (freedom - 1)
        step = (wanted - _cosine_area(angle, freedom - 1)) / slope
        angle = min(angle + step, _ALMOST_UPRIGHT)
        if step < 1e-12 * angle:
            break
    return math.copysign(math.sqrt(freedom) * math.tan(angle), probability - 0.5)


def student_probability(t: float, freedom: float) -> float:
    """The probability that a Student variable of `freedom` degrees, which need not be whole, stays below t."""
    if math.isnan(t):
        return math.nan
    area = _cosine_area(math.atan(abs(t) / math.sqrt(freedom)), freedom - 1)
    half = math.exp(_log_scale(freedom)) * area
    return 0.5 + math.copysign(min(half, 0.5), t)


def _log_scale(freedom: float) -> float:
    """Logarithm of what the density cos(angle)^(freedom - 1) is to be multiplied by."""
    return math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(math.pi) / 2


def _quotient(difference: float, error: float) -> float:
    """difference / error where an error of 0 is one: infinite for any difference, NaN for none."""
    if error == 0:
        return math.copysign(math.inf, difference) if difference else math.nan
    return difference / error


def _normal(x: float) -> float:
    """The probability that a standard normal stays below x."""
    return math.erfc(-x / math.sqrt(2)) / 2


def _cosine_area(angle: float, power: float) -> float:
    """Integral of cos(x)^power from 0 to `angle`, at most a quarter turn."""
    return _simpson(lambda x: max(math.cos(x), 0.0) ** power, 0.0, angle, 200)


def _simpson(height: Callable[[float], float], low: float, high: float, panels: int) -> float:
    """Integral of `height` from `low` to `high` by Simpson's rule."""
    width = (high - low) / panels
    heights = [height(low + index * width) for index in range(panels + 1)]
    return width / 3 * (heights[0] + 4 * sum(heights[1::2]) + 2 * sum(heights[2:-1:2]) + heights[-1])
