"""The budget, against /proc as seen from outside and against fake clocks."""

import ast
import time
from pathlib import Path

import pytest
from processes import ROOT, environment, one_line, run

from speedrun import clock
from speedrun.clock import PHASES, Clock, Ledger, process_start

pytestmark = pytest.mark.clock


class FakeTime:
    """Seconds that pass when a test says so. Eighths of a second are exact in binary, so sums can be compared."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_the_process_started_when_its_parent_started_it():
    # The child looks at the clock late, as after a slow start of the interpreter.
    code = "import time; time.sleep(0.5); from speedrun.clock import process_start; print(process_start())"
    before = time.monotonic()
    ended = run(["-c", code])
    tick = 0.011
    assert before - tick <= float(one_line(ended.stdout)) <= time.monotonic() - 0.5 + tick


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="only Linux names processes in /proc")
def test_a_name_with_spaces_and_parentheses_does_not_confuse_the_start():
    code = (
        "import speedrun.clock as c; a = c.process_start(); open('/proc/self/comm', 'w').write('a) 1 (b c) 7 8');"
        "print(abs(c.process_start() - a) < 0.02, open('/proc/self/comm').read().strip())"
    )
    assert one_line(run(["-c", code]).stdout) == "True a) 1 (b c) 7 8"


def test_without_proc_the_processor_time_bounds_the_start(monkeypatch: pytest.MonkeyPatch):
    def no_proc(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(clock, "open", no_proc, raising=False)
    before = time.monotonic() - time.process_time()
    assert before - 0.05 <= process_start() <= time.monotonic() - time.process_time() + 0.05


def test_W7_a_jump_of_the_wall_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    budget, ledger = Clock(60.0), Ledger(time.monotonic())
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    assert 59.5 < budget.remaining() <= 60
    assert budget.elapsed() < 0.5
    assert sum(ledger.snapshot().values()) < 0.5
    assert abs(process_start() - process_start()) < 0.02


@pytest.mark.parametrize(
    "name", ["clock", "pacer", "watchdog", "calibrate", "session", "loop", "trainee", "launch", "run"]
)
def test_W7_no_module_of_the_budget_reads_the_wall_clock(name: str):
    tree = ast.parse((ROOT / "speedrun" / f"{name}.py").read_text(encoding="utf-8"))
    read = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not read & {"time.time", "time.time_ns", "datetime.now", "time.CLOCK_REALTIME"}


def test_the_deadline_counts_from_the_start():
    now = FakeTime()
    budget = Clock(60.0, start=990.0, now=now)
    assert (budget.deadline, budget.elapsed(), budget.remaining()) == (1050.0, 10.0, 50.0)
    now.now += 51.0
    assert budget.remaining() == -1.0


def test_W2_only_a_transfer_extends_the_deadline_and_it_is_recorded():
    budget = Clock(60.0, start=1000.0, now=FakeTime())
    budget.extend(7.5)
    budget.extend(0.5)
    assert (budget.deadline, budget.fetch_seconds, budget.seconds) == (1068.0, 8.0, 60.0)


def test_a_charge_takes_from_the_time_left():
    budget = Clock(60.0, start=1000.0, now=FakeTime())
    budget.charge(4.25)
    assert (budget.deadline, budget.elapsed(), budget.remaining()) == (1055.75, 4.25, 55.75)


def test_without_seconds_there_is_no_deadline():
    budget = Clock(None, start=1000.0, now=FakeTime(1004.0))
    assert budget.deadline is None
    assert (budget.remaining(), budget.elapsed()) == (float("inf"), 4.0)


def test_W6_the_phases_add_up_to_the_whole():
    now = FakeTime()
    ledger = Ledger(990.0, now=now)
    for phase in (*PHASES, "train", "evaluate", "train"):
        now.now += 0.125 * (1 + len(phase))
        ledger.enter(phase)
        assert sum(ledger.snapshot().values()) == now.now - 990.0
    now.now += 3.0
    seconds = ledger.snapshot()
    assert sum(seconds.values()) == now.now - 990.0
    assert tuple(seconds) == PHASES


def test_W6_time_belongs_to_the_phase_that_was_open():
    now = FakeTime()
    ledger = Ledger(1000.0, now=now)
    for phase, seconds in (("data", 1.0), ("train", 2.0), ("save", 4.0)):
        now.now += seconds
        ledger.enter(phase)
    now.now += 8.0
    found = ledger.snapshot()
    assert {name: value for name, value in found.items() if value} == {
        "start": 1.0,
        "data": 2.0,
        "train": 4.0,
        "save": 8.0,
    }


def test_W6_what_is_charged_counts_in_clock_and_ledger_alike():
    now = FakeTime()
    budget, ledger = Clock(60.0, start=1000.0, now=now), Ledger(1000.0, now=now)
    for phase, seconds in (("start", 3.0), ("data", 0.5)):
        budget.charge(seconds)
        ledger.charge(phase, seconds)
    now.now += 2.0
    assert sum(ledger.snapshot().values()) == budget.elapsed() == 5.5


def test_a_snapshot_is_a_copy():
    now = FakeTime()
    ledger = Ledger(1000.0, now=now)
    ledger.snapshot()["start"] = 99.0
    assert ledger.snapshot()["start"] == 0.0


def test_an_unknown_phase_is_refused():
    with pytest.raises(KeyError, match="no phase 'tea'"):
        Ledger(0.0).enter("tea")


def test_the_clock_needs_no_heavy_import():
    code = "import sys, speedrun.clock; print(sorted({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    assert one_line(run(["-c", code], env=environment()).stdout) == "[]"
