"""Someone's own images, right and wrong."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speedrun import data
from speedrun.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.uint8)
GOOD: dict[str, Any] = {"images": IMAGES, "labels": LABELS, "test_images": IMAGES[:3], "test_labels": LABELS[:3]}


def load(folder: Path, **arrays: Any) -> data.Dataset:
    np.savez(folder / "mine.npz", **arrays)
    return data.load(str(folder / "mine.npz"))


def without(*names: str) -> dict[str, Any]:
    return {name: array for name, array in GOOD.items() if name not in names}


def test_two_splits(tmp_path):
    dataset = load(tmp_path, **GOOD)
    assert (dataset.name, dataset.source) == ("mine.npz", str(tmp_path / "mine.npz"))
    assert dataset.classes == ("0", "1", "2")
    np.testing.assert_array_equal(dataset.train_images, IMAGES)
    np.testing.assert_array_equal(dataset.test_images, IMAGES[:3])
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int64


@pytest.mark.parametrize(
    "split",
    [
        ["train", "train", "train", "test", "train", "test"],
        [b"train", b"train", b"train", b"test", b"train", b"test"],
        [0, 0, 0, 1, 0, 1],
        [False, False, False, True, False, True],
    ],
)
def test_a_stated_split(split, tmp_path):
    dataset = load(tmp_path, images=IMAGES, labels=LABELS, split=split)
    np.testing.assert_array_equal(dataset.test_images, IMAGES[[3, 5]])
    assert dataset.train_labels.tolist() == [0, 1, 2, 1]
    assert dataset.train_images.flags.c_contiguous


def test_class_names(tmp_path):
    assert load(tmp_path, **GOOD, classes=["cat", "dog", "owl"]).classes == ("cat", "dog", "owl")


def test_fortran_order_and_compression_do_not_matter(tmp_path):
    np.savez_compressed(tmp_path / "mine.npz", **GOOD | {"images": np.asfortranarray(IMAGES)})
    np.testing.assert_array_equal(data.load(str(tmp_path / "mine.npz")).train_images, IMAGES)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (without("images"), "has no array 'images'"),
        (without("labels"), "has no array 'labels'"),
        (without("test_images"), "expected either test_images and test_labels or split, found test_labels"),
        (without("test_images", "test_labels"), "found none of them"),
        (GOOD | {"split": [0, 0, 0, 1, 1, 1]}, "found test_images, test_labels, split"),
        (GOOD | {"images": IMAGES / 255}, r"images: expected uint8 \(N, H, W, 3\), found float64 \(6, 8, 8, 3\)"),
        (GOOD | {"images": IMAGES.transpose(0, 3, 1, 2)}, r"images: expected uint8 .* found uint8 \(6, 3, 8, 8\)"),
        (GOOD | {"images": IMAGES[0]}, r"images: expected uint8 .* found uint8 \(8, 8, 3\)"),
        (GOOD | {"images": IMAGES[:0], "labels": LABELS[:0]}, r"images: .* found uint8 \(0, 8, 8, 3\)"),
        (GOOD | {"test_images": IMAGES[:3, :4]}, r"test_images: expected images of shape \(8, 8, 3\)"),
        (GOOD | {"labels": LABELS[:5]}, r"labels: expected integers \(6,\), found uint8 \(5,\)"),
        (GOOD | {"labels": LABELS.astype(float)}, "labels: expected integers .* found float64"),
        (GOOD | {"labels": LABELS[:, None]}, r"labels: expected integers .* found uint8 \(6, 1\)"),
        (GOOD | {"labels": LABELS.astype(int) - 1}, "labels: expected 0 to 1, found -1"),
        (GOOD | {"labels": LABELS + 1, "test_labels": LABELS[:3] + 1}, "every class from 0 to 3 .* found none of 0"),
        (GOOD | {"test_labels": np.array([0, 1, 3])}, "test_labels: expected 0 to 2, found 3"),
        (GOOD | {"classes": ["a", "b"]}, "labels: expected 0 to 1, found 2"),
        (GOOD | {"classes": ["a", "b", "c", "d"]}, "found none of 3"),
        (GOOD | {"classes": [1, 2, 3]}, "classes: expected two or more strings"),
        (GOOD | {"labels": np.zeros(6, int), "test_labels": np.zeros(3, int)}, "found none of 1"),
        (without("test_images", "test_labels") | {"split": [0, 1]}, "split: expected .* for each of 6 images"),
        (without("test_images", "test_labels") | {"split": [0, 1, 2, 0, 1, 2]}, "split: expected .* found int64"),
        (without("test_images", "test_labels") | {"split": [0] * 6}, "split: expected images in both splits"),
        (GOOD | {"images": np.array([{}] * 6, object)}, "Object arrays cannot be loaded"),
    ],
)
def test_D9_what_is_wrong_is_named_with_the_file(arrays, message, tmp_path):
    with pytest.raises(DataError, match=rf"mine\.npz.*{message}") as caught:
        load(tmp_path, **arrays)
    assert "\n" not in str(caught.value)


def rezipped(whole: bytes, old: bytes, new: bytes) -> bytes:
    """A .npz whose arrays have `new` in the place of `old`, under checksums that are right for it."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(made, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(old, new))
    return made.getvalue()


@pytest.mark.parametrize(
    "damage", ["missing", "text", "truncated", "flipped", "npy", "empty", "header", "encrypted", "packing"]
)
def test_a_damaged_file_is_named(damage, tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, **GOOD)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
        assert data.find(str(path)).kind == "missing"
    elif damage == "npy":
        with path.open("wb") as file:
            np.save(file, IMAGES)
    else:
        at = whole.index(IMAGES.tobytes())
        flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        entry = whole.index(b"PK\x01\x02")
        encrypted = whole[: entry + 8] + b"\x01" + whole[entry + 9 :]
        packed = whole[: entry + 10] + b"\x63" + whole[entry + 11 :]
        opened = rezipped(whole, b"8, 3), }", b"8, 3(, }")
        made = {"text": b"images", "truncated": whole[:-50], "flipped": flipped, "empty": b""}
        made |= {"header": opened, "encrypted": encrypted, "packing": packed}
        path.write_bytes(made[damage])
    with pytest.raises(DataError, match=r"mine\.npz (does not exist|is not a readable \.npz file)") as caught:
        data.load(str(path))
    assert "\n" not in str(caught.value)
