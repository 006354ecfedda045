"""Find a copy of a CIFAR set in a folder, tell a whole copy from a damaged one, decode it. Never torch.

Damage is told by the published MD5s. A folder in the official layout may also hold other images, someone's own or a
part of the official ones, and those have no published MD5. So a copy is *official*, every file as published, or
*modified*, no file as published; anything between is damage: a file that differs while a sibling is as published, or
one with the published size and other bytes. A modified copy is checked for shapes and labels and goes by another
name (`cifar10-modified`), so that no record of it can pass for the real set.
"""

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speedrun.catalogue import KnownFile, KnownSet, Layout
from speedrun.errors import DataError
from speedrun.formats import Batch, Splits, archive_members, decode_pickle, decode_records, planes_to_nhwc

THREADS = min(6, os.cpu_count() or 1)  # a thread a file: hashing, reading and copying run side by side


@dataclass(frozen=True)
class Copy:
    """A copy of a known set that was found: its folder, or the archive that holds the folder packed."""

    known: KnownSet
    layout: Layout
    path: Path
    packed: bool


@dataclass(frozen=True)
class _Content:
    where: str
    data: bytes
    file: KnownFile
    md5: str

    @property
    def as_published(self) -> bool:
        # Without a published MD5 (the unpacked binaries of CIFAR-100) the size has to do.
        return self.md5 == self.file.md5 if self.file.md5 else len(self.data) == self.file.size

    @property
    def looks_published(self) -> bool:
        return self.as_published or len(self.data) == self.file.size


def find_copy(known: KnownSet, place: Path) -> Copy | None:
    """The copy of `known` in `place`: the place itself, a folder in it, or an archive in it. Touches names only.

    Unpacked comes before packed, being ten times as fast to read, and the python layout before the binary one.
    """
    for layout in known.layouts:
        if (place / layout.folder).is_dir():
            return Copy(known, layout, place / layout.folder, packed=False)
        if place.name == layout.folder or all((place / file.name).is_file() for file in layout.files):
            return Copy(known, layout, place, packed=False)
    for layout in known.layouts:
        if (place / layout.archive.name).is_file():
            return Copy(known, layout, place / layout.archive.name, packed=True)
    return None


def read_copy(copy: Copy) -> tuple[Splits, bool]:
    """Decode a copy; also says whether it is official. Raises DataError, naming the file, for a copy that is neither
    official nor plainly a modified one."""
    with ThreadPoolExecutor(THREADS) as pool:
        contents = _read_packed(copy, pool) if copy.packed else _read_folder(copy, pool)
        official = _judge(contents)
        batches = list(pool.map(lambda content: _decode(content, copy), contents))
        trains = len(copy.layout.train)
        train_images, train_labels = _assemble(batches[:trains], pool)
        test_images, test_labels = _assemble(batches[trains:], pool)
    return Splits(train_images, train_labels, test_images, test_labels), official


def _read_folder(copy: Copy, pool: ThreadPoolExecutor) -> list[_Content]:
    def read(file: KnownFile) -> _Content:
        path = copy.path / file.name
        try:
            return _content(str(path), path.read_bytes(), file)
        except FileNotFoundError:
            raise DataError(f"{path} is missing (expected {file.size} bytes, MD5 {file.md5})") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error

    return list(pool.map(read, copy.layout.files))


def _read_packed(copy: Copy, pool: ThreadPoolExecutor) -> list[_Content]:
    files = {file.name: file for file in copy.layout.files}
    hashing: dict[str, Future[_Content]] = {}  # goes on beside the decompression
    for name, data in archive_members(copy.path, copy.layout.folder, tuple(files)):
        where = f"{copy.path}: {copy.layout.folder}/{name}"
        hashing[name] = pool.submit(_content, where, data, files[name])
    for name in files:
        if name not in hashing:
            raise DataError(f"{copy.path} has no member {copy.layout.folder}/{name}")
    return [hashing[name].result() for name in files]


def _content(where: str, data: bytes, file: KnownFile) -> _Content:
    return _Content(where, data, file, hashlib.md5(data, usedforsecurity=False).hexdigest())


def _judge(contents: list[_Content]) -> bool:
    """True for an official copy, False for a modified one; DataError for a damaged one."""
    if all(content.as_published for content in contents):
        return True
    if not any(content.looks_published for content in contents):
        return False
    bad = next(content for content in contents if not content.as_published)
    raise DataError(
        f"{bad.where} is damaged: expected {bad.file.size} bytes, MD5 {bad.file.md5 or 'unknown'}; "
        f"found {len(bad.data)} bytes, MD5 {bad.md5}"
    )


def _decode(content: _Content, copy: Copy) -> Batch:
    layout, num_classes = copy.layout, len(copy.known.classes)
    if layout.encoding == "pickle":
        return decode_pickle(content.data, layout.label_key, num_classes, content.where)
    return decode_records(content.data, layout.label_bytes, num_classes, content.where)


def _assemble(batches: list[Batch], pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
    """One array of images, uint8 (N, 32, 32, 3), and one of labels out of the batches of a split."""
    ends = np.cumsum([len(batch.planes) for batch in batches])
    images = np.empty((int(ends[-1]), 32, 32, 3), np.uint8)
    parts = np.split(images, ends[:-1])
    list(pool.map(planes_to_nhwc, [batch.planes for batch in batches], parts))
    return images, np.concatenate([batch.labels for batch in batches])
