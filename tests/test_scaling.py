"""The fit of the planner's table: whose records count, and what a tenth's own hardness does."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling
from speedrun import config as configs
from speedrun.config import Config
from speedrun.errors import UsageError

NET = scaling.CANDIDATES[0]


def run(accuracy: float, *, steps: int = 100, fold: int = 0, **changes: Any) -> dict[str, Any]:
    """What the fit reads of a record."""
    asked = {**NET.dials, "steps": steps, "holdout": True, "holdout_fold": fold, **scaling.SCORED, **changes}
    return {
        "kind": "run",
        "status": "complete",
        "dataset": "cifar10",
        "split": {"train": "train[45000 of 50000]", "scored": "train[5000 of 50000, held out]"},
        "config": configs.to_dict(configs.override(Config(), asked)),
        "budget_seconds": None,
        "device": {"name": "Abacus", "kind": "cpu"},
        "steps": steps,
        "epochs": steps * 250 / 45_000,
        "accuracy": accuracy,
        "images_per_second": 1000.0,
        "flops_per_second": 1000.0 * NET.training_flops() / 2,
    }


def test_a_record_counts_for_the_net_with_all_its_dials():
    assert NET.matches(run(0.8))
    assert NET.matches(run(0.8, fold=3, seed=7, dtype="float32"))
    others = ({"batch_size": 251}, {"optim.lr": 0.1}, {"optim.momentum": 0.7}, {"augment.translate": 3})
    for changes in (*others, {"tta": "none"}, {"uncertain_share": 0.25}, {"normalise": False}):
        assert not NET.matches(run(0.8, **changes))
    assert not scaling.CANDIDATES[1].matches(run(0.8))
    assert not NET.matches({**run(0.8), "split": {"train": "train[50000]", "scored": "test[10000]"}})
    assert not NET.matches({**run(0.8), "budget_seconds": 60.0})
    assert not NET.matches({**run(0.8), "config": {**run(0.8)["config"], "of_another_version": 1}})


def test_every_net_has_a_name_of_its_own():
    names = [net.name for net in (*scaling.CANDIDATES, *(large for large, *_ in scaling.PUBLISHED))]
    assert len(set(names)) == len(names)
    deep = [net.name for net in scaling.CANDIDATES if net.dials["model.depth"] == (2, 2, 3)]
    assert deep == ["64/256/256 depth 2/2/3", "64/256/256 depth 2/2/3 momentum 0.4"]


def test_the_hardness_of_a_tenth_is_found_from_what_was_measured_on_several():
    hard = {0: 0.10, 1: -0.04, 2: -0.06}
    runs = [run(1 - 0.3 * math.exp(hard[fold]), steps=100, fold=fold) for fold in hard]
    runs += [run(1 - 0.2 * math.exp(hard[fold]), steps=200, fold=fold) for fold in (0, 1)]
    assert scaling.fold_hardness([runs], math.log(0.2)) == pytest.approx(hard)


def test_a_tenth_may_be_hard_for_good_nets_alone():
    of_poor, of_good = {0: 0.02, 1: -0.02}, {0: -0.1, 1: 0.1}
    poor = [run(1 - 0.5 * math.exp(h), steps=100, fold=fold) for fold, h in of_poor.items()]
    good = [run(1 - 0.05 * math.exp(h), steps=200, fold=fold) for fold, h in of_good.items()]
    good.append(run(1 - 0.04 * math.exp(of_good[0]), steps=300, fold=0))
    assert scaling.fold_hardness([poor, good], math.log(0.5)) == pytest.approx(of_poor, abs=1e-3)
    assert scaling.fold_hardness([poor, good], math.log(0.05)) == pytest.approx(of_good, abs=1e-3)
    points = scaling._rung(NET, [*poor, *good], [[*poor, *good]], speed=2.0)["points"]
    assert [point["accuracy"] for point in points] == pytest.approx([0.5, 0.95, 0.96], abs=1e-4)


def test_a_point_measured_on_a_hard_tenth_alone_is_corrected():
    runs = [run(1 - 0.3 * math.exp(h), fold=fold) for fold, h in enumerate((0.1, -0.1))]
    runs.append(run(1 - 0.2 * math.exp(0.1), steps=200, fold=0))
    found = scaling._rung(NET, runs, [runs], speed=2.0)
    assert [point["accuracy"] for point in found["points"]] == pytest.approx([0.7, 0.8])
    assert [point["seeds"] for point in found["points"]] == [2, 1]


def test_speeds_are_those_of_one_processor(monkeypatch: pytest.MonkeyPatch):
    def on(name: str, kind: str, images_per_second: float, steps: int, **dials: Any) -> dict[str, Any]:
        made = run(0.8, steps=steps, **{field: configs.as_text(value) for field, value in dials.items()})
        return {**made, "device": {"name": name, "kind": kind}, "images_per_second": images_per_second}

    second = scaling.CANDIDATES[1]
    runs = [on("Abacus", "cpu", speed, 100) for speed in (1000, 1200, 1100)] + [on("Slate", "cpu", 9000, 100)]
    runs += [on("Slate", "cpu", 9000, 100, **second.dials), on("Board", "cuda", 1e6, 100, **second.dials)]
    monkeypatch.setattr(scaling, "CANDIDATES", (NET, second))
    monkeypatch.setattr(scaling, "PUBLISHED", ())
    monkeypatch.setattr(scaling, "recorded", lambda: runs)
    timed, untimed = scaling.fit()["rungs"]
    assert timed["speed"] == 2.2  # Abacus made most
    assert untimed["speed"] == 2.2  # as fast as the net before it
    assert untimed["source"] == "measured on the split on Board, Slate"


def stepped(net: scaling.Candidate, **changes: Any) -> dict[str, Any]:
    """The config of a step of a net."""
    asked = {**net.dials, "tta": "full", "uncertain_share": 0.25, "compile": "off", **changes}
    return configs.to_dict(configs.override(Config(), asked))


def step(net: scaling.Candidate, size: int, share: float, sha: str = "a", **changes: Any) -> dict[str, Any]:
    """What the fit reads of a record of a step that runs at a `share` of the probe's speed."""
    return {
        "kind": "step",
        "started": f"2026-11-20T10:00:0{ord(sha) - ord('a')}Z",
        "device": {"name": "Abacus", "kind": "cpu"},
        "git": {"sha": sha, "dirty": False},
        "versions": {"torch": "2.13"},
        "settings": {"config": stepped(net)},
        "size": size,
        "dtype": "bfloat16",
        "flops_per_second": share * 3e11,
        "probe_flops_per_second": 3e11,
        **changes,
    }


