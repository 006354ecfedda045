"""Jobs of many trainings under torchrun: each rank takes whole ones, and the first tells what came of all."""

import json
import time
from pathlib import Path

import pytest
from conftest import Paced, read_record
from processes import ROOT, TINY_NET, ended, ranks, torchrun

from speedrun import cli, predictor

pytestmark = pytest.mark.clock

SETTINGS = (*TINY_NET, "--dtype=float32")
LATE = 0.5  # seconds that a rank may begin after the other, on a slow machine: that much less of the round is its own


def test_R6_members_are_the_same_whoever_trains_them(tiny_data: Path, tmp_path: Path):
    """Three on two ranks, so that one of them gets two."""
    words = ["ensemble", f"--dataset={tiny_data}", *SETTINGS, "--members=3", "--steps=30", "--seed=5"]
    found = ranks(2, *words, f"--out={tmp_path / 'two'}", "--json")
    assert found.code == 0, found.stderr
    assert cli.main([*words, f"--out={tmp_path / 'one'}", "--quiet"], time.monotonic()) == 0
    two, one = read_record(tmp_path / "two"), read_record(tmp_path / "one")
    assert json.loads(found.stdout) == two  # once
    assert (two["world_size"], two["backend"], one["world_size"], "backend" in one) == (2, "gloo", 1, False)
    for name in ("name", "seed", "loss", "accuracy", "status"):
        assert [trial[name] for trial in two["trials"]] == [trial[name] for trial in one["trials"]]
    assert two["by_members"] == one["by_members"]
    assert len(predictor.load_members(tmp_path / "two")) == 3


def test_W10_members_share_the_seconds_of_two_ranks(tiny_data: Path, tmp_path: Path, paced: Paced):
    """Three, in two rounds of equal length."""
    deadline = paced(18)
    words = [
        "ensemble",
        f"--dataset={tiny_data}",
        f"--out={tmp_path / 'out'}",
        *SETTINGS,
        "--members=3",
        f"--seconds={deadline}",
    ]
    found = ranks(2, *words)
    assert found.code == 0, found.stderr
    assert found.seconds <= deadline
    record = read_record(tmp_path / "out")
    assert [trial["status"] for trial in record["trials"]] == ["complete"] * 3
    given = _seconds_given(tmp_path / "out", record)
    assert given == pytest.approx([given[0]] * 3, abs=LATE)
    assert sum(trial["wall_seconds"] for trial in record["trials"]) > record["phases"]["train"]  # at the same time


def test_W2_runs_are_dealt_out_and_told_together(tiny_data: Path, tmp_path: Path, paced: Paced):
    """Two rounds: the rank that has no run in the last one waits longer than its own run's seconds."""
    deadline = paced(13)
    chosen = (*SETTINGS, "--runs=3", f"--seconds={deadline}", "--seed=4")
    words = [f"--dataset={tiny_data}", f"--out={tmp_path / 'out'}", *chosen]
    found = ranks(2, *words)
    assert found.code == 0, found.stderr
    assert found.seconds <= 2 * deadline
    assert "all runs" in found.stdout
    records = [read_record(tmp_path / "out" / f"seed-{seed}") for seed in (4, 5, 6)]
    assert [(each["status"], each["world_size"]) for each in records] == [("complete", 1)] * 3


@pytest.mark.parametrize("more", [["--rounds=2"], ["--halving"]])
def test_a_search_on_two_ranks_finds_what_one_finds(more: list[str], tiny_data: Path, tmp_path: Path):
    words = ["search", f"--dataset={tiny_data}", *SETTINGS, "--space=optim.lr=log:0.01..0.1", "--trials=4", "--steps=6"]
    found = ranks(2, *words, *more, f"--out={tmp_path / 'two'}")
    assert found.code == 0, found.stderr
    assert cli.main([*words, *more, f"--out={tmp_path / 'one'}", "--quiet"], time.monotonic()) == 0
    two, one = read_record(tmp_path / "two"), read_record(tmp_path / "one")
    assert sorted(_tried(two)) == sorted(_tried(one))
    assert two["best"] == one["best"]
    assert len((tmp_path / "two" / "trials.jsonl").read_text().splitlines()) == len(one["trials"])


def _tried(record: dict) -> list[tuple]:
    return [(trial["name"], str(trial["changes"]), trial["accuracy"]) for trial in record["trials"]]


def test_the_rows_of_an_ablation_on_two_ranks_have_equal_seconds(tiny_data: Path, tmp_path: Path, paced: Paced):
    words = ["ablate", f"--dataset={tiny_data}", f"--out={tmp_path / 'out'}", *SETTINGS, f"--seconds={paced(16)}"]
    found = ranks(2, *words, "--vary=augment.flip=none,random")
    assert found.code == 0, found.stderr
    record = read_record(tmp_path / "out")
    assert [row["runs"] for row in record["rows"]] == [1, 1, 1]
    given = _seconds_given(tmp_path / "out", record)
    assert given == pytest.approx([given[0]] * 3, abs=LATE)


def _seconds_given(out: Path, record: dict) -> list[float]:
    """The budget of each training of a job."""
    return [read_record(out / trial["name"])["budget_seconds"] for trial in record["trials"]]


def test_a_rank_that_dies_leaves_the_record_of_what_the_first_has_trained(tiny_data: Path, tmp_path: Path):
    began = time.monotonic()
    words = ["ensemble", f"--dataset={tiny_data}", f"--out={tmp_path / 'out'}", *SETTINGS, "--members=40", "--steps=30"]
    found = ended(torchrun(2, [str(ROOT / "tests" / "faults.py"), "late-kill", *words]), began)
    assert found.seconds < 40
    assert "speedrun: rank 1 is lost" in found.stderr
    record = read_record(tmp_path / "out")
    assert record["status"] == "failed"
    # The launcher has asked the first rank to end in the middle of one.
    assert {trial["status"] for trial in record["trials"]} <= {"complete", "interrupted"}
