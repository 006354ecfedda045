"""Records: what other scripts print is read as it stands; a contest is held in turns, to its end and no further."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from machines import GPU_RECORD, a_record, gpu
from processes import TINY_NET

from benchmarks import contenders, records, results, standings
from benchmarks.children import child
from benchmarks.contenders import Block, Script
from benchmarks.printed import Printed, Run
from speedrun import data, record
from speedrun.errors import UsageError

# The layout of airbench's scripts: a head between dashes, a row an epoch, the run's number in its first row alone.
AIRBENCH = """
--------------------------------------------------------------------------------
|  run     |  epoch  |  train_acc  |  val_acc  |  tta_val_acc  |  time_seconds  |
--------------------------------------------------------------------------------
|  warmup  |      0  |     0.1000  |   0.1000  |               |        1.0000  |
|          |   eval  |     0.1000  |   0.1000  |       0.1000  |       40.0000  |
--------------------------------------------------------------------------------
|       0  |      0  |     0.5000  |   0.6000  |               |        0.3000  |
|          |      1  |     0.9000  |   0.9300  |               |        2.4000  |
|          |   eval  |     0.9000  |   0.9300  |       0.9401  |        2.5900  |
--------------------------------------------------------------------------------
|       1  |      0  |     0.5000  |   0.6000  |               |        0.3000  |
|          |   eval  |     0.9000  |   0.9300  |       0.9399  |        2.6100  |
--------------------------------------------------------------------------------
Mean: 0.9400    Std: 0.0001
"""
# Hiverge's: one row a run, behind a line that ends in a carriage return or not at all.
HIVERGE = """
|  run     |  epoch  |  train_acc  |  val_acc  |  tta_val_acc  |  time_seconds  |
|  warmup  |   eval  |     0.1102  |   0.0972  |       0.0968  |       46.1402  |
|       1  |   eval  |     0.9866  |   0.9317  |       0.9399  |        2.0194  |
Mean accuracy after 1 runs: 0.939900 | Mean time: 2.019359s|       2  |   eval  |   0.9868  | 0.9317 | 0.9403 | 2.0195 |
Accuracies: Mean: 0.940100    Std: 0.000283
"""
LEGACY = """
| run    | epoch | train_loss | train_acc | val_acc | tta_val_acc | total_time_seconds |
|      0 |     0 |     1.2000 |    0.9000 |  0.9300 |             |             1.0000 |
|        |  eval |     1.2000 |    0.9000 |  0.9400 |      0.9501 |            10.4000 |
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (AIRBENCH, [(0.9401, 2.59), (0.9399, 2.61)]),
        (HIVERGE, [(0.9399, 2.0194), (0.9403, 2.0195)]),
        (LEGACY, [(0.9501, 10.4)]),
        ("| no | table |\nall | is | well\n", []),
    ],
)
def test_what_others_print_is_read(text: str, expected: list[tuple[float, float]]):
    found = Printed()
    for line in text.splitlines():
        found.feed(line)
    assert found.runs == expected


# A peer that takes its accuracies from the data that lies beside it and from torch's random numbers.
STUB = """
import time, torch
train, test = (torch.load(f"cifar10/{split}.pt") for split in ("train", "test"))
assert train["images"].dtype == torch.uint8 and train["images"].shape[1:] == (16, 16, 3)
assert train["labels"].dtype == torch.int64 and len(test["classes"]) == 3
print("|  run  |  epoch  |  tta_val_acc  |  time_seconds  |")
print("|  warmup  |  eval  |  0.1  |  9.0  |")
for run in range(SLOW):
    print("|  %d  |  eval  |  %.4f  |  %.4f  |" % (run, 0.9 + 0.05 * torch.rand(()), 9.0 + 0.1 * torch.rand(())))
time.sleep(600)  # it is ended, not waited for
"""


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    path = tmp_path / "stub.py"
    path.write_text(STUB)
    return path


def hold(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["records", *words])
    return records.main()


