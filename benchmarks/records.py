"""Who reaches an accuracy first: this program and others' own scripts, in turns on one machine, by airbench's clock.

    python -m benchmarks.records --target 0.94 --runs 200 [--peer PATH ...] [--peer-set OLD=NEW ...] [--minutes M]
    python -m benchmarks.records --table           # only show what is recorded

Runs are made in blocks, a process each, one contender after the other and every other round in reverse, and are
appended to benchmarks/results/<device-slug>.jsonl. What is recorded of the same code and settings on this machine
counts: a call goes on until each contender has `--runs`, or the minutes are over. Words of the main job change ours:
`--compile max-autotune` how it is run; others, such as `--set select.share=0.5`, make a contender of their own, which
stands in the table beside the plain one.

A peer is a script that prints the table of airbench or of Hiverge (`benchmarks.printed`), or that has the hooks of
Fulcrum's E1 (`benchmarks.hooked`). A copy of it runs in a folder of its own, CIFAR-10 beside it, and is ended after its
block; one that sets a seed would repeat itself in every block.
`--peer-set` replaces text in it: `--peer-set 'torch.cuda._sleep(int(6000000000))=pass'` takes away the pause in which
Hiverge's lets the chip cool; `--peer-skip 1` leaves out the first run of a script without a warm-up, which compiles.
"""

import argparse
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import results
from benchmarks.contenders import Contender, Ours, Script, lay_out
from benchmarks.harness import Session, config_hash
from benchmarks.results import recorded
from benchmarks.standings import OURS, table
from speedrun import data, record, stats
from speedrun import device as devices
from speedrun.errors import SpeedrunError, UsageError

BLOCK = 10
BLOCK_MARGIN = 1.1  # times what its last block took that must be left for a contender to begin one


class Contest:
    """A target, who aims at it, and what is recorded of each here. runs: wanted of each."""

    def __init__(self, target: float, runs: int, dataset: str, contenders: Sequence[Contender], session: Session):
        self.target, self.runs, self.dataset, self.session = target, runs, dataset, session
        self.contenders = list(contenders)
        known = [line for line in recorded() if line["kind"] == "record"]
        self.accuracies = {
            each.name: [one for line in known if self._counts(line, each) for one in line["accuracies"]]
            for each in contenders
        }
        self.took: dict[str, float] = {}  # seconds of the newest block
        self.problems = 0

    def settings(self, contender: Contender) -> dict[str, Any]:
        """What must be equal for runs to be counted together."""
        about = {"contender": contender.name, "target": self.target, "dataset": self.dataset}
        return {**about, **contender.settings}

    def _counts(self, line: dict[str, Any], contender: Contender) -> bool:
        same = {**self.settings(contender), "threads": line["settings"].get("threads")}
        here = self.session.about, record.versions()
        return line["config_hash"] == config_hash(same) and (line["device"], line["versions"]) == here

    def missing(self, contender: Contender) -> int:
        """Runs that a contender has still to make."""
        return max(0, self.runs - len(self.accuracies[contender.name]))

    def hold(self, block: int, deadline: float) -> None:
        """Rounds of blocks until all runs are made, or no block fits before `deadline` on the monotonic clock."""
        order = list(self.contenders)
        while behind := [each for each in order if self.missing(each)]:
            for contender in behind:
                left = deadline - time.monotonic()
                if left < BLOCK_MARGIN * self.took.get(contender.name, 1.0):
                    return
                if not self._block(contender, min(block, self.missing(contender)), left):
                    order.remove(contender)
            order.reverse()

    def _block(self, contender: Contender, runs: int, seconds: float) -> bool:
        """Make and record a block; False where it made no run at all."""
        accuracies = self.accuracies[contender.name]
        made = contender.run(runs, len(accuracies), seconds)
        if made.problem:
            self.problems += 1
            print(f"{contender.name}: {made.problem}", file=sys.stderr, flush=True)
        if not made.runs:
            return False
        self.took[contender.name] = made.outside
        accuracies += [run.accuracy for run in made.runs]
        p = stats.exceeds(accuracies, self.target).p
        fields = {
            "contender": contender.name,
            "target": self.target,
            "dataset": self.dataset,
            "accuracies": [run.accuracy for run in made.runs],
            "seconds": [run.seconds for run in made.runs],
            "p": None if math.isnan(p) else p,
            "config": made.config,
        }
        results.add(self.session.line("record", self.settings(contender), **fields))
        means = (sum(column) / len(made.runs) for column in zip(*made.runs, strict=True))
        accuracy, mean_seconds = means
        counted = f"{len(accuracies)} of {self.runs}"
        print(f"{contender.name}: {accuracy:.4f} in {mean_seconds:.3f} s, {counted}", flush=True)
        return True


