"""The table of tests/README.md: every case of what must hold is in it, with tests that exist and bear its name."""

import ast
import re

import pytest
from processes import ROOT

GROUPS = {"W": 12, "D": 11, "L": 5, "K": 8, "R": 7, "N": 5, "M": 3, "G": 7, "S": 5, "F": 3, "T": 6, "B": 7}
UNUSED = {"K7", "R3", "R4"}  # numbers that no case has
ROW = re.compile(r"^\| ([A-Z]\d+) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
CASES = [f"{group}{number}" for group, last in GROUPS.items() for number in range(1, last + 1)]


@pytest.fixture(scope="module")
def names() -> list[str]:
    """`module::function` of every test."""
    return [
        f"{path.stem.removeprefix('test_')}::{node.name}"
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    ]


@pytest.fixture(scope="module")
def table() -> dict[str, set[str]]:
    rows = ROW.findall((ROOT / "tests" / "README.md").read_text(encoding="utf-8"))
    return {case: set(re.findall(r"`([^`]+)`", tests)) for case, tests in rows}


def test_the_table_has_every_case(table: dict[str, set[str]]):
    assert list(table) == [case for case in CASES if case not in UNUSED]


@pytest.mark.parametrize("case", [case for case in CASES if case not in UNUSED])
def test_each_case_has_its_tests(case: str, table: dict[str, set[str]], names: list[str]):
    """Every test that is named after a case, and no other."""
    assert table[case]
    assert table[case] == {name for name in names if f"_{case}_" in name}


def test_G5_without_a_gpu_its_tests_skip():
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            marks = [ast.unparse(mark) for mark in getattr(node, "decorator_list", [])]
            if "pytest.mark.gpu" in marks:
                assert any(mark.startswith("pytest.mark.skipif(") for mark in marks), f"{path.name}: {node.name}"
