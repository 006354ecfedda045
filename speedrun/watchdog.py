"""Ends the process before its deadline, whatever hangs. Standard library only; started before torch is imported.

The guard is a forked child: a thread could not act while an import or a compiler holds the interpreter's lock. The
parent tells it over a pipe when the deadline moves and which record to leave behind. Without fork it is a thread.
"""

import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from speedrun import distributed, files
from speedrun.pressure import Pressure

# Seconds before the deadline at which the process is ended: a few gigabytes take a while to be given back.
MARGIN = 0.4
# No machine trains in so few seconds; the run that says how many it takes needs some time for that.
HOPELESS_SECONDS = 5.0
REFUSAL_SECONDS = 30.0
LAST_SECONDS = 10.0
LONGEST_WAIT = 3600.0  # select takes no arbitrary number


class Watchdog:
    """The parent's handle. `start` it before heavy imports; `stop` it when the run has ended well."""

    def __init__(self, write_end: int | None, timer: "_Timer | None") -> None:
        self._write_end = write_end
        self._timer = timer
        self._sending = threading.Lock()  # the thread that fetches data tells the deadline too

    @classmethod
    def for_budget(cls, start: float, seconds: float) -> "Watchdog":
        """Guard a run of `seconds` from `start`; one that is too short by far gets the time to be refused."""
        return cls.start(start + (REFUSAL_SECONDS if seconds < HOPELESS_SECONDS else seconds))

    @classmethod
    def start(cls, deadline: float) -> "Watchdog":
        """Guard this process until `deadline`, a value of `time.monotonic`."""
        if not hasattr(os, "fork"):
            return cls(None, _Timer(deadline))
        read_end, write_end = os.pipe()
        parent = os.getpid()
        if os.fork() == 0:
            os.close(write_end)
            _guard(read_end, parent, deadline)
        os.close(read_end)
        return cls(write_end, None)

    def extend(self, deadline: float) -> None:
        """Move the deadline: network transfer is not counted."""
        self._send({"deadline": deadline})

    def leave(self, path: Path, record: dict[str, Any], start: float) -> None:
        """What to write to `path` if the process has to be ended; start: when the record's wall seconds began."""
        self._send({"path": str(path), "record": record, "start": start})

    def stop(self) -> None:
        """Stand down."""
        self._send({"stop": True})
        if self._write_end is not None:
            os.close(self._write_end)
            self._write_end = None

    def _send(self, message: dict[str, Any]) -> None:
        if self._timer is not None:
            self._timer.receive(message)
        elif self._write_end is not None:
            with contextlib.suppress(OSError), self._sending:
                os.write(self._write_end, json.dumps(message).encode() + b"\n")


def _leave_record(state: dict[str, Any]) -> str:
    """Write what there is; returns where, as the end of a sentence."""
    if "path" not in state or os.path.exists(state["path"]):
        return ""
    record = {**state["record"], "wall_seconds": time.monotonic() - state["start"]}
    with contextlib.suppress(OSError):
        files.write_json(Path(state["path"]), files.sealed(record))
        return f"; its record is in {state['path']}"
    return ""


def _say(wrote: str) -> None:
    world = distributed.here()
    who = f"rank {world.rank}: " if world.size > 1 else ""
    sys.stderr.write(f"speedrun: {who}the deadline is here and the run has not ended: stopped it{wrote}\n")
    sys.stderr.flush()


def _guard(read_end: int, parent: int, deadline: float) -> None:
    """The child's whole life: whatever happens in it, it never comes back to the parent's code."""
    try:
        _watch(read_end, parent, deadline)
    finally:
        os._exit(0)


def _watch(read_end: int, parent: int, deadline: float) -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what it means.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.close(1)  # a reader of the parent's stdout must not wait for the guard
    state: dict[str, Any] = {"deadline": deadline}
    buffer = b""
    pressure = Pressure(parent)
    while (wait := state["deadline"] - MARGIN - pressure.exit_seconds() - time.monotonic()) > 0:
        # Near the end it looks again and again whether the process would need longer to end.
        wait = wait - LAST_SECONDS if wait > LAST_SECONDS + 1 else min(wait, 1.0)
        if not select.select([read_end], [], [], min(wait, LONGEST_WAIT))[0]:
            continue
        chunk = os.read(read_end, 1 << 16)
        if not chunk:
            return  # the parent has gone
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            state.update(json.loads(line))
        if state.get("stop"):
            return
    if os.getppid() != parent:  # it has gone, though a process it started keeps the pipe open: its number may be reused
        return
    # A stalled disk or a blocked terminal must not put the end off.
    timer = threading.Timer(MARGIN / 2, _kill, (parent,))
    timer.daemon = True
    timer.start()
    wrote = _leave_record(state)
    _kill(parent)
    _say(wrote)


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


class _Timer:
    """The guard as a thread, for systems without fork."""

    def __init__(self, deadline: float) -> None:
        self._state: dict[str, Any] = {"deadline": deadline}
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def receive(self, message: dict[str, Any]) -> None:
        with self._changed:
            self._state.update(message)
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while (wait := self._state["deadline"] - MARGIN - time.monotonic()) > 0:
                self._changed.wait(wait)
                if self._state.get("stop"):
                    return
        _say(_leave_record(self._state))
        os._exit(1)
