"""Ensembles, and what every job of many trainings shares: its budget, its record, its end by a signal."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Paced
from processes import TINY_NET, one_line

from speedrun import cli, predictor, record, seeds, trials
from speedrun.config import Config
from speedrun.distributed import World
from speedrun.trial import Trial

SETTINGS = [*TINY_NET, "--dtype=float32", "--quiet"]


def ensemble(tiny_data: Path, out: Path, *words: str) -> int:
    return cli.main(["ensemble", f"--dataset={tiny_data}", f"--out={out}", *SETTINGS, *words], time.monotonic())


def read_record(out: Path) -> dict[str, Any]:
    found = json.loads((out / "result.json").read_text())
    assert record.check(found) == []
    return found


@pytest.fixture(scope="module")
def three(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ensemble") / "out"
    assert ensemble(tiny_data, out, "--members=3", "--steps=6", "--seed=5") == 0
    return out


def test_the_record_holds_what_the_members_saved_predict(three: Path, tiny_data: Path):
    found = read_record(three)
    assert (found["status"], found["members"], len(found["trials"])) == ("complete", 3, 3)
    arrays = np.load(tiny_data)
    images, labels = torch.from_numpy(arrays["test_images"]), torch.from_numpy(arrays["test_labels"])
    total, accuracies = torch.zeros(200, 3), []
    for number, trial in enumerate(found["trials"]):
        chances = predictor.load(three / trial["name"]).with_views(images).softmax(1)
        accuracies.append((chances.argmax(1) == labels).float().mean().item())
        assert trial["accuracy"] == pytest.approx(accuracies[-1])
        total += chances
        assert found["by_members"][number] == pytest.approx((total.argmax(1) == labels).float().mean().item())
    assert len(set(accuracies)) > 1
    assert found["mean_accuracy"] == pytest.approx(np.mean(accuracies))
    assert found["accuracy"] == found["by_members"][-1] > found["mean_accuracy"]


def test_R6_members_have_distinct_derived_seeds_and_repeat(three: Path, tiny_data: Path, tmp_path: Path):
    found = read_record(three)
    assert [trial["seed"] for trial in found["trials"]] == [seeds.derive(5, "member", number) for number in range(3)]
    assert len({trial["seed"] for trial in found["trials"]}) == 3
    assert ensemble(tiny_data, tmp_path / "again", "--members=2", "--steps=6", "--seed=5") == 0
    again = read_record(tmp_path / "again")["trials"]
    assert [trial["loss"] for trial in again] == [trial["loss"] for trial in found["trials"][:2]]


class Guard:
    """In a watchdog's place: keeps what it is told and ends nobody."""

    def __init__(self) -> None:
        self.deadline = 0.0
        self.left: list[tuple[Path, dict[str, Any]]] = []

    def extend(self, deadline: float) -> None:
        self.deadline = deadline

    def leave(self, path: Path, record: dict[str, Any], start: float) -> None:
        self.left.append((path, record))

    def stop(self) -> None:
        pass


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Guard:
    found = Guard()
    monkeypatch.setattr(trials.Watchdog, "for_budget", lambda start, seconds: found)
    return found


def test_W11_the_watchdog_knows_the_jobs_deadline_and_what_to_leave(guard: Guard, tiny_data: Path, tmp_path: Path):
    start = time.monotonic()
    assert ensemble(tiny_data, tmp_path / "out", "--members=2", "--seconds=50", "--steps=4") == 0
    assert guard.deadline == pytest.approx(start + 50, abs=0.1)
    assert [(path, len(left["trials"])) for path, left in guard.left] == [
        (tmp_path / "out" / "result.json", count) for count in (1, 2)
    ]
    for _, left in guard.left:
        assert left["status"] == "timeout"
        assert record.check(json.loads(json.dumps(left))) == []


