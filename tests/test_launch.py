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
from speedrun.run import FETCH_PATIENCE_SECONDS, run_all
from speedrun.session import Session
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


def test_W11_an_exit_that_hangs_is_ended_in_time():
    ended = run(["-c", EXIT, "--seconds=5", "--quiet"], limit=30)
    assert ended.code == -signal.SIGKILL
    assert ended.seconds < 5
