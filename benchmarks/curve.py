"""Accuracy at N seconds on this machine: runs the main job for several budgets and seeds, each timed from outside.

    python -m benchmarks.curve --seconds 60,600 --seeds 3 [--data-dir DIR]
    python -m benchmarks.curve --target 0.94
    python -m benchmarks.curve --table             # only show what is recorded

Each run is a process of its own and is appended to benchmarks/results/<device-slug>.jsonl with the seconds that its
parent measured from start to exit, and the machine's state before and after it. Nothing else should run on the machine
meanwhile: where something does, it says so. A signal ends the run in hand too.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import results, sensors
from benchmarks.children import child, command
from benchmarks.results import recorded
from speedrun import record, stats
from speedrun.errors import SpeedrunError


def run_main_job(
    words: Sequence[str], out: Path | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """One run of the main job, or of another if that is the first word, in a process of its own.

    Returns its record with `outside_seconds`. out: where its files stay. environment: variables besides ours. Raises
    SpeedrunError.
    """
    with TemporaryDirectory() as folder:
        program = [sys.executable, "-m", "speedrun", *words, "--json", "--out", str(out or f"{folder}/run")]
        start = time.monotonic()
        with child(program, seconds=math.inf, environment=environment, stdout=PIPE, stderr=PIPE) as process:
            stdout, stderr = process.communicate()
        outside = time.monotonic() - start
    if process.returncode != 0:
        last = stderr.strip().splitlines()[-1:]
        raise SpeedrunError(f"{' '.join(program)} ended with {process.returncode}: {''.join(last)}")
    # Where the data lay on this machine is nobody's business, and it would tell configs apart that are the same.
    run = json.loads(stdout)
    run["config"].update(data_dir=None, out=None)
    return {**run, "outside_seconds": outside}


def by_budget(records: Sequence[dict[str, Any]]) -> dict[tuple[str, float], results.Records]:
    """The counted runs by device and budget in seconds, in that order, each of the newest commit that was measured."""
    counted = (run for run in records if counts(run) and target_of(run) is None)
    return results.by_newest_commit(counted, lambda run: (_where(run), run["budget_seconds"]))


def by_target(records: Sequence[dict[str, Any]]) -> dict[tuple[str, float], results.Records]:
    """As `by_budget`, by the accuracy aimed at."""
    counted = (run for run in records if counts(run) and target_of(run) is not None)
    return results.by_newest_commit(counted, lambda run: (_where(run), target_of(run)))


def circumstances(run: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """What a record of a run tells of how it was made: the machine's state, and what its config shares with that of
    another seed."""
    config = {name: value for name, value in run["config"].items() if name != "seed"}
    return {"state": dict(state), "config_hash": results.config_hash(config)}


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a device and budget, means over the seeds of the newest commit that was measured."""
    groups = by_budget(records)
    if not groups:
        return ""
    rows = [
        "| device | `--seconds` | accuracy, mean ± deviation | without views | expected | n | longest, from outside |",
        "|---|---|---|---|---|---|---|",
    ]
    for (where, budget), runs in groups.items():
        plain = stats.describe([run["accuracy_plain"] for run in runs]).mean
        expected = stats.describe([run["expected_accuracy"] for run in runs]).mean
        rows.append(
            f"| {where} | {budget:g} | {_accuracy(runs)} | {100 * plain:.2f} % | {100 * expected:.1f} % "
            f"| {_count(runs)} | {max(map(_seconds, runs)):.1f} s |"
        )
    return "\n".join(rows)


