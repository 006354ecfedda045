"""Small copies of CIFAR in the official layouts, whole and damaged, for the tests of finding, fetching and decoding."""

import dataclasses
import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np

from speedrun.catalogue import KNOWN, KnownFile, KnownSet, Layout

PER_FILE = 12  # images


def contents(known: KnownSet, layout: Layout, protocol: int = 2) -> dict[str, bytes]:
    """The bytes of each image file of a layout; the images are the same in every layout of a set."""
    made = {}
    for number, file in enumerate(layout.files):
        rng = np.random.default_rng(number)
        planes = rng.integers(0, 256, (PER_FILE, 3072), np.uint8)
        labels = rng.integers(0, len(known.classes), PER_FILE)
        if layout.encoding == "records":
            coarse = [np.full(PER_FILE, 7)] * (layout.label_bytes - 1)
            made[file.name] = np.column_stack([*coarse, labels, planes]).astype(np.uint8).tobytes()
        else:
            batch = {"data": planes, layout.label_key: labels.tolist(), "filenames": [f"{i}.png" for i in labels]}
            made[file.name] = pickle.dumps(batch, protocol)
    return made


def expected_images(layout: Layout) -> np.ndarray:
    """All images as NHWC, one pixel at a time."""
    images = np.zeros((len(layout.files) * PER_FILE, 32, 32, 3), np.uint8)
    for number in range(len(layout.files)):
        planes = np.random.default_rng(number).integers(0, 256, (PER_FILE, 3072), np.uint8)
        for i, image in enumerate(planes):
            for y in range(32):
                for x in range(32):
                    images[number * PER_FILE + i, y, x] = image[y * 32 + x :: 1024]
    return images


def unpack(place: Path, layout: Layout, files: dict[str, bytes]) -> Path:
    folder = place / layout.folder
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def pack(place: Path, layout: Layout, files: dict[str, bytes], *extra: tarfile.TarInfo) -> Path:
    folder = unpack(place / "to-pack", layout, files)
    archive = place / layout.archive.name
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, layout.folder)
        for member in extra:
            tar.addfile(member)
    return archive


def publish(monkeypatch, name: str = "cifar10", archive: bytes | None = None) -> KnownSet:
    """Make the small copies of a set its official ones: their sizes and MD5s are what is published."""
    known = KNOWN[name]
    layouts = []
    for layout in known.layouts:
        made = contents(known, layout)

        def published(files: tuple[KnownFile, ...], made: dict[str, bytes] = made) -> tuple[KnownFile, ...]:
            return tuple(known_file(file.name, made[file.name]) for file in files)

        packed = layout.archive if archive is None else known_file(layout.archive.name, archive)
        layouts.append(
            dataclasses.replace(layout, train=published(layout.train), test=published(layout.test), archive=packed)
        )
    small = dataclasses.replace(known, layouts=tuple(layouts))
    monkeypatch.setitem(KNOWN, name, small)
    return small


def known_file(name: str, data: bytes) -> KnownFile:
    return KnownFile(name, len(data), hashlib.md5(data).hexdigest())


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
