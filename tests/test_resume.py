"""Runs that are interrupted, killed or out of time, and go on: from which checkpoint, with what, and for how long."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from processes import TINY_NET, one_line
from processes import speedrun as command

import speedrun
from speedrun import checkpoint, metrics, record
from speedrun import scores as curves
from speedrun.clock import Clock
from speedrun.config import Config
from speedrun.errors import SpeedrunError, UsageError
from speedrun.folder import CHECKPOINTS, NEWEST, PREVIOUS
from speedrun.launch import Result
from speedrun.metrics import MetricsWriter
from speedrun.snapshot import SHARE, SHORTEST, Interval

RICH = {
    "optim.ema": "0.8",
    "augment.mixup": "0.5",
    "augment.mix_per": "batch",
    "validation.count": "8",
    "validation.patience": "7",
}


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a signal arrive once while `step` is being taken."""
    write = MetricsWriter.write

    def interrupting(self: MetricsWriter, **values: Any) -> None:
        write(self, **values)
        if values["step"] == step:
            monkeypatch.setattr(MetricsWriter, "write", write)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(MetricsWriter, "write", interrupting)


def lines(folder: Path) -> list[dict[str, Any]]:
    return metrics.read(folder / "metrics.jsonl")


@pytest.fixture(scope="module")
def interrupted(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 40 steps that was interrupted after 20 of them; not to be written to."""
    out = tmp_path_factory.mktemp("interrupted") / "out"
    with pytest.MonkeyPatch.context() as monkeypatch:
        interrupt_at(20, monkeypatch)
        result = speedrun.train(tiny(tiny_data, out, RICH))
    assert (result.exit_code, result.record["status"], result.record["steps"]) == (130, "interrupted", 20)
    return out


@pytest.fixture
def folder(interrupted: Path, tmp_path: Path) -> Path:
    """A copy of `interrupted`."""
    return Path(shutil.copytree(interrupted, tmp_path / "out"))


def go_on(path: Path, **changes: Any) -> Result:
    return speedrun.train(Config(resume=path, quiet=True, **changes))


def test_K6_the_steps_after_resuming_are_those_of_the_uninterrupted_run(folder: Path, tiny_data: Path, tmp_path: Path):
    whole = speedrun.train(tiny(tiny_data, tmp_path / "whole", RICH))
    resumed = go_on(folder)
    assert whole.folder is not None
    expected, found = lines(whole.folder), lines(folder)
    assert [line["step"] for line in found] == list(range(1, 41))
    assert [line["loss"] for line in found] == [line["loss"] for line in expected]
    weights, again = (checkpoint.load(where / "model.pt").model for where in (whole.folder, folder))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    scores, again = ([(score.step, score.accuracy) for score in curves.read(at)] for at in (whole.folder, folder))
    assert scores == again
    assert len(scores) == 8
    for name in ("accuracy", "accuracy_plain", "epochs", "steps"):
        assert resumed.record[name] == whole.record[name]
    assert record.check(resumed.record) == []
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.folder.iterdir()}


@pytest.mark.parametrize("damage", ["newest", "both", "explicit"])
def test_K3_a_damaged_checkpoint_is_passed_over_unless_it_was_named(
    damage: str, folder: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copy(folder / NEWEST, folder / PREVIOUS)
    for name in CHECKPOINTS if damage == "both" else [NEWEST]:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
    if damage == "newest":
        assert go_on(folder).record["steps"] == 40
        assert f"{NEWEST} is damaged" in capsys.readouterr().err
        return
    before = sorted(folder.iterdir())
    with pytest.raises(SpeedrunError, match="damaged"):
        go_on(folder / NEWEST if damage == "explicit" else folder)
    assert sorted(folder.iterdir()) == before


def test_K2_what_is_killed_goes_on_from_its_last_checkpoint(tiny_data: Path, tmp_path: Path):
    """Killed while the third checkpoint is being written: the second has become the previous one and is whole."""
    code = (
        "import os, sys, torch\nfrom speedrun import cli, clock, snapshot\n"
        "snapshot.Interval.due = lambda self, now: True\n"
        "save, count = torch.save, []\n"
        "def killing(contents, path):\n"
        "    count.append(1)\n"
        "    if len(count) == 3:\n"
        "        open(path, 'wb').write(b'PK' * 999); os.kill(os.getpid(), 9)\n"
        "    save(contents, path)\n"
        "torch.save = killing\n"
        "sys.exit(cli.main(sys.argv[1:], clock.process_start()))\n"
    )
    from processes import run

    out = tmp_path / "out"
    arguments = [f"--dataset={tiny_data}", f"--out={out}", "--steps=9", "--seconds=60", "--json", *TINY_NET]
    assert run(["-c", code, *arguments]).code == -signal.SIGKILL
    assert not (out / NEWEST).exists()
    assert not (out / "result.json").exists()
    refused = command(*arguments)
    assert refused.code == 1
    assert f"--resume {out}" in one_line(refused.stderr)
    ended = command("--resume", out, "--json")
    assert ended.code == 0, ended.stderr
    found = json.loads(one_line(ended.stdout))
    assert (found["status"], found["steps"], found["budget_seconds"]) == ("complete", 9, 60.0)
    assert [line["step"] for line in lines(out)] == list(range(1, 10))
    assert not list(out.glob(".*"))


@pytest.mark.clock
def test_W9_a_resumed_run_has_the_time_that_was_left(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    monkeypatch.setattr("speedrun.probe.training_flops_per_second", lambda *_: 1e11)  # a second of the little there is
    interrupt_at(5, monkeypatch)
    first = speedrun.train(tiny(tiny_data, out, steps=None, seconds=9.0)).record
    assert first["status"] == "interrupted"
    began = time.monotonic()
    found = go_on(out).record
    seconds = time.monotonic() - began
    assert (found["status"], found["budget_seconds"]) == ("complete", 9.0)
    assert seconds < 9 - first["wall_seconds"] + 0.1  # that record was written a moment after its checkpoint
    assert first["wall_seconds"] < found["wall_seconds"] <= 9
    assert sum(found["phases"].values()) == pytest.approx(found["wall_seconds"], rel=0.01)
    assert lines(out)[-1]["progress"] == 1.0


def test_W9_without_time_no_step_is_taken_and_new_seconds_help(folder: Path):
    saved = checkpoint.load(folder / NEWEST)
    saved.meta["clock"].update(budget=saved.meta["clock"]["elapsed"] + 0.2)
    checkpoint.save(folder / NEWEST, model=saved.model, config={**saved.config, "steps": None}, extra=saved.meta)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "config.json"}
    with pytest.raises(UsageError, match=r"s are left, too few to go on: --seconds \d+ is the least that works"):
        go_on(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "config.json"} == before
    result = go_on(folder, seconds=5.0)
    assert result.record["status"] == "complete"
    assert result.record["budget_seconds"] == pytest.approx(saved.meta["clock"]["elapsed"] + 5)


def test_what_was_interrupted_while_it_was_scored_is_only_scored(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    score = "speedrun.session.Session._score"
    with monkeypatch.context() as patch:
        patch.setattr(score, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        assert speedrun.train(tiny(tiny_data, out, steps=5)).exit_code == 143
    result = go_on(out)
    assert (result.exit_code, result.record["steps"], len(lines(out))) == (0, 5, 5)
    assert result.accuracy is not None


@pytest.mark.parametrize(
    ("path", "changes", "message"),
    [
        ("none", {}, "none: No such file"),
        ("out/model.pt", {}, "is a trained net and no checkpoint of a training"),
        ("out", {"batch_size": 10}, "batch_size does not go with resume"),
        ("out", {"runs": 2}, "runs does not go with resume"),
        ("out", {"dataset": "synthetic"}, "trained on other images"),
    ],
)
def test_what_cannot_be_resumed_is_refused(path: str, changes: dict[str, Any], message: str, folder: Path):
    before = sorted(folder.iterdir())
    with pytest.raises(SpeedrunError, match=message):
        go_on(folder.parent / path, **changes)
    assert sorted(folder.iterdir()) == before


def test_a_run_that_has_ended_is_not_resumed(tiny_data: Path, tmp_path: Path):
    speedrun.train(tiny(tiny_data, tmp_path / "out", steps=2))
    with pytest.raises(SpeedrunError, match=r"has no checkpoint\.pt"):
        go_on(tmp_path / "out")


def test_F1_a_full_disk_costs_checkpoints_one_warning_and_nothing_else(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Interval, "due", lambda self, now: True)
    monkeypatch.setattr("speedrun.snapshot.write", full)
    result = speedrun.train(tiny(tiny_data, tmp_path / "out", steps=5))
    assert (result.exit_code, result.record["status"]) == (0, "complete")
    assert capsys.readouterr().err.count("a checkpoint was not written") == 1


def test_K2_checkpoints_stay_until_model_and_record_are_written(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A kill at the end of a run, or a disk that is full by then, finds what the run can go on from."""
    found: list[tuple[str, bool, bool]] = []

    def looking(folder: Path) -> None:
        model, kept = (folder / "model.pt").exists(), (folder / NEWEST).exists()
        found.append((json.loads((folder / "result.json").read_text())["status"], model, kept))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Interval, "due", lambda self, now: True)
    monkeypatch.setattr("speedrun.folder.remove_checkpoints", looking)
    speedrun.train(tiny(tiny_data, tmp_path / "out", steps=3))
    assert found == [("complete", True, True)]
    monkeypatch.setattr("speedrun.session.Session.save_model", full)
    assert speedrun.train(tiny(tiny_data, tmp_path / "full", steps=3)).exit_code == 1
    assert len(found) == 1
    assert (tmp_path / "full" / NEWEST).exists()


