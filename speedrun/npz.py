"""Someone's own images from one .npz file. numpy and the standard library only.

`images` uint8 (N, H, W, 3) and `labels`, integers (N,), are the training split when `test_images` and `test_labels`
are there too. Without those two, `split` (N,) says of every image which split it is in: "train" or "test", or 0 or 1.
Labels are 0 to K-1, and every class has a training image. `classes` (K,), strings, may name them. Nothing in the file
is unpickled.
"""

import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import NoReturn

import numpy as np

from speedrun.errors import DataError
from speedrun.formats import Splits

# What numpy and zipfile raise for damage: of the bytes, of the directory, of an array's own header. RuntimeError is for
# what is encrypted or packed in ways unknown, and TokenError escapes from numpy's parser.
NUMPY_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    TokenError,
)
ARRAYS = ("images", "labels", "test_images", "test_labels", "split", "classes")


def read_npz(path: Path) -> tuple[Splits, tuple[str, ...]]:
    """The two splits and the class names. Raises DataError naming the file, the array, what was expected and found."""
    arrays = _load(path)
    for name in ("images", "labels"):
        if name not in arrays:
            raise DataError(f"{path} has no array {name!r} (expected images, labels, and a test split)")
    _check_pair(path, arrays, "images", "labels")
    splits = _splits(path, arrays)
    return splits, _classes(path, arrays, splits)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with file:
            return {name: np.ascontiguousarray(file[name]) for name in ARRAYS if name in file.files}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except NUMPY_ERRORS as error:
        raise DataError(f"{path} is not a readable .npz file: {error}") from error


def _splits(path: Path, arrays: dict[str, np.ndarray]) -> Splits:
    tests = [name for name in ("test_images", "test_labels") if name in arrays]
    images, labels = arrays["images"], arrays["labels"].astype(np.int64)
    if len(tests) == 2 and "split" not in arrays:
        _check_pair(path, arrays, "test_images", "test_labels")
        if arrays["test_images"].shape[1:] != images.shape[1:]:
            _refuse(path, "test_images", f"images of shape {images.shape[1:]}", arrays["test_images"])
        return Splits(images, labels, arrays["test_images"], arrays["test_labels"].astype(np.int64))
    if tests or "split" not in arrays:
        found = ", ".join([*tests, *(["split"] if "split" in arrays else [])]) or "none of them"
        raise DataError(f"{path}: expected either test_images and test_labels or split, found {found}")
    is_test = _is_test(path, arrays["split"], len(images))
    return Splits(images[~is_test], labels[~is_test], images[is_test], labels[is_test])


def _is_test(path: Path, split: np.ndarray, count: int) -> np.ndarray:
    """Which images are for testing, bool (N,)."""
    text = split.astype(str) if split.dtype.kind in "SUbiu" else split
    for train, test in (("train", "test"), ("0", "1"), ("False", "True")):
        if split.shape == (count,) and np.isin(text, (train, test)).all():
            is_test = text == test
            if is_test.any() and not is_test.all():
                return is_test
            raise DataError(f"{path}: split: expected images in both splits, found all in {text[0]!r}")
    _refuse(path, "split", f'"train" or "test" (or 0 or 1) for each of {count} images', split)


def _check_pair(path: Path, arrays: dict[str, np.ndarray], images_name: str, labels_name: str) -> None:
    images, labels = arrays[images_name], arrays[labels_name]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        _refuse(path, images_name, "uint8 (N, H, W, 3)", images)
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        _refuse(path, labels_name, f"integers ({len(images)},)", labels)


def _classes(path: Path, arrays: dict[str, np.ndarray], splits: Splits) -> tuple[str, ...]:
    """The names, or the numbers as names; refuses labels outside 0 to K-1 and classes without a training image."""
    present = np.unique(splits.train_labels)
    names = arrays.get("classes", np.arange(max(int(present[-1]) + 1, 2)).astype(str))
    if names.dtype.kind != "U" or names.ndim != 1 or len(names) < 2:
        _refuse(path, "classes", "two or more strings (K,)", names)
    last = len(names) - 1
    for name, labels in (("labels", splits.train_labels), ("test_labels", splits.test_labels)):
        outside = labels[(labels < 0) | (labels > last)]
        if len(outside):
            raise DataError(f"{path}: {name}: expected 0 to {last}, found {outside[0]}")
    if len(present) < len(names):
        missing = np.setdiff1d(np.arange(len(names)), present)[0]
        raise DataError(f"{path}: labels: expected every class from 0 to {last} in training, found none of {missing}")
    return tuple(str(name) for name in names)


def _refuse(path: Path, name: str, expected: str, found: np.ndarray) -> NoReturn:
    raise DataError(f"{path}: {name}: expected {expected}, found {found.dtype} {found.shape}")
