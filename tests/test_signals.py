"""Signals inside a run, their handlers, and a real training that is interrupted."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import TINY_NET, one_line, run, start

from speedrun import record
from speedrun.predictor import load
from speedrun.signals import AGAIN_SECONDS, Interrupted, Signals

pytestmark = pytest.mark.clock

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_while_gentle_a_signal_is_only_noted(number: signal.Signals):
    with Signals() as signals:
        signals.gentle = True
        os.kill(os.getpid(), number)
        assert signals.received == number
        assert signals.exit_code == 128 + number


@BOTH
def test_otherwise_a_signal_raises_what_no_except_exception_swallows(number: signal.Signals):
    def careless() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(1)
        except Exception:
            pytest.fail("swallowed")

    with Signals() as signals, pytest.raises(Interrupted):
        careless()
    assert signals.received == number


class Thing:
    """May be referred to weakly."""


def in_a_callback(number: signal.Signals) -> None:
    thing = Thing()
    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), number))
    del thing
    assert reference() is None


def in_a_finaliser(number: signal.Signals) -> None:
    class Final:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    Final()


@BOTH
@pytest.mark.parametrize("lose", [in_a_callback, in_a_finaliser])
def test_a_signal_whose_exception_is_lost_comes_once_more(
    number: signal.Signals, lose: Callable[[signal.Signals], None], capfd: pytest.CaptureFixture[str]
):
    def wait() -> None:
        lose(number)
        time.sleep(20)
        pytest.fail("lost")

    before = sys.unraisablehook
    with Signals() as signals, pytest.raises(Interrupted):
        wait()
    assert signals.received == number
    assert capfd.readouterr().err == ""
    assert sys.unraisablehook is before


def test_a_lost_signal_does_not_come_once_more_after_its_handler_is_gone():
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with Signals() as signals:
            in_a_callback(signal.SIGTERM)
        time.sleep(3 * AGAIN_SECONDS)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (came, signals.received) == ([], signal.SIGTERM)


def test_a_lost_signal_is_seen_by_a_loop_that_looks_and_not_taken_for_a_second_one():
    with Signals() as signals:
        in_a_callback(signal.SIGTERM)
        signals.gentle = True
        time.sleep(3 * AGAIN_SECONDS)
        assert signals.received == signal.SIGTERM


@BOTH
@pytest.mark.parametrize("gentle", [True, False])
def test_S1_the_second_signal_leaves_at_once(number: signal.Signals, gentle: bool):
    code = f"""
import os, time
from speedrun.signals import Interrupted, Signals
with Signals() as signals:
    signals.gentle = {gentle}
    for _ in range(2):
        try:
            os.kill(os.getpid(), {int(number)})
        except Interrupted:
            pass
        print("still here", flush=True)
"""
    ended = run(["-c", code])
    assert (ended.code, ended.stdout, ended.stderr) == (128 + number, "still here\n", "")


@pytest.mark.parametrize("error", [None, RuntimeError, Interrupted])
def test_S4_handlers_are_restored(error: type[BaseException] | None):
    def own(*_: object) -> None: ...

    before = {number: signal.signal(number, own) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(error) if error else contextlib.nullcontext(), Signals():
            assert signal.getsignal(signal.SIGINT) is not own
            assert signal.getsignal(signal.SIGTERM) is not own
            if error:
                raise error
        assert signal.getsignal(signal.SIGINT) is own
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_thread_that_may_not_handle_signals_handles_none():
    before, entered = signal.getsignal(signal.SIGINT), []

    def body() -> None:
        with Signals() as signals:
            entered.append(signals.received)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert entered == [None]
    assert signal.getsignal(signal.SIGINT) is before


def wait_for(condition, process, limit: float = 60.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, id="S1-SIGINT"),
        pytest.param(signal.SIGTERM, 143, id="S2-SIGTERM"),
    ],
)
def test_S1_S2_an_interrupted_training_leaves_a_valid_model_and_record(
    number: signal.Signals, code: int, tiny_data: Path, tmp_path: Path
):
    out = tmp_path / "out"
    process = start(["-m", "speedrun", "--seconds=90", f"--dataset={tiny_data}", f"--out={out}", "--json", *TINY_NET])
    wait_for(lambda: (out / "metrics.jsonl").exists(), process)  # written while it trains
    sent = time.monotonic()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert time.monotonic() - sent < 10
    assert process.returncode == code
    assert "Traceback" not in stderr

    result = json.loads((out / "result.json").read_text())
    assert result == json.loads(one_line(stdout))
    assert record.check(result) == []
    assert result["status"] == "interrupted"
    assert result["steps"] > 0
    assert result["accuracy"] is None
    assert sum(result["phases"].values()) == pytest.approx(result["wall_seconds"], rel=0.01)
    net = load(out)
    assert all(value.isfinite().all() for value in net.state_dict().values())
    left = ["checkpoint.pt", "config.json", "metrics.jsonl", "model.pt", "result.json"]
    assert sorted(path.name for path in out.iterdir() if path.name != "checkpoint-previous.pt") == left


def test_S3_a_signal_before_training_leaves_a_record_and_no_model(tiny_data: Path, tmp_path: Path):
    out = tmp_path / "out"
    process = start(["-m", "speedrun", "--seconds=90", f"--dataset={tiny_data}", f"--out={out}", "--json", *TINY_NET])
    wait_for(lambda: (out / "config.json").exists(), process)  # the folder is claimed before torch is imported
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in stderr) == (130, False)
    assert json.loads((out / "result.json").read_text()) == json.loads(one_line(stdout))
    assert record.check(json.loads(stdout)) == []
    assert not (out / "model.pt").exists()
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
