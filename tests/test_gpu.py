"""What a GPU is used for while it is there: what is blank first, nothing that does not fit, nothing after the end."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from machines import SHA, a_record, a_step, gpu, runs
from processes import ROOT

from benchmarks import contenders, kernels, results
from benchmarks import gpu as lease_command
from benchmarks.blanks import PAUSE, Code, Job, jobs
from benchmarks.gpu import Lease
from speedrun import record
from speedrun.errors import SpeedrunError, UsageError

GIT = {"sha": SHA + "1", "dirty": False}
CODE = Code(GIT, "c" * 12)


def lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *lines: dict[str, Any], every: list[Job] | None = None):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    for line in lines:
        results.add(line)
    made = Lease(gpu("H"), "cuda", every or jobs([]), CODE)
    made.look()
    return made


def runnable(made: Lease, left: float) -> list[str]:
    return [step.job.cell for step in made.schedule(left) if step.seconds]


def reasons(made: Lease, left: float) -> dict[str, str]:
    return {step.job.cell: step.reason for step in made.schedule(left)}


def at(seconds: float, *accuracies: float, **changes: Any) -> list[dict[str, Any]]:
    return runs(gpu("H"), *accuracies, budget_seconds=seconds, **changes)


def test_what_is_blank_comes_in_order_of_worth_and_what_does_not_fit_is_passed_by(tmp_path: Path, monkeypatch):
    made = lease(tmp_path, monkeypatch)
    assert runnable(made, 535)[:3] == [
        "time to 94 %, n 10, beside no peer",
        "a step of speednet-96",
        "accuracy at 10 s, n 1",
    ]
    assert reasons(made, 535)["accuracy at 600 s, n 1"] == "blank; needs 610 s, 235 s are left"
    assert runnable(made, 1e6) == [job.cell for job in made.every]
    assert runnable(made, 14) == []


def recorded(contender: contenders.Contender, runs: int, target: float = 0.94, **settings: Any) -> dict[str, Any]:
    """A record of a contest: of ours by CODE, unless `settings` say otherwise."""
    own = {"contender": contender.name, **contender.settings, "threads": None}
    if "code" in own:
        own["code"] = CODE.digest
    values = [0.94] * runs, [2.0] * runs
    return a_record(gpu("H"), contender.name, *values, target=target, settings={**own, **settings})


def ours(*words: str) -> contenders.Ours:
    return contenders.Ours(0.94, ["--compile=default", *words])


def test_what_is_recorded_of_this_device_is_not_blank(tmp_path: Path, monkeypatch):
    other = a_step(gpu("another"), (0.01,), recipe="speednet-96")
    dialled = a_step(gpu("H"), (0.01,), recipe="speednet-96", changed=["model.fused=norm"])
    plain = recorded(ours(), 1)
    made = lease(tmp_path, monkeypatch, plain, other, dialled, *at(600.0, 0.97), *at(60.0, 0.95, git=None))
    found = reasons(made, 1e6)
    assert found["time to 94 %, n 10, beside no peer"] == "filled"
    assert found["accuracy at 600 s, n 1"] == "filled"
    assert found["accuracy at 600 s, n 3"] == "1 of 3 recorded"
    assert found["a step of speednet-96"] == "blank"
    assert found["accuracy at 60 s, n 1"] == "blank"  # the tables do not count it


def test_only_runs_of_this_code_make_a_number_grow(tmp_path: Path, monkeypatch):
    older = at(600.0, 0.97, 0.98, git={"sha": SHA + "2", "dirty": False})
    another = recorded(ours(), 7, code="d" * 12)
    made = lease(tmp_path, monkeypatch, *older, *at(600.0, 0.97), recorded(ours(), 7), another)
    found = {step.job.cell: step for step in made.schedule(1e6)}
    step = found["accuracy at 600 s, n 3"]
    assert step.reason == "1 of 3 recorded"
    assert made.words(step)[-3:] == ["--seeds", "2", "--resume"]
    assert found["time to 94 %, n 200, beside no peer"].reason == "7 of 200 recorded"


def test_a_contest_has_the_runs_of_whoever_has_made_the_fewest(tmp_path: Path, monkeypatch):
    path = tmp_path / "airbench94.py"
    path.write_text(PAUSE)
    peer, as_it_is = (contenders.Script(path, changes, 0, tmp_path) for changes in ({PAUSE: "pass"}, {}))
    pilot, proof = (f"time to 94 %, n {runs}, beside airbench94" for runs in (10, 200))
    made = lease(tmp_path / "results", monkeypatch, recorded(ours(), 10), recorded(as_it_is, 10), every=jobs([path]))
    assert (reasons(made, 1e6)[pilot], reasons(made, 1e6)[proof]) == ("blank", "0 of 200 recorded")
    results.add(recorded(peer, 4))
    made.look()
    assert (reasons(made, 1e6)[pilot], reasons(made, 1e6)[proof]) == ("filled", "4 of 200 recorded")


@pytest.mark.parametrize("words", [["--set=select.share=0.5"], ["--compile=max-autotune"]])
def test_a_training_of_other_words_fills_no_cell_of_the_plain_one(words: list[str], tmp_path: Path, monkeypatch):
    changed = a_step(gpu("H"), (0.01,), recipe="speednet-96", changed=["model.fused=norm"])
    made = lease(tmp_path, monkeypatch, recorded(contenders.Ours(0.94, words), 200), changed)
    found = reasons(made, 1e6)
    assert found["time to 94 %, n 10, beside no peer"] == found["a step of speednet-96"] == "blank"
    assert found["time to 94 %, n 200, beside no peer"] == "0 of 200 recorded"


def test_peers_take_part_at_the_percent_of_their_name(tmp_path: Path):
    paths = [tmp_path / name for name in ("airbench94_muon.py", "airbench96_faster.py", "cifar10_speedrun.py")]
    for path in paths:
        path.write_text(f"{PAUSE}\n" if path.stem == "cifar10_speedrun" else "")
    first = {job.cell: job.command(240, "cuda", 0) for job in jobs(paths)}
    words = first["time to 94 %, n 10, beside airbench94_muon, cifar10_speedrun"]
    assert words[4:7] == ["--peer", str(paths[0]), str(paths[2])]
    assert f"--peer-set={PAUSE}=pass" in words
    assert words[-4:] == ["--device", "cuda", "--minutes", "4.00"]
    assert "--peer-skip=1" in first["time to 96 %, n 10, beside airbench96_faster"]
    assert "--peer" not in first["time to 95 %, n 10, beside no peer"]


def test_augmentations_are_filled_once_the_last_that_is_asked_for_is_recorded():
    found = {job.cell: job for job in jobs([])}
    of = {name: {"kind": "kernel", "settings": {"operation": name}} for name in ("flip + translate", "dsnet")}
    last = {"kind": "kernel", "settings": {"operation": list(kernels.OPERATIONS)[-1]}}
    older = {"kind": "kernel"}
    lines = (older, *of.values(), last, {**last, "kind": "training_kernel"})
    assert [found["augmentation"].counts(line) for line in lines] == [0, 0, 1, 0, 0]
    assert [found["augmentation, all operations"].counts(line) for line in lines] == [0, 0, 0, 1, 0]
    assert "--resume" in found["augmentation"].words


def a_job(cell: str, program: str, seconds: float, **changes: Any) -> Job:
    """A job whose command is `program`, which finds the folder of the results at RESULTS."""
    job = Job(cell, (program,), seconds, lambda line: int(line["kind"] == "step" and line["recipe"] == cell), **changes)
    return job


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs' words are programs of their own, run by `python -c`."""
    found = Lease.words
    monkeypatch.setattr(Lease, "words", lambda self, step: ["-c", found(self, step)[1]])


