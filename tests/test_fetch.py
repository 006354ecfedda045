"""Fetching from loopback servers that fail in every way that servers fail."""

import errno
import io
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mirrors
import numpy as np
import pytest
from cifar_copies import contents, flip, known_file, pack, publish

from speedrun import data, fetch, files, transfer
from speedrun.catalogue import KNOWN, KnownFile
from speedrun.errors import FetchError, UsageError
from speedrun.transfer import Limits, Progress

pytestmark = [pytest.mark.network, pytest.mark.clock]

DATA = random.Random(0).randbytes(300_000)
FILE = known_file("file.tar.gz", DATA)
QUICK = Limits(connect=2, stall=0.4, longest_pause=0.01, rounds=2)

Serve = Callable[[mirrors.Behaviour], mirrors.Mirror]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda behaviour: stack.enter_context(mirrors.serving(mirrors.Mirror(behaviour)))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


def get(folder: Path, *servers: mirrors.Mirror | str, file: KnownFile = FILE, **options: Any) -> fetch.FetchResult:
    addresses = [server if isinstance(server, str) else server.address for server in servers]
    return fetch.fetch_file(file, addresses, folder, **{"limits": QUICK, "https_only": False, **options})


def visible(folder: Path) -> list[str]:
    """What is in the folder but for the lock, which stays."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def nowhere() -> str:
    """An address at which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/file.tar.gz"


# -- one server ------------------------------------------------------------------------------------------------------


def test_a_file_arrives_and_is_not_fetched_twice(tmp_path, serve):
    server = serve(mirrors.good(DATA))
    result = get(tmp_path / "new" / "cache", server)
    assert result.path.read_bytes() == DATA
    assert (result.bytes, result.address) == (len(DATA), server.address)
    assert 0 < result.seconds < 2
    again = get(tmp_path / "new" / "cache", server)
    assert (again.seconds, again.bytes, again.address) == (0, 0, str(result.path))
    assert server.ranges == [None]
    assert visible(tmp_path / "new" / "cache") == ["file.tar.gz"]


def test_D1_a_wrong_checksum_is_never_visible(tmp_path, serve):
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]
    server = serve(mirrors.good(wrong))
    with pytest.raises(
        FetchError, match=rf"{server.address}: .*expected .*{FILE.md5}; found .*{known_file('', wrong).md5}"
    ):
        get(tmp_path, server)
    assert visible(tmp_path) == []
    assert len(server.ranges) == 1  # an address that gives wrong bytes is not asked again


def test_D2_a_lost_connection_is_resumed(tmp_path, serve):
    server = serve(mirrors.dropping(DATA, 100_000))
    result = get(tmp_path, server)
    assert result.path.read_bytes() == DATA
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert result.bytes == len(DATA)


def test_D2_what_an_earlier_process_left_is_resumed(tmp_path, serve):
    (tmp_path / ".file.tar.gz.part").write_bytes(DATA[:123_456])
    server = serve(mirrors.good(DATA))
    result = get(tmp_path, server)
    assert result.path.read_bytes() == DATA
    assert server.ranges == ["bytes=123456-"]
    assert result.bytes == len(DATA) - 123_456


@pytest.mark.parametrize("left", [DATA, DATA[:-1] + b"?", DATA + b"more", b"?" * 1000])
def test_D2_anything_may_have_been_left(left, tmp_path, serve):
    (tmp_path / ".file.tar.gz.part").write_bytes(left)
    assert get(tmp_path, serve(mirrors.good(DATA))).path.read_bytes() == DATA
    assert visible(tmp_path) == ["file.tar.gz"]


def test_D3_a_server_without_ranges_is_started_again(tmp_path, serve):
    (tmp_path / ".file.tar.gz.part").write_bytes(DATA[:100_000])
    server = serve(mirrors.without_ranges(DATA))
    assert get(tmp_path, server).path.read_bytes() == DATA
    assert server.ranges == ["bytes=100000-"]


