"""Checks records against their schema: every fault with its file and line, then what the files hold.

    python -m benchmarks.check [FILE ...]          # by default all of benchmarks/results

Exits with 1 where there is a fault; a line that stands there twice is one, and so is one of our results without its
seal. That a file has records of several data sets is no fault; it is told.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import RESULTS, Numbered, read_numbered
from speedrun import record


def misplaced(path: Path, numbered: Numbered) -> list[str]:
    """A fault for each record that lies in another device's file of our results; elsewhere a file may hold any."""
    if path.resolve().parent != RESULTS.resolve():
        return []
    faults = []
    for line, each in numbered:
        device = each["device"]
        slug = record.device_slug(device["name"]) if device else "unknown"
        if slug != path.stem:
            faults.append(f"{path}:{line}: device.name: a record of {slug} belongs into {slug}.jsonl")
    return faults


def summary(path: Path, numbered: Numbered) -> str:
    """What a file holds in a line: how many of each kind."""
    kinds = Counter(each["kind"] for _, each in numbered)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"{path}: {counts or 'no records'}"


def data_sets(path: Path, numbered: Numbered) -> list[str]:
    """A line that names the data sets of a file's records, where there are several."""
    first: dict[str, int] = {}
    for line, each in numbered:
        if each.get("dataset"):
            first.setdefault(each["dataset"], line)
    found = ", ".join(f"{name} from line {line}" for name, line in first.items())
    return [f"{path}: several data sets, which are not compared with each other: {found}"] if len(first) > 1 else []


def main(argv: Sequence[str]) -> int:
    """The exit code for the files named, or for all of the results."""
    if any(word in ("-h", "--help") for word in argv):
        print(__doc__)
        return 0
    faults = 0
    for path in map(Path, argv or sorted(map(str, RESULTS.glob("*.jsonl")))):
        numbered, problems = read_numbered(path)
        problems += misplaced(path, numbered)
        faults += len(problems)
        for problem in problems:
            print(problem, file=sys.stderr)
        print(summary(path, numbered), *data_sets(path, numbered), sep="\n")
    print(f"{faults or 'no'} fault{'' if faults == 1 else 's'}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
