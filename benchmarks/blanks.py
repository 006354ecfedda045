"""What the README's tables can hold of a GPU, in order of worth, and how much of it is recorded.

The order is that of the project's aims: the time to 94 % beside others' scripts, the accuracy of ten minutes, the share
of the peak that the 96 % step makes, the times to 95 and 96 %, what the planner only guesses of large nets, the rest of
the curve, the operations, the systems.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import curve, results, scaling, systems
from benchmarks.contenders import Contender, Ours, Script

Record = dict[str, Any]


@dataclass(frozen=True)
class Code:
    """What the runs of this code share: git, as their records have it, and the digest of `benchmarks.contenders`."""

    git: Any
    digest: str

    def made(self, record: Record) -> bool:
        """Whether a record is of this code, or of another's script, whatever our code was beside it."""
        if record["kind"] == "record":
            return record["settings"].get("code", self.digest) == self.digest
        return results.repeatable(self.git) and record["git"] == self.git


# Hiverge's script lets the chip cool before each run, which is no part of its clock and shares no lease well.
PAUSE = "torch.cuda._sleep(int(6000000000))"
# Runs of each contender that tell who is fastest, and those that prove it, by target.
PILOT, PROOF = 10, {94: 200, 95: 20, 96: 20}


@dataclass(frozen=True)
class Job:
    """A command that fills a cell.

    seconds: what it is thought to take, compilation included; most has not been timed on a GPU yet. counts: how many
    runs a record of the device has for the cell; also: the same of whatever must be there as often. wanted: runs of
    this code that the cell needs; None where any run of any code will do. most: seconds that it can use, of a command
    that is told its minutes; it then needs `seconds` at least. numbered: whether each command makes one more run, from
    the next seed.
    """

    cell: str
    words: tuple[str, ...]
    seconds: float
    counts: Callable[[Record], int]
    wanted: int | None = None
    most: float | None = None
    numbered: bool = False
    also: tuple[Callable[[Record], int], ...] = ()

    def have(self, records: Sequence[Record], code: Code) -> int:
        """Runs that are recorded: of this code, where a number of them is wanted."""
        known = [each for each in records if self.wanted is None or code.made(each)]
        return min(sum(map(counts, known)) for counts in (self.counts, *self.also))

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
        *(_scaling(large, seconds) for (large, *_), seconds in zip(scaling.PUBLISHED, (150, 330), strict=True)),
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
    """Ours beside the peers of a target, counted by the runs of whoever has made the fewest."""
    beside = [path for path in peers if _percent(path) == percent]
    skipped = int(percent == 96)  # airbench96_faster compiles in its first run
    scripts = [Script(path, {PAUSE: "pass"}, skipped, path.parent) for path in beside]
    own = ["--compile=default"]  # not max-autotune, which a machine without caches may try for all of its minutes
    words = ["benchmarks.records", f"--target=0.{percent}", f"--runs={wanted or PILOT}", *own]
    if beside:
        words += ["--peer", *map(str, beside)]
    if any(script.used for script in scripts):
        words.append(f"--peer-set={PAUSE}=pass")
    if skipped:
        words.append(f"--peer-skip={skipped}")
    contenders: list[Contender] = [Ours(percent / 100, own), *scripts]
    ours, *others = (_runs(each, percent / 100) for each in contenders)
    names = ", ".join(script.name for script in scripts) or "no peer"
    cell = f"time to {percent} %, n {wanted or PILOT}, beside {names}"
    pilot = 420 if beside else 300  # airbench's script compiles for more than 85 s where no cache is
    return Job(cell, tuple(words), 240, ours, wanted, most=3600 if wanted else pilot, also=tuple(others))


def _runs(contender: Contender, target: float) -> Callable[[Record], int]:
    """Counts a contender's runs by the settings that it has here, but for our code, of which `Code` knows."""
    about = {"contender": contender.name, **contender.settings}
    about.pop("code", None)

    def counts(record: Record) -> int:
        if record["kind"] != "record" or (record["dataset"], record["target"]) != ("cifar10", target):
            return 0
        same = all(record["settings"].get(name) == value for name, value in about.items())
        return len(record["accuracies"]) if same else 0

    return counts


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


def _scaling(large: scaling.Candidate, seconds: float) -> Job:
    """What the planner guesses of a net until it has been measured on the split; its greatest length comes last."""

    def counts(record: Record) -> int:
        return int(large.matches(record) and record["steps"] == large.steps(large.epochs[-1]))

    words = ("benchmarks.scaling", "--measure", f"--only={large.name}")
    return Job(f"{large.name} on the split", words, seconds, counts)


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
