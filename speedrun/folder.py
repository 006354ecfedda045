"""The folder of a run: its name, and the claim that keeps other runs out of it."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from speedrun import files
from speedrun.config import Config, to_dict
from speedrun.errors import SpeedrunError

CHECKPOINTS = NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint-previous.pt"
FINISHED = ("complete", "missed")
_CURVES = ("metrics.jsonl", "validation.jsonl")


def name(config: Config) -> Path:
    """Where a config's results go: `out`, or a new folder named by time and recipe; another if that is taken."""
    if config.out is not None:
        return config.out
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.recipe}"
    path, number = Path("runs") / stem, 1
    while path.exists():
        number += 1
        path = path.with_name(f"{stem}-{number}")
    return path


@contextlib.contextmanager
def claimed(folder: Path | None, config: Config, *, again: str = "", resuming: bool = False) -> Iterator[float]:
    """Make the folder and keep others out of it while the run is on; removed again if nothing came of the run.

    Gives the seconds that a small file took to reach its disk. What a killed run left behind is cleared away, but for
    its checkpoints. `again`: so is the record of a job of this kind, which goes on. `resuming`: it is the run in the
    folder that goes on from its checkpoint, and everything stays.
    Raises SpeedrunError where the folder cannot be written, holds another run, finished or still going on, or one that
    could be resumed.
    """
    if folder is None:
        yield 0.0
        return
    guard = folder / ".lock"
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(files.lock(guard, wait_seconds=0.0, what=f"the run that writes to {folder}"))
            if not resuming:
                stack.callback(_remove, folder)
            stack.callback(_unlink, guard)
            _refuse_others(folder, again, resuming)
            left = [] if resuming else [folder / name for name in (*_CURVES, "model.pt")]
            left += [folder / "result.json"] if again else []
            for path in (*folder.glob(files.TEMPORARIES), *left):
                path.unlink(missing_ok=True)
            began = time.monotonic()
            files.write_json(folder / "config.json", files.sealed(to_dict(config)))
            write_seconds = time.monotonic() - began
        except files.LockTimeout:
            raise SpeedrunError(f"another run is writing to {folder}: choose another --out") from None
        except OSError as error:
            raise SpeedrunError(f"{folder} cannot be written: {error.strerror}") from None
        yield write_seconds


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run that has reached its end."""
    for name in CHECKPOINTS:
        _unlink(folder / name)


def _refuse_others(folder: Path, again: str, resuming: bool) -> None:
    """Raise SpeedrunError where the folder holds what must not be written over."""
    result = folder / "result.json"
    if not resuming:
        if result.exists() and not (again and files.read_sealed(result).get("kind") == again):
            raise SpeedrunError(f"{folder} holds another run already: choose another --out")
        if any((folder / name).exists() for name in CHECKPOINTS):
            raise SpeedrunError(f"{folder} holds a run that can go on: --resume {folder}, or choose another --out")
    elif result.exists() and files.read_sealed(result).get("status") in FINISHED:
        raise SpeedrunError(f"{folder} holds a run that has ended: there is nothing to resume")


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):  # Windows does not remove a file that is open
        path.unlink()


def _remove(folder: Path) -> None:
    """Undo what claiming the folder made if nothing came of it; whatever else lies in it stays."""
    if any((folder / kept).exists() for kept in ("result.json", "model.pt", *CHECKPOINTS)):
        return
    for made in ("config.json", *_CURVES):
        _unlink(folder / made)
    with contextlib.suppress(OSError):
        folder.rmdir()
