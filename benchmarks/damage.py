"""Damages files that runs read, by a seed, and reads them: damage is named or without effect, and nothing else.

`cases(folder)` makes a sound file of every kind; `trial(case, seed)` damages a copy of one and says what went wrong.
`python -m benchmarks.soak` and the tests run trials.
"""

import dataclasses
import hashlib
import io
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speedrun import checkpoint, cifar, export, files, imagecache, metrics, models, predictor, record, snapshot
from speedrun import config as configs
from speedrun.catalogue import KNOWN, KnownFile, KnownSet, Layout
from speedrun.clock import Clock, Ledger
from speedrun.config import Config, ModelConfig, to_dict
from speedrun.errors import SpeedrunError
from speedrun.formats import Splits
from speedrun.jobs import search
from speedrun.npz import read_npz
from speedrun.outcome import Outcome
from speedrun.trial import Trial

IMAGES = 8  # in each file of a small set
CONFIG = Config(seed=7, model=ModelConfig(widths=(4, 4, 4), depth=2), resolutions=(12, 16), batch_size=8)


@dataclass(frozen=True)
class Case:
    """A file and its reader, which raises SpeedrunError for damage. sound: what it reads from the undamaged file."""

    name: str
    path: Path
    read: Callable[[Path], Any]
    sound: Any


def cases(folder: Path) -> list[Case]:
    """A sound file of every kind that is read, under `folder`."""
    made = []
    for name, make in _KINDS.items():
        place = folder / name
        place.mkdir(parents=True)
        path, read = make(place)
        made.append(Case(name, path, read, read(path)))
    return made


def trial(case: Case, seed: int) -> str:
    """Damage the file, read it, restore it. "" where the damage was named or changed nothing; else what went wrong."""
    sound = case.path.read_bytes()
    damaged, what = damage(sound, random.Random(seed))
    case.path.write_bytes(damaged)
    try:
        found = case.read(case.path)
    except SpeedrunError as error:
        if case.path.name in str(error) and "\n" not in str(error):
            return ""
        return f"{case.name}, {what}: the message does not name the file in one line: {error}"
    except Exception as error:
        return f"{case.name}, {what}: {type(error).__name__}: {error}"
    finally:
        case.path.write_bytes(sound)
    return "" if _same(found, case.sound) else f"{case.name}, {what}: used as if it were sound"


