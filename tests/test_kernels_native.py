"""C code for processors: when it is compiled, and that whatever fails there leaves torch's operations."""

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch

from kernels import native


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of an empty cache; what this process has loaded is asked for anew."""
    monkeypatch.setattr(native, "library", native.library.__wrapped__)
    monkeypatch.setattr(native, "has", lambda feature: feature == "avx512_bf16")
    monkeypatch.delenv("SPEEDRUN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "speedrun" / "kernels"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no list of what the processor has")
@pytest.mark.parametrize("feature", ["amx_tile", "avx512_bf16"])
def test_a_feature_is_where_the_processor_lists_it(feature: str):
    assert native.has(feature) == (feature in Path("/proc/cpuinfo").read_text().split())


def test_without_a_compiler_there_is_none(nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert native.library("norm_cpu", ACTIVATION="0") is None


def test_without_the_feature_nothing_is_compiled(nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "has", lambda feature: False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("nobody can use it"))
    assert native.library("norm_cpu", ACTIVATION="0") is None


@pytest.mark.parametrize("script", ["exit 1", 'echo no library > "$OUT"'])
def test_a_compiler_that_fails_is_no_error(
    script: str, nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\nfor OUT; do :; done\n{script}\n", encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert native.library("norm_cpu", ACTIVATION="0") is None


def test_a_cache_that_cannot_be_written_is_done_without(
    nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "speedrun").write_text("a file where the folder would be", encoding="utf-8")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: Path(command[-1]).write_bytes(b""))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: "loaded")
    monkeypatch.setenv("CC", "sh")
    assert native.library("norm_cpu", ACTIVATION="0") == "loaded"


def test_a_user_without_a_home_is_no_error(nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch):
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("SPEEDRUN_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert native.library("norm_cpu", ACTIVATION="0") is None


def test_other_systems_have_none(nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native.sys, "platform", "win32")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("its stack is not aligned"))
    assert native.library("norm_cpu", ACTIVATION="0") is None


def test_a_tensor_without_memory_has_no_address():
    with pytest.raises(RuntimeError, match="no memory"):
        native.address(torch.empty(3, device="meta"))


def test_it_is_compiled_once_and_again_where_the_cache_is_damaged(
    nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch
):
    compiled: list[Path] = []

    def compiler(command: list[str], **_: object) -> None:
        compiled.append(Path(command[-1]))
        compiled[-1].write_bytes(b"sound")

    def load(path: str) -> object:
        if Path(path).read_bytes() != b"sound":
            raise OSError("not a library")
        return object()

    monkeypatch.setattr(subprocess, "run", compiler)
    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setenv("CC", "sh")  # any program will do
    assert native.library("norm_cpu", ACTIVATION="0") is not None
    assert native.library("norm_cpu", ACTIVATION="0") is not None
    assert len(compiled) == 1
    (made,) = nothing_compiled.iterdir()
    made.write_bytes(b"damaged")
    assert native.library("norm_cpu", ACTIVATION="0") is not None
    assert len(compiled) == 2
    assert native.library("norm_cpu", ACTIVATION="1") is not None
    assert len(compiled) == 3
    assert sorted({path.name for path in compiled}) == sorted(path.name for path in nothing_compiled.iterdir())


def test_another_source_or_processor_is_compiled_anew(
    nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(subprocess, "run", lambda command, **_: Path(command[-1]).write_bytes(b""))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    monkeypatch.setenv("CC", "sh")
    for name in ("vectors.h", "norm_cpu.c"):
        (tmp_path / name).write_bytes((native.FOLDER / name).read_bytes())
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    native.library("norm_cpu", ACTIVATION="0")
    (tmp_path / "vectors.h").write_text("/* changed */", encoding="utf-8")
    native.library("norm_cpu", ACTIVATION="0")
    monkeypatch.setattr(native, "_processor", lambda: "another")
    native.library("norm_cpu", ACTIVATION="0")
    assert len(list(nothing_compiled.iterdir())) == 3
