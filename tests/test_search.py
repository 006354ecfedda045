"""Searches on a tiny set: they rank by held-out images alone, narrow, halve, go on, and refuse what cannot be."""

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from processes import TINY_NET, one_line

from speedrun import cli, recipes, record
from speedrun.config import Config, ModelConfig, ValidationConfig
from speedrun.jobs.search import Halving, Search
from speedrun.planner import Situation
from speedrun.trial import Trial

SETTINGS = [*TINY_NET, "--dtype=float32", "--quiet"]
RATES = "--space=optim.lr=log:1e-6..0.5"


def search(data: Path, out: Path, *words: str, seconds: str = "--steps=6") -> int:
    return cli.main(["search", f"--dataset={data}", f"--out={out}", seconds, *SETTINGS, *words], time.monotonic())


def read_record(out: Path) -> dict[str, Any]:
    found = json.loads((out / "result.json").read_text())
    assert record.check(found) == []
    return found


def rates(found: dict[str, Any]) -> list[float]:
    return [trial["changes"]["optim.lr"] for trial in found["trials"]]


@pytest.fixture(scope="module")
def six(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("search") / "out"
    assert search(tiny_data, out, RATES, "--trials=6", "--rounds=2", "--seed=1") == 0
    return out


def test_trials_are_ranked_by_their_accuracy_on_the_split(six: Path):
    found = read_record(six)
    assert found["split"] == {"train": "train[540 of 600]", "scored": "train[60 of 600, held out]"}
    accuracies = {trial["name"]: trial["accuracy"] for trial in found["trials"]}
    assert [accuracies[name] for name in found["ranking"]] == sorted(accuracies.values(), reverse=True)
    assert len(found["trials"]) == 6
    assert len({trial["seed"] for trial in found["trials"]}) == 6
    best = next(trial for trial in found["trials"] if trial["name"] == found["ranking"][0])
    assert found["best"] == best["changes"]
    assert not list(six.rglob("model.pt"))  # ten thousand trials must not fill the disk


def test_the_second_round_is_drawn_around_the_best_of_the_first(six: Path):
    found = read_record(six)
    first = {trial["changes"]["optim.lr"]: trial["accuracy"] for trial in found["trials"][:3]}
    best = sorted(first, key=lambda rate: first[rate], reverse=True)[:2]
    slack = (0.5 / 1e-6) ** 0.1
    for rate in rates(found)[3:]:
        assert max(1e-6, min(best) / slack) * 0.999 <= rate <= min(0.5, max(best) * slack) * 1.001


def test_the_command_trains_the_winner(six: Path, tiny_data: Path):
    words = shlex.split(read_record(six)["command"])
    assert words[:3] == ["python", "-m", "speedrun"]
    config = cli.parse(words[3:])
    assert config.optim.lr == read_record(six)["best"]["optim.lr"]
    assert (config.dataset, config.model.widths, config.dtype) == (str(tiny_data), (8, 8, 8), "float32")
    assert (config.holdout, config.tta, config.steps) == (False, "auto", None)


def test_trials_are_trained_to_their_end_whatever_patience_the_winner_has(tiny_data: Path, tmp_path: Path):
    validation = ("--set=validation.count=6", "--set=validation.patience=1", "--set=validation.delta=0.5")
    assert search(tiny_data, tmp_path / "out", RATES, "--trials=2", "--rounds=1", *validation) == 0
    found = read_record(tmp_path / "out")
    assert [trial["steps"] for trial in found["trials"]] == [6, 6]
    assert not list(tmp_path.rglob("validation.jsonl"))
    assert cli.parse(shlex.split(found["command"])[3:]).validation == ValidationConfig(6, 1, 0.5)


def test_B7_poisoned_test_labels_leave_the_search_as_it_was(six: Path, tiny_data: Path, tmp_path: Path):
    arrays = dict(np.load(tiny_data))
    arrays["test_labels"] = (arrays["test_labels"] + 1) % 3
    arrays["test_images"] = 255 - arrays["test_images"]
    np.savez(tmp_path / "poisoned.npz", **arrays)
    out = tmp_path / "out"
    assert search(tmp_path / "poisoned.npz", out, RATES, "--trials=6", "--rounds=2", "--seed=1") == 0
    found, sound = read_record(out), read_record(six)
    assert (found["ranking"], found["best"]) == (sound["ranking"], sound["best"])
    for mine, theirs in zip(found["trials"], sound["trials"], strict=True):
        assert (mine["loss"], mine["accuracy"]) == (theirs["loss"], theirs["accuracy"])


def test_N2_a_diverging_trial_is_marked_and_never_ranks(tiny_data: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert search(tiny_data, out, "--space=optim.head_lr=0.05,1e38", "--trials=3", "--rounds=1", "--seed=5") == 0
    found = read_record(out)
    lost = {trial["name"] for trial in found["trials"] if trial["changes"]["optim.head_lr"] == 1e38}
    assert lost
    assert set(found["ranking"]) == {trial["name"] for trial in found["trials"]} - lost
    assert all(trial["status"] != "complete" for trial in found["trials"] if trial["name"] in lost)
    assert all(trial["accuracy"] is None and trial["problem"] for trial in found["trials"] if trial["name"] in lost)


def test_N2_a_search_in_which_all_diverge_has_failed(tiny_data: Path, tmp_path: Path, capsys):
    assert search(tiny_data, tmp_path / "out", "--space=optim.head_lr=1e38", "--trials=2", "--rounds=1") == 1
    found = read_record(tmp_path / "out")
    assert (found["status"], found["ranking"], found["best"]) == ("failed", [], None)
    assert "none of 2 training(s) came to an end that counts" in capsys.readouterr().err


def test_F1_a_full_disk_costs_the_log_of_a_search_and_not_the_search(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    def full(path: Path, lines: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("speedrun.jobs.search.append_lines", full)
    assert search(tiny_data, tmp_path / "out", RATES, "--trials=2", "--rounds=1") == 0
    assert len(read_record(tmp_path / "out")["ranking"]) == 2
    assert "not saved: [Errno 28] No space left on device" in capsys.readouterr().err


def test_a_search_goes_on_where_it_was_stopped(
    six: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    words = (RATES, "--trials=6", "--rounds=2", "--seed=1")
    add = Search.add

    def stop_after_three(self: Search, trial: Trial) -> None:
        if len(self.trials) == 3:
            trial = replace(trial, status="interrupted")
            self.launch.signals.received = 2
        add(self, trial)

    with monkeypatch.context() as patched:
        patched.setattr(Search, "add", stop_after_three)
        assert search(tiny_data, out, *words) == 130
    assert read_record(out)["status"] == "interrupted"
    assert search(tiny_data, out, *words) == 1
    assert "holds another run already" in one_line(capsys.readouterr().err)
    for other in ("--seed=2", "--set=optim.momentum=0.5"):
        assert search(tiny_data, out, *words, other, "--resume") == 2
        assert "is of a search with other settings" in one_line(capsys.readouterr().err)
    log = out / "trials.jsonl"
    sound = log.read_text()
    log.write_text(sound + '{"name": "tri')
    assert search(tiny_data, out, *words, "--resume") == 1
    assert "trials.jsonl:4: not JSON" in one_line(capsys.readouterr().err)
    log.write_text(sound.replace('"accuracy": 0.', '"accuracy": 0.9', 1))
    assert search(tiny_data, out, *words, "--resume") == 1
    assert "trials.jsonl:1: damaged" in one_line(capsys.readouterr().err)
    log.write_text(sound)
    assert search(tiny_data, out, *words, "--resume") == 0
    found, whole = read_record(out), read_record(six)
    assert (found["ranking"], found["best"], rates(found)) == (whole["ranking"], whole["best"], rates(whole))


def test_what_is_no_search_is_not_gone_on_with(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    assert cli.main([f"--dataset={tiny_data}", f"--out={run}", "--steps=2", *SETTINGS], time.monotonic()) == 0
    kept = {path.name: path.read_bytes() for path in run.iterdir()}
    assert search(tiny_data, run, RATES, "--resume") == 1
    assert "holds another run already" in one_line(capsys.readouterr().err)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == kept
    assert cli.main(["search", RATES, "--resume"], time.monotonic()) == 2
    assert "--resume goes on with the search in --out" in one_line(capsys.readouterr().err)


def pretend(
    kind: type[Search],
    monkeypatch: pytest.MonkeyPatch,
    needed: Callable[[float], float] = lambda _: 0.0,
    **options: Any,
) -> Search:
    """A search of 100 s on a clock that only its trials move; `lr` is their accuracy, `needed` tells their least."""
    job = kind(Config(seed=4), {"optim.lr": "0..1"}, **options)
    spent: list[float] = []

    def attempt(name: str, number: int, changes: dict[str, Any], seconds: float) -> Trial:
        refused = seconds < needed(changes["optim.lr"])
        spent.append(1.0 if refused else seconds)
        status, least = ("refused", needed(changes["optim.lr"])) if refused else ("complete", None)
        accuracy = None if refused else changes["optim.lr"]
        trial = Trial(name, status, None, number, changes, accuracy, 1.0, 9, 9, 1.0, spent[-1], None, least)
        job.trials.append(trial)
        return trial

    replaced = {"take_up": lambda: None, "seconds_left": lambda: 100 - sum(spent), "_refusal": lambda _: ""}
    for name, function in {**replaced, "attempt": attempt}.items():
        monkeypatch.setattr(job, name, function)
    job.work()
    return job


def test_halving_gives_the_better_half_twice_the_time(monkeypatch: pytest.MonkeyPatch):
    job = pretend(Halving, monkeypatch, count=5)
    assert [trial.wall_seconds for trial in job.trials] == pytest.approx([100 / 15] * 5 + [100 / 6] * 2 + [100 / 3])
    rates = [trial.accuracy or 0.0 for trial in job.trials]
    assert sorted(rates[5:7]) == sorted(rates[:5])[-2:]
    assert rates[7] == max(rates)
    assert [trial.name.partition("-trial")[0] for trial in job.ranking()] == ["rung-3", "rung-2"] + ["rung-1"] * 3
    assert len({trial.seed for trial in job.ranking()}) == 5


def test_W10_halving_ends_with_its_time(monkeypatch: pytest.MonkeyPatch):
    job = pretend(Halving, monkeypatch, needed=lambda rate: 500.0 if rate > 0.5 else 0.0, count=300)
    assert len(job.trials) < 300  # each that is refused takes a second, more than its share
    assert sum(trial.wall_seconds for trial in job.trials) < 101


def test_halving_trains(tiny_data: Path, tmp_path: Path):
    assert search(tiny_data, tmp_path / "out", RATES, "--trials=3", "--halving", seconds="--steps=3") == 0
    found = read_record(tmp_path / "out")
    assert [trial["name"][:6] for trial in found["trials"]] == ["rung-1"] * 3 + ["rung-2"]
    assert found["ranking"][0] == found["trials"][3]["name"]


def test_W10_a_trial_without_enough_time_leaves_more_to_fewer(monkeypatch: pytest.MonkeyPatch):
    job = pretend(Search, monkeypatch, needed=lambda _: 30.0, count=50)
    assert [trial.status for trial in job.trials] == ["refused"] * 4 + ["complete"] * 3  # shares of 2, 4, 8, 16, 32 s
    assert sum(trial.wall_seconds for trial in job.trials) == pytest.approx(100)


def test_W10_a_net_that_needs_too_much_leaves_the_time_to_others(monkeypatch: pytest.MonkeyPatch):
    job = pretend(Search, monkeypatch, needed=lambda rate: 500.0 if rate > 0.9 else 2.0, count=20)
    assert all(trial.finished == (trial.changes["optim.lr"] <= 0.9) for trial in job.trials)
    assert 20 > len(job.trials) > len(job.finished) >= 5
    assert 90 < sum(trial.wall_seconds for trial in job.trials) <= 100


@pytest.mark.parametrize(("seconds", "count"), [(None, 5000), (2000, 5000), (400, 2335), (20, 500)])
def test_most_of_a_trials_time_is_left_for_training(seconds: float | None, count: int, monkeypatch: pytest.MonkeyPatch):
    job = Search(recipes.get("mynet"), {"optim.lr": "0..1"}, count=20)
    monkeypatch.setattr(job, "seconds_left", lambda: seconds)
    job.machine = SimpleNamespace(  # type: ignore[assignment]
        held_out=(range(5000), range(5000)), classes=10, image_size=32, situation=lambda: Situation("cpu", 1e11)
    )
    assert job.affordable_scores() == pytest.approx(count, abs=1)  # 20 s a trial: 2 s at 0.0856 GFLOP an image
    job.config = replace(job.config, model=ModelConfig(family="resnet"))  # no net yet: the space brings its sizes
    assert job.affordable_scores() == 5000


def test_W10_a_search_with_time_for_no_trial_is_refused(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("speedrun.trials.Watchdog.for_budget", lambda start, seconds: None)
    monkeypatch.setattr("speedrun.session.SAVE_SECONDS", 1e3)
    assert search(tiny_data, tmp_path / "out", RATES, "--trials=2", seconds="--seconds=9") == 2
    assert "9 s are too few here for 1 training(s)" in one_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []  # nothing stands in the way of another try


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space=optim.lrr=1..2"], "unknown field optim.lrr; did you mean optim.lr?"),
        (
            ["--space=model.widths=512,512,512", "--set=model.parameter_limit=1000"],
            "parameters and must stay below 1,000",
        ),
        (["--halving", "--rounds=2"], "leave out --rounds"),
        (["--trials=0"], "one round or more of one trial or more"),
        (["--runs=2"], "takes --trials, not --runs"),
    ],
)
def test_bad_input_is_one_line_before_training(words: list[str], message: str, tiny_data: Path, tmp_path: Path, capsys):
    assert search(tiny_data, tmp_path / "out", *words) == 2
    assert message in one_line(capsys.readouterr().err)
    assert list(tmp_path.rglob("result.json")) == []