def damage(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Flip bits, cut, swap bytes, or lose a block; returns the bytes and what was done."""
    harmed, kind = bytearray(data), draw.choice(("flip", "flips", "cut", "swap", "zeros"))
    first, second = draw.randrange(len(data)), draw.randrange(len(data))
    if kind in ("flip", "flips"):
        places = [first] if kind == "flip" else [draw.randrange(len(data)) for _ in range(20)]
        for place in places:
            harmed[place] ^= 1 << draw.randrange(8)
        return bytes(harmed), f"bits flipped at {places}"
    if kind == "cut":
        return data[:first], f"cut to {first} bytes"
    if kind == "swap":
        harmed[first], harmed[second] = harmed[second], harmed[first]
        return bytes(harmed), f"bytes {first} and {second} swapped"
    end = min(first + draw.randrange(1, 600), len(data))
    harmed[first:end] = bytes(end - first)
    return bytes(harmed), f"bytes {first} to {end} zeroed"


def _same(found: Any, sound: Any) -> bool:
    if isinstance(sound, np.ndarray | torch.Tensor):
        return type(found) is type(sound) and found.dtype == sound.dtype and np.array_equal(found, sound)
    if isinstance(sound, list | tuple):
        return len(found) == len(sound) and all(map(_same, found, sound))
    if isinstance(sound, dict):
        return found.keys() == sound.keys() and all(_same(found[name], sound[name]) for name in sound)
    return bool(found == sound)


def _pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, 16, 16, 3), np.uint8), np.arange(count) % 4


def _npz(place: Path) -> tuple[Path, Callable[[Path], Any]]:
    images, labels = _pictures(IMAGES, 0)
    np.savez(place / "own.npz", images=images, labels=labels, test_images=images[:4], test_labels=labels[:4])
    return place / "own.npz", read_npz


def _small_set() -> tuple[KnownSet, dict[str, bytes]]:
    """CIFAR-10 in its binary layout, as if so few images were what is published; and its files."""
    known = KNOWN["cifar10"]
    layout = next(layout for layout in known.layouts if layout.encoding == "records")
    made: dict[str, bytes] = {}
    for number, file in enumerate(layout.files):
        draw = np.random.default_rng(number)
        rows = np.column_stack([np.arange(IMAGES) % 10, draw.integers(0, 256, (IMAGES, 3072))])
        made[file.name] = rows.astype(np.uint8).tobytes()

    def published(official: tuple[KnownFile, ...]) -> tuple[KnownFile, ...]:
        digests = {name: hashlib.md5(data, usedforsecurity=False).hexdigest() for name, data in made.items()}
        return tuple(KnownFile(file.name, len(made[file.name]), digests[file.name]) for file in official)

    small = dataclasses.replace(layout, train=published(layout.train), test=published(layout.test))
    return dataclasses.replace(known, layouts=(small,)), made


def _unpacked(place: Path) -> tuple[Path, Callable[[Path], Any]]:
    known, made = _small_set()
    (layout,) = known.layouts
    (place / layout.folder).mkdir()
    for name, data in made.items():
        (place / layout.folder / name).write_bytes(data)
    return place / layout.folder / layout.train[2].name, lambda _: _read_copy(known, layout, place / layout.folder)


def _packed(place: Path) -> tuple[Path, Callable[[Path], Any]]:
    known, made = _small_set()
    (layout,) = known.layouts
    path = place / layout.archive.name
    with tarfile.open(path, "w:gz") as tar:
        for name, data in made.items():
            member = tarfile.TarInfo(f"{layout.folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path, lambda path: _read_copy(known, layout, path)


def _read_copy(known: KnownSet, layout: Layout, path: Path) -> Any:
    return cifar.read_copy(cifar.Copy(known, layout, path, packed=path.is_file()))


def _cache(place: Path) -> tuple[Path, Callable[[Path], Any]]:
    """Decoded images: damage means that they are decoded again."""
    images, labels = _pictures(IMAGES, 1)
    source: dict[str, int | str] = {"path": "somewhere", "size": 3, "modified_ns": 5}
    imagecache.store(place / "kept.images", source, Splits(images, labels, images[:4], labels[:4]))
    return place / "kept.images", lambda path: imagecache.read(path, source)


def _model(place: Path) -> tuple[Path, Callable[[Path], Any]]:
    _, labels = _pictures(IMAGES, 2)
    classes = [str(label) for label in sorted(set(labels.tolist()))]
    extra = {"mean": [0.5] * 3, "std": [0.25] * 3, "classes": classes, "dataset": "own.npz", "size": 16}
    extra["image_size"] = 16
    net = models.build(CONFIG.model, len(classes))
    checkpoint.save(place / "model.pt", model=net, config=to_dict(CONFIG), extra=extra)

    def read(path: Path) -> Any:
        found = predictor.load(path)
        return [found.state_dict(), found.classes, found.size, to_dict(found.config)]

    return place / "model.pt", read


def _checkpoint(place: Path) -> tuple[Path, Callable[[Path], Any]]:
    net = models.build(CONFIG.model, 4)
    momenta = {index: {"momentum_buffer": parameter} for index, parameter in enumerate(net.parameters())}
    state = {field: {"optimizers": [momenta], "progress": 0.5} for field in sorted(snapshot.FIELDS)}
    snapshot.write(place, net, CONFIG, state)

    def read(path: Path) -> Any:
        found = snapshot.read(path)
        return [found.model, found.state, to_dict(found.config)]

    return place / snapshot.NEWEST, read


def _a_record() -> dict[str, Any]:
    return Outcome().record(CONFIG, Clock(60.0), Ledger(0.0, now=lambda: 30.0))


def _result(place: Path) -> tuple[Path, Callable[[Path], Any]]:
    files.write_json(place / "result.json", files.sealed(_a_record()))
    return place / "result.json", files.read_sealed


def _results(place: Path) -> tuple[Path, Callable[[Path], Any]]:
    """A line of the shared results: a damaged one is left out, and said to be."""
    for seed in range(2):  # a line that is there twice would count once
        record.append(place / "results.jsonl", {**_a_record(), "seed": seed})

    def read(path: Path) -> Any:
        records, problems = record.read(path)
        if problems or len(records) != 2:
            raise SpeedrunError(" ".join(problems) or f"{path} has lost a line")
        return records

    return place / "results.jsonl", read


def _search(place: Path) -> tuple[Path, Callable[[Path], Any]]:
    """The log of a search, by which it goes on."""
    trial = Trial("trial-001", "complete", None, 7, {"optim.lr": 0.1}, 0.5, 1.5, 9, 700, 1.0, 2.0)
    for accuracy in (0.5, 0.25):
        search.log(place / search.LOG, dataclasses.replace(trial, accuracy=accuracy))
    return place / search.LOG, search.logged


def _exported(place: Path) -> tuple[Path, Callable[[Path], Any]]:
    path, _ = _model(place)
    export.write(checkpoint.load(path), place / "net.safetensors")

    def read(path: Path) -> Any:
        found = export.read(path)
        return [found.model, found.config, found.meta]

    return place / "net.safetensors", read


def _config(place: Path) -> tuple[Path, Callable[[Path], Any]]:
    files.write_json(place / "config.json", files.sealed(to_dict(CONFIG)))
    return place / "config.json", configs.load


def _metrics(place: Path) -> tuple[Path, Callable[[Path], Any]]:
    """Of these only the form is checked: no result is made of them. What is read must be lines of numbers."""
    with metrics.MetricsWriter(place / "metrics.jsonl") as writer:
        for step in range(5):
            writer.write(step=step, loss=1.0)
    return place / "metrics.jsonl", lambda path: bool(metrics.read(path)) or True


_KINDS: dict[str, Callable[[Path], tuple[Path, Callable[[Path], Any]]]] = {
    "npz": _npz,
    "unpacked": _unpacked,
    "packed": _packed,
    "cache": _cache,
    "model": _model,
    "checkpoint": _checkpoint,
    "result": _result,
    "results": _results,
    "search": _search,
    "config": _config,
    "metrics": _metrics,
}
if find_spec("safetensors") is not None:
    _KINDS["exported"] = _exported