@pytest.mark.clock
def test_W10_members_share_the_seconds(
    guard: Guard, tiny_data: Path, tmp_path: Path, paced: Paced, capsys: pytest.CaptureFixture[str]
):
    deadline = paced(8)
    start = time.monotonic()
    assert ensemble(tiny_data, tmp_path / "out", "--members=2", f"--seconds={deadline}", "--json") == 0
    assert time.monotonic() - start < deadline
    found = read_record(tmp_path / "out")
    assert json.loads(one_line(capsys.readouterr().out)) == found
    first, second = (trial["wall_seconds"] for trial in found["trials"])
    assert first == pytest.approx(second, rel=0.5)
    assert first + second > 0.8 * found["phases"]["train"]
    assert found["wall_seconds"] > deadline - 3


def test_W10_nothing_starts_that_cannot_finish(
    guard: Guard, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert ensemble(tiny_data, tmp_path / "out", "--members=500", "--seconds=5") == 2
    line = one_line(capsys.readouterr().err)
    assert "5 s are too few here for 500 training(s)" in line
    assert int(line.partition("--seconds ")[2].split()[0]) > 50
    assert list(tmp_path.iterdir()) == []


def test_W10_what_finished_is_reported_after_a_signal(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    add = trials.Job.add

    def stopped_in_the_second(self: trials.Job, trial: Trial) -> None:
        add(self, trial)
        if len(self.trials) == 1:
            signal.setitimer(signal.ITIMER_REAL, 0.3)

    monkeypatch.setattr(trials.Job, "add", stopped_in_the_second)
    before = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        assert ensemble(tiny_data, tmp_path / "out", "--members=3", "--steps=600", "--seed=5") == 130
    finally:
        signal.signal(signal.SIGALRM, before)
    found = read_record(tmp_path / "out")
    assert found["status"] == "interrupted"
    assert [trial["status"] for trial in found["trials"]] == ["complete", "interrupted"]
    assert found["accuracy"] == found["trials"][0]["accuracy"]
    assert len(predictor.load_members(tmp_path / "out")) == 1  # a net that does not count predicts nothing either
    assert not (tmp_path / "out" / "ensemble.png").exists()  # nobody waits for a picture after a signal


def test_trainings_of_one_round_have_the_same_seconds(monkeypatch: pytest.MonkeyPatch):
    job = trials.Job(Config())
    job.world = World(size=2)
    monkeypatch.setattr(trials.Job, "seconds_left", lambda self: 100.0)
    assert [job.share(3 - begun, dealt=begun) for begun in range(3)] == [50.0, 50.0, 100.0]
    assert job.share(3, 3) == 25.0  # the ranks wait for each other in between
    job.world = World()
    assert [job.share(3 - begun, dealt=begun) for begun in range(3)] == [100.0 / 3, 50.0, 100.0]


def test_S1_a_signal_between_two_trainings_starts_no_other(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    share = trials.Job.share

    def signalled(self: trials.Job, *trainings: int, dealt: int = 0) -> float | None:
        if self.trials:
            self.launch.signals.received = signal.SIGTERM
        return share(self, *trainings, dealt=dealt)

    monkeypatch.setattr(trials.Job, "share", signalled)
    assert ensemble(tiny_data, tmp_path / "out", "--members=2", "--steps=3") == 143
    found = read_record(tmp_path / "out")
    assert (found["status"], [trial["status"] for trial in found["trials"]]) == ("interrupted", ["complete"])


def test_S3_a_signal_while_torch_is_imported_leaves_a_record(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Stop:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if name == "torch":
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "meta_path", [Stop, *sys.meta_path])
    assert ensemble(tiny_data, tmp_path / "out", "--members=2", "--steps=3") == 130
    found = read_record(tmp_path / "out")
    assert (found["status"], found["trials"], found["accuracy"]) == ("interrupted", [], None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--members=0"], "--members must be at least 1"),
        (["--runs=2"], "takes --members, not --runs"),
        (["--target=0.9"], "a target is for a single run"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, tiny_data: Path, tmp_path: Path, capsys):
    assert ensemble(tiny_data, tmp_path / "out", *words) == 2
    assert message in one_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []
