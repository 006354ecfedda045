"""Runs for minutes on end under bad conditions, and counts what must not be.

    python -m benchmarks.soak --minutes 30 [--jobs 2] [--dry]

Rounds of two runs with a deadline (15, 30 or 60 s, each with another fault), of five that get a signal or are killed at
some moment and are resumed, and of a hundred damaged files, until the minutes are over: half an hour makes more than
20, 50 and 1,000. Prints each problem, then the counts; appends them to benchmarks/results/<device-slug>.jsonl unless
--dry. Exits with 1 where there was a problem.
"""

import argparse
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks import damage, results, stress
from benchmarks.harness import Session
from benchmarks.stress import Ended

BUDGETS = (15.0, 30.0, 60.0)
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
DEADLINES, SIGNALS, DAMAGES = 2, 5, 100  # a round
LATEST = 12.0  # seconds after its start at which a signal is sent
RESUMED_SECONDS = 15.0

Named = list[tuple[str, Ended]]  # runs by what is counted of them


class Soak:
    """Counts of everything that was tried; each problem is told as it happens.

    deadlines, signals, resumed: runs; overruns, losses (something lost or torn), scant (see `stress.Ended`) among
    them. damages: damaged files; undetected: those used as if they were sound, or that ended in a traceback.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.draw = random.Random(seed)
        self.data = stress.small_data(folder / "data.npz")
        (folder / "damage").mkdir()
        self.cases = damage.cases(folder / "damage")
        names = ("deadlines", "signals", "resumed", "overruns", "losses", "scant", "damages", "undetected")
        self.counts: Counter[str] = Counter(dict.fromkeys(names, 0))

    def round(self, jobs: int) -> None:
        """One round, `jobs` processes at a time."""
        works: list[Callable[[], Named]] = []
        faults = list(stress.FAULTS)
        for number in range(self.counts["deadlines"], self.counts["deadlines"] + DEADLINES):
            budget, fault = BUDGETS[number % len(BUDGETS)], faults[number % len(faults)]
            works.append(partial(self._deadline, self.folder / f"deadline-{number}", budget, fault))
        for number in range(self.counts["signals"], self.counts["signals"] + SIGNALS):
            end, moment = self.draw.choice(ENDS), self.draw.uniform(0.3, LATEST)
            works.append(partial(self._end_and_resume, self.folder / f"signal-{number}", end, moment))
        with ThreadPoolExecutor(jobs) as pool:
            for named in pool.map(lambda work: work(), works):
                for name, ended in named:
                    self._count(name, ended)
        for number in range(self.counts["damages"], self.counts["damages"] + DAMAGES):
            problem = damage.trial(self.cases[number % len(self.cases)], 1_000_000 * self.seed + number)
            self.counts["damages"] += 1
            self.counts["undetected"] += bool(problem)
            if problem:
                print(f"damage {number}: {problem}", flush=True)

    @property
    def problems(self) -> int:
        return self.counts["overruns"] + self.counts["losses"] + self.counts["undetected"]

    def _deadline(self, out: Path, budget: float, fault: str) -> Named:
        return [("deadlines", stress.deadline_run(self.data, out, budget, fault))]

    def _end_and_resume(self, out: Path, end: int, moment: float) -> Named:
        ended = stress.signal_run(self.data, out, end, moment)
        resumed = stress.resume_run(out, RESUMED_SECONDS)
        return [("signals", ended), *([] if resumed is None else [("resumed", resumed)])]

    def _count(self, name: str, ended: Ended) -> None:
        self.counts[name] += 1
        self.counts["overruns"] += ended.overrun
        self.counts["scant"] += ended.scant
        self.counts["losses"] += bool(ended.problems)
        for problem in (*ended.problems, *(["took too long"] if ended.overrun else [])):
            print(f"{ended.what}, {ended.seconds:.2f} s: {problem}", flush=True)

    def __str__(self) -> str:
        counts = self.counts
        runs = counts["deadlines"] + counts["signals"] + counts["resumed"]
        return (
            f"{runs} runs ({counts['deadlines']} with a deadline and a fault, {counts['signals']} ended by a signal, "
            f"{counts['resumed']} resumed), {counts['overruns']} overruns, {counts['losses']} losses, "
            f"{counts['scant']} refused or stopped in time; "
            f"{counts['damages']:,} damaged files, {counts['undetected']} undetected"
        )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="append no record")
    options = parser.parse_args(argv)
    session = Session(torch.device("cpu"))
    began = time.monotonic()
    with TemporaryDirectory() as folder:
        soak = Soak(Path(folder), options.seed)
        while not soak.counts["damages"] or time.monotonic() - began < 60 * options.minutes:
            soak.round(options.jobs)
            print(soak, flush=True)
    if not options.dry:
        settings = {"minutes": options.minutes, "jobs": options.jobs, "seed": options.seed}
        values = {**soak.counts, "seconds": time.monotonic() - began}
        results.add(session.line("soak", settings, values=values))
    return 1 if soak.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
