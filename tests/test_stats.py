"""Means and intervals, against tables and against the definition."""

import math
import random

import pytest

from speedrun.stats import describe, student_quantile


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.3027), (0.975, 9, 2.2622), (0.95, 4, 2.1318), (0.995, 29, 2.7564), (0.5, 3, 0)],
)
def test_quantiles_are_those_of_the_tables(probability: float, freedom: int, quantile: float):
    assert student_quantile(probability, freedom) == pytest.approx(quantile, abs=5e-5)
    assert student_quantile(1 - probability, freedom) == pytest.approx(-quantile, abs=5e-5)


def test_quantiles_become_normal():
    assert student_quantile(0.975, 100_000) == pytest.approx(1.959964, abs=5e-5)


def test_B6_the_interval_holds_the_mean_as_often_as_it_says():
    draw = random.Random(0)
    held = 0
    for _ in range(400):
        sample = describe([draw.gauss(0.94, 0.002) for _ in range(4)])
        held += abs(sample.mean - 0.94) <= sample.half_width
    assert 0.92 < held / 400 < 0.98


def test_one_run_says_nothing_about_deviation():
    sample = describe([0.94])
    assert sample.mean == 0.94
    assert math.isnan(sample.deviation)
    assert math.isnan(sample.half_width)


@pytest.mark.parametrize(("probability", "freedom"), [(0.0, 3), (1.0, 3), (0.9, 0)])
def test_quantiles_that_do_not_exist(probability: float, freedom: int):
    with pytest.raises(ValueError, match="no Student quantile"):
        student_quantile(probability, freedom)