@pytest.mark.parametrize(("cost", "steps"), [(0.001, 0.05), (0.2, 0.05), (0.2, 5.0), (3.0, 0.05)])
def test_checkpoints_take_less_than_a_hundredth_of_the_time(cost: float, steps: float):
    """However long a step or a checkpoint takes; only the first is a guess, and is made good by the pause after it."""
    now, spent, count = 0.0, 0.0, 0
    interval = Interval(size=4_000_000, write_seconds=0.0, began=0.0)
    guess = interval.cost
    while now < 3000:
        now += steps
        if interval.due(now):
            now, spent, count = now + cost, spent + cost, count + 1
            interval.took(cost, now)
            assert spent <= 0.01 * now + max(0.0, cost - guess)
    assert count >= min(0.8 * SHARE * 3000 / max(cost, steps * SHARE), 3000 / (SHORTEST + steps) - 1)


def test_on_a_slow_disk_the_first_checkpoint_takes_no_more(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    interval = Interval(size=0, write_seconds=0.6, began=0.0)
    assert not interval.due(60.0)
    assert interval.due(0.62 / SHARE + 0.1)
    guesses: list[float] = []
    due, sync = Interval.due, os.fsync
    monkeypatch.setattr(Interval, "due", lambda self, now: guesses.append(self.cost) or due(self, now))
    monkeypatch.setattr(os, "fsync", lambda file: (time.sleep(0.1), sync(file))[1])
    speedrun.train(tiny(tiny_data, tmp_path / "out", steps=1))
    assert guesses[0] >= 0.2  # the file and its folder were waited for when the folder was claimed


def test_the_deadline_of_a_resumed_run_counts_what_was_spent_but_no_transfer():
    clock = Clock(None, start=100.0, now=lambda: 101.0)
    clock.go_on({"budget": 60.0, "elapsed": 25.0, "fetch_seconds": 5.0}, None)
    assert (clock.remaining(), clock.elapsed(), clock.fetch_seconds) == (39.0, 26.0, 5.0)
    clock = Clock(10.0, start=100.0, now=lambda: 101.0)
    clock.go_on({"budget": 60.0, "elapsed": 25.0, "fetch_seconds": 5.0}, 10.0)
    assert (clock.remaining(), clock.seconds) == (9.0, 30.0)
