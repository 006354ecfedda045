"""Ranks that torchrun starts, as others see them: gloo, a thread each, on the CPU."""

import json
import re
import time
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import Paced, colour_classes, read_record
from processes import ROOT, TINY_NET, Ended, ended, environment, one_line, ranks, run, speedrun, torchrun

from speedrun import cli, distributed, metrics
from speedrun.distributed import World
from speedrun.errors import BudgetError, SpeedrunError, UsageError
from speedrun.methods.parallel import deal
from speedrun.run import train

pytestmark = pytest.mark.clock

SETTINGS = (*TINY_NET, "--dtype=float32")
# Everything that a step or a run carries along, and a batch that 4 ranks cannot share evenly.
RICH = (
    "--set=distributed.sync_batch_norm=true",
    "--set=optim.ema=0.8",
    "--set=optim.clip=0.5",
    "--set=augment.mixup=0.5",
    "--set=augment.mix_per=batch",
    "--set=validation.count=3",
)
LAUNCHED = {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def words(tiny_data: Path, out: Path, *more: str) -> list[str]:
    return [f"--dataset={tiny_data}", f"--out={out}", *SETTINGS, *more]


def faulty(fault: str, arguments: list[str], *options: str, limit: float = 90) -> Ended:
    """Two ranks, the second of which fails on purpose; see `faults.py`."""
    began = time.monotonic()
    command = [str(ROOT / "tests" / "faults.py"), fault, *arguments]
    return ended(torchrun(2, command, options=options), began, limit)


def ours(text: str) -> str:
    """The one line among a launcher's own that is the program's."""
    return one_line("\n".join(line for line in text.splitlines() if line.startswith("speedrun: ")))


def test_without_a_launcher_there_is_one_rank():
    assert distributed.read({}) == distributed.read({"WORLD_SIZE": "1", "RANK": "0"}) == World()
    found = distributed.read({**LAUNCHED, "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RESTART_COUNT": "1"})
    assert found == World(rank=2, size=4, local_rank=2, local_size=4, restarts=1)


@pytest.mark.parametrize("changes", [{"RANK": "4"}, {"RANK": ""}, {"WORLD_SIZE": "two"}, {"MASTER_PORT": "http"}])
def test_variables_that_make_no_sense_are_refused(changes: dict[str, str]):
    with pytest.raises(UsageError):
        distributed.read({**LAUNCHED, **changes})


def test_variables_that_make_no_sense_are_one_line_and_exit_2():
    found = speedrun("--dry-run", env=environment(WORLD_SIZE="2", RANK=None))
    assert found.code == 2
    assert "torchrun" in one_line(found.stderr)


def test_one_rank_answers_by_itself():
    world = World()
    assert world.decide(lambda: 7) == 7
    assert world.most(1.0, 2.0) == world.lead(1.0, 2.0) == (1.0, 2.0)
    assert world.gather("all") == ["all"]
    assert list(world.queue(3)) == [0, 1, 2]
    assert world.part(50) == slice(0, 50)


def test_the_parts_of_all_ranks_are_the_whole():
    rows = list(range(50))
    parts = [rows[World(rank=rank, size=4).part(50)] for rank in range(4)]
    assert list(chain(*parts)) == rows
    assert {len(part) for part in parts} == {12, 13}


def test_filters_are_dealt_so_that_no_rank_has_far_more_to_do():
    shapes = ((256, 2304), (256, 576), (64, 576), (256, 2304), (256, 2304), (64, 216))
    owners = deal(shapes, 3)
    assert sorted(owners[position] for position in (0, 3, 4)) == [0, 1, 2]
    assert deal(shapes[:1], 4) == (0,)


def test_an_error_of_a_budget_survives_the_way_to_another_rank():
    import pickle

    error = pickle.loads(pickle.dumps(BudgetError("too few", 3.0)))
    assert (str(error), error.least_seconds) == ("too few", 3.0)


def test_a_process_alone_makes_no_group(tiny_data: Path, tmp_path: Path):
    code = f"""
import sys, time
from speedrun import cli
assert cli.main({words(tiny_data, tmp_path / "out", "--steps=2", "--quiet")!r}, time.monotonic()) == 0
import torch.distributed
print(torch.distributed.is_initialized(), "speedrun.methods.parallel" in sys.modules)
"""
    assert one_line(run(["-c", code]).stdout) == "False False"


@pytest.fixture(scope="module")
def alone(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "out"
    assert speedrun(*words(tiny_data, out, "--steps=20", "--quiet", *RICH)).code == 0
    return out


@pytest.mark.parametrize("count", [2, 4])
def test_R7_ranks_together_train_as_one_alone(count: int, alone: Path, tiny_data: Path, tmp_path: Path):
    """Losses, validation and accuracy: the same order, images, update, averages and statistics."""
    found = ranks(count, *words(tiny_data, tmp_path / "out", "--steps=20", *RICH))
    assert found.code == 0, found.stderr
    assert found.stdout.count("speedrun, complete") == 1  # one rank tells
    ours, theirs = (metrics.read(folder / "metrics.jsonl") for folder in (tmp_path / "out", alone))
    for name in ("loss", "accuracy", "progress", "epoch"):
        assert [line[name] for line in ours] == pytest.approx([line[name] for line in theirs], rel=1e-4), name
    record, single = read_record(tmp_path / "out"), read_record(alone)
    assert record["accuracy_plain"] == pytest.approx(single["accuracy_plain"], abs=0.006)  # one image of 200
    assert _curve(tmp_path / "out") == pytest.approx(_curve(alone), abs=0.02)
    assert (record["world_size"], record["backend"], single["world_size"]) == (count, "gloo", 1)
    assert len(record["rank_images_per_second"]) == count
    assert sum(record["rank_images_per_second"]) > record["images_per_second"]  # their waiting is not counted


def _curve(folder: Path) -> list[float]:
    return [json.loads(line)["accuracy"] for line in (folder / "validation.jsonl").read_text().splitlines()]


def test_W2_ranks_keep_one_deadline(tmp_path: Path, paced: Paced):
    """Counted from the launcher's start; with statistics of each rank's part, and scores of as many images as there is
    time for, which each rank's own clock would say differently."""
    (images, labels), (test_images, test_labels) = colour_classes(9000, seed=0), colour_classes(200, seed=1)
    data = tmp_path / "many.npz"
    np.savez(data, images=images, labels=labels, test_images=test_images, test_labels=test_labels)
    deadline = paced(14)
    found = ranks(2, *words(data, tmp_path / "out", f"--seconds={deadline}", "--set=validation.count=60"))
    assert found.code == 0, found.stderr
    assert found.seconds <= deadline
    record = read_record(tmp_path / "out")
    assert record["status"] == "complete"
    assert deadline - 4 < record["wall_seconds"] <= deadline
    lines = metrics.read(tmp_path / "out" / "metrics.jsonl")
    assert lines[-1]["progress"] == 1.0
    assert record["accuracy"] > 0.9
    assert 57 <= len(_curve(tmp_path / "out")) <= 60  # a long step may go past two places for scores


def test_W1_a_budget_that_is_too_small_is_refused_once(tiny_data: Path, tmp_path: Path):
    found = ranks(2, *words(tiny_data, tmp_path / "out", "--seconds=2"))
    assert "2 s are too few here" in ours(found.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fault", "more", "left"),
    [
        ("kill", ["--steps=100000"], "result.json"),
        ("early-kill", ["--seconds=60"], "result.json"),  # before signals wait for the end of a step
        ("kill", ["--steps=100000", "--runs=2"], "seed-*/result.json"),  # in a training of its own
    ],
)
def test_a_rank_that_dies_ends_the_job_with_one_line_and_whole_files(
    fault: str, more: list[str], left: str, tiny_data: Path, tmp_path: Path
):
    began = time.monotonic()
    found = faulty(fault, words(tiny_data, tmp_path / "out", *more))
    assert found.code == 1
    (killed,) = re.findall(r"killed at ([\d.]+)", found.stderr)
    assert began + found.seconds < float(killed) + 15
    assert ours(found.stderr) == "speedrun: rank 1 is lost: no sign of life for 6 s"
    (record,) = (tmp_path / "out").glob(left)  # who is killed leaves none
    assert read_record(record.parent)["status"] == "failed"
    assert 'Traceback (most recent call last):\n  File "/' not in found.stderr.partition("torch/distributed/run.py")[0]


def test_a_rank_that_stalls_is_named(tiny_data: Path, tmp_path: Path):
    found = faulty("stall", words(tiny_data, tmp_path / "out", "--steps=100000", "--set=distributed.stall_seconds=3"))
    assert ours(found.stderr) == "speedrun: rank 1 is stalled: the others have waited for 3 s"
    assert read_record(tmp_path / "out")["status"] == "failed"


def test_W9_a_job_that_is_started_anew_goes_on_in_the_seconds_left(tiny_data: Path, tmp_path: Path, paced: Paced):
    deadline = paced(30)
    arguments = words(tiny_data, tmp_path / "out", f"--seconds={deadline}")
    found = faulty("late-kill", arguments, "--max-restarts=1")
    assert found.code == 0, found.stderr
    assert found.seconds <= deadline
    record = read_record(tmp_path / "out")
    assert record["status"] == "complete"
    lines = metrics.read(tmp_path / "out" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, record["steps"] + 1))
    phases = record["phases"]
    assert phases["train"] > 2 > phases["calibrate"]  # that of the first life too
    assert sum(phases.values()) == pytest.approx(record["wall_seconds"])
    pause = max(after["seconds"] - before["seconds"] for before, after in pairwise(lines))
    assert pause > 1  # it did stop in between


def test_N1_a_batch_that_is_not_finite_on_one_rank_is_left_out_on_all(tiny_data: Path, tmp_path: Path):
    found = faulty("nan", words(tiny_data, tmp_path / "out", "--steps=20", "--compile=captured"))
    assert found.code == 0, found.stderr
    assert "a step on several devices is not captured: going on in eager mode" in found.stdout
    losses = [line["loss"] for line in metrics.read(tmp_path / "out" / "metrics.jsonl")]
    assert [step for step, loss in enumerate(losses, 1) if loss is None] == [5]
    assert "1 batches were left out" in found.stdout
    first, slow = read_record(tmp_path / "out")["rank_images_per_second"]
    assert first > 1.5 * slow


def test_S2_a_signal_to_one_rank_ends_all_of_them_well(tiny_data: Path, tmp_path: Path):
    faulty("signal", words(tiny_data, tmp_path / "out", "--steps=20"))
    record = read_record(tmp_path / "out")
    assert record["status"] == "interrupted"
    assert record["steps"] in (5, 6)  # all take the step that one of them is in
    resumed = ranks(2, "--resume", tmp_path / "out")
    assert resumed.code == 0, resumed.stderr
    record = read_record(tmp_path / "out")
    assert (record["status"], record["steps"], record["world_size"]) == ("complete", 20, 2)
    assert [line["step"] for line in metrics.read(tmp_path / "out" / "metrics.jsonl")] == list(range(1, 21))


@pytest.mark.parametrize(
    ("fault", "job", "line"),
    [
        ("memory", [], "speedrun: rank 1: out of memory"),
        ("images", ["ensemble"], "speedrun: rank 1 has other training images than rank 0"),
    ],
)
def test_what_one_rank_cannot_do_is_told_once(fault: str, job: list[str], line: str, tiny_data: Path, tmp_path: Path):
    found = faulty(fault, [*job, *words(tiny_data, tmp_path / "out", "--steps=100000")])
    assert found.code == 1
    assert ours(found.stderr).startswith(line)


def test_what_ranks_do_not_share_is_done_once():
    found = ranks(2, "recipes")
    assert found.code == 0, found.stderr
    assert found.stdout == speedrun("recipes").stdout


def test_a_step_on_several_devices_is_not_captured(tiny_data: Path, tmp_path: Path):
    found = ranks(2, *words(tiny_data, tmp_path / "out", "--steps=2", "--compile=captured"))
    assert found.code == 0, found.stderr
    assert "a step on several devices is not captured: going on in eager mode" in found.stdout


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_job_of_several_machines_that_is_started_anew_is_refused(restarts: int, monkeypatch: pytest.MonkeyPatch):
    """Whichever machine's launcher counted it."""
    from torch.distributed import TCPStore

    kept = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    kept.set("0/sign/0", "12 3")
    for name, value in (("USE_AGENT_STORE", "True"), ("RESTART_COUNT", str(restarts))):
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(kept.port))
    world = World(size=2, local_size=1, restarts=restarts)
    with pytest.raises(SpeedrunError, match="a job on several machines does not go on when"):
        world.join()
    assert world.tells("", 1)  # the first rank alone