def substitutions(words: Sequence[str]) -> dict[str, str]:
    """Texts by what they replace, of words OLD=NEW, which are cut at their first equals sign. Raises UsageError."""
    found = {}
    for word in words:
        old, equals, new = word.partition("=")
        if not (old and equals):
            raise UsageError(f"--peer-set takes OLD=NEW, not {word!r}")
        found[old] = new
    return found


def peers(paths: Sequence[Path], changes: dict[str, str], skipped: int, folder: Path) -> list[Script]:
    """The scripts that take part. Raises UsageError where two have one name, and for a change that changes nothing."""
    scripts = [Script(path, changes, skipped, folder) for path in paths]
    names = [OURS, *(script.name for script in scripts)]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"--peer: two of them are named {', '.join(sorted(doubled))}")
    if unused := changes.keys() - {old for script in scripts for old in script.used}:
        raise UsageError(f"--peer-set: no peer has the text {', '.join(map(repr, sorted(unused)))}")
    return scripts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--target", type=float, default=0.94, help="accuracy to reach (default 0.94)")
    parser.add_argument("--runs", type=int, default=10, help="wanted of each, those recorded included (default 10)")
    parser.add_argument("--peer", type=Path, nargs="+", action="extend", default=[], metavar="PATH", help="scripts")
    parser.add_argument("--peer-set", action="append", default=[], metavar="OLD=NEW", help="text to replace in them")
    parser.add_argument("--peer-skip", type=int, default=0, metavar="N", help="first runs of a process, left out")
    parser.add_argument("--block", type=int, default=BLOCK, help=f"runs of a process (default {BLOCK})")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after these")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dataset", default="cifar10", help="cifar10, or a .npz file to try this out")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder that holds the data set")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is recorded")
    return parser


def main() -> int:
    deadline = time.monotonic()
    options, extra = _parser().parse_known_args()
    deadline += 60 * options.minutes
    if options.table:
        print(table(recorded()))
        return 0
    if not 0 < options.target < 1 or min(options.runs, options.block) < 1 or options.peer_skip < 0:
        raise UsageError("--target lies in (0, 1); --runs and --block are at least 1, --peer-skip at least 0")
    changes = substitutions(options.peer_set)
    place = ["--dataset", options.dataset, "--device", options.device]
    if options.data_dir is not None:
        place += ["--data-dir", str(options.data_dir)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children end with us
    with TemporaryDirectory() as folder:
        scripts = peers(options.peer, changes, options.peer_skip, Path(folder))
        dataset = data.load(options.dataset, data_dir=options.data_dir)
        if scripts:
            lay_out(dataset, Path(folder))
        session = Session(devices.choose(options.device).device)
        contenders: list[Contender] = [Ours(options.target, extra, place), *scripts]
        contest = Contest(options.target, options.runs, dataset.name, contenders, session)
        contest.hold(options.block, deadline)
    print(table(recorded(), others=dataset.name != "cifar10"))
    return 1 if contest.problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpeedrunError as error:
        print(f"records: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
