"""Find a dataset, fetch it if need be, decode it into uint8 arrays. Never torch: it runs while torch is imported.

CIFAR is looked for in the folder that was given, in $SPEEDRUN_DATA, and in the user's cache ($SPEEDRUN_CACHE, else the
platform's place), in each unpacked or packed, in the python or the binary layout. A damaged copy is an error and never
skipped: what was put there was meant to be used. Only the cache's own archive is replaced, by fetching it again.

Unpacked layouts are decoded at every start (0.4 s on two cores, behind the import of torch); of archives (1.1 s) the
decoded images are kept in the cache (0.05 s).
"""

import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from speedrun import imagecache
from speedrun.catalogue import KNOWN, KnownSet
from speedrun.cifar import Copy, find_copy, read_copy
from speedrun.errors import DataError, FetchError, UsageError
from speedrun.formats import Splits
from speedrun.transfer import CACHE_VARIABLE

if TYPE_CHECKING:
    from speedrun.transfer import Progress

WISHED = "cifar10"  # what "auto" hopes for
NAMES = ("auto", *KNOWN, "synthetic")
DATA_VARIABLE = "SPEEDRUN_DATA"

OnFetch = Callable[["Progress"], None]


@dataclass(frozen=True)
class Dataset:
    """Images uint8 (N, H, W, 3), C-contiguous, and labels int64 (N,), 0 to len(classes)-1, of both splits.

    name: "cifar10", "cifar100", "synthetic", the .npz file's name, or "cifar10-modified" for other images in the
    official layout. source: the path or address it came from. warm: decoded images from the cache were used.
    reason: why this set was taken where another was wished for, else "". notes: lines worth showing.
    fetch_seconds: network transfer only. Raises DataError when the arrays are not as said.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]
    source: str
    warm: bool = False
    reason: str = ""
    notes: tuple[str, ...] = field(default=())
    fetch_seconds: float = 0.0

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.flags.c_contiguous:
                self._refuse(f"{split}_images", "contiguous uint8 (N, H, W, 3)", images)
            if labels.dtype != np.int64 or labels.shape != images.shape[:1] or len(labels) == 0:
                self._refuse(f"{split}_labels", f"int64 ({len(images)},), not empty", labels)
            if labels.min() < 0 or labels.max() >= len(self.classes):
                self._refuse(f"{split}_labels", f"0 to {len(self.classes) - 1}", labels)

    def fingerprint(self) -> tuple[str, int, int]:
        """What tells it from other sets: name, number of training images, checksum of these and their labels."""
        labels = zlib.crc32(self.train_labels.data)
        return self.name, len(self.train_images), zlib.crc32(self.train_images.data, labels)

    def _refuse(self, name: str, expected: str, found: np.ndarray) -> None:
        values = f", {found.min()} to {found.max()}" if found.size and found.dtype.kind in "iu" else ""
        raise DataError(f"{self.source}: {name}: expected {expected}, found {found.dtype} {found.shape}{values}")


@dataclass(frozen=True)
class Found:
    """What `load` would take: the set's name, the path it is at (None: not on this machine, or made from a seed),
    whether it has to be fetched first, and the places that were looked into."""

    name: str
    kind: Literal["unpacked", "packed", "npz", "synthetic", "missing"]
    path: Path | None
    needs_fetch: bool
    places: tuple[Path, ...] = ()


def load(
    name: str = "auto",
    *,
    data_dir: Path | None = None,
    cache_dir: Path | None = None,
    on_fetch: OnFetch | None = None,
) -> Dataset:
    """Load a dataset.

    name: "auto" (CIFAR-10, or the synthetic set where CIFAR-10 can neither be found nor fetched), "cifar10",
    "cifar100", "synthetic", or a path that ends in .npz. data_dir: looked into first. cache_dir: in place of the
    user's cache. on_fetch: told of a transfer's progress.

    Raises UsageError for another name, DataError for missing, damaged or wrong-shaped data, FetchError (a DataError)
    when it could not be fetched.
    """
    if name.endswith(".npz"):
        return _load_npz(Path(name))
    if name == "synthetic":
        return _load_synthetic("")
    known, cache_dir = _known(name), cache_dir or default_cache_dir()
    copy = _find_copy(known, _places(data_dir, cache_dir))
    try:
        if copy is None:
            return _fetch_and_load(known, cache_dir, on_fetch)
        if _is_fetched(copy, cache_dir):
            return _load_fetched(copy, cache_dir, on_fetch)
    except FetchError as error:
        if name == "auto" and copy is None:
            return _load_synthetic(str(error))
        raise
    return _load_copy(copy, cache_dir)


def find(name: str = "auto", *, data_dir: Path | None = None, cache_dir: Path | None = None) -> Found:
    """What `load` would take, told from names and sizes alone. Raises UsageError for an unknown name."""
    if name.endswith(".npz"):
        path = Path(name)
        return Found(path.name, "npz" if path.is_file() else "missing", path, needs_fetch=False)
    if name == "synthetic":
        return Found(name, "synthetic", None, needs_fetch=False)
    known, cache_dir = _known(name), cache_dir or default_cache_dir()
    places = _places(data_dir, cache_dir)
    copy = _find_copy(known, places)
    if copy is None:
        return Found(known.name, "missing", None, True, places)
    truncated = _is_fetched(copy, cache_dir) and copy.path.stat().st_size != copy.layout.archive.size
    return Found(known.name, "packed" if copy.packed else "unpacked", copy.path, truncated, places)


def default_cache_dir() -> Path:
    """The user's cache: $SPEEDRUN_CACHE, else where the platform keeps caches."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "speedrun" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "speedrun"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "speedrun"


