"""Runs for minutes on end under bad conditions, and counts what must not be.

    python -m benchmarks.soak --minutes 30 [--jobs 2] [--keep FOLDER]

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


class Soak:
    """Counts of everything that was tried. `problems` are told as they happen."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.draw = random.Random(seed)
        self.data = stress.small_data(folder / "data.npz")
        (folder / "damage").mkdir()
        self.cases = damage.cases(folder / "damage")
        self.counts: Counter[str] = Counter(runs=0, scant=0, overruns=0, losses=0, damages=0, undetected=0)
        self._number = 0

    def round(self, jobs: int) -> None:
        """One round, `jobs` processes at a time."""
        faults = list(stress.FAULTS)
        works: list[Callable[[], list[Ended]]] = []
        for _ in range(DEADLINES):
            out, number = self._out()
            budget, fault = BUDGETS[number % 3], faults[number % len(faults)]
            works.append(lambda o=out, b=budget, f=fault: [stress.deadline_run(self.data, o, b, f)])  # type: ignore[misc]
        for _ in range(SIGNALS):
            out, _ = self._out()
            end, moment = self.draw.choice(ENDS), self.draw.uniform(0.3, LATEST)
            works.append(lambda o=out, e=end, m=moment: self._end_and_resume(o, e, m))  # type: ignore[misc]
        with ThreadPoolExecutor(jobs) as pool:
            for ended in pool.map(lambda work: work(), works):
                for each in ended:
                    self._count(each)
        for _ in range(DAMAGES):
            seed = self.counts["damages"]
            problem = damage.trial(self.cases[seed % len(self.cases)], seed)
            self.counts["damages"] += 1
            self.counts["undetected"] += bool(problem)
            if problem:
                print(f"damage {seed}: {problem}", flush=True)

    def _end_and_resume(self, out: Path, end: int, moment: float) -> list[Ended]:
        return [stress.signal_run(self.data, out, end, moment), stress.resume_run(out, RESUMED_SECONDS)]

    def _count(self, ended: Ended) -> None:
        if not ended.seconds:
            return
        self.counts["runs"] += 1
        self.counts["overruns"] += ended.overrun
        self.counts["scant"] += ended.scant
        self.counts["losses"] += bool(ended.problems)
        for problem in (*ended.problems, *(["took too long"] if ended.overrun else [])):
            print(f"{ended.what}, {ended.seconds:.2f} s: {problem}", flush=True)

    def _out(self) -> tuple[Path, int]:
        self._number += 1
        return self.folder / f"run-{self._number}", self._number

    def __str__(self) -> str:
        counts = self.counts
        return (
            f"{counts['runs']} runs, {counts['overruns']} overruns, {counts['scant']} refused or stopped, "
            f"{counts['losses']} with something lost or torn; "
            f"{counts['damages']} damaged files, {counts['undetected']} not noticed"
        )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="append no record")
    options = parser.parse_args(argv)
    session = Session(torch.device("cpu"))
    end = time.monotonic() + 60 * options.minutes
    with TemporaryDirectory() as folder:
        soak = Soak(Path(folder), options.seed)
        while time.monotonic() < end:
            soak.round(options.jobs)
            print(soak, flush=True)
    if not options.dry:
        settings = {"minutes": options.minutes, "jobs": options.jobs, "seed": options.seed}
        results.add(session.line("soak", settings, values=dict(soak.counts)))
    return 1 if soak.counts["overruns"] + soak.counts["losses"] + soak.counts["undetected"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