def test_jobs_run_one_after_the_other_until_the_time_is_over(programs, tmp_path: Path, monkeypatch, capfd):
    line = record.dumps(a_step(gpu("H"), (0.01,), recipe="first"))
    adds = f"open({str(tmp_path / 'h.jsonl')!r}, 'a').write({line + chr(10)!r})"
    every = [a_job("long", "", 1e5), a_job("first", adds, 2), a_job("fails", "raise SystemExit(3)", 2)]
    every.append(a_job("idle", "", 2))
    made = lease(tmp_path, monkeypatch, every=every)
    lease_command.hold(made, time.monotonic() + 300)
    said = [text.split(" (")[0].split(" after")[0] for text in capfd.readouterr().out.splitlines() if text]
    assert said == ["first", "first: ended", "fails", "fails: failed with 3", "idle", "idle: ended"]
    assert made.out == {"fails", "idle"}  # what did not fill its cell is not tried again
    parts = {each["part"]: each for each in results.recorded() if each["kind"] == "suite"}
    assert set(parts) == {"gpu: first", "gpu: idle"}
    assert made.thought(every[3]) == pytest.approx(1.1 * parts["gpu: idle"]["wall_seconds"])


def test_a_record_tells_no_path(tmp_path: Path, monkeypatch, capfd):
    made = lease(tmp_path, monkeypatch, every=[a_job("ours", "", 2)])
    monkeypatch.setattr(Lease, "words", lambda *_: ["-c", "", "--peer", str(tmp_path / "airbench94.py")])
    made.run(next(made.schedule(60)), 60)
    (line,) = results.recorded()
    assert line["command"] == ["-c", "", "--peer", "airbench94.py"]
    assert str(tmp_path) not in record.dumps(line)


def test_of_a_changed_checkout_no_run_counts_as_one_of_this_code():
    (line,) = at(600.0, 0.97)
    assert CODE.made(line)
    for git in (None, {**GIT, "dirty": True}):
        assert not Code(git, CODE.digest).made({**line, "git": git})


def test_a_job_is_ended_where_the_lease_ends(programs, tmp_path: Path, monkeypatch, capfd):
    monkeypatch.setattr(lease_command, "GRACE_SECONDS", 1.0)
    made = lease(tmp_path, monkeypatch, every=[a_job("endless", "import time; time.sleep(600)", 1.5)])
    began = time.monotonic()
    lease_command.hold(made, began + 3)
    assert time.monotonic() - began < 60
    assert "endless: failed with -15" in capfd.readouterr().out


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu", *words])
    return lease_command.main()


def test_a_dry_run_lists_the_jobs_and_their_reasons_anywhere(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(lease_command, "here", lambda device: None)
    assert command(monkeypatch, "--dry-run", "--minutes", "15", "--peer", __file__) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "on a GPU, were there one; records of all GPUs count"
    assert shown[1] == "time to 94 %, n 10, beside test_gpu: runs, 420 s (blank)"
    assert shown[2].startswith("    python -m benchmarks.records --target=0.94 --runs=10 --compile=default --peer ")
    assert not list(tmp_path.iterdir())


def test_a_reader_that_has_seen_enough_of_the_list_is_no_error():
    words = [sys.executable, "-m", "benchmarks.gpu", "--dry-run"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")


def test_without_a_gpu_only_a_dry_run_is_possible(monkeypatch):
    monkeypatch.setattr(lease_command, "here", lambda device: None)
    with pytest.raises(SpeedrunError, match="there is no CUDA device here; --dry-run lists"):
        command(monkeypatch)
    with pytest.raises(UsageError, match=r"--peer none\.py: no such file"):
        command(monkeypatch, "--peer", "none.py")
