"""The watchdog in real processes that hang, end well, or die."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import ROOT, Ended, environment, one_line, run, start

from speedrun import distributed, watchdog
from speedrun.distributed import World

pytestmark = [
    pytest.mark.clock,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the guard is a forked child"),
]

DEADLINE = 1.2  # seconds from the watchdog's start
BEGIN = f"""
import ctypes, os, sys, time
from pathlib import Path
from speedrun.watchdog import Watchdog
began = time.monotonic()
dog = Watchdog.start(began + {DEADLINE})
"""


def run_until_killed(code: str, path: Path) -> Ended:
    return run(["-c", BEGIN + code, str(path)], limit=20)


@pytest.mark.parametrize(
    "hang",
    [
        pytest.param("time.sleep(30)", id="sleeping"),
        pytest.param("ctypes.PyDLL(None).usleep(30_000_000)", id="in-C-code-that-holds-the-interpreters-lock"),
        pytest.param("ctypes.CDLL(None).usleep(30_000_000)", id="in-C-code"),
        pytest.param("while True: pass", id="in-a-loop"),
    ],
)
def test_W11_what_hangs_is_ended_before_its_deadline(hang: str, tmp_path: Path):
    record = tmp_path / "result.json"
    leave = "dog.leave(Path(sys.argv[1]), {'status': 'timeout', 'wall_seconds': 0.0}, began)\n"
    ended = run_until_killed(f"{leave}{hang}", record)
    assert ended.code == -signal.SIGKILL
    assert ended.seconds >= DEADLINE - watchdog.MARGIN
    assert json.loads(record.read_text())["status"] == "timeout"
    assert DEADLINE - watchdog.MARGIN <= json.loads(record.read_text())["wall_seconds"] < DEADLINE
    assert one_line(ended.stderr) == (
        f"speedrun: the deadline is here and the run has not ended: stopped it; its record is in {record}"
    )
    assert not list(tmp_path.glob(".*"))  # written atomically


def test_W11_the_process_is_gone_by_the_deadline():
    code = f"{BEGIN}print(began, flush=True)\ntime.sleep(30)"
    process = start(["-c", code])
    process.wait(timeout=20)
    ended = time.monotonic()
    stdout, stderr = process.communicate()
    assert ended < float(stdout) + DEADLINE
    assert one_line(stderr).startswith("speedrun: the deadline is here")


def test_a_record_that_is_there_already_is_left_alone(tmp_path: Path):
    record = tmp_path / "result.json"
    record.write_text('{"status": "complete"}')
    ended = run_until_killed("dog.leave(Path(sys.argv[1]), {'status': 'timeout'}, began)\ntime.sleep(30)", record)
    assert record.read_text() == '{"status": "complete"}'
    assert "its record" not in one_line(ended.stderr)


def test_a_record_that_cannot_be_written_does_not_save_the_process(tmp_path: Path):
    record = tmp_path / "no such folder" / "result.json"
    ended = run_until_killed("dog.leave(Path(sys.argv[1]), {'status': 'timeout'}, began)\ntime.sleep(30)", record)
    assert ended.code == -signal.SIGKILL
    assert "its record" not in one_line(ended.stderr)


def test_once_stopped_it_lets_the_process_live():
    ended = run(["-c", BEGIN + f"dog.stop()\ntime.sleep({DEADLINE})\nprint('alive')"])
    assert (ended.code, ended.stdout, ended.stderr) == (0, "alive\n", "")


def test_the_deadline_can_be_moved():
    ended = run(["-c", BEGIN + "dog.extend(began + 3.4)\ntime.sleep(1.3)\nprint('alive', flush=True)\ntime.sleep(30)"])
    assert (ended.code, ended.stdout) == (-signal.SIGKILL, "alive\n")
    assert ended.seconds < 6


def test_signals_of_the_group_reach_the_process_and_not_its_guard():
    ended = run(
        [
            "-c",
            "import os, signal\nos.setpgrp()\nfor s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n"
            "    signal.signal(s, lambda *_: None)\n"
            + BEGIN
            + "time.sleep(0.2)\nfor s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): os.killpg(0, s)\n"
            "time.sleep(30)",
        ]
    )
    assert ended.code == -signal.SIGKILL  # the guard was still there to do it


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for the guard in /proc")
@pytest.mark.parametrize("end", ["killed", "exited"])
def test_the_guard_dies_with_its_parent(end: str):
    code = "from speedrun.watchdog import Watchdog\nimport time\ndog = Watchdog.start(time.monotonic() + 60)\n"
    code += "print(flush=True)\n" + ("time.sleep(60)" if end == "killed" else "time.sleep(0.5)")
    process = start(["-c", code])
    assert process.stdout is not None
    process.stdout.readline()
    (guard,) = children(process.pid)
    if end == "killed":
        process.kill()
    assert process.communicate(timeout=10)[1] == ""
    limit = time.monotonic() + 5
    while is_running(guard):
        assert time.monotonic() < limit, "the guard outlives its parent"
        time.sleep(0.02)


def test_a_guard_that_was_orphaned_stays_silent(tmp_path: Path):
    # A process that the parent forked keeps the pipe open: the guard does not hear that the parent has gone, whose
    # number may be another's by the deadline.
    code = BEGIN + "dog.leave(Path(sys.argv[1]), {'status': 'timeout'}, began)\n"
    code += "if os.fork() == 0: time.sleep(3)\nos._exit(0)"
    with (tmp_path / "stderr").open("w") as stderr:
        arguments = [sys.executable, "-c", code, str(tmp_path / "result.json")]
        subprocess.run(arguments, cwd=ROOT, env=environment(), stderr=stderr, check=True, timeout=20)
    time.sleep(DEADLINE)
    assert (tmp_path / "stderr").read_text() == ""
    assert not (tmp_path / "result.json").exists()


def test_a_reader_of_stdout_does_not_wait_for_the_guard():
    code = "from speedrun.watchdog import Watchdog\nimport os, time\nWatchdog.start(time.monotonic() + 60)\n"
    process = start(["-c", code + "os.write(1, b'record'); os.close(1); time.sleep(30)"])
    timer = threading.Timer(10, process.kill)
    timer.start()
    assert process.stdout is not None
    assert process.stdout.read() == "record"
    assert process.poll() is None  # it is the end of the pipe that was seen, not of the process
    timer.cancel()
    process.kill()
    process.communicate()


THREADED = "import os\ndel os.fork\n" + BEGIN


def test_without_fork_a_thread_does_it(tmp_path: Path):
    record = tmp_path / "result.json"
    leave = "dog.leave(Path(sys.argv[1]), {'status': 'timeout'}, began)\n"
    ended = run(["-c", THREADED + leave + "time.sleep(30)", str(record)], limit=20)
    assert ended.code == 1
    assert ended.seconds < 10
    assert json.loads(record.read_text())["status"] == "timeout"
    assert one_line(ended.stderr).startswith("speedrun: the deadline is here")


def test_without_fork_it_can_be_moved_and_stopped():
    moved = run(["-c", THREADED + "dog.extend(began + 60)\ntime.sleep(1.3)\nprint('alive')"])
    stopped = run(["-c", THREADED + "dog.stop()\ntime.sleep(1.3)\nprint('alive')"])
    assert (moved.code, moved.stdout) == (stopped.code, stopped.stdout) == (0, "alive\n")


def test_one_of_several_ranks_says_which_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(distributed, "here", lambda: World(rank=3, size=4))
    watchdog._say("")
    assert one_line(capsys.readouterr().err).startswith("speedrun: rank 3: the deadline is here")
