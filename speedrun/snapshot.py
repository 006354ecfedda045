"""A training on disk while it goes on: when its checkpoints are due, what they hold, how they are read again.

Two are kept. A new one takes the name of the newest, and what had it becomes the second choice, for the case that the
newest is damaged. Nothing random has a state of its own: all of it is a function of the seed and of the position in the
stream.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from speedrun import checkpoint
from speedrun.config import Config, from_dict, to_dict
from speedrun.errors import SpeedrunError
from speedrun.folder import CHECKPOINTS, NEWEST, PREVIOUS

SHARE = 0.008  # of the time so far that all checkpoints together may take
SHORTEST = 2.0  # seconds between two, however cheap they are
BYTES_PER_SECOND = 100e6  # of a disk that nothing is known of yet: serialising, the digest and the disk
FIELDS = {"progress", "steps", "max_steps", "batches", "step", "clock", "outcome", "data", "validation"}


class Interval:
    """Says when a checkpoint is due: when, with it, they will have cost no more than their share of the time.

    size: bytes of one. write_seconds: what a small file took to reach the disk. began: seconds on the run's clock when
    training began.
    """

    def __init__(self, size: int, write_seconds: float, began: float) -> None:
        self.cost = 0.02 + write_seconds + size / BYTES_PER_SECOND  # of the next one, as far as is known
        self._spent = 0.0
        self._began = self._last = began

    def due(self, now: float) -> bool:
        """now: seconds on the run's clock, as for the other methods."""
        return now - self._last >= SHORTEST and self._spent + self.cost <= SHARE * (now - self._began)

    def took(self, seconds: float, now: float) -> None:
        """Account for a checkpoint that has just been written, or not, in so many seconds."""
        self.cost, self._spent, self._last = seconds, self._spent + seconds, now


@dataclass(frozen=True)
class Snapshot:
    """A training as it was. model: CPU tensors by name. state: what `write` was given. note: a warning, or ""."""

    config: Config
    model: dict[str, Tensor]
    state: dict[str, Any]
    note: str = ""


def write(folder: Path, net: nn.Module, config: Config, state: Mapping[str, Any]) -> None:
    """Write the newest checkpoint of a run. state: has `FIELDS`. OSError where that fails; the others are still there.

    The one that was the newest is put aside first: a crash between the two leaves it as the only one.
    """
    with suppress(FileNotFoundError):
        os.replace(folder / NEWEST, folder / PREVIOUS)
    checkpoint.save(folder / NEWEST, model=net, config=to_dict(config), extra=state)


def read(path: Path) -> Snapshot:
    """The newest sound checkpoint in the folder of a run; or the file `path`, and no other in its place.

    Raises SpeedrunError where there is none.
    """
    if not path.is_dir():
        return _read(path)
    names = [name for name in CHECKPOINTS if (path / name).exists()]
    if not names:
        raise SpeedrunError(f"{path} has no {NEWEST}: its run was not interrupted, or before the first was written")
    problems = []
    for name in names:
        try:
            found = _read(path / name)
        except SpeedrunError as error:
            problems.append(str(error))
        else:
            note = f"{problems[0]}: going on from {name}" if problems else ""
            return Snapshot(found.config, found.model, found.state, note)
    raise SpeedrunError("; ".join(problems))


def _read(path: Path) -> Snapshot:
    found = checkpoint.load(path)
    if FIELDS - found.meta.keys():
        raise SpeedrunError(f"{path} is a trained net and no checkpoint of a training: there is nothing to go on with")
    return Snapshot(from_dict(Config, found.config), found.model, found.meta)