def test_speeds_are_those_of_steps_once_every_net_has_been_timed(monkeypatch: pytest.MonkeyPatch):
    second = scaling.CANDIDATES[1]
    settings = {name: configs.as_text(value) for name, value in second.dials.items()}
    runs = [run(0.8), run(0.8, **settings)]
    of_runs = [2.0, round(2.0 * second.training_flops() / NET.training_flops(), 3)]
    records = list(runs)
    monkeypatch.setattr(scaling, "CANDIDATES", (NET, second))
    monkeypatch.setattr(scaling, "PUBLISHED", ())
    monkeypatch.setattr(scaling, "recorded", lambda: records)

    def speeds() -> list[float]:
        return [rung["speed"] for rung in scaling.fit()["rungs"]]

    assert speeds() == of_runs
    records += [step(NET, size, 0.5) for size in (16, 20, 24)]
    assert speeds() == of_runs  # the second net has none
    records += [step(second, size, 1.0) for size in (20, 24)]
    assert speeds() == of_runs  # nor at all its sizes
    records.append(step(second, 28, 0.5))
    # At half the speed the last size takes twice the seconds for its operations.
    small, middle, large = (second.flops(size) for size in (20, 24, 28))
    expected = [0.5, pytest.approx((small + middle + large) / (small + middle + 2 * large), abs=1e-3)]
    assert speeds() == expected
    others = ({"batch_size": 7}, {"compile": "default"}, {"dtype": "float32"}, {"optim.sam": 0.1}, {"recipe": "mynet"})
    for changes in (*others, {"model.activation": "relu"}):
        records.append(step(NET, 16, 9.0, settings={"config": stepped(NET, **changes)}))
    records.append(step(NET, 16, 9.0, device={"name": "Slate", "kind": "cpu"}))
    records.append(step(NET, 16, 9.0, dtype="float32"))
    records += [step(NET, size, 9.0, "z", device={"name": "Board", "kind": "cuda"}) for size in (16, 20, 24)]
    records += [step(second, size, 9.0, "z", device={"name": "Board", "kind": "cuda"}) for size in (20, 24, 28)]
    untimed = step(NET, 16, 9.0)
    del untimed["probe_flops_per_second"]
    records.append(untimed)
    assert speeds() == expected
    records += [step(NET, size, share, "b") for size in (16, 20, 24) for share in (2, 3, 4)]
    assert speeds() == [3.0, expected[1]]  # the newest commit's
    slate = {"device": {"name": "Slate", "kind": "cpu"}}
    records += [step(NET, size, 0.7, "c", **slate) for size in (16, 20, 24)]
    assert speeds() == [3.0, expected[1]]  # Slate has not timed the second net
    records += [step(second, size, 0.9, "c", **slate) for size in (20, 24, 28)]
    assert speeds() == [0.7, 0.9]


