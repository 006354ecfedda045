"""Schedules as functions of progress."""

import pytest

from speedrun.schedule import fade, rate_share


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_rate_ends_at_exactly_zero(kind: str):
    assert rate_share(kind, 1.0) == rate_share(kind, 1.0, 0.25, 0.2) == rate_share(kind, 1.5) == 0.0


@pytest.mark.parametrize(
    ("kind", "shares"),
    [
        ("linear", [0.2, 0.2, 0.6, 1.0, 0.75, 0.5, 0.25, 0.0]),
        ("cosine", [0.2, 0.2, 0.6, 1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0.0]),
        ("step", [0.2, 0.2, 0.6, 1.0, 1.0, 0.1, 0.01, 0.01]),
        ("fixed", [0.2, 0.2, 0.6, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_the_rate_rises_from_its_start_and_falls_as_it_should(kind: str, shares: list[float]):
    marks = (-0.5, 0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert [rate_share(kind, p, warmup=0.2, start=0.2) for p in marks] == pytest.approx(shares)


@pytest.mark.parametrize("kind", ["linear", "cosine", "step", "fixed"])
def test_the_rate_is_highest_where_the_warmup_ends(kind: str):
    assert rate_share(kind, 0.0) == 1.0
    shares = [rate_share(kind, i / 1000, warmup=0.3, start=0.1) for i in range(1001)]
    assert max(shares) == shares[300] == 1.0
    assert shares[:301] == sorted(shares[:301])
    assert shares[300:] == sorted(shares[300:], reverse=True)


def test_fade_is_over_before_the_end():
    assert [fade(p, 0.5) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 0.5, 0.0, 0.0, 0.0]
    assert [fade(p, 1.0) for p in (0.0, 0.5, 1.0)] == [1.0, 0.5, 0.0]


def test_what_fades_at_once_is_never_there():
    assert [fade(p, 0.0) for p in (0.0, 0.5, 1.0)] == [0.0, 0.0, 0.0]
