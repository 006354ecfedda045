"""Pictures: drawn from what a run or a job left, with the numbers of its record."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest
from processes import TINY_NET, one_line

from speedrun import cli, files, metrics, plots, scores

pytest.importorskip("matplotlib")
SETTINGS = [*TINY_NET, "--steps=4", "--dtype=float32", "--quiet"]
PNG = b"\x89PNG\r\n\x1a\n"


def job(tiny_data: Path, out: Path, *words: str) -> dict:
    assert cli.main([*words, f"--dataset={tiny_data}", f"--out={out}", *SETTINGS], time.monotonic()) == 0
    return json.loads((out / "result.json").read_text())


def test_an_ensemble_is_drawn_by_members_at_its_end_and_each_member_on_demand(tiny_data: Path, tmp_path: Path, capsys):
    record = job(tiny_data, tmp_path / "out", "ensemble", "--members=3", "--set=validation.count=2")
    assert (tmp_path / "out" / "ensemble.png").read_bytes().startswith(PNG)
    (axes,) = plots.figure_of(record, tmp_path / "out").axes
    own, mean = (list(line.get_ydata()) for line in axes.lines[:2])
    assert own == pytest.approx([100 * trial["accuracy"] for trial in record["trials"]])
    assert mean == pytest.approx([100 * accuracy for accuracy in record["by_members"]])
    capsys.readouterr()
    member = tmp_path / "out" / "member-01"
    assert cli.main(["plot", str(member)], 0.0) == 0
    assert capsys.readouterr().out.strip() == str(member / "run.png")
    assert (member / "run.png").read_bytes().startswith(PNG)
    left, right = plots.figure_of(json.loads((member / "result.json").read_text()), member).axes
    assert list(left.lines[0].get_ydata()) == [line["loss"] for line in metrics.read(member / "metrics.jsonl")]
    assert list(right.lines[1].get_ydata()) == [100 * score.accuracy for score in scores.read(member)]


def test_a_run_draws_its_curve_on_held_out_images_and_none_without(tiny_data: Path, tmp_path: Path):
    job(tiny_data, tmp_path / "watched", "--set=validation.count=2")
    assert (tmp_path / "watched" / "run.png").read_bytes().startswith(PNG)
    job(tiny_data, tmp_path / "plain")
    job(tiny_data, tmp_path / "pair", "ensemble", "--members=1", "--set=validation.count=2")
    assert [path.name for path in tmp_path.rglob("*.png") if path.parent.name != "watched"] == ["ensemble.png"]


def test_time_is_kept_for_a_picture_where_it_is_a_small_part(monkeypatch: pytest.MonkeyPatch):
    found = [plots.affordable(budget, 0.05) for budget in (None, 60.0, 59.0)]
    assert found == [True, True, False]
    monkeypatch.setattr(plots, "available", lambda: False)
    assert not plots.affordable(None, 0.05)


def test_a_picture_that_cannot_be_drawn_costs_a_line(tiny_data: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    job(tiny_data, tmp_path / "out", "--set=validation.count=2")
    line = one_line(capsys.readouterr().err)
    assert "no picture (matplotlib cannot be imported" in line
    assert f"python -m speedrun plot {tmp_path / 'out'} draws it" in line
    monkeypatch.setattr(plots, "draw", lambda folder: time.sleep(5))
    said: list[str] = []
    plots.draw_within(tmp_path, 0.0, said.append)
    assert "no picture (no time was left)" in said[0]


def test_a_search_has_a_panel_for_each_field(tiny_data: Path, tmp_path: Path):
    ranges = ("--space=optim.lr=log:1e-4..0.5", "--space=model.activation=relu|silu")
    record = job(tiny_data, tmp_path / "out", "search", "--trials=3", "--rounds=1", *ranges)
    assert (tmp_path / "out" / "search.png").read_bytes().startswith(PNG)
    axes = plots.figure_of(record, tmp_path / "out").axes
    assert [panel.get_xlabel() for panel in axes] == ["optim.lr", "model.activation"]
    points = axes[0].collections[0].get_offsets()
    trials = [(trial["changes"]["optim.lr"], 100 * trial["accuracy"]) for trial in record["trials"]]
    assert [tuple(point) for point in points] == [pytest.approx(trial) for trial in trials]


def test_an_ablation_has_a_bar_for_each_row(tiny_data: Path, tmp_path: Path):
    record = job(tiny_data, tmp_path / "out", "ablate", "--vary=optim.lr=0.3", "--runs=2")
    assert (tmp_path / "out" / "ablation.png").read_bytes().startswith(PNG)
    (axes,) = plots.figure_of(record, tmp_path / "out").axes
    bars = [bar.get_width() for bar in axes.containers[1]][::-1]
    assert bars == pytest.approx([100 * row["accuracy"] for row in record["rows"]])


def test_what_cannot_be_drawn_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    assert cli.main(["plot", str(tmp_path)], 0.0) == 1
    assert "result.json: No such file" in one_line(capsys.readouterr().err)
    files.write_json(tmp_path / "result.json", files.sealed({"kind": "suite"}))
    assert cli.main(["plot", str(tmp_path)], 0.0) == 1
    assert "is no record of a run or a job" in one_line(capsys.readouterr().err)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["plot", str(tmp_path)], 0.0) == 1
    assert "pip install 'speedrun[plots]'" in one_line(capsys.readouterr().err)
