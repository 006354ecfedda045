"""Exported nets: safetensors that load again to the same logits, and what is said of files that are none."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import TINY_NET, one_line

import speedrun
from speedrun import cli

safetensors = pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "run"
    words = [f"--dataset={tiny_data}", f"--out={out}", "--steps=3", "--quiet", *TINY_NET]
    assert cli.main(words, time.monotonic()) == 0
    return out


def test_an_exported_net_gives_the_same_logits(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "net.safetensors"
    assert cli.main(["export", str(trained), f"--out={out}"], 0.0) == 0
    assert capsys.readouterr().out.strip() == str(out)
    mine, theirs = speedrun.load(trained), speedrun.load(out)
    images = torch.randint(256, (7, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mine(images), theirs(images))
    assert (mine.config, mine.classes, mine.size) == (theirs.config, theirs.classes, theirs.size)
    # Others read it as well: plain tensors by the net's own names, the config as text.
    with safetensors.safe_open(out, framework="pt") as file:
        assert set(file.keys()) == set(mine.net.state_dict())
        assert json.loads(file.metadata()["config"])["model"]["widths"] == [8, 8, 8]


def test_it_is_written_beside_the_run_where_no_name_is_given(trained: Path):
    assert cli.main(["export", str(trained / "model.pt")], 0.0) == 0
    assert (trained / "model.safetensors").exists()


def test_what_cannot_be_exported_or_loaded_is_one_line(trained: Path, tmp_path: Path, capsys, monkeypatch):
    foreign, damaged = tmp_path / "foreign.safetensors", tmp_path / "damaged.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, foreign)
    damaged.write_bytes(b"\x10\0\0\0\0\0\0\0{")
    assert cli.main(["export", str(trained), f"--out={tmp_path / 'flipped.safetensors'}"], 0.0) == 0
    flipped = bytearray((tmp_path / "flipped.safetensors").read_bytes())
    flipped[-1] ^= 1  # of a weight
    (tmp_path / "flipped.safetensors").write_bytes(flipped)
    capsys.readouterr()
    for words, message in (
        (["export", str(tmp_path)], "no checkpoint here"),
        (["export", str(trained), f"--out={tmp_path / 'none' / 'net.safetensors'}"], "cannot be written"),
        (["predict", f"--checkpoint={foreign}", f"--out={tmp_path / 'a.csv'}"], "holds no net of speedrun"),
        (["predict", f"--checkpoint={tmp_path / 'flipped.safetensors'}", f"--out={tmp_path / 'a.csv'}"], "is damaged"),
        (["predict", f"--checkpoint={damaged}", f"--out={tmp_path / 'a.csv'}"], "was not loaded"),
    ):
        assert cli.main(words, 0.0) == 1
        assert message in one_line(capsys.readouterr().err)
    assert cli.main(["export", str(trained), f"--out={tmp_path / 'net.pt'}"], 0.0) == 2
    assert "the name must end in .safetensors" in one_line(capsys.readouterr().err)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert cli.main(["export", str(trained)], 0.0) == 1
    assert "pip install 'speedrun[export]'" in one_line(capsys.readouterr().err)
