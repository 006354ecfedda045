"""The lines of a run's `metrics.jsonl`, their writer and their reader. Standard library only."""

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from speedrun.errors import SpeedrunError
from speedrun.files import write_bytes
from speedrun.lines import append_lines

# Every line is padded to this. A kernel that kills a process in the middle of a write stops at the end of a page, and
# a page of 4096 bytes then ends where a line does. Eight names and numbers of nine digits need 245 bytes at most.
_LINE_BYTES = 256


class MetricsWriter:
    """Writes a run's `metrics.jsonl`: one object a line, one line each time numbers are looked at.

    A line has these fields, all numbers; null where a number is not known, or is NaN or infinite:
    `step` (steps taken), `progress` (0 to 1 of the schedule), `epoch`, `loss` (mean of an image of the running batch),
    `accuracy` (of the running batch, fraction of 1), `learning_rate` (of the leading group), `images_per_second`,
    `seconds` (on the run's clock).

    Lines wait in memory and are written by one call once `interval_seconds` have passed: a run that is killed loses
    the last of them and leaves no half of one. The disk may fill without stopping the training: `problem` then says
    so, and the lines are tried again at the next interval. path: None writes nothing.
    """

    FIELDS = ("step", "progress", "epoch", "loss", "accuracy", "learning_rate", "images_per_second", "seconds")

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        interval_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.problem: str | None = None
        self._path = None if path is None else Path(path)
        self._interval = interval_seconds
        self._clock = clock
        self._next_flush = clock() + interval_seconds
        self._lines: list[str] = []

    def write(self, **values: float | None) -> None:
        """Add a line. Takes exactly the names of `FIELDS`; those left out are null."""
        if self._path is None:
            return
        if unknown := values.keys() - set(self.FIELDS):
            raise TypeError(f"not in a line of metrics: {', '.join(sorted(unknown))}")
        line = {name: _shown(values.get(name)) for name in self.FIELDS}
        self._lines.append(json.dumps(line, allow_nan=False).ljust(_LINE_BYTES - 1) + "\n")
        if self._clock() >= self._next_flush:
            self.flush()

    def flush(self) -> None:
        """Write the lines that wait."""
        self._next_flush = self._clock() + self._interval
        if self._path is None or not self._lines:
            return
        try:
            append_lines(self._path, "".join(self._lines))
        except OSError as error:
            self.problem = f"{self._path}: {error.strerror or error}"
        else:
            self._lines.clear()

    def close(self) -> None:
        """Write the rest. The writer can be used on."""
        self.flush()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: str | os.PathLike[str]) -> list[dict[str, float | None]]:
    """The lines of a `metrics.jsonl`, oldest first; none where there is no such file.

    SpeedrunError that names the file and the line where it is damaged.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError:
        return []
    return [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def newest_loss(folder: str | os.PathLike[str]) -> float | None:
    """The last training loss of the run in a folder; None if it was not finite, or is not known."""
    lines = read(Path(folder) / "metrics.jsonl")
    return lines[-1]["loss"] if lines else None


def rewind(path: Path, step: int) -> None:
    """Drop the lines after a step: a run that is resumed takes those steps again. What is no line is dropped too."""
    kept = []
    with suppress(FileNotFoundError):
        for line in path.read_bytes().split(b"\n"):
            with suppress(SpeedrunError):
                if (_parse(line, "")["step"] or 0) <= step:
                    kept.append(line + b"\n")
        write_bytes(path, b"".join(kept))


def _parse(line: bytes, where: str) -> dict[str, float | None]:
    try:
        found = json.loads(line)
        if found.keys() == set(MetricsWriter.FIELDS):
            return found
    except (ValueError, AttributeError):
        pass
    raise SpeedrunError(f"{where}: damaged, it is no line of metrics")


def _shown(value: float | None) -> float | None:
    """Nine digits, all that a float32 has; an integer as it is."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.9g}")
