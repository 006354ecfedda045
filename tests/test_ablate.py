"""Ablations on a tiny set: one change a row, the same plan and seeds for all, numbers from held-out images alone."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Paced
from processes import TINY_NET, one_line

from speedrun import cli, config, recipes, record, scores, trials
from speedrun.config import Config, OptimConfig
from speedrun.errors import UsageError
from speedrun.jobs import ablate
from speedrun.schedule import rate_share

SETTINGS = [*TINY_NET, "--quiet", "--set=validation.count=5"]


def run(data: Path, out: Path, *words: str) -> int:
    return cli.main(["ablate", f"--dataset={data}", f"--out={out}", *SETTINGS, *words], time.monotonic())


def read_record(out: Path) -> dict[str, Any]:
    found = json.loads((out / "result.json").read_text())
    assert record.check(found) == []
    return found


VARY = ("--vary=optim.lr=0.05,0.3", "--vary=augment.flip=none", "--dtype=float32")
STEPS = ("--steps=8", "--runs=2", "--target=0.6", "--seed=3")


@pytest.fixture(scope="module")
def varied(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ablate") / "out"
    assert run(tiny_data, out, *VARY, *STEPS) == 0
    return out


def test_a_row_for_each_change_and_none_for_what_is_as_it_was(varied: Path):
    rows = read_record(varied)["rows"]
    assert [(row["change"], row["changes"]) for row in rows] == [
        ("as it is", {}),
        ("optim.lr=0.3", {"optim.lr": 0.3}),  # 0.05 is what it is without
        ("augment.flip=none", {"augment.flip": "none"}),
    ]


def test_the_rows_are_the_numbers_of_their_trainings(varied: Path):
    found = read_record(varied)
    assert found["target_accuracy"] == 0.6
    for number, row in enumerate(found["rows"]):
        tried = [trial for trial in found["trials"] if trial["name"].startswith(f"row-{number}-")]
        accuracies = [trial["accuracy"] for trial in tried]
        assert row["runs"] == len(tried) == 2
        assert row["accuracy"] == pytest.approx(np.mean(accuracies))
        assert row["deviation"] == pytest.approx(np.std(accuracies, ddof=1))
        assert row["steps"] == 8
        curves = [scores.read(varied / trial["name"]) for trial in tried]
        assert all(len(curve) == 5 for curve in curves)
        first = [next((score.step for score in curve if score.accuracy >= 0.6), None) for curve in curves]
        assert row["target_steps"] == (None if None in first else pytest.approx(np.mean(first)))
        if row["target_steps"] is not None:  # 540 images in batches of 50, the last 40 of an epoch left out
            assert row["target_epochs"] == pytest.approx(row["target_steps"] / 10)
    assert any(row["target_steps"] is not None for row in found["rows"])


def test_a_row_differs_by_its_change_alone(varied: Path):
    found = read_record(varied)
    seeds = [[trial["seed"] for trial in found["trials"] if f"-run-{run}" in trial["name"]] for run in (1, 2)]
    assert len(set(seeds[0])) == len(set(seeds[1])) == 1
    assert seeds[0] != seeds[1]
    configs = [config.load(varied / f"row-{number}-run-1" / "config.json") for number in range(3)]
    for number, row in enumerate(found["rows"]):
        assert config.override(configs[0], row["changes"]) == configs[number]


def test_B7_poisoned_test_labels_change_nothing(varied: Path, tiny_data: Path, tmp_path: Path):
    arrays = dict(np.load(tiny_data))
    arrays["test_labels"] = (arrays["test_labels"] + 1) % 3
    np.savez(tmp_path / "poisoned.npz", **arrays)
    assert run(tmp_path / "poisoned.npz", tmp_path / "out", *VARY, *STEPS, "--runs=1") == 0
    misled, sound = read_record(tmp_path / "out")["trials"], read_record(varied)["trials"]
    assert [trial["accuracy"] for trial in misled] == [trial["accuracy"] for trial in sound[:3]]


@pytest.mark.clock
def test_the_standard_changes_of_any_recipe_fit_one_budget(
    tiny_data: Path, tmp_path: Path, paced: Paced, monkeypatch: pytest.MonkeyPatch
):
    deadline = paced(14)
    monkeypatch.setattr(trials.Watchdog, "for_budget", lambda start, seconds: None)  # it would end the tests as well
    start = time.monotonic()
    assert run(tiny_data, tmp_path / "out", f"--seconds={deadline}", "--dtype=bfloat16") == 0
    assert time.monotonic() - start < deadline
    found = read_record(tmp_path / "out")
    changes = [row["change"] for row in found["rows"]]
    assert changes == ["as it is", *ablate.standard(Config(batch_size=50))]
    assert sum(row["runs"] for row in found["rows"]) >= 4
    dtypes = [
        json.loads((tmp_path / "out" / f"row-{row}-run-1" / "result.json").read_text())["dtype"] for row in (0, 5)
    ]
    assert dtypes == ["bfloat16", "float32"]


@pytest.mark.parametrize(("filters", "rate"), [("sgd", 0.2), ("adamw", 0.1414), ("muon", 0.1414)])
def test_the_rate_follows_the_batch(filters: str, rate: float):
    base = Config(batch_size=256, optim=OptimConfig(filters=filters, lr=0.1))
    changes = ablate.standard(base)["batch 512, rate to match"]
    assert changes == {"batch_size": 512, "optim.lr": pytest.approx(rate, rel=1e-3)}


def test_a_fixed_rate_does_not_rise_either():
    base = recipes.get("mynet-published")
    fixed = config.override(base, ablate.standard(base)["fixed rate"]).optim
    assert {rate_share(fixed.schedule, p, fixed.warmup, fixed.start_lr) for p in (0.0, 0.1, 0.5, 1.0)} == {1.0}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.lrr=1,2", "unknown field optim.lrr; did you mean optim.lr?"),
        ("optim.lr", "--vary takes FIELD=A,B"),
        ("optim.lr=much", "optim.lr takes a number, not 'much'"),
        ("dataset=synthetic", "dataset is the same for all trainings of a job"),
        ("holdout_fold=0,1", "holdout_fold is the same for all trainings of a job"),
        ("optim=3", "optim is a group of fields"),
    ],
)
def test_what_cannot_be_varied_is_named(word: str, message: str):
    with pytest.raises(UsageError) as caught:
        ablate.vary([word])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.widths=8,8", "model.widths takes three"),
        ("model.family=resnet", "model.family=resnet: a net of family resnet needs model.blocks"),
        ("model.parameter_limit=100", "model.parameter_limit=100: the net has"),
        ("resolutions=40", "resolutions=40: resolutions 40 are more than the images' 16 pixels"),
    ],
)
def test_a_change_that_does_not_fit_is_one_line_before_training(
    word: str, message: str, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(tiny_data, tmp_path / "out", f"--vary={word}", "--steps=2") == 2
    assert message in one_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_L4_what_a_killed_job_left_is_not_mixed_with_another(tiny_data: Path, tmp_path: Path, capsys):
    left = tmp_path / "out" / "row-0-run-1" / "result.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}")
    assert run(tiny_data, tmp_path / "out", "--vary=optim.lr=0.3", "--steps=2") == 1
    assert "row-0-run-1 holds another run already: choose another --out" in one_line(capsys.readouterr().err)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["result.json"]