def test_D3_a_range_that_was_not_asked_for_is_not_appended(tmp_path, serve):
    def elsewhere(request: mirrors.Request) -> None:
        request.send_response(206)
        request.send_header("Content-Range", f"bytes 0-{len(DATA) - 1}/{len(DATA)}")
        request.end_headers()
        request.wfile.write(DATA)

    (tmp_path / ".file.tar.gz.part").write_bytes(DATA[:100_000])
    with pytest.raises(FetchError, match="asked for bytes from 100000 on"):
        get(tmp_path, serve(elsewhere))
    assert visible(tmp_path) == [".file.tar.gz.part"]


# -- several servers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (mirrors.html, "an HTML page"),
        (mirrors.failing(503), "HTTP 503"),
        (mirrors.failing(416), "HTTP 416"),
        (mirrors.without_ranges(DATA[:1000]), "its file has 1000 bytes, expected 300000"),
        (mirrors.dropping(DATA, 0), "the connection ended after 0 of 300000 bytes"),
        (lambda request: request.wfile.write(b"not http at all\n"), "not http"),
        (mirrors.stalling(DATA, 1000), "no byte for 0.4 s"),
    ],
    ids=["html", "503", "416", "short", "empty", "garbage", "stall"],
)
def test_D4_W5_a_bad_mirror_is_left_for_the_next(behaviour, reason, tmp_path, serve):
    heard: list[Progress] = []
    bad, fine = serve(behaviour), serve(mirrors.good(DATA))
    result = get(tmp_path, bad, fine, progress=heard.append)
    assert result.path.read_bytes() == DATA
    assert result.address == fine.address
    messages = [progress.message for progress in heard if progress.message]
    assert len(messages) == 1
    assert reason in messages[0]
    assert f"going on at {fine.address}" in messages[0]
    assert result.seconds < QUICK.stall  # silence is not transfer


def test_a_crawling_mirror_is_left_and_its_bytes_are_kept(tmp_path, serve):
    slow, fast = serve(mirrors.crawling(DATA, 20)), serve(mirrors.good(DATA))
    result = get(tmp_path, slow, fast, limits=Limits(slow=0.2, slow_rate=1e6))
    assert result.path.read_bytes() == DATA
    assert result.address == fast.address
    (asked,) = fast.ranges
    assert asked is not None
    assert int(asked[6:-1]) > 0


def test_where_all_mirrors_crawl_the_fastest_is_taken(tmp_path, serve):
    slow, slower = serve(mirrors.crawling(DATA, 1)), serve(mirrors.crawling(DATA, 10))
    result = get(tmp_path, slower, slow, limits=Limits(slow=0.1, slow_rate=1e9, longest_pause=0.01))
    assert result.path.read_bytes() == DATA
    assert result.address == slow.address


def test_a_mirror_with_other_bytes_spoils_nothing(tmp_path, serve):
    other = bytes(len(DATA))
    slow, wrong = serve(mirrors.crawling(DATA, 1)), serve(mirrors.good(other))
    result = get(tmp_path, slow, wrong, limits=Limits(slow=0.2, slow_rate=1e6, longest_pause=0.01))
    assert result.path.read_bytes() == DATA
    assert result.address == slow.address


