"""The bytes of a CIFAR file into arrays: pickled batches, binary records, packed archives. Never torch, never a disk.

A pickle can run code, so batches go through an unpickler that knows seven names and puts harmless stand-ins behind
them: no object of numpy or of anything else is built by the file itself. Archives are read member by member into
memory; nothing is ever extracted.
"""

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from speedrun.errors import DataError

PIXELS = 3 * 32 * 32
LARGEST_MEMBER = 1 << 29  # bytes; the largest official file has 155 MB


class Batch(NamedTuple):
    """Images as CIFAR stores them, uint8 (N, 3072), planes of red, green, blue; labels, int64 (N,)."""

    planes: np.ndarray
    labels: np.ndarray


class Splits(NamedTuple):
    """Images uint8 (N, H, W, 3), labels int64 (N,), of both splits."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def decode_pickle(data: bytes, label_key: str, num_classes: int, where: str) -> Batch:
    """A batch of the python layout. Raises DataError, which names `where`, if it is anything else."""
    fields = _unpickle(data, ("data", label_key), where)
    planes = _as_array(fields["data"], f"{where}: data")
    labels = _as_array(fields[label_key], f"{where}: {label_key}")
    return check_batch(planes, labels, num_classes, where)


def decode_unlabelled(data: bytes, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Images to be predicted, from a pickled dict of `data`, uint8 (N, H, W, 3), and perhaps `ids`, integers (N,).

    The planes of a CIFAR batch, uint8 (N, 3072), are taken as well. The shapes are the caller's to check.
    """
    fields = _unpickle(data, ("data",), where)
    images = _as_array(fields["data"], f"{where}: data")
    if images.dtype == np.uint8 and images.shape[1:] == (PIXELS,):
        planes, images = images, np.empty((len(images), 32, 32, 3), np.uint8)
        planes_to_nhwc(planes, images)
    return images, _as_array(fields["ids"], f"{where}: ids") if "ids" in fields else None


def _unpickle(data: bytes, keys: tuple[str, ...], where: str) -> dict[Any, Any]:
    """A pickled dict that has `keys`, its names as text."""
    try:
        loaded = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{where} is not a CIFAR batch: {error or type(error).__name__}") from error
    if not isinstance(loaded, dict):
        raise DataError(f"{where} is not a CIFAR batch: expected a dict, found {type(loaded).__name__}")
    fields = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in loaded.items()}
    for key in keys:
        if key not in fields:
            raise DataError(f"{where} is not a CIFAR batch: expected the key {key!r}, found {sorted(map(str, fields))}")
    return fields


def decode_records(data: bytes, label_bytes: int, num_classes: int, where: str) -> Batch:
    """A file of the binary layout: records of `label_bytes` bytes, the last of which is the label, and an image."""
    record = label_bytes + PIXELS
    if len(data) == 0 or len(data) % record:
        raise DataError(f"{where} is damaged: expected a multiple of {record} bytes, found {len(data)}")
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    return check_batch(records[:, label_bytes:], records[:, label_bytes - 1], num_classes, where)


def check_batch(planes: np.ndarray, labels: np.ndarray, num_classes: int, where: str) -> Batch:
    """The batch with int64 labels, or a DataError that says what was expected and found."""
    if planes.dtype != np.uint8 or planes.ndim != 2 or planes.shape[1] != PIXELS or len(planes) == 0:
        raise DataError(f"{where}: data: expected uint8 (N, {PIXELS}), found {planes.dtype} {planes.shape}")
    if labels.dtype.kind not in "iu" or labels.shape != planes.shape[:1]:
        raise DataError(f"{where}: labels: expected {len(planes)} integers, found {labels.dtype} {labels.shape}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(f"{where}: labels: expected 0 to {num_classes - 1}, found {low if low < 0 else high}")
    return Batch(planes, labels.astype(np.int64))


def planes_to_nhwc(planes: np.ndarray, out: np.ndarray) -> None:
    """Write planes, uint8 (N, 3072), into `out`, uint8 (N, 32, 32, 3). Plane by plane: 4 times a plain transpose."""
    pixels = out.reshape(len(planes), PIXELS // 3, 3)
    for channel, plane in enumerate(np.split(planes, 3, axis=1)):
        pixels[:, :, channel] = plane


def archive_members(archive: Path, folder: str, wanted: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """The wanted files of `folder` in a .tar.gz, as (name, bytes) in the archive's order.

    Raises DataError for a damaged archive, and for one with members that leave their folder or are not plain files.
    """
    names = {f"{folder}/{name}": name for name in wanted}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                _refuse_unsafe(member, archive)
                name = names.get(str(PurePosixPath(member.name)))
                if name is not None and (file := tar.extractfile(member)) is not None:
                    yield name, file.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        size = archive.stat().st_size if archive.exists() else 0
        raise DataError(f"{archive} is damaged or truncated ({size} bytes): {error}") from error


def _refuse_unsafe(member: tarfile.TarInfo, archive: Path) -> None:
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise DataError(f"{archive}: refused, its member {member.name!r} leaves the folder")
    if not (member.isfile() or member.isdir()):
        raise DataError(f"{archive}: refused, its member {member.name!r} is a link or a device")
    if member.size > LARGEST_MEMBER:
        raise DataError(f"{archive}: refused, its member {member.name!r} has {member.size} bytes")


class _Dtype:
    """Stands in for numpy.dtype."""

    def __init__(self, code: Any = b"", *flags: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else str(code)
        self.order = "|"

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        self.order = order.decode("latin1") if isinstance(order, bytes) else str(order)


class _Array:
    """Stands in for numpy.ndarray: collects its parts, and makes the array once the file has been read."""

    def __init__(self, *arguments: Any) -> None:
        self.shape: Any = ()
        self.dtype: Any = None
        self.fortran: Any = False
        self.raw: Any = b""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran, self.raw = state

    def to_numpy(self) -> np.ndarray:
        dtype = np.dtype(self.dtype.code).newbyteorder(self.dtype.order)
        if dtype.kind not in "iu":
            raise ValueError(f"expected integers, found {dtype}")
        return np.frombuffer(self.raw, dtype).reshape(self.shape, order="F" if self.fortran else "C")


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> _Array:
    """Stands in for numpy's `_frombuffer`, which pickles of protocol 5 use."""
    array = _Array()
    array.shape, array.dtype, array.fortran, array.raw = shape, dtype, order == "F", raw
    return array


def _encode(text: str, encoding: Any = "latin1") -> bytes:
    """Stands in for `_codecs.encode`, by which protocol 2 holds bytes."""
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # where numpy 2 keeps them
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused, it asks for {module}.{name}") from None


def _as_array(value: Any, where: str) -> np.ndarray:
    try:
        if isinstance(value, _Array):
            return value.to_numpy()
        if isinstance(value, list) and all(type(item) is int for item in value):
            return np.array(value, np.int64)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{where}: expected an array of integers, found one that does not fit: {error}") from error
    raise DataError(f"{where}: expected integers, found {type(value).__name__}")
