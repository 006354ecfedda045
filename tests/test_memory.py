"""What a step is thought to take, and the batch that a run takes by itself where little is free.

What is done when memory runs out all the same is in test_guard.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_record, tiny

import speedrun
from speedrun import memory, models, planner
from speedrun.config import Config, ModelConfig

GIB = 2**30


def needed(config: Config, dtype: torch.dtype = torch.bfloat16) -> float:
    """Bytes of the largest step of a planned config."""
    assert config.resolutions is not None
    assert config.batch_size is not None
    net = models.build(config.model, 10)
    return memory.step_bytes(net, max(config.resolutions), config.batch_size, dtype)


def fitted(config: Config, free: float) -> Config:
    """A planned config as a run takes it where so many bytes are free."""
    while needed(config) > memory.FREE_SHARE * free:
        config, _ = memory.smaller_batch(config, torch.device("cpu"), "more")
    return config


def test_a_step_takes_about_what_was_measured():
    config = Config(model=ModelConfig(widths=(64, 256, 256), depth=2), batch_size=1000, resolutions=(24,))
    assert 1.0 < needed(config) / (466 * 2**20) < 1.6  # the README's table


def test_a_step_grows_with_images_pixels_and_the_bytes_of_a_number():
    config = Config(model=ModelConfig(widths=(8, 16, 16), depth=3), batch_size=200, resolutions=(16,))
    base = needed(config)
    assert needed(replace(config, batch_size=400)) == pytest.approx(2 * base, rel=0.1)
    assert needed(replace(config, resolutions=(32,))) == pytest.approx(4 * base, rel=0.4)
    assert needed(config, torch.float32) == pytest.approx(2 * base, rel=0.1)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("speed", [3e11, 3e12, 3e13, 1e15, 2e15])
def test_a_minute_fits_into_4_GiB(device: str, speed: float):
    asked = Config(seconds=60)
    planned = planner.choose(asked, planner.Situation(device, speed), 60.0).apply(asked)
    if speed <= (1e15 if device == "cuda" else 3e14):  # on a CPU nets are up to 2.7 times as fast as the probe
        assert fitted(planned, 4 * GIB) == planned  # as it is
    small = fitted(planned, 4 * GIB)
    assert small.batch_size is not None
    assert small.batch_size >= 250
    assert fitted(planned, 80 * GIB) == planned


def run(
    tiny_data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, free: int | None, **changes: Any
) -> dict[str, Any]:
    monkeypatch.setattr(memory, "free_bytes", lambda _: free)
    speedrun.train(tiny(tiny_data, out, **changes))
    return read_record(out)


def test_M1_where_little_is_free_a_run_takes_a_smaller_batch_by_itself(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    net = models.build(ModelConfig(widths=(8, 8, 8), depth=2), 3)
    free = int(1.01 * memory.step_bytes(net, 16, 25, torch.float32) / memory.FREE_SHARE)
    found = run(tiny_data, tmp_path / "out", monkeypatch, free, batch_size=100, epochs=5.0, steps=None, seconds=60.0)
    assert found["config"]["batch_size"] == 25
    assert (found["status"], found["steps"]) == ("complete", 5 * 24)
    said = capsys.readouterr().err
    assert "little memory (0.01 GiB needed, 0.00 GiB free on cpu): batch 100 -> 50, optim.lr 0.05 -> 0.0354" in said
    assert "batch 50 -> 25" in said


@pytest.mark.parametrize("free", [None, 64 * GIB])
def test_where_enough_is_free_or_nobody_knows_the_batch_stays(
    free: int | None, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert run(tiny_data, tmp_path / "out", monkeypatch, free, steps=3)["config"]["batch_size"] == 50


def test_a_run_with_next_to_nothing_free_still_tries_its_smallest_batch(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = run(tiny_data, tmp_path / "out", monkeypatch, 1000, steps=3, seconds=60.0)
    assert memory.SMALLEST_BATCH <= found["config"]["batch_size"] < 2 * memory.SMALLEST_BATCH


def test_R1_without_a_deadline_no_free_memory_changes_the_batch(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run(tiny_data, tmp_path / "out", monkeypatch, 1000, steps=3)["config"]["batch_size"] == 50
    said = capsys.readouterr().err
    assert said.count("little memory") == 1
    assert "without --seconds the batch stays 50" in said


@pytest.mark.parametrize(("limit", "expected"), [("max", []), ("3000", [3000 - 1000 + 400]), ("nonsense", [])])
def test_a_control_groups_limit_counts_without_its_cached_files(limit: str, expected: list[int], tmp_path: Path):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 400\n")
    assert memory._group_bytes(tmp_path) == expected
    assert memory._group_bytes(tmp_path / "absent") == []