def test_nets_that_differ_in_momentum_alone_are_as_fast(monkeypatch: pytest.MonkeyPatch):
    calm = replace(NET, dials={**NET.dials, "optim.momentum": 0.4})
    records = [run(0.8), {**run(0.8, **{"optim.momentum": 0.4}), "images_per_second": 3000.0}]
    monkeypatch.setattr(scaling, "CANDIDATES", (NET, calm))
    monkeypatch.setattr(scaling, "PUBLISHED", ())
    monkeypatch.setattr(scaling, "recorded", lambda: records)
    assert [rung["speed"] for rung in scaling.fit()["rungs"]] == [4.0, 4.0]  # the median of both nets' runs, 2 and 6
    records += [step(NET, size, 0.5) for size in (16, 20, 24)]
    assert [rung["speed"] for rung in scaling.fit()["rungs"]] == [0.5, 0.5]


def test_a_guess_stands_until_the_net_has_been_measured_at_all_its_lengths(monkeypatch: pytest.MonkeyPatch):
    (large, epochs, accuracy), *_ = scaling.PUBLISHED
    monkeypatch.setattr(scaling, "CANDIDATES", (NET,))
    monkeypatch.setattr(scaling, "PUBLISHED", scaling.PUBLISHED[:1])
    monkeypatch.setattr(scaling, "recorded", lambda: [run(0.8)])
    small, guess = scaling.fit()["rungs"]
    assert (small["measured"], guess["measured"]) == (True, False)
    assert [(point["epochs"], point["accuracy"]) for point in guess["points"]] == [(epochs, accuracy)]
    settings = {name: configs.as_text(value) for name, value in large.dials.items()}
    measured = [run(0.95, steps=large.steps(each), **settings) for each in large.epochs]
    monkeypatch.setattr(scaling, "recorded", lambda: [run(0.8), *measured[:-1]])
    assert scaling.fit()["rungs"][1]["points"] == guess["points"]
    monkeypatch.setattr(scaling, "recorded", lambda: [run(0.8), *measured])
    _, found = scaling.fit()["rungs"]
    assert found["measured"]
    assert [point["accuracy"] for point in found["points"]] == [0.95] * len(large.epochs)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The words of the runs that a command would have made; each is recorded, and scores the more the longer it is."""
    asked: list[list[str]] = []
    records: list[dict[str, Any]] = []

    def run_main_job(words: list[str]) -> dict[str, Any]:
        asked.append(words)
        settings = dict(word.split("=", 1) for word in words if "=" in word)
        steps, seed = int(words[words.index("--steps") + 1]), int(words[words.index("--seed") + 1])
        return {**run(1 - 1 / steps, steps=steps, seed=seed, **settings), "seed": seed}

    monkeypatch.setattr(scaling, "CANDIDATES", scaling.CANDIDATES[:2])
    monkeypatch.setattr(scaling, "PUBLISHED", ())
    monkeypatch.setattr(scaling, "TABLE", tmp_path / "planner.json")
    monkeypatch.setattr(scaling, "run_main_job", run_main_job)
    monkeypatch.setattr(scaling, "recorded", lambda: records)
    monkeypatch.setattr(scaling.results, "add", records.append)
    return asked


def test_one_command_measures_what_is_missing_and_fits(measured: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    first, second = scaling.CANDIDATES
    monkeypatch.setattr(sys, "argv", ["scaling", "--seeds=2"])
    assert scaling.main() == 0
    assert len(measured) == 2 * (len(first.epochs) + len(second.epochs))
    assert scaling.main() == 0
    assert len(measured) == 2 * (len(first.epochs) + len(second.epochs))  # all of it was there
    rungs = json.loads(scaling.TABLE.read_text())["rungs"]
    assert [[point["epochs"] for point in rung["points"]] for rung in rungs] == [
        list(first.epochs),
        list(second.epochs),
    ]
    assert {point["seeds"] for rung in rungs for point in rung["points"]} == {2}


def test_a_net_that_is_not_there_is_not_measured(measured: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["scaling", "--measure", "--only=32/64/63"])
    with pytest.raises(UsageError, match="no net is named '32/64/63'; there are 32/64/64, 32/64/128"):
        scaling.main()
    assert measured == []