def _known(name: str) -> KnownSet:
    name = WISHED if name == "auto" else name
    if name not in KNOWN:
        raise UsageError(f"unknown dataset {name!r}: expected {', '.join(NAMES)} or a path that ends in .npz")
    return KNOWN[name]


def _places(data_dir: Path | None, cache_dir: Path) -> tuple[Path, ...]:
    chosen = os.environ.get(DATA_VARIABLE)
    places = [data_dir, Path(chosen).expanduser() if chosen else None, cache_dir]
    return tuple(Path(place) for place in places if place is not None)


def _find_copy(known: KnownSet, places: tuple[Path, ...]) -> Copy | None:
    return next((copy for place in places if (copy := find_copy(known, place)) is not None), None)


def _is_fetched(copy: Copy, cache_dir: Path) -> bool:
    """Whether it is the archive that fetching puts into the cache, ours to replace."""
    return copy.packed and copy.layout is copy.known.layouts[0] and copy.path.parent == cache_dir


def _fetch_and_load(known: KnownSet, cache_dir: Path, on_fetch: OnFetch | None, note: str = "") -> Dataset:
    from speedrun.fetch import fetch

    result = fetch(known.name, cache_dir, progress=on_fetch)
    copy = Copy(known, known.layouts[0], result.path, packed=True)
    return _load_copy(copy, cache_dir, source=result.address, note=note, fetch_seconds=result.seconds)


def _load_fetched(copy: Copy, cache_dir: Path, on_fetch: OnFetch | None) -> Dataset:
    """An archive that was fetched before; if it has been damaged since, it is fetched again, once."""
    try:
        return _load_copy(copy, cache_dir)
    except DataError as damage:
        return _fetch_and_load(copy.known, cache_dir, on_fetch, note=f"fetched again: {damage}")


def _load_copy(copy: Copy, cache_dir: Path, *, source: str = "", note: str = "", fetch_seconds: float = 0.0) -> Dataset:
    splits, official, warm, notes = _decode(copy, cache_dir)
    if not official:
        notes = (*notes, f"{copy.path} holds other images than the official {copy.known.name}")
    return Dataset(
        copy.known.name if official else f"{copy.known.name}-modified",
        *splits,
        classes=copy.known.classes,
        source=source or str(copy.path),
        warm=warm,
        notes=(note, *notes) if note else notes,
        fetch_seconds=fetch_seconds,
    )


def _decode(copy: Copy, cache_dir: Path) -> tuple[Splits, bool, bool, tuple[str, ...]]:
    """The splits, whether they are official, whether they came decoded from the cache, and notes."""
    if not copy.packed:
        return *read_copy(copy), False, ()
    notes: list[str] = []
    cache, identity = imagecache.cache_path(cache_dir, copy.path), imagecache.identity(copy.path)
    try:
        if (splits := imagecache.read(cache, identity)) is not None:
            return splits, True, True, ()
    except DataError as damage:
        notes.append(f"{damage}: decoded again")
    splits, official = read_copy(copy)
    if official:  # the cache has no place to remember that images are not
        try:
            imagecache.store(cache, identity, splits)
        except OSError as error:
            notes.append(f"decoded images not kept ({error}); ${CACHE_VARIABLE} moves the cache")
    return splits, official, False, tuple(notes)


def _load_npz(path: Path) -> Dataset:
    from speedrun.npz import read_npz

    splits, classes = read_npz(path)
    return Dataset(path.name, *splits, classes=classes, source=str(path))


def _load_synthetic(reason: str) -> Dataset:
    from speedrun import synthetic

    source = f"generated from seed {synthetic.SEED}"
    return Dataset("synthetic", *synthetic.generate(), classes=synthetic.CLASSES, source=source, reason=reason)
