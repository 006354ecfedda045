"""The budget: when the process started, how long is left, and where the time went. Standard library only.

Everything is in seconds on `time.monotonic`'s scale, which no change of the machine's wall clock moves.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from speedrun import launcher

PHASES = ("start", "data", "build", "compile", "calibrate", "train", "evaluate", "save")


def job_start() -> float:
    """The moment at which the process that stands for the whole job was started, as a value of `time.monotonic`.

    That is torchrun, where it started this process: its own start-up is part of the job, and a job that it starts anew
    goes on with the seconds that are left. What it takes to end, after its processes, is counted in beforehand.
    """
    if launcher.launched():
        return process_start(str(os.getppid())) - launcher.EXIT_SECONDS
    return process_start()


def process_start(process: str = "self") -> float:
    """The moment at which the system started this process, or another, as a value of `time.monotonic`.

    Linux tells it (/proc/self/stat, to a hundredth of a second). Elsewhere the processor time used so far is the
    best lower bound of the process's age.
    """
    now = time.monotonic()
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            # The command's name, in parentheses, may hold spaces; start time is the 20th field after it.
            ticks = int(file.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        age = time.process_time()
    return now - max(age, 0.0)


class Clock:
    """A deadline that only network transfer can move.

    seconds: the budget, or None for none. start: when it began to count.
    """

    def __init__(
        self,
        seconds: float | None,
        *,
        start: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = seconds
        self.now = now
        self.start = now() if start is None else start
        self.fetch_seconds = 0.0

    @property
    def deadline(self) -> float | None:
        """The moment by which the process must have ended, on the scale of `now`."""
        return None if self.seconds is None else self.start + self.seconds + self.fetch_seconds

    def extend(self, fetch_seconds: float) -> None:
        """Move the deadline by the seconds that a network transfer took."""
        self.fetch_seconds += fetch_seconds

    def charge(self, seconds: float) -> None:
        """Count seconds that this run did not spend: a later run of one process pays start-up like the first."""
        self.start -= seconds

    def state(self) -> dict[str, float | None]:
        """What a checkpoint keeps of it."""
        return {"budget": self.seconds, "elapsed": self.elapsed(), "fetch_seconds": self.fetch_seconds}

    def go_on(self, state: Mapping[str, Any], seconds: float | None) -> None:
        """Go on from a `state`: with the time that was left then, or with `seconds` from the start."""
        self.seconds = state["budget"] if seconds is None else seconds + state["elapsed"] - state["fetch_seconds"]
        self.charge(state["elapsed"])
        self.extend(state["fetch_seconds"])

    def elapsed(self) -> float:
        """Seconds since the start, transfers included."""
        return self.now() - self.start

    def remaining(self) -> float:
        """Seconds to the deadline; infinite without one."""
        return float("inf") if self.deadline is None else self.deadline - self.now()


class Ledger:
    """Where the time went. One phase is open at any moment, so the phases add up to the whole by construction."""

    def __init__(self, start: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._now = now
        self._phase = "start"
        self._since = start

    def enter(self, phase: str) -> None:
        """Close the open phase and open `phase`."""
        if phase not in self.seconds:
            raise KeyError(f"no phase {phase!r}")
        now = self._now()
        self.seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now

    def charge(self, phase: str, seconds: float) -> None:
        """Add seconds to a phase that were charged to the clock."""
        self.seconds[phase] += seconds

    def snapshot(self) -> dict[str, float]:
        """Seconds by phase up to this moment."""
        self.enter(self._phase)
        return dict(self.seconds)
