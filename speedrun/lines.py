"""Whole lines at the end of a file, whoever else writes to it. Standard library only."""

import os
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LOCK_SECONDS = 5.0


def append_lines(path: str | os.PathLike[str], lines: str) -> None:
    """Add `lines`, which end in a line end, by one write: others see all of them or none, and nobody's are mixed.

    A last line that a dead writer left open is closed first, so that it spoils no line but itself. OSError if the file
    cannot be written or the disk is full; it is left as it was then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        locked = _lock(file)
        end = os.fstat(file).st_size
        if end and _last_byte(file, end) != b"\n":
            lines = "\n" + lines
        data = lines.encode()
        written = os.write(file, data)
        if written < len(data):
            if locked:  # else the end may be another's by now
                os.ftruncate(file, end)
            raise OSError(f"only {written} of {len(data)} bytes could be written; the disk is full")
    finally:
        os.close(file)  # which ends the lock, too


def _last_byte(file: int, end: int) -> bytes:
    os.lseek(file, end - 1, os.SEEK_SET)  # pread is unknown to Windows; writes go to the end all the same
    return os.read(file, 1)


def _lock(file: int) -> bool:
    """Hold the open file against other writers, and say whether that worked.

    It is the second line of defence, for network file systems: on a local disk one O_APPEND write is whole by itself.
    So a file system without locks, or a holder that was stopped, is waited for briefly and then passed by.
    """
    if fcntl is None:
        return False
    give_up = time.monotonic() + _LOCK_SECONDS
    while time.monotonic() < give_up:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.005)
        except OSError:
            return False
        else:
            return True
    return False
