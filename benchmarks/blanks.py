"""What the README's tables can hold of a GPU, in order of worth, and how much of it is recorded. Standard library only.

The order is that of the project's aims: the time to 94 % beside others' scripts, the accuracy of ten minutes, the share
of the peak that the 96 % step makes, the times to 95 and 96 %, then the rest of the curve, the operations, the systems.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import curve, results, systems
from benchmarks.standings import OURS

Record = dict[str, Any]


@dataclass(frozen=True)
class Code:
    """What the runs of this code share: git, as their records have it, and the digest of `benchmarks.contenders`."""

    git: Any
    digest: str

    def made(self, record: Record) -> bool:
        """Whether a record is of this code."""
        if record["kind"] == "record":
            return record["settings"].get("code") == self.digest
        return results.repeatable(self.git) and record["git"] == self.git


# Hiverge's script lets the chip cool before each run, which is no part of its clock and shares no lease well.
PAUSE = "torch.cuda._sleep(int(6000000000))"
# Runs of each contender that tell who is fastest, and those that prove it, by target.
PILOT, PROOF = 10, {94: 200, 95: 20, 96: 20}


@dataclass(frozen=True)
class Job:
    """A command that fills a cell.

    seconds: what it is thought to take, compilation included; nobody has timed it on a GPU yet. counts: how many
    runs a record of the device has for the cell. wanted: runs of this code that the cell needs; None where any run of
    any code will do. most: seconds that it can use, of a command that is told its minutes; it then needs `seconds` at
    least. numbered: whether each command makes one more run, from the next seed.
    """

    cell: str
    words: tuple[str, ...]
    seconds: float
    counts: Callable[[Record], int]
    wanted: int | None = None
    most: float | None = None
    numbered: bool = False

    def have(self, records: Sequence[Record], code: Code) -> int:
        """Runs that are recorded: of this code, where a number of them is wanted."""
        return sum(self.counts(each) for each in records if self.wanted is None or code.made(each))

    def command(self, seconds: float, device: str, own: int) -> list[str]:
        """The words after `python -m`, of one that may take `seconds`, `own` runs being recorded of this code."""
        words = [*self.words, "--device", device]
        if self.numbered:
            words += ["--seeds", str(own + 1), "--resume"]
        if self.most is not None:
            words += ["--minutes", f"{min(self.most, seconds) / 60:.2f}"]
        return words


def jobs(peers: Sequence[Path]) -> list[Job]:
    """All of them, first those for what is blank. peers: scripts; one takes part at the percent that its name holds, or
    at 94."""
    return [
        _contest(94, None, peers),
        _accuracy(600),
        _step("speednet-96"),
        _accuracy(60),
        _contest(95, None, peers),
        _contest(96, None, peers),
        *(_accuracy(seconds) for seconds in (10, 5, 30, 120, 300)),
        Job("kernels of training", ("benchmarks.training_kernels",), 200, _of_kind("training_kernel")),
        _augmentation("augmentation", "dsnet"),
        *(_step(recipe) for recipe in ("speednet", "speednet-94", "speednet-95", "speednet-97")),
        *_systems(),
        _target(),
        _accuracy(600, 3),
        *(_contest(percent, runs, peers) for percent, runs in PROOF.items()),
        *(_accuracy(seconds, 3) for seconds in (60, 10, 5, 30, 120, 300)),
        _augmentation("augmentation, all operations", "view: mirror + shift"),
        Job("evaluation", ("benchmarks.evaluation",), 120, _of_kind("evaluation")),
        Job("start-up", ("benchmarks.startup",), 400, _of_kind("startup")),
    ]


def _contest(percent: int, wanted: int | None, peers: Sequence[Path]) -> Job:
    """Ours beside the peers of a target, counted by our runs."""
    beside = [path for path in peers if _percent(path) == percent]
    # Not max-autotune, which a machine without caches may try for all of its minutes.
    words = ["benchmarks.records", f"--target=0.{percent}", f"--runs={wanted or PILOT}", "--compile=default"]
    if beside:
        words += ["--peer", *map(str, beside)]
    if any(PAUSE in path.read_text(encoding="utf-8", errors="replace") for path in beside):
        words.append(f"--peer-set={PAUSE}=pass")
    if percent == 96:  # airbench96_faster compiles in its first run
        words.append("--peer-skip=1")

    def counts(record: Record) -> int:
        named = record["kind"] == "record" and record["contender"] == OURS and record["dataset"] == "cifar10"
        return len(record["accuracies"]) if named and record["target"] == percent / 100 else 0

    names = ", ".join(path.stem for path in beside) or "no peer"
    cell = f"time to {percent} %, n {wanted or PILOT}, beside {names}"
    return Job(cell, tuple(words), 240, counts, wanted, most=3600 if wanted else 300)


def _percent(path: Path) -> int:
    found = re.search(r"9[456]", path.stem)
    return int(found[0]) if found else 94


def _accuracy(seconds: int, wanted: int | None = None) -> Job:
    def counts(record: Record) -> int:
        own = curve.counts(record) and curve.target_of(record) is None
        return int(own and record["budget_seconds"] == seconds)

    words = ("benchmarks.curve", f"--seconds={seconds}", "--dataset=cifar10")
    cell = f"accuracy at {seconds} s, n {wanted or 1}"
    return Job(cell, words, seconds + 10, counts, wanted, numbered=True)


def _target() -> Job:
    def counts(record: Record) -> int:
        return int(curve.counts(record) and curve.target_of(record) == 0.94)

    words = ("benchmarks.curve", "--target=0.94", "--dataset=cifar10")
    return Job("--target 0.94", words, 60, counts, numbered=True)


def _step(recipe: str) -> Job:
    def counts(record: Record) -> int:
        return int(record["kind"] == "step" and record["recipe"] == recipe and not record.get("changed"))

    return Job(f"a step of {recipe}", ("benchmarks.step", f"--recipe={recipe}"), 180, counts)


def _systems() -> Iterator[Job]:
    for recipe in systems.SYSTEMS:
        scale = systems.SCALES["full"]
        seconds = scale.seconds * (scale.times if recipe == systems.ENSEMBLE else 1)

        def counts(record: Record, recipe: str = recipe) -> int:
            return int(record["kind"] == "system" and record["values"]["recipe"] == recipe)

        yield Job(f"system {recipe}", ("benchmarks.systems", f"--recipe={recipe}"), seconds + 20, counts)


def _augmentation(cell: str, last: str) -> Job:
    """The augmentations up to `last`, in the order in which they are measured; what is recorded is not done again."""

    def counts(record: Record) -> int:
        return int(record["kind"] == "kernel" and record.get("settings", {}).get("operation") == last)

    return Job(cell, ("benchmarks.kernels", "--resume"), 400, counts)


def _of_kind(kind: str) -> Callable[[Record], int]:
    return lambda record: int(record["kind"] == kind)
