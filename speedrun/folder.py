"""The folder of a run: its name, and the claim that keeps other runs out of it."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from speedrun import files
from speedrun.config import Config, to_dict
from speedrun.errors import SpeedrunError


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
def claimed(folder: Path | None, config: Config) -> Iterator[None]:
    """Make the folder and keep others out of it while the run is on; removed again if nothing came of the run.

    What a killed run left behind is cleared away. Raises SpeedrunError where the folder cannot be written, or holds
    another run, finished or still going on.
    """
    if folder is None:
        yield
        return
    guard = folder / ".lock"
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(files.lock(guard, wait_seconds=0.0, what=f"the run that writes to {folder}"))
            stack.callback(_remove, folder)
            stack.callback(_unlink, guard)
            if (folder / "result.json").exists():
                raise SpeedrunError(f"{folder} holds another run already: choose another --out")
            for left in ("metrics.jsonl", "model.pt"):
                (folder / left).unlink(missing_ok=True)
            files.write_json(folder / "config.json", to_dict(config))
        except files.LockTimeout:
            raise SpeedrunError(f"another run is writing to {folder}: choose another --out") from None
        except OSError as error:
            raise SpeedrunError(f"{folder} cannot be written: {error.strerror}") from None
        yield


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):  # Windows does not remove a file that is open
        path.unlink()


def _remove(folder: Path) -> None:
    """Undo what claiming the folder made if nothing came of it; whatever else lies in it stays."""
    if any((folder / kept).exists() for kept in ("result.json", "model.pt")):
        return
    for made in ("config.json", "metrics.jsonl"):
        _unlink(folder / made)
    with contextlib.suppress(OSError):
        folder.rmdir()
