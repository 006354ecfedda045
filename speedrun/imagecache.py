"""Decoded images kept on disk, checked by CRC-32 whenever they are read. numpy and the standard library only.

Only archives are worth it: unpacking one takes seconds, reading this takes tenths. The file is a magic word, the
length and CRC of a JSON header, the header, and the arrays' bytes in the order of `Splits`.
"""

import json
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from speedrun.errors import DataError
from speedrun.files import atomic_path
from speedrun.formats import Splits

MAGIC = b"SPEEDRUN"
PRELUDE = struct.Struct("<8sII")  # magic, bytes of header, CRC-32 of header
CHUNK = 1 << 24  # bytes a CRC covers: small enough to share between two cores


def identity(source: Path) -> dict[str, int | str]:
    """What tells one source from another, and from itself once it has changed."""
    status = source.stat()
    return {"path": str(source.resolve()), "size": status.st_size, "modified_ns": status.st_mtime_ns}


def cache_path(cache_dir: Path, source: Path) -> Path:
    """Where the decoded images of `source` are kept: one file for a path, whatever the path holds over time."""
    return cache_dir / f"{source.name.partition('.')[0]}-{zlib.crc32(str(source.resolve()).encode()):08x}.images"


def store(path: Path, source: dict[str, int | str], splits: Splits) -> None:
    """Keep `splits` under `path` for the source with this identity. Raises OSError, and leaves what was there."""
    arrays = [np.ascontiguousarray(array) for array in splits]
    described = [
        {"shape": array.shape, "dtype": array.dtype.str, "crc": [zlib.crc32(chunk) for chunk in _chunks(array)]}
        for array in arrays
    ]
    header = json.dumps({"source": source, "arrays": described}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not durable: waiting for 184 MB to reach a disk costs more than the images are worth, and reading checks them.
    with atomic_path(path, durable=False) as temporary, open(temporary, "wb") as file:
        file.write(PRELUDE.pack(MAGIC, len(header), zlib.crc32(header)) + header)
        for array in arrays:
            file.write(array.data.cast("B"))


def read(path: Path, source: dict[str, int | str]) -> Splits | None:
    """The images kept for this source; None if there are none, or none of this source as it is now.

    Raises DataError if the file is damaged: the caller decodes the source again.
    """
    try:
        with open(path, "rb") as file:
            magic, length, crc = PRELUDE.unpack(file.read(PRELUDE.size))
            header = file.read(length)
        if magic != MAGIC or zlib.crc32(header) != crc:
            raise DataError(f"{path} is damaged: its header fails its checksum")
        described = json.loads(header)
        if described["source"] != source:
            return None
        arrays = [np.empty(array["shape"], array["dtype"]) for array in described["arrays"]]
        _read_arrays(path, PRELUDE.size + length, arrays, [array["crc"] for array in described["arrays"]])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, struct.error) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    return Splits(*arrays)


def _read_arrays(path: Path, offset: int, arrays: list[np.ndarray], crcs: list[list[int]]) -> None:
    jobs: list[tuple[int, memoryview, int]] = []
    for array, array_crcs in zip(arrays, crcs, strict=True):
        for chunk, crc in zip(_chunks(array), array_crcs, strict=True):
            jobs.append((offset, chunk, crc))
            offset += len(chunk)

    def fill(job: tuple[int, memoryview, int]) -> bool:
        start, chunk, crc = job
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return file.readinto(chunk) == len(chunk) and zlib.crc32(chunk) == crc  # both let other threads run

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        if not all(pool.map(fill, jobs)):
            raise DataError(f"{path} is damaged: its images fail their checksum")


def _chunks(array: np.ndarray) -> list[memoryview]:
    data = array.data.cast("B")
    return [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
