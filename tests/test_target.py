"""A run that aims at an accuracy: its seconds, its refusals, and what it says of a target that it missed; and what is
expected of seconds alone."""

import dataclasses
import re
from pathlib import Path

import pytest
from conftest import Paced
from processes import one_line, speedrun

from speedrun import planner, run, rungs, session
from speedrun.calibrate import Costs, calibrate
from speedrun.config import Config
from speedrun.errors import UsageError
from speedrun.machine import Machine
from speedrun.rungs import Point, Rung

OPEN = Config(device="cpu", quiet=True)


def rung(lr: float) -> Rung:
    """A tiny net that is said to reach 95 % at the cost of about ten epochs of the tiny images."""
    dials = {
        "model.widths": (8, 8, 8),
        "model.depth": 2,
        "resolutions": (24, 32),
        "batch_size": 50,
        "augment.cutout": 0,
        "optim.lr": lr,
        "optim.momentum": 0.6,
    }
    points = (Point(1e8, 0.4), Point(2e9, 0.95))
    return Rung(dials, speed=1.0, forward_flops=1e5, measured=True, source="made up", points=points)


def know(monkeypatch: pytest.MonkeyPatch, known: list[Rung]) -> None:
    """Put these in the place of the package's table."""
    monkeypatch.setattr(rungs, "table", lambda: known)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, tiny_data: Path) -> Config:
    """A config for the tiny images, of which the planner's table is made to know."""
    found = Machine.situation
    monkeypatch.setattr(Machine, "situation", lambda machine: dataclasses.replace(found(machine), known=True))
    know(monkeypatch, [rung(0.05)])
    return dataclasses.replace(OPEN, dataset=str(tiny_data))


def test_a_target_ends_when_it_is_expected(known: Config, tmp_path: Path):
    result = run.train(dataclasses.replace(known, target=0.9, seconds=60.0, out=tmp_path / "run"))
    record = result.record
    assert (record["status"], result.exit_code) == ("complete", 0)
    assert record["accuracy"] >= 0.9
    assert record["steps"] == round(record["plan"]["epochs"] * 600 / 50)
    assert record["budget_seconds"] == 60.0
    assert record["expected_accuracy"] == pytest.approx(0.9 + planner.TARGET_MARGIN, abs=1e-3)


def test_a_missed_target_is_told_and_is_no_error(
    known: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    know(monkeypatch, [rung(1e-9)])  # it will not learn
    still = dataclasses.replace(known, target=0.9, quiet=False, out=tmp_path / "run")
    result = run.train(still)
    assert (result.record["status"], result.exit_code) == ("missed", 0)
    assert result.record["accuracy"] < 0.9
    shown = capsys.readouterr().out
    assert "90.00 %, expected in about " in shown
    assert "speedrun, missed" in shown or "speedrun: missed" in shown
    assert "90.00 % was the target" in shown


def test_a_target_that_takes_longer_than_there_is_is_refused(known: Config, tmp_path: Path, monkeypatch):
    far = (Point(1e8, 0.4), Point(2e17, 0.95))
    know(monkeypatch, [dataclasses.replace(rung(0.05), points=far)])
    with pytest.raises(UsageError, match=r"90\.00 % takes about [\d,]+ s here, more than 60 s"):
        run.train(dataclasses.replace(known, target=0.9, seconds=60.0, out=tmp_path / "run"))


def test_a_target_that_no_net_reaches_is_refused(known: Config, tmp_path: Path):
    highest = r"no net that the planner knows reaches 95\.00 %: the highest is 94\.90 %, in"
    with pytest.raises(UsageError, match=highest):
        run.train(dataclasses.replace(known, target=0.95, out=tmp_path / "run"))
    seen = run.train(dataclasses.replace(known, target=0.949, dry_run=True)).record["plan"]
    assert seen["expected_accuracy"] == pytest.approx(0.95)


def test_a_target_on_other_images_is_refused(tiny_data: Path, tmp_path: Path):
    ended = speedrun("--device=cpu", f"--dataset={tiny_data}", "--target=0.9", "--quiet", cwd=tmp_path)
    assert (ended.code, ended.stdout) == (2, "")
    assert "a target needs CIFAR-10" in one_line(ended.stderr)


@pytest.mark.clock
def test_what_is_expected_is_of_the_nets_own_steps_once_they_were_timed(
    known: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], paced: Paced
):
    """The probe promises all that the net can learn; its steps turn out to be slow."""
    seconds = paced(6)

    def slow(*args):
        found = calibrate(*args)
        return Costs(dict.fromkeys(found.step, seconds / 30), found.view)

    monkeypatch.setattr(session, "calibrate", slow)
    open_config = dataclasses.replace(known, seconds=float(seconds), quiet=False, out=tmp_path / "run")
    record = run.train(open_config).record
    planned, timed, *_ = map(float, re.findall(r"about ([\d.]+) % expected", capsys.readouterr().out))
    assert (planned, record["plan"]["expected_accuracy"]) == (95.0, 0.95)
    assert timed == pytest.approx(100 * record["expected_accuracy"], abs=0.06)
    assert timed < 90
