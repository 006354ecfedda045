"""Download a public archive: mirrored, resumable, locked, checked by MD5. Standard library; rich for the bar alone.

The bytes gather in a hidden partial file and take their name only once size and MD5 are right. Addresses are https.
$SPEEDRUN_MIRROR, the address of a folder that holds the archive, is tried before all others.
"""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from speedrun.catalogue import KNOWN, KnownFile
from speedrun.errors import FetchError, UsageError
from speedrun.files import LockTimeout, lock, publish
from speedrun.transfer import CACHE_VARIABLE, Limits, Progress, Transfer, is_whole, size_of

__all__ = ["FetchResult", "Limits", "Progress", "fetch", "fetch_file", "progress_bar"]

MIRROR_VARIABLE = "SPEEDRUN_MIRROR"
PLAIN_SECONDS = 10.0  # between lines where there is no terminal

Report = Callable[[Progress], None]


@dataclass(frozen=True)
class FetchResult:
    """path: the whole file. seconds: network transfer only (or waiting while another process transfers the same file);
    no pause, no hashing. bytes: received over the network by this call. address: where the last of them came from, or
    the path where the file was there already."""

    path: Path
    seconds: float
    bytes: int
    address: str


def fetch(
    name: str,
    cache_dir: Path,
    *,
    progress: Report | None = None,
    mirrors: Sequence[str] | None = None,
    limits: Limits | None = None,
) -> FetchResult:
    """Fetch the archive of "cifar10" or "cifar100" into `cache_dir`, unless it is there and whole.

    mirrors: addresses in place of the known ones. Raises UsageError for an unknown name or an address that is not
    https, FetchError when it cannot be had: the message names every address tried, or the disk's or folder's fault.
    """
    if name not in KNOWN:
        raise UsageError(f"no address is known for dataset {name!r}: expected {' or '.join(KNOWN)}")
    known = KNOWN[name]
    archive = known.layouts[0].archive
    addresses = tuple(known.addresses if mirrors is None else mirrors)
    if mirrors is None and (mirror := os.environ.get(MIRROR_VARIABLE)):
        addresses = (f"{mirror.rstrip('/')}/{archive.name}", *addresses)
    return fetch_file(archive, addresses, cache_dir, progress=progress, limits=limits)


def fetch_file(
    file: KnownFile,
    addresses: Sequence[str],
    folder: Path,
    *,
    progress: Report | None = None,
    limits: Limits | None = None,
    https_only: bool = True,
) -> FetchResult:
    """Fetch one file of known size and MD5 from the first address that has it. See `fetch`.

    https_only: False lets http through, for servers on this machine's own loopback and nothing else.
    """
    for address in addresses:
        if https_only and urlsplit(address).scheme != "https":
            raise UsageError(f"{address} must start with https://")
    limits, report = limits or Limits(), progress or (lambda _: None)
    path, partial = folder / file.name, folder / f".{file.name}.part"
    waited = 0.0

    def on_wait(what: str, seconds: float) -> None:
        nonlocal waited
        report(Progress(file.name, "", size_of(partial), file.size, seconds, "" if waited else what))
        waited = seconds

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock_path = folder / f".{file.name}.lock"
        with lock(lock_path, wait_seconds=limits.wait, what=f"the download of {file.name}", on_wait=on_wait) as held:
            if is_whole(path, file):
                return FetchResult(path, waited, 0, str(path))
            with _partial(partial, held) as own:
                transfer = Transfer(file, tuple(addresses), own, limits, report, https_only, seconds=waited)
                address = _run(transfer, path)
                publish(own, path)
    except LockTimeout as error:
        raise FetchError(str(error)) from error
    except OSError as error:
        raise FetchError(f"{folder} cannot be written ({error}); ${CACHE_VARIABLE} names another folder") from error
    return FetchResult(path, transfer.seconds, transfer.transferred, address)


@contextmanager
def progress_bar() -> Iterator[Report]:
    """Show a fetch on stderr: a bar with speed and time left on a terminal, elsewhere a plain line now and then.

    Yields what `fetch` takes as `progress`. Nothing is shown if nothing is reported.
    """
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    text = TextColumn("{task.description}")
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Bar(*columns, console=Console(stderr=True), transient=True)
    tasks: dict[str, Any] = {}

    def report(progress: Progress) -> None:
        if progress.message:
            bar.console.print(progress.message, markup=False, highlight=False)
        if not tasks:
            bar.start()
            bar.console.show_cursor(True)  # a process that is killed could not bring it back
        if progress.file not in tasks:
            tasks[progress.file] = bar.add_task(progress.file, total=progress.total)
        bar.update(tasks[progress.file], completed=progress.received)

    try:
        yield report
    finally:
        bar.stop()


def _plain_lines() -> Report:
    last, before = time.monotonic(), 0

    def report(progress: Progress) -> None:
        nonlocal last, before
        now = time.monotonic()
        if progress.message:
            print(progress.message, file=sys.stderr, flush=True)
        due = now - last >= PLAIN_SECONDS or progress.received == progress.total
        if not due or progress.received == before:
            return
        rate = max((progress.received - before) / max(now - last, 1e-9), 1.0)  # a restart goes backwards
        left = (progress.total - progress.received) / rate
        print(
            f"{progress.file}  {progress.received / 1e6:.0f} of {progress.total / 1e6:.0f} MB, "
            f"{rate / 1e6:.2f} MB/s, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
        last, before = now, progress.received

    return report


@contextmanager
def _partial(path: Path, held: bool) -> Iterator[Path]:
    """The partial file to write. Without a lock two processes may be at it: each has its own, the last to end wins."""
    if held:
        yield path
        return
    own = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield own
    finally:
        own.unlink(missing_ok=True)


def _run(transfer: Transfer, path: Path) -> str:
    try:
        return transfer.run()
    except FetchError as error:
        if path.exists():
            raise FetchError(f"{path} is damaged and cannot be replaced: {error}") from error
        raise
