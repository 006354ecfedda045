"""One file over https from several addresses into a partial file. Standard library only.

A connection that is lost, stalls or crawls goes on at the next address from the byte it had reached, so that no byte
is paid for twice. A bad certificate, or a redirect away from https, ends an attempt and never weakens it.
"""

import errno
import http.client
import shutil
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout  # the builtin one since Python 3.11
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn
from urllib.parse import SplitResult, urlsplit

from speedrun.catalogue import KnownFile
from speedrun.errors import FetchError
from speedrun.files import file_digest

CACHE_VARIABLE = "SPEEDRUN_CACHE"
BLOCK = 1 << 16  # bytes
REPORT_SECONDS = 0.1


@dataclass(frozen=True)
class Limits:
    """How long to be patient with what. Seconds, unless said otherwise."""

    connect: float = 5.0  # all addresses at once; with none reachable the fetch fails after this
    stall: float = 30.0  # without a byte
    slow: float = 10.0  # below `slow_rate` for so long: see whether another address is faster
    slow_rate: float = 200e3  # bytes a second; the official host has been seen at 55e3
    longest_pause: float = 10.0  # between rounds through the addresses: 1, 2, 4, 8, 10, 10, ...
    rounds: int = 4  # in a row that bring nothing new, before giving up
    wait: float = 3600.0  # for another process that is fetching the same file


@dataclass(frozen=True)
class Progress:
    """Where a fetch stands. received, total: bytes of the file. seconds: of network transfer so far. message: a line
    for a person, or "". Reports come several times a second while bytes arrive, none while a connection is silent."""

    file: str
    address: str
    received: int
    total: int
    seconds: float
    message: str = ""


class _Failed(Exception):
    """One attempt at one address failed; the message is the reason."""


