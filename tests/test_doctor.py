"""The doctor: a line for each thing, what its lack costs, and an exit code that says whether the main job could run."""

from pathlib import Path

import pytest
import torch

from speedrun import cli, device
from speedrun.config import Config
from speedrun.jobs.doctor import CHECKS


def consult(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and mark and text of each line by the name of its check."""
    code = cli.main(["doctor", *words], 0.0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    return code, {name: (mark, text) for mark, name, text in (line.split(maxsplit=2) for line in lines)}


def test_ten_lines_where_a_run_is_possible(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPEEDRUN_CACHE", str(tmp_path / "cache"))
    code, found = consult(capsys, f"--dataset={tiny_data}", "--device=cpu")
    assert code == 0
    assert list(found) == list(CHECKS)
    assert found["data"] == ("ok", f"tiny.npz, 600 images, whole, in {tiny_data}")
    assert found["device"][1].endswith("asked for; a GPU would train wider nets in the same time")
    assert not {mark for mark, _ in found.values()} & {"FAIL"}
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing behind


@pytest.mark.parametrize(
    ("check", "words", "message"),
    [
        ("data", ["--dataset={tmp}/none.npz"], "{tmp}/none.npz does not exist"),
        ("data", ["--dataset={tmp}/damaged.npz"], "{tmp}/damaged.npz is not a readable .npz file"),
        ("device", ["--device=cuda:99"], "device cuda"),
        ("disk", ["--out={tmp}/damaged.npz/out"], "{tmp}/damaged.npz/out cannot be written"),
    ],
)
def test_what_no_run_survives_is_marked_and_exits_with_1(
    check: str, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "damaged.npz").write_bytes(b"PK nothing")
    code, found = consult(capsys, *(word.format(tmp=tmp_path) for word in words))
    assert code == 1
    assert found[check][0] == "FAIL"
    assert found[check][1].startswith(message.format(tmp=tmp_path))


def test_what_only_costs_something_is_a_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPEEDRUN_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("PATH", "")
    for name in ("SPEEDRUN_DATA", "CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    code, found = consult(capsys, "--dataset=cifar10", "--device=cpu")
    assert code == 0
    assert {name for name, (mark, _) in found.items() if mark == "lack"} >= {"device", "compiler", "cache", "data"}
    assert "a run fetches its 170 MB first" in found["data"][1]


@pytest.mark.parametrize(("here", "text"), [(True, "for the kernels of this processor"), (False, "no C compiler")])
def test_what_the_kernels_of_a_processor_need(here: bool, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "gcc").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path) if here else "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("kernels.native.has", lambda feature: feature == "avx512_bf16")
    found = CHECKS["compiler"](Config(device="cpu"))
    assert text in found.text
    assert bool(found.cost) != here


@pytest.mark.parametrize(
    ("enabled", "compiler", "text", "costs"),
    [
        (True, True, "made by the fused kernel", False),
        (True, False, "no C compiler", True),
        (False, True, "not here", True),
    ],
)
def test_what_the_fused_kernel_needs_on_a_gpu(
    enabled: bool, compiler: bool, text: str, costs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "gcc").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path) if compiler else "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("kernels.backend.ENABLED", enabled)
    cuda = device.Choice(torch.device("cuda", 0), "", torch.bfloat16, "")
    monkeypatch.setattr(device, "choose", lambda *_: cuda)
    found = CHECKS["triton"](Config())
    assert text in found.text
    assert (bool(found.cost), found.fatal) == (costs, False)
