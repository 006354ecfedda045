"""Loopback servers that behave as download servers do on their bad days."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behaviour = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One GET; what it answers is up to its server's behaviour."""

    server: "Mirror"

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range"))
        with suppress(BrokenPipeError, ConnectionResetError):  # the client had enough
            self.server.behaviour(self)

    def answer(self, data: bytes, *, status: int = 200, length: int | None = None, kind: str = "") -> None:
        """Send a head that promises `length` bytes, and then `data`."""
        self.send_response(status)
        self.send_header("Content-Type", kind or "application/gzip")
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def rest(self, data: bytes) -> bytes:
        """Send the head of a partial answer, if one was asked for, or of a whole one; returns the bytes to send."""
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        return data[start:]

    def log_message(self, *_: object) -> None:
        pass


class Mirror(ThreadingHTTPServer):
    """A server on a port of its own. ranges: the Range header of every GET so far."""

    daemon_threads = True

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.behaviour = behaviour
        self.ranges: list[str | None] = []
        self.closing = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.tar.gz"


@contextmanager
def serving(server: Mirror) -> Iterator[Mirror]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def good(data: bytes) -> Behaviour:
    return lambda request: _send(request, request.rest(data))


def without_ranges(data: bytes) -> Behaviour:
    return lambda request: request.answer(data)


def dropping(data: bytes, after: int) -> Behaviour:
    """Serves ranges, but every connection ends after so many bytes."""
    return lambda request: _send(request, request.rest(data)[:after])


def stalling(data: bytes, after: int) -> Behaviour:
    def behave(request: Request) -> None:
        _send(request, request.rest(data)[:after])
        request.wfile.flush()
        request.server.closing.wait(30)

    return behave


def crawling(data: bytes, seconds: float, pieces: int = 20) -> Behaviour:
    """Spreads what it sends over so many seconds."""

    def behave(request: Request) -> None:
        rest = request.rest(data)
        for start in range(0, len(rest), max(len(rest) // pieces, 1)):
            _send(request, rest[start : start + max(len(rest) // pieces, 1)])
            request.server.closing.wait(seconds / pieces)

    return behave


def failing(status: int) -> Behaviour:
    return lambda request: request.answer(b"sorry", status=status)


def html(request: Request) -> None:
    request.answer(b"<html>Service unavailable</html>", kind="text/html; charset=utf-8")


def _send(request: Request, data: bytes) -> None:
    request.wfile.write(data)
