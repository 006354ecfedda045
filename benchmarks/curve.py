"""Accuracy at N seconds on this machine: runs the main job for several budgets and seeds, each timed from outside.

    python -m benchmarks.curve --seconds 60,600 --seeds 3 [--data-dir DIR]
    python -m benchmarks.curve --table          # only print the table of what is recorded

Each run is a process of its own and is appended to benchmarks/results/<device-slug>.jsonl with the seconds that its
parent measured from start to exit. Nothing else should run on the machine meanwhile.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from speedrun import record, stats
from speedrun.errors import SpeedrunError

RESULTS = Path(__file__).parent / "results"


def run_main_job(flags: Sequence[str]) -> dict[str, Any]:
    """One run of the main job in a process of its own; its record with `outside_seconds`. Raises SpeedrunError."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "speedrun", "--json", "--out", f"{folder}/run", *flags]
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True)
        outside = time.monotonic() - start
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:]
        raise SpeedrunError(f"{' '.join(command)} ended with {done.returncode}: {''.join(last)}")
    # Where the data lay on this machine is nobody's business, and it would tell configs apart that are the same.
    run = json.loads(done.stdout)
    run["config"].update(data_dir=None, out=None)
    return {**run, "outside_seconds": outside}


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a device and budget, means over the seeds of the newest commit that was measured."""
    groups: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
    for run in records:
        if not _counts(run):
            continue
        group = groups[run["device"]["name"], run["budget_seconds"]]
        if group and group[-1]["git"]["sha"] != run["git"]["sha"]:
            group.clear()  # another program: the newest stands
        group.append(run)
    if not groups:
        return ""
    rows = [
        "| device | `--seconds` | accuracy, mean ± deviation | without views | n | longest, from outside |",
        "|---|---|---|---|---|---|",
    ]
    for (name, budget), runs in sorted(groups.items()):
        sample = stats.describe([run["accuracy"] for run in runs])
        deviation = f" ± {100 * sample.deviation:.2f}" if sample.n > 1 else ""
        plain = stats.describe([run["accuracy_plain"] for run in runs]).mean
        longest = max(run.get("outside_seconds", run["wall_seconds"]) for run in runs)
        count = f"{sample.n}, changed tree" if any(run["git"]["dirty"] for run in runs) else str(sample.n)
        cores = runs[0]["device"]["cores"]
        where = f"{name}, {cores} cores" if runs[0]["device"]["kind"] == "cpu" else name
        rows.append(
            f"| {where} | {budget:g} | {100 * sample.mean:.2f}{deviation} % | {100 * plain:.2f} % "
            f"| {count} | {longest:.1f} s |"
        )
    return "\n".join(rows)


def _counts(run: dict[str, Any]) -> bool:
    """Whether a record is of the default job, from a checkout, to its end and on CIFAR-10's test set."""
    return bool(
        run["kind"] == "run"
        and run["status"] == "complete"
        and run["dataset"] == "cifar10"
        and run["split"]["scored"].startswith("test")
        and run["budget_seconds"]
        and run["expected_accuracy"] is not None  # a dial that was set by hand leaves nothing to expect
        and run["git"]
    )


def recorded() -> list[dict[str, Any]]:
    """All sound records of all devices; problems go to stderr."""
    records: list[dict[str, Any]] = []
    for path in sorted(RESULTS.glob("*.jsonl")):
        sound, problems = record.read(path)
        records += sound
        for problem in problems:
            print(problem, file=sys.stderr)
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", default="60,600", help="budgets, separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to this, exclusive")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is recorded")
    options, extra = parser.parse_known_args()
    if not options.table:
        for seconds in map(float, options.seconds.split(",")):
            for seed in range(options.seeds):
                run = run_main_job(["--seconds", f"{seconds:g}", "--seed", str(seed), *extra])
                record.append(RESULTS / f"{record.device_slug(run['device']['name'])}.jsonl", run)
                print(
                    f"{seconds:g} s, seed {seed}: {run['accuracy']:.4f} in {run['outside_seconds']:.2f} s", flush=True
                )
    print(table(recorded()))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpeedrunError as error:
        print(f"curve: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
