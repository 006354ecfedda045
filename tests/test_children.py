"""Commands that have children: what they started ends with them, whatever ends them."""

import os
import signal
import time

import pytest
from processes import one_line, start

# Starts a child that never ends by itself, and tells its number.
PROGRAM = """
import math, sys
from benchmarks.children import child, command

def main():
    with child([sys.executable, "-c", "import time; time.sleep(600)"], seconds=math.inf) as process:
        print(process.pid, flush=True)
        return process.wait()

sys.exit(command("suite", main))
"""


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "suite: interrupted; what is recorded stays"), (signal.SIGTERM, 143, "")],
)
def test_a_command_that_is_ended_by_a_signal_takes_its_child_along(number: signal.Signals, code: int, said: str):
    process = start(["-c", PROGRAM])
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert runs(child)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert (one_line(stderr) if said else stderr) == said
    end = time.monotonic() + 10
    while runs(child) and time.monotonic() < end:  # until the system has noted its end
        time.sleep(0.01)
    assert not runs(child)
