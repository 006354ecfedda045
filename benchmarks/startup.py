"""What comes before the first step: help, imports, reading the data, building the net, compiling it; a record.

    python -m benchmarks.startup [--quick] [--compile MODE] [--no-record]

Each is measured in processes of their own, from outside or by the phases of a run of one step, after one that warms
the caches of files and of decoded images. Compilation is measured with an empty cache and with the one that this left;
`--quick` leaves it out.
"""

import argparse
import dataclasses
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.children import command
from benchmarks.curve import run_main_job
from benchmarks.harness import Session, Timing, report
from speedrun import device as devices
from speedrun.errors import SpeedrunError

ONE_STEP = ("--steps", "1", "--tta", "none", "--dataset", "cifar10")
PHASES = ("start", "data", "build")
TOTAL = "before the first step"


def outside(words: Iterable[str], times: int) -> list[float]:
    """Seconds of a Python process from its start to its end, several times. SpeedrunError where it fails."""
    seconds = []
    for _ in range(1 + times):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        if done.returncode:
            raise SpeedrunError(f"python {' '.join(words)} ended with {done.returncode}")
    return seconds[1:]


def phases(flags: Iterable[str], times: int) -> dict[str, list[float]]:
    """Seconds of the phases before the first step, of several runs of one step, and by `TOTAL` of them together."""
    runs = [run_main_job([*ONE_STEP, "--compile", "off", *flags])["phases"] for _ in range(1 + times)][1:]
    found = {phase: [run[phase] for run in runs] for phase in PHASES}
    return {**found, TOTAL: [sum(run[phase] for phase in PHASES) for run in runs]}


def compiling(mode: str, flags: Iterable[str]) -> dict[str, list[float]]:
    """Seconds of compiling, by what the cache held; nothing where compilation fails, which is told."""
    found: dict[str, list[float]] = defaultdict(list)
    with TemporaryDirectory() as folder:
        caches = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor", "TRITON_CACHE_DIR": f"{folder}/triton"}
        for _ in range(2):
            run = run_main_job([*ONE_STEP, "--compile", mode, *flags], environment=caches)
            if run["warm"]["compile"] is None:
                print(f"--compile {mode} does not work here: python -m speedrun --compile {mode} says why")
                return {}
            found["warm" if run["warm"]["compile"] else "empty"].append(run["phases"]["compile"])
    return found


def row(what: str, caches: str, seconds: list[float]) -> dict[str, Any]:
    """A row of the record."""
    timing = dataclasses.asdict(Timing.of(seconds))
    print(f"{what}, caches {caches}: {timing['median']:.3g} s ({len(seconds)})", flush=True)
    return {"about": {"what": what, "caches": caches}, "seconds": timing, "runs": seconds, "images": None}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three times each, nothing compiled")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", default="default", choices=("default", "max-autotune"))
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    session = Session(devices.choose(options.device).device)
    times, flags = (3 if options.quick else 7), ["--device", options.device]
    rows = [
        row("help", "warm", outside(["-m", "speedrun", "--help"], times)),
        row("import torch", "warm", outside(["-c", "import torch"], times)),
    ]
    rows += [row(what, "warm", seconds) for what, seconds in phases(flags, times).items()]
    failed = 0
    if not options.quick:
        try:
            compiled = compiling(options.compile, flags)
        except SpeedrunError as error:  # what was measured before it is recorded all the same
            print(f"compile {options.compile}: {error}", file=sys.stderr, flush=True)
            compiled, failed = {}, error.exit_code
        rows += [row(f"compile {options.compile}", cache, seconds) for cache, seconds in compiled.items()]
    settings = {"compile": options.compile, "times": times}
    report(session.line("startup", settings, rows=rows), keep=not options.no_record)
    return failed


if __name__ == "__main__":
    sys.exit(command("startup", main))