def test_a_contest_with_a_stub_from_end_to_end(
    stub: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    shared = [f"--dataset={tiny_data}", "--target=0.9", f"--peer={stub}", "--peer-set=SLOW=7", *TINY_NET]
    shared += ["--recipe=speednet-94", "--steps=30"]
    assert hold(monkeypatch, "--runs=2", *shared) == 0
    first = results.recorded()
    name = first[0]["contender"]
    assert name.startswith("speedrun --")
    assert name.endswith("--recipe speednet-94 --steps 30")
    assert str(tiny_data) not in str(first[0]["settings"])
    assert [line["contender"] for line in first] == [name, "stub"]
    assert hold(monkeypatch, "--runs=3", *shared) == 0
    lines = results.recorded()
    assert lines[:2] == first
    assert [(line["contender"], len(line["accuracies"])) for line in lines[2:]] == [(name, 1), ("stub", 1)]
    assert all(record.check(line) == [] for line in lines)
    ours, stubs = ([one for line in lines[place::2] for one in line["accuracies"]] for place in (0, 1))
    assert len(set(stubs)) == 3
    assert min(ours) > 0.9
    assert [line["config"] and line["config"]["seed"] for line in lines] == [0, None, 2, None]
    assert lines[2]["config"]["data_dir"] is None
    assert lines[2]["p"] < 0.05
    shown = capsys.readouterr().out.splitlines()
    assert f"| 90 % | {name} | " in shown[-2]
    assert shown[-2].endswith("| 3 |")
    assert shown[-1].endswith("|  |  | 3 |")  # it is held against the plain one alone
    assert standings.table(lines) == ""  # these images are not CIFAR-10


class Fake:
    """A contender whose blocks take no time. fails: the number of its first block that does."""

    def __init__(self, name: str, fails: int = 99) -> None:
        self.name, self.fails, self.settings = name, fails, {"script": name}
        self.asked: list[tuple[int, int]] = []

    def run(self, runs: int, first: int, seconds: float) -> Block:
        self.asked.append((runs, first))
        log.append(self.name)
        if len(self.asked) > self.fails:
            return Block((), 0.1, problem="ended with 1: no such thing")
        return Block(tuple(Run(0.94 + 1e-4 * (first + one), 2.0 + first) for one in range(runs)), 30.0)


log: list[str] = []


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import torch

    from benchmarks.harness import Session

    log.clear()
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    return Session(torch.device("cpu"))


def contest(session: Any, runs: int, *fakes: Any) -> records.Contest:
    return records.Contest(0.94, runs, "cifar10", fakes, session)


def test_blocks_take_turns_and_every_other_round_is_reversed(session: Any):
    a, b = Fake("speedrun"), Fake("peer")
    contest(session, 5, a, b).hold(2, math.inf)
    assert log == ["speedrun", "peer", "peer", "speedrun", "speedrun", "peer"]
    assert a.asked == b.asked == [(2, 0), (2, 2), (1, 4)]


def test_a_contest_goes_on_where_it_stopped(session: Any):
    contest(session, 3, Fake("speedrun"), Fake("peer")).hold(2, math.inf)
    a, b = Fake("speedrun"), Fake("peer")
    b.settings = {"script": "changed since"}
    contest(session, 4, a, b).hold(2, math.inf)
    assert a.asked == [(1, 3)]
    assert b.asked == [(2, 0), (2, 2)]


def test_a_peer_that_fails_stops_no_other(session: Any, capsys: pytest.CaptureFixture[str]):
    a, b = Fake("speedrun"), Fake("peer", fails=1)
    held = contest(session, 6, a, b)
    held.hold(2, math.inf)
    assert (held.problems, len(b.asked), held.missing(a)) == (1, 2, 0)
    assert "peer: ended with 1: no such thing" in capsys.readouterr().err


def test_no_block_begins_that_would_not_fit(session: Any):
    a = Fake("speedrun")
    contest(session, 50, a).hold(2, time.monotonic() + 10)  # a block takes 30 s
    assert len(a.asked) == 1


# A peer whose first run is quick, and whose second does not end.
SLOW = """
import time
print("|  run  |  epoch  |  tta_val_acc  |  time_seconds  |")
print("|  0  |  eval  |  0.9400  |  2.0  |")
time.sleep(600)
"""


def test_a_block_that_our_own_deadline_ends_is_no_failure(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(contenders.Ours, "run", lambda *_: Block((Run(0.95, 1.0),) * 2, 0.1))
    path = tmp_path / "slow.py"
    path.write_text(SLOW)
    words = [f"--dataset={tiny_data}", "--device=cpu", f"--peer={path}", "--runs=2", "--minutes=0.1"]
    assert hold(monkeypatch, *words) == 0
    assert [(line["contender"], len(line["accuracies"])) for line in results.recorded()] == [
        ("speedrun", 2),
        ("slow", 1),
    ]


def test_a_block_too_short_for_any_run_says_so(tmp_path: Path):
    path = tmp_path / "slow.py"
    path.write_text("import time; time.sleep(600)")
    assert Script(path, {}, 0, tmp_path).run(2, 0, 1.0).problem == "no run ended within 1 s"


def test_a_script_is_copied_with_its_substitutions_and_left_as_it_was(stub: Path, tmp_path: Path):
    script = Script(stub, {"SLOW": "3", "absent": "x"}, 1, tmp_path)
    assert stub.read_text() == STUB
    assert "range(3)" in script.text
    assert script.settings["substitutions"] == {"SLOW": "3"}
    assert script.settings["script"] != Script(stub, {}, 1, tmp_path).settings["script"]


# A peer that has hooks in place of a program, as Fulcrum's E1: the class is the brightest channel, once it is trained.
HOOKED = """
import time, torch
from torch import nn
class Model(nn.Module):
    def eval_forward(self, images):
        assert images.shape[1:] == (3, 16, 16) and not self.training
        return self.sign * images.mean((2, 3))
model = Model()
def setup():
    time.sleep(60)
    model.sign = -1.0
    return model, {"times": 2}
def train(model, extra, ctx):
    ctx.validate(model, step=extra["times"])
    model.sign = 1.0
"""


def test_a_script_with_hooks_is_driven_by_airbenchs_clock(tiny_data: Path, tmp_path: Path):
    path = tmp_path / "e1.py"
    path.write_text(HOOKED)
    contenders.lay_out(data.load(str(tiny_data)), tmp_path)
    made = Script(path, {}, 0, tmp_path).run(2, 0, 60)
    assert made.problem == ""
    assert [run.accuracy for run in made.runs] == [1.0, 1.0]
    assert all(0 < run.seconds < 5 for run in made.runs)  # without its pauses
    path.write_text(f"{HOOKED}\nprint('| tta_val_acc |')")
    assert not Script(path, {}, 0, tmp_path).hooked  # it has a table of its own


@pytest.mark.parametrize(
    ("text", "problem"), [("raise SystemExit('no GPU here')", "ended with 1: no GPU here"), ("", "printed no run")]
)
def test_a_script_that_makes_no_run_says_why(text: str, problem: str, tmp_path: Path):
    path = tmp_path / "broken.py"
    path.write_text(text)
    made = Script(path, {}, 0, tmp_path).run(2, 0, 60)
    assert (made.runs, made.problem) == ((), problem)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--peer-set=x"], "--peer-set takes OLD=NEW, not 'x'"),
        (["--peer-set=x=y"], "--peer-set: no peer has the text 'x'"),
        (["--peer=none.py"], "--peer none.py: No such file or directory"),
        (["--target=94"], "--target lies in (0, 1)"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError) as caught:
        hold(monkeypatch, *words)
    assert str(caught.value).startswith(message)


def test_two_peers_of_one_name_are_refused(tmp_path: Path):
    (tmp_path / "speedrun.py").write_text("")
    with pytest.raises(UsageError, match="two of them are named speedrun"):
        records.peers([tmp_path / "speedrun.py"], {}, 0, tmp_path)


def test_the_table_holds_ours_against_each_peer():
    ours = [a_record(gpu("H"), "speedrun", [0.9405, 0.9411, 0.9409], [1.0, 1.01, 0.99])]
    older = a_record(gpu("H"), "speedrun", [0.5], [9.0], started="2026-01-01T00:00:00Z", config_hash="1" * 12)
    peer = a_record(gpu("H"), "airbench94_muon", [0.9399, 0.9402], [2.0, 2.02])
    rows = standings.table([peer, *ours, older]).splitlines()[2:]
    assert [row.split(" | ")[2] for row in rows] == ["speedrun", "airbench94_muon"]
    assert rows[0].startswith("| H | 94 % | speedrun | 94.083 ± ")
    assert rows[0].endswith("|  |  | 3 |")
    assert " | 0.498x [0.4" in rows[1]
    assert record.check(ours[0]) == []
    assert set(GPU_RECORD) <= set(ours[0])


def test_a_child_that_does_not_end_is_ended(tmp_path: Path):
    program = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', LEAVES]); time.sleep(600)"
    leaves = f"import time; time.sleep(3); open({str(tmp_path / 'alive')!r}, 'w')"
    began = time.monotonic()
    with child([sys.executable, "-c", program.replace("LEAVES", repr(leaves))], seconds=0.5) as process:
        assert process.wait(60) != 0
    assert time.monotonic() - began < 30
    time.sleep(4)
    assert not (tmp_path / "alive").exists()


def test_our_words_lead_to_the_tier_of_a_target_or_to_the_planner():
    assert contenders.Ours(0.94, []).words[:2] == ["--recipe", "speednet-94"]
    assert contenders.Ours(0.935, []).words[:2] == ["--target", "0.935"]
    private = contenders.Ours(0.94, ["--compile", "off"], ["--data-dir", "/secret"])
    assert private.words[-2:] == ["--data-dir", "/secret"]
    assert private.settings["words"] == ["--recipe", "speednet-94", "--compile", "off"]
    assert contenders.Ours(0.94, ["--recipe=mynet"]).words == ["--recipe", "mynet"]


def test_words_that_make_another_training_name_a_contender_of_their_own():
    plain, compiled = contenders.Ours(0.96, []), contenders.Ours(0.96, ["--compile=max-autotune"])
    picking = contenders.Ours(0.96, ["--compile", "default", "--set=select.share=0.5"])
    assert [each.name for each in (plain, compiled, picking)] == [
        "speedrun",
        "speedrun",
        "speedrun --set select.share=0.5",
    ]
    assert plain.settings["code"] == picking.settings["code"]
    assert plain.settings != compiled.settings


def test_the_table_holds_another_training_of_ours_beside_the_plain_one():
    def ours(name: str, seconds: float, code: str = "a" * 12) -> dict[str, Any]:
        settings = {"contender": name, "code": code}
        changes = {"settings": settings, "config_hash": f"{len(name):012}"}
        return a_record(gpu("H"), name, [0.94, 0.95], [seconds, seconds], **changes)

    picking = "speedrun --set select.share=0.5"
    lines = [ours("speedrun", 2.0), ours(picking, 1.0), a_record(gpu("H"), "airbench", [0.94, 0.95], [4.0, 4.0])]
    rows = [row.split(" | ") for row in standings.table(lines).splitlines()[2:]]
    assert [(row[2], row[6].partition("x")[0]) for row in rows] == [
        ("speedrun", ""),
        (picking, "2.000"),
        ("airbench", "0.500"),
    ]
    older = standings.table([lines[0], ours(picking, 1.0, "b" * 12)]).splitlines()[-1]
    assert older.endswith("|  |  | 2 |")  # of other code, it tells nothing of the words
