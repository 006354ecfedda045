"""What is sent to Weights & Biases, by a stand-in for its package."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from processes import TINY_NET, one_line

from speedrun import cli


class Run:
    """One run there: what it was begun with, the logged lines by step, the summary."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.lines: dict[int, dict[str, float]] = {}
        self.summary: dict[str, Any] = {}
        self.finished = False

    def log(self, line: dict[str, float], step: int) -> None:
        self.lines[step] = line

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    begun: list[Run] = []

    def init(**options: Any) -> Run:
        begun.append(Run(**options))
        return begun[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Error=ConnectionError))
    return begun


@pytest.fixture(scope="module")
def job(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("track") / "pair"
    words = ["ensemble", "--members=2", "--steps=4", "--set=validation.count=2", f"--dataset={tiny_data}", "--quiet"]
    assert cli.main([*words, f"--out={out}", *TINY_NET], time.monotonic()) == 0
    return out


def test_a_run_is_sent_with_its_curves_config_and_numbers(runs: list[Run], job: Path, capsys):
    assert cli.main(["track", str(job / "member-01"), "--offline"], 0.0) == 0
    assert capsys.readouterr().out == "member-01\n"
    (run,) = runs
    assert (run.options["project"], run.options["mode"], run.options["group"]) == ("speedrun", "offline", None)
    assert run.options["config"]["model"]["widths"] == [8, 8, 8]
    assert list(run.lines) == [1, 2, 3, 4]
    record = json.loads((job / "member-01" / "result.json").read_text())
    assert run.summary["accuracy"] == record["accuracy"]
    lines = [json.loads(line) for line in (job / "member-01" / "metrics.jsonl").read_text().splitlines()]
    assert [line["train/loss"] for line in run.lines.values()] == [line["loss"] for line in lines]
    assert [step for step, line in run.lines.items() if "held_out/accuracy" in line] == [2, 4]
    assert run.finished


def test_the_trainings_of_a_job_are_one_group(runs: list[Run], job: Path):
    assert cli.main(["track", str(job), "--project=mine"], 0.0) == 0
    assert [run.options["name"] for run in runs] == ["pair/member-01", "pair/member-02"]
    assert {(run.options["group"], run.options["project"], run.options["mode"]) for run in runs} == {
        ("pair", "mine", "online")
    }


def test_what_goes_wrong_is_one_line(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs, capsys):
    def refuse(**_: Any) -> Run:
        raise ConnectionError("not logged in")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    for words, message in (([str(job)], "wandb: not logged in"), ([str(tmp_path)], "result.json: No such file")):
        assert cli.main(["track", *words], 0.0) == 1
        assert message in one_line(capsys.readouterr().err)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert cli.main(["track", str(job)], 0.0) == 1
    assert "pip install 'speedrun[track]'" in one_line(capsys.readouterr().err)


def test_training_never_imports_it(job: Path):
    assert "wandb" not in sys.modules or not hasattr(sys.modules["wandb"], "__file__")