@dataclass
class Transfer:
    """Gathers one file in `partial`, which keeps what has arrived for the next attempt, whoever makes it.

    seconds: of transfer, each attempt from its request to its last byte; transferred: bytes received over the network.
    https_only: False lets http through, for servers on the loopback and nothing else.
    """

    file: KnownFile
    addresses: tuple[str, ...]
    partial: Path
    limits: Limits
    report: Callable[[Progress], None]
    https_only: bool = True
    seconds: float = 0.0
    transferred: int = 0
    _rates: dict[str, float] = field(default_factory=dict)  # bytes a second, as last seen
    _failures: dict[str, str] = field(default_factory=dict)  # address: the last reason

    def run(self) -> str:
        """Go through the addresses until the file is whole; returns the address that gave its last byte.

        Raises FetchError, which names every address and its reason, when several rounds in a row brought nothing new,
        at once when no address answers at all, and when the disk is full.
        """
        if is_whole(self.partial, self.file):  # some process ended between the last byte and the name
            return str(self.partial)
        if size_of(self.partial) >= self.file.size:
            self.partial.unlink()
        self._check_disk()
        rounds, barren, furthest = 0, 0, size_of(self.partial)
        while barren < self.limits.rounds:
            if rounds:
                time.sleep(pause(rounds, self.limits))
            address = self._round(patient=rounds > 0)
            if address is not None:
                return address
            have = size_of(self.partial)
            barren, furthest = (0, have) if have > furthest else (barren + 1, furthest)
            rounds += 1
        raise self._give_up()

    def _round(self, patient: bool) -> str | None:
        """One attempt at each address, the fastest so far first. Raises FetchError if none of them answers."""
        order = sorted(self.addresses, key=lambda address: -self._rates.get(address, 0.0))
        probe, answered = _Probe(order, self.limits.connect), False
        for address, following in zip(order, [*order, ""][1:], strict=True):
            try:
                probe.check(address)
                answered = True
                self._attempt(address, least_rate=0.0 if patient or len(order) == 1 else self.limits.slow_rate)
                return address
            except _Failed as failure:
                self._failures[address] = str(failure)
                message = f"{address}: {failure}" + (f"; going on at {following}" if following else "")
                self._tell(address, size_of(self.partial), self.seconds, message)
        if not answered:
            raise self._give_up()
        return None

    def _give_up(self) -> FetchError:
        tried = "; ".join(f"{address}: {reason}" for address, reason in self._failures.items())
        return FetchError(f"{self.file.name} could not be fetched. Tried {tried or 'no address'}")

    def _attempt(self, address: str, least_rate: float) -> None:
        """Receive the rest of the file from one address. Raises _Failed, or FetchError if the disk is full."""
        have = size_of(self.partial)
        headers = {"User-Agent": "speedrun"} | ({"Range": f"bytes={have}-"} if have else {})
        started = time.monotonic()
        try:
            request = urllib.request.Request(address, headers=headers)
            with _opener(self.https_only).open(request, timeout=self.limits.stall) as response:
                offset = self._offset(response, have)
                self._receive(response, address, offset, started, least_rate)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the range lies outside of what this address has
                self.partial.unlink(missing_ok=True)
            raise _Failed(f"HTTP {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _Failed(_reason(error, self.limits)) from error
        self._check_bytes(address, whole=offset == 0)

    def _offset(self, response: http.client.HTTPResponse, have: int) -> int:
        """The byte from which the answer goes on: `have`, or 0 where the address knows no ranges."""
        if response.headers.get_content_type() == "text/html":
            raise _Failed("an HTML page instead of the file")
        offset, length = 0, response.headers.get("Content-Length")
        if response.status == 206:
            first, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            offset = int(first.partition("-")[0])
            length = None if total == "*" else total
            if offset != have:
                raise _Failed(f"asked for bytes from {have} on, it gives them from {offset} on")
        if length is not None and int(length) != self.file.size:
            raise _Failed(f"its file has {length} bytes, expected {self.file.size}")
        return offset

    def _receive(
        self, response: http.client.HTTPResponse, address: str, offset: int, started: float, least_rate: float
    ) -> None:
        received, last, told = offset, started, 0.0
        try:
            with open(self.partial, "r+b" if offset else "wb", buffering=0) as out:
                out.seek(offset)
                while received <= self.file.size and (block := response.read1(BLOCK)):
                    self._write(out, block)
                    received, last = received + len(block), time.monotonic()
                    rate = self._rates[address] = (received - offset) / max(last - started, 1e-9)
                    if last - told >= REPORT_SECONDS:
                        told = last
                        self._tell(address, received, self.seconds + last - started)
                    if rate < least_rate and last - started >= self.limits.slow:
                        raise _Failed(f"only {rate / 1e3:.0f} kB/s")
        finally:
            self.seconds += last - started
            self.transferred += received - offset
        self._tell(address, received, self.seconds)

    def _write(self, out: IO[bytes], block: bytes) -> None:
        try:
            out.write(block)
        except OSError as error:
            self._refuse_disk(error)

    def _check_bytes(self, address: str, whole: bool) -> None:
        """Wrong bytes are thrown away; an address that gave all of them is not asked again."""
        size = size_of(self.partial)
        if size < self.file.size:
            raise _Failed(f"the connection ended after {size} of {self.file.size} bytes")
        digest = file_digest(self.partial)
        if digest != self.file.md5 or size > self.file.size:
            self.partial.unlink()
            if whole:
                self.addresses = tuple(other for other in self.addresses if other != address)
            raise _Failed(f"wrong bytes: expected {self.file.size}, MD5 {self.file.md5}; found {size}, MD5 {digest}")

    def _check_disk(self) -> None:
        needed = self.file.size - size_of(self.partial)
        if shutil.disk_usage(self.partial.parent).free < needed:
            self._refuse_disk(OSError(errno.ENOSPC, "no space left"))

    def _refuse_disk(self, error: OSError) -> NoReturn:
        """Remove the partial file, whose space others may need, and name what is missing."""
        size = size_of(self.partial)
        self.partial.unlink(missing_ok=True)
        folder = self.partial.parent
        free = shutil.disk_usage(folder).free
        raise FetchError(
            f"{folder} cannot hold {self.file.name} ({error.strerror}): needed {self.file.size / 1e6:.1f} MB, "
            f"free {free / 1e6:.1f} MB, {size / 1e6:.1f} MB of it just freed; ${CACHE_VARIABLE} names another folder"
        ) from error

    def _tell(self, address: str, received: int, seconds: float, message: str = "") -> None:
        self.report(Progress(self.file.name, address, received, self.file.size, seconds, message))


def is_whole(path: Path, file: KnownFile) -> bool:
    """Whether `path` holds exactly the published bytes."""
    return size_of(path) == file.size and file_digest(path) == file.md5


def size_of(path: Path) -> int:
    """Bytes in the file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def pause(rounds: int, limits: Limits) -> float:
    """Seconds to wait after so many rounds through all addresses."""
    return min(2.0 ** (rounds - 1), limits.longest_pause)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to https only: urllib's own would follow one to http."""

    def redirect_request(self, request, response, code, reason, headers, address):
        if urlsplit(address).scheme != "https":
            raise _Failed(f"redirects away from https, to {address}: refused")
        return super().redirect_request(request, response, code, reason, headers, address)


def _opener(https_only: bool) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(*([_Redirects()] if https_only else []))


def _reason(error: Exception, limits: Limits) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"bad certificate: {cause.verify_message}"
    if isinstance(cause, TimeoutError):
        return f"no byte for {limits.stall:g} s"
    return str(cause) or type(cause).__name__


class _Probe:
    """Connects to all addresses at once, so that a dead host costs its wait only once and only where it stands first.

    The threads are our own and daemons: a resolver without a network can hang for half a minute, and nobody waits.
    """

    def __init__(self, addresses: Sequence[str], seconds: float) -> None:
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.failures: dict[str, Future[str]] = {address: Future() for address in addresses}
        for address, failure in self.failures.items():
            threading.Thread(target=self._connect, args=(address, failure), daemon=True).start()

    def check(self, address: str) -> None:
        """Raises _Failed if the address, or the proxy to it, has not taken a connection by the deadline."""
        try:
            failure = self.failures[address].result(max(0.0, self.deadline - time.monotonic()))
        except FutureTimeout:
            failure = f"no answer within {self.seconds:g} s"
        if failure:
            raise _Failed(failure)

    def _connect(self, address: str, failure: Future[str]) -> None:
        try:
            with socket.create_connection(_endpoint(address), timeout=self.seconds):
                failure.set_result("")
        except (OSError, ValueError) as error:
            failure.set_result(getattr(error, "strerror", None) or str(error))


def _endpoint(address: str) -> tuple[str, int]:
    """The host and port that a request to `address` connects to."""
    target: SplitResult = urlsplit(address)
    proxy = urllib.request.getproxies().get(target.scheme)
    if proxy and not urllib.request.proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    return target.hostname or "", target.port or (443 if target.scheme == "https" else 80)
