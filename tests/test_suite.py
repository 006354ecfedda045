"""The suite of benchmarks: what is recorded is not run again; what evaluating and starting take follows the schema."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_record import a_run
from test_step import config, machine  # noqa: F401  (fixtures)

from benchmarks import curve, evaluation, results, sensors, startup, suite
from benchmarks import step as steps
from benchmarks.harness import Session
from speedrun import record
from speedrun.errors import SpeedrunError

CPU = torch.device("cpu")


@pytest.fixture
def ran(tmp_path, monkeypatch) -> list[list[str]]:
    """The commands of the parts, which do nothing; the first word that is `fail` fails."""
    commands: list[list[str]] = []

    @contextmanager
    def child(words: list[str], **_: Any) -> Iterator[SimpleNamespace]:
        commands.append(words[1:])
        yield SimpleNamespace(wait=lambda: int("--fail" in words))

    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(suite, "child", child)
    monkeypatch.setattr(record, "git_state", lambda: GIT)
    monkeypatch.setattr(record, "envelope", lambda kind, about: {**ENVELOPE, "kind": kind, "device": about})
    monkeypatch.setattr(suite.sys, "argv", ["suite", "--quick", "--device", "cpu"])
    return commands


A_RUN = a_run()
GIT = {"sha": "1" * 40, "dirty": False}
ENVELOPE = {**{name: A_RUN[name] for name in record.ENVELOPE if name in A_RUN}, "git": GIT}


def test_a_part_that_is_recorded_is_not_run_again(ran, monkeypatch):
    assert suite.main() == 0
    assert len(ran) == len(suite.PARTS)
    assert ran[0] == ["-m", "benchmarks.kernels", "--quick", "--device", "cpu"]
    assert suite.main() == 0
    assert len(ran) == len(suite.PARTS)
    monkeypatch.setattr(suite.sys, "argv", ["suite", "--device", "cpu", "--only", "step", "target"])
    assert suite.main() == 0
    assert [words[1] for words in ran[len(suite.PARTS) :]] == ["benchmarks.step", "benchmarks.curve"]
    monkeypatch.setattr(suite.sys, "argv", ["suite", "--quick", "--device", "cpu", "--only", "target", "--again"])
    assert suite.main() == 0
    assert "--resume" not in ran[-1]
    monkeypatch.setitem(ENVELOPE, "git", {"sha": "2" * 40, "dirty": False})
    monkeypatch.setattr(suite.sys, "argv", ["suite", "--quick", "--device", "cpu"])
    before = len(ran)
    suite.main()
    assert len(ran) == before + len(suite.PARTS)
    assert all(record.check(line) == [] for line in results.recorded())


def test_a_part_that_fails_stops_no_other_and_is_not_recorded(ran, monkeypatch):
    monkeypatch.setitem(suite.PARTS, "step", suite.Part("step", quick=("--fail",)))
    with pytest.raises(SpeedrunError, match="failed: step"):
        suite.main()
    assert len(ran) == len(suite.PARTS)
    assert [line["part"] for line in results.recorded()] == [name for name in suite.PARTS if name != "step"]


@pytest.mark.parametrize("git", [None, {"sha": "1" * 40, "dirty": True}])
def test_of_a_changed_checkout_or_outside_one_nothing_counts_as_recorded(git, ran, asked, monkeypatch, capsys):
    monkeypatch.setattr(record, "envelope", lambda kind, about: {**ENVELOPE, "kind": kind, "device": about, "git": git})
    for times in (1, 2):
        assert suite.main() == 0
        assert len(ran) == times * len(suite.PARTS)
    made = {**A_RUN, "device": results.this_device("cpu"), "git": git, "expected_accuracy": 0.9, "seed": 0}
    results.add({**made, "split": {"train": "train", "scored": "test"}})
    monkeypatch.setattr(curve.sys, "argv", ["curve", "--seconds", "60", "--seeds", "1", "--resume", "--device", "cpu"])
    assert curve.main() == 0
    assert len(asked) == 1


@pytest.fixture
def asked(tmp_path, monkeypatch) -> list[list[str]]:
    """The flags of the runs that a curve makes; a run of 10 seconds fails."""
    about = results.this_device("cpu")
    made = a_run(device=about, git=GIT, split={"train": "train", "scored": "test"}, expected_accuracy=0.9)
    flags_of: list[list[str]] = []

    def run_main_job(flags: list[str]) -> dict[str, Any]:
        flags_of.append(flags)
        if flags[1] == "10":
            raise SpeedrunError("ended with 2: at least 12 s")
        seed = int(flags[3])
        return {**made, "seed": seed, "config": {**made["config"], "seed": seed}, "outside_seconds": 58.6}

    monkeypatch.setattr(sensors, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(curve, "run_main_job", run_main_job)
    monkeypatch.setattr(record, "envelope", lambda *_: made)
    results.add({**made, "seed": 1})
    return flags_of


def test_a_curve_that_was_cut_short_goes_on_where_it_stopped(asked, monkeypatch, capsys):
    words = ["curve", "--seconds", "60", "--seeds", "3", "--resume"]
    monkeypatch.setattr(curve.sys, "argv", [*words, "--device", "cpu"])
    assert curve.main() == 0
    assert [flags[3] for flags in asked] == ["0", "2"]
    one, other = results.recorded()[1:]
    assert one["config_hash"] == other["config_hash"]
    assert one["state"]["before"]["load"] is not None is not one["state"]["after"]["load"]
    assert all(flags[4:] == ["--device", "cpu"] for flags in asked)
    assert curve.main() == 0
    assert len(asked) == 2
    here = record.envelope("run", None)
    monkeypatch.setattr(record, "envelope", lambda *_: {**here, "versions": {**here["versions"], "torch": "9"}})
    assert curve.main() == 0
    assert len(asked) == 5


def test_a_budget_that_fails_costs_the_others_nothing(asked, monkeypatch, capsys):
    monkeypatch.setattr(curve.sys, "argv", ["curve", "--seconds", "10,60", "--seeds", "2"])
    assert curve.main() == 1
    assert [(flags[1], flags[3]) for flags in asked] == [("10", "0"), ("10", "1"), ("60", "0"), ("60", "1")]
    assert "--seconds 10, seed 1: ended with 2: at least 12 s" in capsys.readouterr().err


def test_an_evaluation_makes_a_sound_record(machine, config):  # noqa: F811
    rows = evaluation.measure(steps.prepared(config, machine), 40, 0.0)
    line = Session(CPU).line("evaluation", {"images": 40}, rows=rows)
    assert record.check(line) == []
    assert [row["about"]["views"] for row in line["rows"]] == ["one", "all, of 25%"]
    assert all(row["images"] == 40 and len(row["runs"]) >= 3 for row in line["rows"])
    one, every = (row["seconds"]["median"] for row in line["rows"])
    assert one < every  # the one view is part of it


def test_start_up_makes_a_sound_record(monkeypatch, capsys):
    spent = iter((9.0, 0.5, 0.7, 9.0, 9.0))
    caches: list[Any] = []

    def run_main_job(flags: list[str], environment: Any = None) -> dict[str, Any]:
        caches.append(environment)
        warm = None if "off" in flags else environment in caches[:-1]
        return a_run(phases={"start": next(spent), "data": 0.25, "build": 0.25, "compile": 3.0}, warm={"compile": warm})

    monkeypatch.setattr(startup, "run_main_job", run_main_job)
    seconds = startup.phases([], 2)
    assert seconds[startup.TOTAL] == [1.0, 1.2]  # the first run only warms
    rows = [startup.row(what, "warm", each) for what, each in seconds.items()]
    compiled = startup.compiling("default", [])
    assert compiled == {"empty": [3.0], "warm": [3.0]}
    rows += [startup.row("compile", cache, each) for cache, each in compiled.items()]
    assert record.check(Session(CPU).line("startup", {}, rows=rows)) == []


def test_compiling_with_an_empty_cache_leaves_the_environment_alone(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    seen: list[Any] = []

    def run_main_job(flags: list[str], environment: Any) -> dict[str, Any]:
        seen.append(environment["TRITON_CACHE_DIR"])
        return a_run(warm={"data": True, "compile": None})

    monkeypatch.setattr(startup, "run_main_job", run_main_job)
    assert startup.compiling("default", []) == {}
    assert (len(seen), seen[0] != "mine", os.environ["TRITON_CACHE_DIR"]) == (1, True, "mine")


def test_a_compilation_that_fails_leaves_what_was_measured_before_it(tmp_path, monkeypatch, capsys):
    def compiling(*_: object) -> dict[str, list[float]]:
        raise SpeedrunError("ended with -11")

    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(sensors, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(startup, "outside", lambda *_: [1.0])
    monkeypatch.setattr(startup, "phases", lambda *_: {"build": [0.5]})
    monkeypatch.setattr(startup, "compiling", compiling)
    monkeypatch.setattr(startup.sys, "argv", ["startup", "--device", "cpu"])
    assert startup.main() == 1
    assert "compile default: ended with -11" in capsys.readouterr().err
    (line,) = results.recorded()
    assert [row["about"]["what"] for row in line["rows"]] == ["help", "import torch", "build"]


def test_a_run_that_fails_is_told_by_its_last_words():
    with pytest.raises(SpeedrunError, match="ended with 2: speedrun: seconds takes a number"):
        curve.run_main_job(["--seconds", "soon"])


def test_processes_are_timed_from_outside():
    (seconds,) = startup.outside(["-c", "import time; time.sleep(0.2)"], 1)
    assert 0.2 < seconds < 20
    with pytest.raises(SpeedrunError, match="ended with 3"):
        startup.outside(["-c", "raise SystemExit(3)"], 1)
