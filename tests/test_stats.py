"""Means, intervals and tests: against tables, against values of scipy 1.17, and against the definition."""

import math
import random

import pytest

from speedrun.stats import describe, exceeds, power, ratio, runs_to_see, student_probability, student_quantile, welch


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


A, B = [0.941, 0.9402, 0.9387, 0.9411], [0.9392, 0.9388, 0.9401]


@pytest.mark.parametrize(
    ("t", "freedom", "probability"),
    [(1.0, 1, 0.75), (-1.0, 1, 0.25), (12.7062, 1, 0.975), (2.2622, 9, 0.975), (0.0, 3.5, 0.5), (math.inf, 4, 1.0)],
)
def test_probabilities_are_those_of_the_tables(t: float, freedom: float, probability: float):
    assert student_probability(t, freedom) == pytest.approx(probability, abs=2e-6)


def test_probability_and_quantile_are_inverse_at_degrees_that_are_not_whole():
    for freedom in (1.5, 4.88, 77.7):
        assert student_probability(student_quantile(0.9, freedom), freedom) == pytest.approx(0.9, abs=1e-7)


def test_one_sided_test_against_a_target():
    test = exceeds(A, 0.94)
    assert test.t == pytest.approx(0.4508348173)
    assert test.p == pytest.approx(0.3413501923)
    assert exceeds(A, 0.95).p > 0.99
    assert math.isnan(exceeds([0.95], 0.94).p)
    assert exceeds([0.95, 0.95], 0.94).p == pytest.approx(0, abs=1e-9)
    assert math.isnan(exceeds([0.94, 0.94], 0.94).p)


def test_welch():
    test = welch(A, B)
    assert test.difference == pytest.approx(0.000883333333)
    assert test.half_width == pytest.approx((0.002630249812 + 0.000863583145) / 2)
    assert test.t == pytest.approx(1.3091409047)
    assert test.freedom == pytest.approx(4.8842644024)
    assert test.p == pytest.approx(0.2486882230)
    alone = welch([1.0], B)
    assert alone.difference == pytest.approx(1 - sum(B) / 3)
    assert math.isnan(alone.half_width)
    assert welch([2.0, 2.0], [2.0, 2.0])[:2] == (0.0, 0.0)


def test_the_interval_of_a_ratio_does_not_depend_on_the_unit():
    seconds, others = [2.0, 2.2, 1.9], [1.0, 1.1, 1.05]
    found = ratio(seconds, others)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(math.prod(seconds) ** (1 / 3) / math.prod(others) ** (1 / 3))
    micro = ratio([value * 1e-6 for value in seconds], [value * 1e-6 for value in others])
    assert micro == pytest.approx(found)
    turned = ratio(others, seconds)
    assert (turned.low, turned.high) == pytest.approx((1 / found.high, 1 / found.low))


@pytest.mark.parametrize(
    ("n", "difference", "known"), [(64, 0.5, 0.8014595579), (17, 1.0, 0.8070367151), (500, 0.1, 0.3520444486)]
)
def test_power(n: int, difference: float, known: float):
    assert power(n, difference, 1.0) == pytest.approx(known, abs=1e-8)
    assert power(n, 0.13 * difference, 0.13) == pytest.approx(known, abs=1e-8)


def test_runs_to_see_are_those_of_cohens_tables():
    assert [runs_to_see(difference, 1.0) for difference in (0.5, 0.8, 1.0)] == [64, 26, 17]
    assert runs_to_see(0.1, 0.13) == 28  # 0.1 point where runs deviate by 0.13
    with pytest.raises(ValueError, match="difference of 0"):
        runs_to_see(0.0, 1.0)
