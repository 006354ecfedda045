"""Child processes that end when they must, with all that they have started. Standard library only."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from speedrun.errors import SpeedrunError

# A run that is asked to end writes its record within this.
GRACE_SECONDS = 10.0


@contextmanager
def child(
    words: Sequence[str],
    *,
    seconds: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdout: int | None = None,
    stderr: int | IO[str] | None = None,
) -> "Iterator[subprocess.Popen[str]]":
    """A process in a group of its own, which is asked to end after `seconds`, and at the latest with the body.

    It has `GRACE_SECONDS` to do so and is killed then. environment: variables besides ours. stdout, stderr: as
    `subprocess.Popen` takes them; text, in which a carriage return ends a line too. OSError where it cannot be started.
    """
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    timer = threading.Timer(min(max(seconds, 0.0), threading.TIMEOUT_MAX), end, [process])
    timer.daemon = True
    timer.start()
    try:
        yield process
    finally:
        timer.cancel()
        end(process)
        if process.stdout is not None:
            process.stdout.close()


def end(process: "subprocess.Popen[str]", grace: float = GRACE_SECONDS) -> None:
    """Ask a process and its group to end; kill what is left of them after `grace` seconds."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))  # its workers outlive it where it is killed
    process.wait()


def command(name: str, main: Callable[[], int]) -> int:
    """Run a command whose children end with it, whatever ends it: its exit code, after one line for an error of ours;
    130 and 143 after a signal."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return main()
    except SpeedrunError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{name}: interrupted; what is recorded stays", file=sys.stderr)
        return 130


def _signal(process: "subprocess.Popen[str]", number: int) -> None:
    with suppress(OSError):  # it has ended
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
