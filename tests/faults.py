"""Runs the command line in a process that torchrun started, and lets its rank 1 fail in its first life.

    python tests/faults.py FAULT ARGUMENTS

Faults, after five steps: kill (at once), late-kill (once there is a checkpoint in the folder of --out, or a job's first
member has its record there), stall, nan (a batch of no numbers, and each takes this rank long), signal (SIGTERM, to
this rank alone), memory (none is left); or before: early-kill (while rank 0 calibrates by itself, in no collective),
images (it has others).
"""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from speedrun import __main__, data, session, stream
from speedrun.clock import Clock
from speedrun.trainee import Trainee
from speedrun.training import Training

STEPS = 5


def fail(fault: str) -> None:
    """What happens once in rank 1."""
    if fault == "kill":
        print(f"killed at {time.monotonic()}", file=sys.stderr, flush=True)  # of one clock for all processes
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "stall":
        time.sleep(600)
    if fault == "signal":
        os.kill(os.getpid(), signal.SIGTERM)
    if fault == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def after_steps(fault: str, out: Path) -> None:
    after = Training._after_step

    def failing(self: Training, report: Any, metrics: Any) -> float:
        if fault == "late-kill":
            if any((out / name).exists() for name in ("checkpoint.pt", "member-01/result.json")):
                fail("kill")
        elif report.step == STEPS:
            fail(fault)
        return after(self, report, metrics)

    Training._after_step = failing  # type: ignore[method-assign]


def spoil_a_batch() -> None:
    made = stream.Stream._made

    def spoilt(self: stream.Stream, *arguments: Any) -> stream.Batch:
        batch = made(self, *arguments)
        time.sleep(0.1)
        if self.batches == STEPS:
            batch.images.fill_(float("nan"))
        return batch

    stream.Stream._made = spoilt  # type: ignore[method-assign]


def calibrate_alone(trainee: Trainee, clock: Clock) -> NoReturn:
    """Rank 0 is busy when the launcher's signal comes, and then some."""
    if os.environ["RANK"] == "1":
        fail("kill")
    time.sleep(600)
    raise AssertionError("nobody has ended this process")


def darker(found: data.Dataset) -> data.Dataset:
    return replace(found, train_images=found.train_images // 2)


def main() -> None:
    fault, out = sys.argv[1], [word.removeprefix("--out=") for word in sys.argv if word.startswith("--out=")]
    del sys.argv[1]
    if fault == "early-kill":
        session.calibrate = calibrate_alone
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        if fault == "nan":
            spoil_a_batch()
        elif fault == "images":
            load = data.load
            data.load = lambda *names, **options: darker(load(*names, **options))
        elif fault != "early-kill":
            after_steps(fault, Path(out[0]))
    __main__.main()


if __name__ == "__main__":
    main()