def test_many_trainings_do_not_go_on_when_they_are_started_anew():
    World(size=2).refuse_restart("a job")
    with pytest.raises(SpeedrunError, match="a job does not go on when the launcher starts it anew"):
        World(size=2, restarts=1).refuse_restart("a job")


@pytest.mark.parametrize("command", [[], ["ensemble"]])
def test_one_rank_helps(command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(distributed, "here", lambda: World(rank=1, size=2))
    assert cli.main([*command, "--help"], time.monotonic()) == 0
    assert capsys.readouterr().out == ""


def test_what_any_rank_tells_is_told_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(World, "gather", lambda self, own: [own, ["slow", "old"], ["new", "old"], ["new"]])
    assert World(size=4).heard(["slow"]) == ["slow", "ranks 1, 2: old", "ranks 2, 3: new"]
    assert World(size=4).first_apart(["slow"]) == 1


def test_a_process_trains_once_under_a_launcher(monkeypatch: pytest.MonkeyPatch):
    world = World(size=2)
    world._store = cast(Any, object())
    monkeypatch.setattr(distributed, "here", lambda: world)
    with pytest.raises(UsageError, match="a process trains once"):
        train()


CHILD = "from speedrun.launcher import threads_given; print(threads_given())"
PARENT = (
    f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], env={{{{**os.environ, **{{}}}}}})"
)


@pytest.mark.parametrize("given", [None, "1"])
def test_threads_that_only_the_launcher_chose_are_not_taken_for_a_wish(given: str | None):
    """What torchrun does where nobody has set the variable, of which a rank sees the same either way."""
    variables = {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}
    started = PARENT.format(variables)
    assert one_line(run(["-c", started], env=environment(OMP_NUM_THREADS=given)).stdout) == str(given is not None)