def test_D6_the_end_names_every_mirror_and_retries_back_off(tmp_path, serve, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(transfer, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    servers = [serve(mirrors.failing(503)), serve(mirrors.html)]
    gone = nowhere()
    with pytest.raises(FetchError) as caught:
        get(tmp_path, *servers, gone, limits=Limits(rounds=7))
    assert pauses == [1, 2, 4, 8, 10, 10]
    assert f"{servers[0].address}: HTTP 503" in str(caught.value)
    assert f"{servers[1].address}: an HTML page" in str(caught.value)
    assert f"{gone}: Connection refused" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_W5_no_reachable_mirror_is_known_within_seconds(tmp_path, monkeypatch):
    def hang(*_: object, **__: object) -> None:
        hanging.wait(30)
        raise OSError

    hanging = threading.Event()
    monkeypatch.setattr(socket, "create_connection", hang)
    started = time.monotonic()
    with pytest.raises(FetchError, match=r"Tried http://a/: no answer within 0.3 s; http://b/: no answer"):
        get(tmp_path, "http://a/", "http://b/", limits=Limits(connect=0.3))
    assert time.monotonic() - started < 3
    hanging.set()


# -- what was there before, and what is missing ----------------------------------------------------------------------


def test_D5_a_truncated_file_from_before_is_replaced(tmp_path, serve):
    (tmp_path / "file.tar.gz").write_bytes(DATA[:1000])
    assert get(tmp_path, serve(mirrors.good(DATA))).path.read_bytes() == DATA


def test_D5_offline_a_truncated_file_is_an_error(tmp_path):
    (tmp_path / "file.tar.gz").write_bytes(DATA[:1000])
    with pytest.raises(FetchError, match=r"file.tar.gz is damaged and cannot be replaced: .*Connection refused"):
        get(tmp_path, nowhere())
    assert (tmp_path / "file.tar.gz").read_bytes() == DATA[:1000]


def test_F2_a_disk_too_full_is_named_before_the_transfer(tmp_path, serve, monkeypatch):
    server = serve(mirrors.good(DATA))
    (tmp_path / ".file.tar.gz.part").write_bytes(DATA[:1000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=200_000))
    with pytest.raises(FetchError, match=r"needed 0\.3 MB, free 0\.2 MB.*\$SPEEDRUN_CACHE"):
        get(tmp_path, server)
    assert visible(tmp_path) == []
    assert server.ranges == []


def test_F2_a_disk_that_fills_up_is_named_and_the_temporary_removed(tmp_path, serve, monkeypatch):
    class Full(io.FileIO):
        def write(self, block: bytes) -> int:  # type: ignore[override]
            if self.tell() > 100_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(block)

    monkeypatch.setattr(
        transfer, "open", lambda path, mode, buffering: Full(path, mode.replace("b", "")), raising=False
    )
    with pytest.raises(FetchError, match=r"No space left on device.*needed .* free .*\$SPEEDRUN_CACHE"):
        get(tmp_path, serve(mirrors.good(DATA)))
    assert visible(tmp_path) == []


def test_D11_a_cache_that_cannot_be_written_names_its_variable(tmp_path, serve):
    (tmp_path / "file").write_text("")
    server = serve(mirrors.good(DATA))
    with pytest.raises(FetchError, match=r"cannot be written .*\$SPEEDRUN_CACHE names another folder"):
        get(tmp_path / "file" / "cache", server)
    assert server.ranges == []


def test_S3_an_interrupted_fetch_leaves_nothing_under_the_name(tmp_path, serve):
    def interrupt(progress: Progress) -> None:
        if progress.received:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, serve(mirrors.crawling(DATA, 1)), progress=interrupt)
    assert visible(tmp_path) == [".file.tar.gz.part"]


# -- https -----------------------------------------------------------------------------------------------------------


def test_D7_only_https_addresses_are_taken(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="must start with https://"):
        get(tmp_path, "http://127.0.0.1/file", https_only=True)
    monkeypatch.setenv("SPEEDRUN_MIRROR", "http://127.0.0.1/")
    with pytest.raises(UsageError, match="must start with https://"):
        fetch.fetch("cifar10", tmp_path)


@pytest.fixture
def certificate(tmp_path_factory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def with_tls(server: mirrors.Mirror, certificate: Path) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server.address.replace("http:", "https:")


def test_D7_a_bad_certificate_ends_the_attempt(tmp_path, certificate):
    server = mirrors.Mirror(mirrors.good(DATA))
    address = with_tls(server, certificate)
    with mirrors.serving(server), pytest.raises(FetchError, match=f"{address}: bad certificate: self"):
        get(tmp_path, address, https_only=True)
    assert server.ranges == []
    assert visible(tmp_path) == []


def test_D7_a_redirect_to_http_is_refused(tmp_path, certificate, serve, monkeypatch):
    plain = serve(mirrors.good(DATA))

    def redirect(request: mirrors.Request) -> None:
        request.send_response(302)
        request.send_header("Location", plain.address)
        request.end_headers()

    server = mirrors.Mirror(redirect)
    address = with_tls(server, certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with mirrors.serving(server), pytest.raises(FetchError, match="redirects away from https"):
        get(tmp_path, address, https_only=True)
    assert plain.ranges == []


def test_a_good_certificate_is_accepted(tmp_path, certificate, monkeypatch):
    server = mirrors.Mirror(mirrors.good(DATA))
    address = with_tls(server, certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with mirrors.serving(server):
        assert get(tmp_path, address, https_only=True).path.read_bytes() == DATA


# -- several processes -----------------------------------------------------------------------------------------------

CHILD = (
    "import sys; from pathlib import Path\n"
    "from speedrun.catalogue import KnownFile; from speedrun.fetch import fetch_file\n"
    f"file = KnownFile({FILE.name!r}, {FILE.size}, {FILE.md5!r})\n"
    "result = fetch_file(file, [sys.argv[1]], Path(sys.argv[2]), https_only=False)\n"
    "print(result.bytes, result.seconds > 0, flush=True)"
)


def child(server: mirrors.Mirror, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, server.address, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


def test_L1_four_processes_make_one_download(tmp_path, serve):
    server = serve(mirrors.crawling(DATA, 1.0))
    children = [child(server, tmp_path) for _ in range(4)]
    ends = [process.communicate(timeout=30)[0].split() for process in children]
    assert [process.returncode for process in children] == [0] * 4
    assert server.ranges == [None]
    assert sorted(int(end[0]) for end in ends) == [0, 0, 0, len(DATA)]
    assert (tmp_path / "file.tar.gz").read_bytes() == DATA


def test_L2_a_killed_fetch_is_taken_over_from_where_it_was(tmp_path, serve):
    server = serve(mirrors.stalling(DATA, 100_000))
    holder = child(server, tmp_path)
    partial = tmp_path / ".file.tar.gz.part"
    deadline = time.monotonic() + 20
    while transfer.size_of(partial) < 100_000:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    heard: list[Progress] = []
    threading.Timer(0.3, holder.send_signal, [signal.SIGKILL]).start()
    server.behaviour = mirrors.good(DATA)
    result = get(tmp_path, server, progress=heard.append)
    holder.communicate()
    assert result.path.read_bytes() == DATA
    assert server.ranges == [None, "bytes=100000-"]
    assert heard[0].message.startswith(f"waiting for the download of file.tar.gz (held by process {holder.pid}")
    assert (heard[0].received, heard[1].message) == (100_000, "")


def test_L2_waiting_is_bounded(tmp_path):
    with (
        files.lock(tmp_path / ".file.tar.gz.lock", wait_seconds=0, what="x"),
        pytest.raises(FetchError, match=r"gave up after waiting 0 s for the download of file.tar.gz \(held by"),
    ):
        get(tmp_path, nowhere(), limits=Limits(wait=0.1))


def test_L3_without_file_locks_both_succeed_and_nothing_is_left(tmp_path, serve, monkeypatch):
    def unsupported(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files, "_try_lock", unsupported)
    server = serve(mirrors.crawling(DATA, 0.3))
    results: list[fetch.FetchResult] = []
    threads = [threading.Thread(target=lambda: results.append(get(tmp_path, server))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.bytes for result in results] == [len(DATA)] * 2
    assert (tmp_path / "file.tar.gz").read_bytes() == DATA
    assert visible(tmp_path) == ["file.tar.gz"]


# -- as it is used ---------------------------------------------------------------------------------------------------


def test_the_users_mirror_comes_first(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(fetch, "fetch_file", lambda file, addresses, folder, **_: asked.append((file.name, *addresses)))
    fetch.fetch("cifar10", tmp_path)
    monkeypatch.setenv("SPEEDRUN_MIRROR", "https://mirror.example/cifar")
    fetch.fetch("cifar100", tmp_path)
    assert asked[0] == ("cifar-10-python.tar.gz", *KNOWN["cifar10"].addresses)
    assert asked[1][1:3] == (
        "https://mirror.example/cifar/cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    )
    with pytest.raises(UsageError, match="cifar10 or cifar100"):
        fetch.fetch("synthetic", tmp_path)


def test_every_known_address_is_https():
    for known in KNOWN.values():
        assert all(address.startswith("https://") for address in known.addresses)
        assert all(known.layouts[0].archive.name in address for address in known.addresses)


@pytest.fixture
def fetched(tmp_path, serve, monkeypatch) -> mirrors.Mirror:
    """A server with a small official archive, from which `load` fetches CIFAR-10 into tmp_path / "cache"."""
    layout = publish(monkeypatch).layouts[0]
    archive = pack(tmp_path / "server", layout, contents(KNOWN["cifar10"], layout)).read_bytes()
    publish(monkeypatch, archive=archive)
    server = serve(mirrors.good(archive))
    monkeypatch.delenv("SPEEDRUN_DATA", raising=False)

    def from_server(name: str, cache_dir: Path, *, progress: fetch.Report | None = None) -> fetch.FetchResult:
        return get(cache_dir, server, file=KNOWN[name].layouts[0].archive, progress=progress)

    monkeypatch.setattr(fetch, "fetch", from_server)
    return server


def test_what_is_fetched_is_loaded_and_found_the_next_time(fetched, tmp_path):
    heard: list[Progress] = []
    first = data.load("auto", cache_dir=tmp_path / "cache", on_fetch=heard.append)
    assert (first.name, first.source) == ("cifar10", fetched.address)
    assert first.fetch_seconds == heard[-1].seconds > 0
    second = data.load("auto", cache_dir=tmp_path / "cache")
    assert (second.warm, second.fetch_seconds) == (True, 0)
    np.testing.assert_array_equal(first.train_images, second.train_images)
    assert len(fetched.ranges) == 1


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_D5_the_caches_own_archive_is_fetched_again_when_damaged(damage, fetched, tmp_path):
    data.load("cifar10", cache_dir=tmp_path / "cache")
    archive = tmp_path / "cache" / "cifar-10-python.tar.gz"
    flip(archive) if damage == "flipped" else archive.write_bytes(archive.read_bytes()[:-100])
    assert data.find("cifar10", cache_dir=tmp_path / "cache").needs_fetch == (damage == "truncated")
    again = data.load("cifar10", cache_dir=tmp_path / "cache")
    assert again.notes[0].startswith("fetched again: ")
    assert again.fetch_seconds > 0
    assert data.load("cifar10", cache_dir=tmp_path / "cache").notes == ()


def test_D5_offline_even_auto_does_not_hide_a_damaged_archive(fetched, tmp_path):
    data.load("cifar10", cache_dir=tmp_path / "cache")
    flip(tmp_path / "cache" / "cifar-10-python.tar.gz")
    fetched.behaviour = mirrors.failing(503)
    with pytest.raises(FetchError, match=r"cifar-10-python.tar.gz is damaged and cannot be replaced"):
        data.load("auto", cache_dir=tmp_path / "cache")


def test_without_a_terminal_progress_is_plain_lines(tmp_path, serve, capsys, monkeypatch):
    monkeypatch.setattr(fetch, "PLAIN_SECONDS", 0.1)
    bad, fine = serve(mirrors.failing(503)), serve(mirrors.crawling(DATA, 0.5))
    with fetch.progress_bar() as report:
        get(tmp_path, bad, fine, progress=report)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert "HTTP 503" in lines[0]
    assert len(lines) >= 3
    assert lines[-1].startswith("file.tar.gz  0 of 0 MB, ")
    assert lines[-1].endswith(" 0 s left")
