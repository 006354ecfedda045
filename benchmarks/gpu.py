"""A GPU that is there for some minutes, put to use: what is still blank in the README's tables, most worth first.

    python -m benchmarks.gpu --minutes 9 [--dry-run] [--peer PATH ...] [--device cuda:0]

Each job is a command of its own that records as it goes (benchmarks/results/<device-slug>.jsonl). One that is thought
to take longer than is left is passed by, one that takes far longer than it was thought to is ended, and all are ended
in time. Once no cell that fits is blank, those of few runs get more. How long a job took is recorded, and is what it is
thought to take from then on. `--dry-run` lists all of it, on any machine, and runs nothing. Peers are the scripts in
peers/, or those that are named; each takes part in the time to the percent in its name, airbench95 at 95 %, others at
94 %.

Afterwards: python -m benchmarks.scaling --fit && python -m benchmarks.readme && python -m benchmarks.check
"""

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import results
from benchmarks.blanks import Code, Job, Record, jobs
from benchmarks.children import GRACE_SECONDS, child
from benchmarks.contenders import code_digest
from speedrun import record
from speedrun.clock import process_start
from speedrun.errors import SpeedrunError, UsageError

PEERS = Path(__file__).resolve().parent.parent / "peers"
# Seconds in which this process itself must end.
SPARE_SECONDS = 5.0
PART = "gpu: "


class Step(NamedTuple):
    """A job at its turn. seconds: that it may take; 0 where it is passed by. reason: why it is, or why it runs."""

    job: Job
    seconds: float
    reason: str


@dataclass
class Lease:
    """A device for some time. about: its description, None where it is not there. out: cells of jobs that failed."""

    about: dict[str, Any] | None
    device: str
    every: Sequence[Job]
    code: Code
    records: Sequence[Record] = ()
    out: set[str] = field(default_factory=set)

    def look(self) -> None:
        """Read what is recorded by now: of the device by its name, or of all GPUs where it is not there."""
        known = [each for each in results.recorded() if each["device"]]
        if self.about is None:
            self.records = [each for each in known if each["device"]["kind"] == "cuda"]
        else:
            self.records = [each for each in known if each["device"]["name"] == self.about["name"]]

    def schedule(self, left: float) -> Iterator[Step]:
        """Every job in its turn, if each takes what it is thought to take of the `left` seconds."""
        for job in self.every:
            have, needed = job.have(self.records, self.code), self.thought(job)
            about = f"{have} of {job.wanted} recorded" if job.wanted else "blank"
            if have >= (job.wanted or 1):
                yield Step(job, 0.0, "filled")
            elif job.cell in self.out:
                yield Step(job, 0.0, "tried")
            elif needed > left:
                yield Step(job, 0.0, f"{about}; needs {needed:.0f} s, {max(left, 0):.0f} s are left")
            else:
                taken = needed if job.most is None else min(job.most, left)
                left -= taken
                yield Step(job, taken, about)

    def thought(self, job: Job) -> float:
        """Seconds that a job is thought to take: a little more than it ever took here, or its own guess."""
        part = f"{PART}{job.cell}"
        took = [each["wall_seconds"] for each in self.records if each["kind"] == "suite" and each["part"] == part]
        return 1.1 * max(took) if took and job.most is None else job.seconds

    def words(self, step: Step) -> list[str]:
        """What is run at a step, after `python`."""
        own = sum(step.job.counts(each) for each in self.records if self.code.made(each))
        return ["-m", *step.job.command(step.seconds - 2 * GRACE_SECONDS, self.device, own)]

    def run(self, step: Step, left: float) -> None:
        """Run a job to its end or to that of its time, and record how long it took."""
        job, words, before = step.job, self.words(step), step.job.have(self.records, self.code)
        print(f"\n{job.cell} ({step.reason}): python {shlex.join(words)}", flush=True)
        # Twice what was thought is too much: what comes after it has a right to the lease too.
        limit = step.seconds if job.most is not None else 2 * step.seconds
        start = time.monotonic()
        with child([sys.executable, *words], seconds=min(limit, left - GRACE_SECONDS)) as process:
            code = process.wait()
        took = time.monotonic() - start
        print(f"{job.cell}: {'ended' if code == 0 else f'failed with {code}'} after {took:.0f} s", flush=True)
        if code == 0:
            line = record.envelope("suite", self.about, age_seconds=took)
            # Where scripts lie on this machine is nobody's business.
            names = [word if word.startswith("-") else Path(word).name for word in words]
            results.add({**line, "part": PART + job.cell, "quick": False, "command": names, "wall_seconds": took})
        self.look()
        if code or job.have(self.records, self.code) == before:  # again would be no better
            self.out.add(job.cell)

    def listed(self, left: float) -> str:
        """The schedule for a person."""
        lines = []
        for step in self.schedule(left):
            verdict = f"runs, {step.seconds:.0f} s" if step.seconds else "passed by"
            lines.append(f"{step.job.cell}: {verdict} ({step.reason})")
            if step.seconds:
                lines.append(f"    python {shlex.join(self.words(step))}")
        return "\n".join(lines)


def here(device: str) -> dict[str, Any] | None:
    """The CUDA device of this machine, None where it has none."""
    try:
        about = results.this_device(device)
    except SpeedrunError:
        return None
    return about if about["kind"] == "cuda" else None


def hold(lease: Lease, deadline: float) -> None:
    """Run what fits, one job after the other, before `deadline` on the monotonic clock."""
    while True:
        left = deadline - time.monotonic()
        step = next((each for each in lease.schedule(left) if each.seconds), None)
        if step is None:
            return
        lease.run(step, left)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="from the start of this command (default 9)")
    parser.add_argument("--dry-run", action="store_true", help="list what would be run, and why; run nothing")
    parser.add_argument("--peer", type=Path, nargs="+", metavar="PATH", help="scripts (default: those in peers/)")
    parser.add_argument("--device", default="cuda", help="a CUDA device (default cuda)")
    options = parser.parse_args()
    deadline = process_start() + 60 * options.minutes - SPARE_SECONDS
    peers = sorted(PEERS.glob("*.py")) if options.peer is None else options.peer
    if missing := [str(path) for path in peers if not path.is_file()]:
        raise UsageError(f"--peer {missing[0]}: no such file")
    about, git = here(options.device), record.git_state()
    lease = Lease(about, options.device, jobs(peers), Code(git, code_digest()))
    lease.look()
    if options.dry_run:
        print("on " + (about["name"] if about else "a GPU, were there one; records of all GPUs count"))
        print(lease.listed(60 * options.minutes - SPARE_SECONDS), flush=True)
        return 0
    if about is None:
        raise SpeedrunError("there is no CUDA device here; --dry-run lists what would be run on one")
    if git is None:
        print("this is no checkout: the README's tables leave its runs out", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children end with us
    hold(lease, deadline)
    print("\npython -m benchmarks.scaling --fit && python -m benchmarks.readme && python -m benchmarks.check")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpeedrunError as error:
        print(f"gpu: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # whoever reads the list has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
