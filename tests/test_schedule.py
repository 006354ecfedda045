"""Schedules as functions of progress."""

import pytest

from speedrun.schedule import fade, one_cycle


def test_one_cycle_ends_at_exactly_zero():
    assert one_cycle(1.0) == one_cycle(1.0, 0.25, 0.2) == one_cycle(1.5) == 0.0


@pytest.mark.parametrize(
    ("progress", "share"), [(-0.5, 0.2), (0.0, 0.2), (0.125, 0.6), (0.25, 1.0), (0.5, 2 / 3), (0.625, 0.5), (1.0, 0.0)]
)
def test_one_cycle_rises_from_its_start_and_falls_linearly(progress: float, share: float):
    assert one_cycle(progress, warmup=0.25, start=0.2) == pytest.approx(share)


def test_without_warmup_the_peak_comes_first():
    assert [one_cycle(p) for p in (0.0, 0.25, 0.5, 0.75)] == [1.0, 0.75, 0.5, 0.25]


def test_one_cycle_is_highest_where_the_warmup_ends():
    shares = [one_cycle(i / 1000, warmup=0.3, start=0.1) for i in range(1001)]
    assert max(shares) == shares[300] == 1.0
    assert shares[:301] == sorted(shares[:301])
    assert shares[300:] == sorted(shares[300:], reverse=True)


def test_fade_is_over_before_the_end():
    assert [fade(p, 0.5) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 0.5, 0.0, 0.0, 0.0]
    assert [fade(p, 1.0) for p in (0.0, 0.5, 1.0)] == [1.0, 0.5, 0.0]


def test_what_fades_at_once_is_never_there():
    assert [fade(p, 0.0) for p in (0.0, 0.5, 1.0)] == [0.0, 0.0, 0.0]
