"""What surrounds the training of a run: a transfer, a compiler, an evaluation or an exit for which there is no time."""

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import tiny
from processes import run
from torch import nn

from speedrun import data, screen
from speedrun.clock import Clock, Ledger
from speedrun.distributed import World
from speedrun.launch import FETCH_PATIENCE_SECONDS, Launch
from speedrun.run import run_all
from speedrun.session import Session
from speedrun.signals import Signals
from speedrun.snapshot import Snapshot
from speedrun.transfer import Progress
from speedrun.watchdog import REFUSAL_SECONDS, Watchdog


class Guard:
    """In a watchdog's place: keeps the deadlines that it is told and ends nobody."""

    def __init__(self) -> None:
        self.deadlines: list[float] = []

    def extend(self, deadline: float) -> None:
        self.deadlines.append(deadline)

    def leave(self, path: Path, record: dict[str, Any], start: float) -> None:
        pass


def test_W2_W5_a_transfer_is_outside_the_seconds_and_the_watchdog_knows(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    load, guard = data.load, Guard()

    def fetching(name: str, *, data_dir: Path | None, on_fetch: Callable[[Progress], None]) -> data.Dataset:
        on_fetch(Progress("archive", "https://example.org", 5, 10, 20.0))
        return replace(load(name), fetch_seconds=40.0)

    monkeypatch.setattr(data, "load", fetching)
    start = time.monotonic()
    config = tiny(tiny_data, tmp_path / "out", seconds=5.0, steps=3)
    with screen.make("quiet") as quiet:
        (result,) = run_all(config, start=start - 20, screen=quiet, watchdog=cast(Watchdog, guard))
    assert (result.record["status"], result.record["fetch_seconds"]) == ("complete", 40.0)
    assert result.record["wall_seconds"] > 20  # more than the 5 s: without the transfer's 40 it would have been refused
    assert guard.deadlines[0] == pytest.approx(start - 20 + 5 + REFUSAL_SECONDS + 20 + FETCH_PATIENCE_SECONDS)
    assert guard.deadlines[-1] == pytest.approx(start - 20 + 5 + 40)


class Kept:
    """In the place of a launcher's store; the second rank comes when it has been asked for so often."""

    def __init__(self, asked: int) -> None:
        self.values: dict[str, str] = {}
        self._left = asked

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def add(self, key: str, number: int) -> int:
        self._left -= 1
        return 1 if self._left > 0 else 2


def test_a_rank_that_waits_for_anothers_transfer_keeps_its_watchdog_away(tiny_data: Path, tmp_path: Path):
    guard, world = Guard(), World(size=2)
    world._store = cast(Any, Kept(3))
    config = tiny(tiny_data, tmp_path / "out", seconds=20.0)
    with screen.make("quiet") as quiet:
        launch = Launch(config, quiet, Signals(), cast(Watchdog, guard), Clock(20.0), Ledger(0.0), peers=world)
    world.await_all("data", launch._wait_for_transfer)
    assert guard.deadlines == []  # nobody transfers anything
    world._store = cast(Any, Kept(3))
    world.post("data", "30.0")
    world.await_all("data", launch._wait_for_transfer)
    assert launch.clock.deadline is not None
    assert set(guard.deadlines) == {launch.clock.deadline + 30 + FETCH_PATIENCE_SECONDS}


def test_W5_W9_a_rank_that_is_started_anew_goes_on_by_what_the_first_one_found(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its folder is on the first one's disk alone, and the transfer before is still nobody's."""
    config = tiny(tiny_data, tmp_path / "out", seconds=60.0)
    found = Snapshot(config, {}, {"clock": {"phases": {"start": 4.0, "train": 9.0}}})
    decided = iter([str(tmp_path / "out"), "12.0", found])
    monkeypatch.setattr(World, "decide", lambda self, make: next(decided))
    world, clock = World(rank=1, size=2, restarts=1), Clock(60.0, start=time.monotonic() - 20)
    with screen.make("quiet") as quiet:
        launch = Launch(config, quiet, Signals(), None, clock, Ledger(clock.start), world=world, peers=world)
    launch.take_up()
    assert launch.resumed is found
    assert clock.fetch_seconds == 12.0
    phases = launch.ledger.snapshot()
    assert phases["train"] == 9.0
    assert phases["start"] == pytest.approx(20 - 9.0, abs=1.0)  # 4 s of the first life, and all since its checkpoint


def test_W4_compiling_gets_a_share_of_the_time_and_a_line_says_that_it_was_not_enough(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    limits: list[float] = []

    def slow(net: nn.Module, mode: str, warm_up: object, limit_seconds: float) -> tuple[nn.Module, None, str]:
        limits.append(limit_seconds)
        return net, None, "compilation did not end"

    monkeypatch.setattr("speedrun.compiler.compile_net", slow)
    config = tiny(tiny_data, tmp_path / "out", seconds=40.0, steps=3, compile="default")
    with screen.make("quiet") as quiet:
        (result,) = run_all(config, start=time.monotonic(), screen=quiet)
    assert result.record["status"] == "complete"
    assert [0 < limit < 0.3 * 40 for limit in limits] == [True]
    assert capsys.readouterr().err.count("compilation did not end") == 1


def test_W3_where_no_time_is_left_to_score_the_weights_are_saved_and_the_run_can_go_on(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def late(_: Session) -> None:
        raise TimeoutError

    monkeypatch.setattr(Session, "_score", late)
    with screen.make("quiet") as quiet:
        (result,) = run_all(tiny(tiny_data, tmp_path / "out", steps=3), start=time.monotonic(), screen=quiet)
    assert (result.exit_code, result.record["status"], result.accuracy) == (1, "timeout", None)
    assert {"model.pt", "checkpoint.pt", "result.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert "no time was left to evaluate" in capsys.readouterr().err


EXIT = """
import sys, time
from speedrun import __main__, clock, run
class Stuck:
    def write(self, text): pass
    def flush(self): time.sleep(60)
run.run_all = lambda *_, **__: [run.Result({}, None)]
sys.stdout = Stuck()
began, seconds = clock.process_start(), 5.0
__main__.main()
"""


@pytest.mark.clock
def test_W11_an_exit_that_hangs_is_ended_in_time():
    ended = run(["-c", EXIT, "--seconds=5", "--quiet"], limit=30)
    assert ended.code == -signal.SIGKILL
    assert ended.seconds < 5
