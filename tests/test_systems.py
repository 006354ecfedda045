"""The table of the published systems: each row the mean of its records, beside what was published."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from processes import TINY_NET

from benchmarks import systems
from speedrun import cli, recipes, record
from speedrun.errors import UsageError


@pytest.fixture(scope="module")
def line(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a system in whose place a tiny net was trained."""

    def train(words: list[str], out: Path) -> dict[str, Any]:
        asked.extend(words)
        settings = [*TINY_NET, "--steps=20", "--quiet", f"--out={out}"]
        chosen = [word for word in words if "recipe" not in word and "seconds" not in word]
        assert cli.main([*chosen, *settings], time.monotonic()) == 0
        return {**json.loads((out / "result.json").read_text()), "outside_seconds": 9.5}

    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(systems, "run_main_job", train)
        found = systems.measure(
            "resnet34-ensemble", systems.Scale(30.0, members=2, times=1.5), 1, [f"--dataset={tiny_data}"]
        )
    assert {"--recipe=resnet34-ensemble", "--seconds=45", "--members=2"} <= set(asked)
    return found


def test_a_record_of_a_system_holds_what_its_training_left(line: dict[str, Any]):
    assert record.check(line) == []
    values = line["values"]
    assert (values["seed"], values["seconds"], values["members"], values["status"]) == (1, 45.0, 2, "complete")
    assert 0 < values["loss"] < 3
    assert 0 <= values["stability"] < 0.5
    assert len(values["curve"]) == systems.SCORINGS
    assert values["receptive_field"] == systems.receptive_field("resnet34-ensemble") > 44


@pytest.fixture
def lines(line: dict[str, Any]) -> list[dict[str, Any]]:
    def made(recipe: str, accuracy: float, sha: str = "a" * 40) -> dict[str, Any]:
        values = {**line["values"], "recipe": recipe, "accuracy": accuracy, "dataset": "cifar10"}
        return {**line, "git": {"sha": sha, "dirty": False}, "values": values}

    ours = [made("mynet", 0.5, sha="b" * 40), made("dsnet", 0.8), made("mynet", 0.84), made("mynet", 0.86)]
    return [*ours, line]  # the last is of other images


def test_B6_the_table_has_means_over_seeds_and_tests_them(lines: list[dict[str, Any]]):
    rows = systems.table(lines).splitlines()
    assert len(rows) == 4
    assert rows[2].startswith("| mynet |")
    assert "| 83.84 % | 9.2 min, T4 | 85.00 ± 1.41 % | 2 | 0.23 |" in rows[2]  # t is 1.16 with one degree of freedom
    assert "| 87.42 % | 0.23 h, a GPU | 80.00 % | 1 | - |" in rows[3]
    assert systems.table(lines[-1:]) == ""


def test_the_curves_are_drawn(lines: list[dict[str, Any]], tmp_path: Path):
    pytest.importorskip("matplotlib")
    systems.picture(lines, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_system_is_not_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["systems", "--recipe=dsnet-published"])
    with pytest.raises(UsageError, match="dsnet-published is none of"):
        systems.main()


def test_a_gpu_has_two_minutes_for_each_and_ten_for_the_ensemble():
    full, small = systems.SCALES["full"], systems.SCALES["small"]
    assert (full.seconds, full.members, full.seconds * full.times) == (120, 10, 600)
    assert small.seconds * (len(systems.SYSTEMS) - 1 + small.times) < 0.9 * 20 * 60  # all six in twenty minutes


def test_every_system_is_a_recipe():
    assert set(systems.SYSTEMS) <= set(recipes.names())
