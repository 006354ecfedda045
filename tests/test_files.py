"""Atomic writes, locks, digests."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from speedrun import files
from speedrun.errors import SpeedrunError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_replaces_the_file(tmp_path):
    path = tmp_path / "record.json"
    files.write_text(path, "old")
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["record.json"]


def test_json_has_no_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"loss": float("nan"), "losses": (1.5, float("inf")), "name": "é"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": None, "losses": [1.5, None], "name": "é"}


def test_K1_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.pt"
    path.write_text("old")

    def interrupted() -> None:
        with files.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["model.pt"]


def test_F1_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["model.pt"]


def test_L1_a_lock_keeps_others_out_and_tells_them_what_they_wait_for(tmp_path):
    heard = []
    with files.lock(tmp_path / "lock", wait_seconds=0, what="the download") as held:
        assert held
        with (
            pytest.raises(files.LockTimeout, match=f"the download .*process {os.getpid()}"),
            files.lock(
                tmp_path / "lock", wait_seconds=0.2, what="the download", on_wait=lambda *told: heard.append(told)
            ),
        ):
            pytest.fail("two hold one lock")
    assert "the download" in heard[0][0]
    assert heard[0][1] < 0.1 <= heard[-1][1] < 1


def test_L1_a_lock_is_passed_on(tmp_path):
    released = threading.Event()

    def hold() -> None:
        with files.lock(tmp_path / "lock", wait_seconds=0, what="x"):
            taken.set()
            released.wait(5)

    taken = threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(5)
    threading.Timer(0.1, released.set).start()
    with files.lock(tmp_path / "lock", wait_seconds=5, what="x") as held:
        assert held
        assert released.is_set()
    holder.join()


def test_L2_a_killed_holder_frees_the_lock(tmp_path):
    code = (
        "import sys, time; from speedrun.files import lock\n"
        "with lock(sys.argv[1], wait_seconds=0, what='x'):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "lock"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(files.LockTimeout, match=f"process {holder.pid}"),
            files.lock(tmp_path / "lock", wait_seconds=0, what="x"),
        ):
            pytest.fail("two hold one lock")
        holder.send_signal(signal.SIGKILL)
        started = time.monotonic()
        with files.lock(tmp_path / "lock", wait_seconds=10, what="x") as held:
            assert held
        assert time.monotonic() - started < 5
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()


def test_L3_without_file_locks_one_goes_on_unlocked(tmp_path, monkeypatch):
    def unsupported(descriptor: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files, "_try_lock", unsupported)
    with files.lock(tmp_path / "lock", wait_seconds=0, what="x") as held:
        assert not held


def test_L4_a_lock_whose_file_was_removed_is_not_taken(tmp_path, monkeypatch):
    """Its holder removed it and ended between our opening and our locking it: others already lock a new one."""
    take = files._try_lock

    def late(descriptor: int) -> None:
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").touch()
        take(descriptor)

    monkeypatch.setattr(files, "_try_lock", late)
    with pytest.raises(files.LockTimeout), files.lock(tmp_path / "lock", wait_seconds=0, what="x"):
        pytest.fail("two hold one lock")


def test_what_has_lost_its_seal_is_damaged(tmp_path):
    path = tmp_path / "result.json"
    files.write_json(path, files.sealed({"accuracy": 0.5}))
    assert files.read_sealed(path) == {"accuracy": 0.5}
    path.write_text(path.read_text().replace("sha256", "sha25&").replace("0.5", "0.9"))
    with pytest.raises(SpeedrunError, match=r"result\.json: damaged"):
        files.read_sealed(path)
    assert files.read_sealed(path, optional=True)["accuracy"] == 0.9


def test_a_digest_is_the_published_one(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert files.file_digest(tmp_path / "file") == "900150983cd24fb0d6963f7d28e17f72"
    assert files.file_digest(tmp_path / "file", "sha1") == "a9993e364706816aba3e25717850c26c9cd0d89d"
