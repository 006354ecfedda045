"""Who takes part in `benchmarks.records`: this program, and other people's scripts run as they are.

Each runs a few times in a process of its own and tells each run's accuracy and its seconds by airbench's clock:
whitening, augmentation, training and the final evaluation, but no import, loading or compilation.
"""

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

from benchmarks.children import child
from benchmarks.printed import ACCURACY, Printed, Run
from benchmarks.standings import OURS
from speedrun import recipes
from speedrun.data import Dataset
from speedrun.errors import UsageError
from speedrun.schema import FINISHED

ROOT = Path(__file__).resolve().parent.parent
# What a script has that is driven by others, as Fulcrum's E1; one that prints a table has its own way of running.
HOOKS = re.compile(r"^def setup\(.*^def train\(", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Runs that one process made. outside: its seconds from start to end. config: of ours. problem: why it ended before
    it had made them all, empty if it did not, and where it made some before its time was over.
    """

    runs: tuple[Run, ...]
    outside: float
    config: dict[str, Any] | None = None
    problem: str = ""


class Ours:
    """This program. words: of its command line. Without a recipe among them, `target` stands for the tier of that name
    or, if there is none, for the flag. place: words that say where it runs and where its images lie, not what it does.

    name: `speedrun`, with the words that make another training of it: what they bring is a row of its own.
    """

    def __init__(self, target: float, words: Sequence[str], place: Sequence[str] = ()) -> None:
        tier = f"speednet-{100 * target:g}"
        aim = ["--recipe", tier] if tier in recipes.names() else ["--target", f"{target:g}"]
        words = _split(words)
        self.name = " ".join([OURS, *_without("--compile", words)])
        own = [*([] if {"--recipe", "--config"} & set(words) else aim), *words]
        self.words = [*own, *place]
        self.settings = {"words": own, "code": code_digest()}

    def run(self, runs: int, first: int, seconds: float) -> Block:
        """`runs` runs from seed `first` on, those of them that end within `seconds`."""
        with TemporaryDirectory() as folder, TemporaryFile("w+") as said:
            words = [sys.executable, "-m", "speedrun", *self.words, "--quiet", "--out", f"{folder}/run"]
            words += ["--runs", str(runs), "--seed", str(first)]
            start = time.monotonic()
            with child(words, seconds=seconds, environment={"PYTHONPATH": _path(ROOT)}, stderr=said) as process:
                code = process.wait()
            outside = time.monotonic() - start
            found = [json.loads(path.read_text()) for path in Path(folder).rglob("result.json")]
            done = sorted((each for each in found if each["status"] in FINISHED), key=lambda each: each["seed"])
            problem = "" if len(done) == runs else _problem(len(done), code, said, outside, seconds)
        for each in done:
            # Where things lay on this machine is nobody's business.
            each["config"].update(data_dir=None, out=None)
        config = done[0]["config"] if done else None
        return Block(tuple(Run(each["accuracy"], each["train_seconds"]) for each in done), outside, config, problem)


class Script:
    """Another's script, that prints as `benchmarks.printed` reads it or has hooks for `benchmarks.hooked`, in a copy.

    substitutions: texts by what they replace. skipped: its first runs in each process, beyond its own warm-up, that do
    not count. data: the folder that lies beside it as `cifar10`. Raises UsageError where it cannot be read.
    """

    def __init__(self, path: Path, substitutions: Mapping[str, str], skipped: int, data: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--peer {path}: {getattr(error, 'strerror', None) or 'no text'}") from None
        used = {old: new for old, new in substitutions.items() if old in text}
        for old, new in used.items():
            text = text.replace(old, new)
        self.name, self.text, self.used, self.skipped = path.stem, text, used, skipped
        self.data, self.beside = data, path.resolve().parent
        self.hooked = HOOKS.search(text) is not None and ACCURACY not in text
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.settings = {"script": digest, "substitutions": used, "skipped": skipped}

    def run(self, runs: int, first: int, seconds: float) -> Block:
        """`runs` runs, those of them that end within `seconds`. Its random numbers are its own, whatever `first` is."""
        printed, code = Printed(), None
        with TemporaryDirectory() as folder, TemporaryFile("w+") as said:
            script = Path(folder) / f"{self.name}.py"
            script.write_text(self.text, encoding="utf-8")
            (Path(folder) / "cifar10").symlink_to(self.data, target_is_directory=True)
            driver = ["-m", "benchmarks.hooked"] if self.hooked else []
            words = [sys.executable, "-u", *driver, str(script)]
            environment = {"PYTHONPATH": _path(self.beside, *([ROOT] if self.hooked else []))}
            start = time.monotonic()
            with child(
                words, seconds=seconds, cwd=Path(folder), environment=environment, stdout=PIPE, stderr=said
            ) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    printed.feed(line)
                    if len(printed.runs) == self.skipped + runs:  # it would go on
                        break
                else:
                    code = process.wait()
            outside, made = time.monotonic() - start, tuple(printed.runs[self.skipped :])
            problem = "" if made and not code else _problem(len(made), code, said, outside, seconds)
            return Block(made, outside, problem=problem)


Contender = Ours | Script


def lay_out(dataset: Dataset, folder: Path) -> None:
    """Write a data set as airbench keeps it, so that nothing is downloaded: train.pt and test.pt, each with uint8
    `images` (N, H, W, 3), int64 `labels` (N,) and `classes`."""
    import torch

    for split, images, labels in (
        ("train", dataset.train_images, dataset.train_labels),
        ("test", dataset.test_images, dataset.test_labels),
    ):
        whole = {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}
        torch.save({**whole, "classes": list(dataset.classes)}, folder / f"{split}.pt")


def code_digest() -> str:
    """Twelve hexadecimal digits that change with the code and the tables of this program, not with its commits."""
    digest = hashlib.sha256()
    for package in ("kernels", "speedrun"):
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in (".py", ".json"):
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _split(words: Sequence[str]) -> list[str]:
    """The words, those of the form --FLAG=VALUE in two, so that one command has one form."""
    return [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]


def _without(flag: str, words: Sequence[str]) -> list[str]:
    """The words but for a flag and its value."""
    return [word for word, before in zip(words, ["", *words], strict=False) if flag not in (word, before)]


def _path(*first: Path) -> str:
    return os.pathsep.join(filter(None, (*map(str, first), os.environ.get("PYTHONPATH"))))


def _problem(runs: int, code: int | None, said: Any, outside: float, seconds: float) -> str:
    """Why a process made fewer runs than it should have, in the `seconds` that it had: its code and its last words;
    nothing where it was ended after some runs, for they count."""
    if outside >= seconds:
        return "" if runs else f"no run ended within {seconds:.0f} s"
    said.seek(0)
    last = said.read().strip().splitlines()[-1:]
    return f"ended with {code}: {''.join(last)}" if code else "printed no run"