def target_table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a device and target, of the newest commit that was measured."""
    groups = by_target(records)
    if not groups:
        return ""
    rows = [
        "| device | `--target` | accuracy, mean ± deviation | seconds, mean, from outside | reached | n |",
        "|---|---|---|---|---|---|",
    ]
    for (where, target), runs in groups.items():
        reached = sum(run["status"] == "complete" for run in runs)
        seconds = stats.describe(list(map(_seconds, runs))).mean
        rows.append(
            f"| {where} | {target:g} | {_accuracy(runs)} | {seconds:.1f} s | {reached} of {len(runs)} "
            f"| {_count(runs)} |"
        )
    return "\n".join(rows)


def counts(run: dict[str, Any]) -> bool:
    """Whether a record is of the default job, from a checkout, to its end and on CIFAR-10's test set."""
    return bool(
        run["kind"] == "run"
        and run["status"] in record.FINISHED
        and run["dataset"] == "cifar10"
        and run["split"]["scored"].startswith("test")
        and (run["budget_seconds"] or target_of(run))
        and run["expected_accuracy"] is not None  # a dial that was set by hand leaves nothing to expect
        and run["git"]
    )


def _repeats(run: dict[str, Any], flag: str, value: float, seed: int, here: Mapping[str, Any]) -> bool:
    """Whether a record is of this budget or target and seed, on the machine, software and commit of `here`."""
    if not (counts(run) and results.repeatable(here["git"])):
        return False
    aim = target_of(run) if flag == "--target" else None if target_of(run) else run["budget_seconds"]
    same = ("device", "versions", "git")
    return (aim, run["seed"]) == (value, seed) and all(run[name] == here[name] for name in same)


def target_of(run: dict[str, Any]) -> Any:
    """The accuracy that a run aimed at, None if it had none."""
    return run["config"].get("target")


def _seconds(run: dict[str, Any]) -> float:
    return run.get("outside_seconds", run["wall_seconds"])


def _accuracy(runs: Sequence[dict[str, Any]]) -> str:
    sample = stats.describe([run["accuracy"] for run in runs])
    deviation = f" ± {100 * sample.deviation:.2f}" if sample.n > 1 else ""
    return f"{100 * sample.mean:.2f}{deviation} %"


def _count(runs: Sequence[dict[str, Any]]) -> str:
    return f"{len(runs)}, changed tree" if any(run["git"]["dirty"] for run in runs) else str(len(runs))


def _where(run: dict[str, Any]) -> str:
    device = run["device"]
    return f"{device['name']}, {device['cores']} cores" if device["kind"] == "cpu" else device["name"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", metavar="N,N", help="budgets (default 60,600)")
    parser.add_argument("--target", metavar="A,A", help="accuracies to reach, such as 0.94")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to this, exclusive")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--resume", action="store_true", help="leave out what is recorded of this commit here")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is recorded")
    options, extra = parser.parse_known_args()
    aims = [("--target", word) for word in (options.target or "").split(",") if word]
    if options.seconds or not (aims or options.table):
        aims += [("--seconds", word) for word in (options.seconds or "60,600").split(",")]
    failed = _measure(aims, options, extra) if aims else 0
    found = recorded()
    print("\n\n".join(filter(None, (table(found), target_table(found)))))
    return failed


def _measure(aims: Sequence[tuple[str, str]], options: argparse.Namespace, extra: Sequence[str]) -> int:
    """Make and record a run for each aim and seed; the exit code."""
    from speedrun import device as devices  # which imports torch, and a table needs none

    device, about = devices.choose(options.device).device, results.this_device(options.device)
    here = record.envelope("run", about)
    before, failed = recorded() if options.resume else [], 0
    for flag, value in aims:
        for seed in range(options.seeds):
            if any(_repeats(run, flag, float(value), seed, here) for run in before):
                continue
            try:
                with sensors.watched(device, about["cores"]) as state:
                    run = run_main_job([flag, value, "--seed", str(seed), "--device", options.device, *extra])
            except SpeedrunError as error:  # a budget too small for this machine costs the others nothing
                print(f"{flag} {value}, seed {seed}: {error}", file=sys.stderr, flush=True)
                failed = error.exit_code
                continue
            results.add({**run, **circumstances(run, state)})
            print(f"{flag} {value}, seed {seed}: {run['accuracy']:.4f} in {run['outside_seconds']:.2f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(command("curve", main))
