"""Atomic writes, file locks and checksums. Standard library only.

A file written here is either whole under its name or not there: the bytes go to a temporary file in the same folder,
reach the disk, and take the name in one step. Locks only save work (one download instead of four); what a reader sees
is right without them, so a file system that has none is no error.
"""

import errno
import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from speedrun.errors import SpeedrunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

POLL_SECONDS = 0.05
TEMPORARIES = ".*.tmp"
SEAL = "sha256"
# What flock answers where a file system knows no locks: NFS without lockd, some FUSE and container mounts.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}  # the last two on Windows


class LockTimeout(SpeedrunError):
    """Another process kept a lock for longer than we were ready to wait. The message says what we waited for."""


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `path` when the block ends well and vanishes when it does not.

    durable: wait until the bytes are on the disk before they take the name. Only files that are checked when read may
    do without. Raises whatever the block or the file system raises; `path` is then as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        publish(temporary, path, durable=durable)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def publish(temporary: Path, path: Path, *, durable: bool = True) -> None:
    """Give a finished file of the same folder its name in one step, its bytes first on the disk if `durable`."""
    if durable:
        _sync(temporary, os.O_RDWR)
    os.replace(temporary, path)
    if durable and os.name == "posix":
        with suppress(OSError):  # the folder's entry; some file systems cannot sync a folder
            _sync(path.parent, os.O_RDONLY)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8 with the line ends it has."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` to `path` atomically as indented JSON. JSON has no NaN: floats that are not finite become null."""
    write_text(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """An object of JSON values with a digest of all its others in `sha256`, by which damage shows when it is read."""
    plain = {name: _finite(item) for name, item in value.items() if name != SEAL}
    return {**plain, SEAL: _digest(plain)}


def seal_holds(value: Mapping[str, Any]) -> bool:
    """Whether an object is as it was when it was sealed; one that never was may be anything."""
    return SEAL not in value or value[SEAL] == _digest({name: item for name, item in value.items() if name != SEAL})


def read_sealed(path: str | os.PathLike[str], *, optional: bool = False) -> dict[str, Any]:
    """The object in a JSON file, without its seal. SpeedrunError that names a file which is missing or damaged.

    optional: one without a seal is taken as it is.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise SpeedrunError(f"{path}: {error.strerror}") from None
    return unsealed(text, str(path), optional=optional)


def unsealed(text: bytes, where: str, *, optional: bool = False) -> dict[str, Any]:
    """The object that a JSON text holds, without its seal, as `read_sealed` has it. `where`: for the message."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpeedrunError(f"{where}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise SpeedrunError(f"{where}: not a JSON object")
    if not optional and SEAL not in value:
        raise SpeedrunError(f"{where}: damaged, or not of speedrun: it has no {SEAL}")
    if not seal_holds(value):
        hint = f"; without its {SEAL} it is taken as it is" if optional else ""
        raise SpeedrunError(f"{where}: damaged or changed since it was written{hint}")
    return {name: item for name, item in value.items() if name != SEAL}


@contextmanager
def lock(
    path: str | os.PathLike[str],
    *,
    wait_seconds: float,
    what: str,
    on_wait: Callable[[str, float], None] | None = None,
) -> Iterator[bool]:
    """Hold the lock file `path` for the length of the block. The system frees it when its holder ends, however it ends.

    what: what is behind the lock, for the messages. on_wait: told, again and again while we wait, what for and for how
    many seconds by now.
    Yields whether the lock is held: False where the file system has no locks. Raises LockTimeout after `wait_seconds`,
    and where the holder that was waited for removed the file: by then another may hold a new one of this name. OSError
    where the file cannot be made. The file stays, unless the block removes it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        held = _acquire(descriptor, wait_seconds, lambda: _holder(path, what), on_wait)
        if held and not _is_named(descriptor, path):
            raise LockTimeout(f"{_holder(path, what)} has been another's meanwhile")
        if held:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, str(os.getpid()).encode())
        yield held
    finally:
        os.close(descriptor)  # frees the lock


def file_digest(path: str | os.PathLike[str], algorithm: str = "md5") -> str:
    """The hexadecimal digest of a file's bytes. It guards against damage, not against an adversary."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _acquire(
    descriptor: int,
    wait_seconds: float,
    describe: Callable[[], str],
    on_wait: Callable[[str, float], None] | None,
) -> bool:
    start = time.monotonic()
    while True:
        try:
            _try_lock(descriptor)
            return True
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            if error.errno not in _TAKEN:
                raise
        waited = time.monotonic() - start
        if waited >= wait_seconds:
            raise LockTimeout(f"gave up after waiting {waited:.0f} s for {describe()}")
        if on_wait is not None:
            on_wait(f"waiting for {describe()}", waited)
        time.sleep(POLL_SECONDS)


def _try_lock(descriptor: int) -> None:
    """Take the lock or raise OSError at once. flock, not lockf: it also keeps threads of one process apart."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # past every byte: Windows forbids reading what is locked
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)


def _is_named(descriptor: int, path: str | os.PathLike[str]) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(path: str | os.PathLike[str], what: str) -> str:
    try:
        holder = Path(path).read_text().strip()
    except OSError:
        holder = ""
    return f"{what} (held by process {holder or 'unknown'}, lock {path})"


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
