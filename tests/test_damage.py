"""A hundred damaged files, by a seed: damage is named in one line or without effect. The soak tries a thousand."""

from pathlib import Path

import pytest

from benchmarks import damage

TRIALS = 100


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[damage.Case]:
    return damage.cases(tmp_path_factory.mktemp("damage"))


def test_D5_D10_K3_B5_damage_of_any_file_is_named_or_harmless(cases: list[damage.Case]):
    problems = [damage.trial(cases[seed % len(cases)], seed) for seed in range(TRIALS)]
    assert [problem for problem in problems if problem] == []


@pytest.mark.parametrize("kind", ["npz", "config", "checkpoint"])
def test_a_reader_that_notices_nothing_would_be_found(kind: str, cases: list[damage.Case], tmp_path: Path):
    (case,) = (case for case in cases if case.name == kind)
    blind = damage.Case(kind, case.path, lambda path: path.read_bytes(), case.path.read_bytes())
    strict = damage.Case(kind, case.path, lambda path: 1 // (path.read_bytes() == blind.sound), 1)
    assert all("as if it were sound" in damage.trial(blind, seed) for seed in range(1, 4))
    assert all("ZeroDivisionError" in damage.trial(strict, seed) for seed in range(1, 4))
