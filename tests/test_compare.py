"""Machines compared: what is joined, what is not and why, intervals, and how it is shown as text."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from machines import (
    DEVICE,
    HOSTILE,
    SHA,
    a_kernel,
    a_record,
    a_run,
    a_step,
    a_timing,
    an_evaluation,
    envelope,
    gpu,
    runs,
    two,
    two_that_differ,
    write,
)
from rich.console import Console

from benchmarks import compare, comparison, pictures, tables
from benchmarks.comparison import Comparison
from benchmarks.rows import PARTS
from speedrun.errors import DataError, SpeedrunError, UsageError


def test_accuracies_are_compared_whatever_was_planned(tmp_path: Path):
    other = runs(gpu("B"), 0.96, 0.962, 0.964, recipe="other", plan={"steps": 9})
    found = two(tmp_path, runs(gpu("A"), 0.94, 0.942), other)
    (group,) = found.groups
    assert group.title == "data set cifar10, scored test, seconds 60, clock strict"
    assert group.cells["A"].value == pytest.approx(0.941)
    assert group.cells["B"].values == (0.96, 0.962, 0.964)
    versus = group.versus("B", found.reference)
    assert versus is not None
    assert versus.value == pytest.approx(0.021)
    assert 0 < versus.low < versus.value < versus.high
    assert group.versus("A", "A") is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset": "synthetic"}, "there only with data set synthetic"),
        ({"split": {"train": "t", "scored": "train[held out]"}}, "there only with scored train[held out]"),
        ({"budget_seconds": 600.0}, "not measured there"),
    ],
)
def test_runs_that_differ_are_not_compared_and_it_is_said_why(tmp_path: Path, changes: dict[str, Any], reason: str):
    found = two(tmp_path, runs(gpu("A"), 0.94), runs(gpu("B"), 0.5, **changes))
    assert all(len(group.cells) == 1 for group in found.groups)
    assert (PARTS["accuracy"].title, "B", reason) in found.unmatched


def test_runs_that_say_nothing_about_n_seconds_are_passed_over(tmp_path: Path):
    device = gpu("A")
    lines = [
        *runs(device, 0.94),
        *runs(device, 0.94, budget_seconds=None),
        *runs(device, 0.94, expected_accuracy=None),
        *runs(device, 0.94, status="timeout"),
        {**envelope("suite", device), "part": "step", "quick": True, "command": [], "wall_seconds": 1.0},
        {**an_evaluation(device, 0.1, 1000), "rows": [{**an_evaluation(device, 0.1, 1000)["rows"][0], "about": {}}]},
        {**a_step(device, (0.1,)), "seconds": a_timing(0.0)},
    ]
    found = compare.compare([write(tmp_path / "a.jsonl", *lines)])
    reasons = " ".join(found.passed)
    for words in ("by steps", "set by hand", "ended as timeout", "not what this version writes", "not above 0"):
        assert words in reasons
    assert sum(map(len, found.passed.values())) == 5
    assert found.passed["the run ended as timeout"] == [f"{tmp_path / 'a.jsonl'}:4"]


def test_of_several_commits_the_newest_counts(tmp_path: Path):
    def made(day: int, accuracy: float) -> list[dict[str, Any]]:
        git = {"sha": f"{SHA}{day}", "dirty": False}
        return runs(gpu("A"), accuracy, git=git, started=f"2026-11-0{day}T00:00:00Z")

    path = write(tmp_path / "a.jsonl", *made(2, 0.9), *made(1, 0.8))
    found = compare.compare([path])
    assert found.groups[0].cells["A"].values == (0.9,)
    assert found.passed == {comparison.OLDER: [f"{path}:2"]}


def test_time_to_a_target_counts_misses_and_both_clocks(tmp_path: Path):
    config = {"config": {"target": 0.94}, "budget_seconds": None}
    hit, missed = runs(gpu("A"), 0.941, 0.9395, **config, expected_accuracy=0.941)
    found = compare.compare([write(tmp_path / "a.jsonl", hit, {**missed, "status": "missed"})])
    strict, comparable = found.groups
    assert strict.key == ("cifar10", "test", "0.94", "strict")
    assert (strict.cells["A"].value, comparable.cells["A"].value) == (58.5, 50.25)
    assert strict.cells["A"].extras["accuracy"] == pytest.approx(0.94025)
    assert 0.3 < strict.cells["A"].extras["p of a mean above"] < 0.5


def test_a_time_in_which_the_target_was_missed_is_held_against_nobody(tmp_path: Path):
    config = {"config": {"target": 0.94}, "budget_seconds": None}
    reached, short = runs(gpu("A"), 0.941, **config), runs(gpu("B"), 0.941, 0.93, **config)
    found = two(tmp_path, reached, short)
    for group in found.groups:
        assert group.cells["B"].value > 0
        assert group.versus("B", "A") is group.versus("A", "B") is None
    assert len(found.unmatched[PARTS["target"].title, "B", comparison.MISSED]) == 2
    assert not any(machine == "A" for _, machine, _ in found.unmatched)


def test_runs_of_a_contest_are_times_to_a_target_by_the_comparable_clock(tmp_path: Path):
    device = gpu("A")
    ours = a_record(device, "speedrun", [0.941, 0.942], [2.0, 2.2], config={"recipe": "speednet-94"})
    others = a_record(device, "airbench94", [0.94], [2.6]), a_record(device, "speedrun", [0.9], [1.0], dataset="mine")
    found = compare.compare([write(tmp_path / "a.jsonl", ours, *others)])
    (group,) = found.groups
    assert group.key == ("cifar10", "test[10000]", "0.94", "comparable")
    cell = group.cells["A"]
    assert (cell.drawn, cell.values, cell.extras["recipe"]) == ("run", (2.0, 2.2), "speednet-94")
    assert cell.extras["accuracy"] == pytest.approx(0.9415)
    assert [len(places) for places in found.passed.values()] == [1, 1]


def test_the_strict_clock_of_a_target_ends_with_the_process_and_leaves_transfers_out(tmp_path: Path):
    config = {"config": {"target": 0.94123}, "budget_seconds": None}
    lines = [
        *runs(gpu("A"), 0.95, **config, outside_seconds=61.0, fetch_seconds=2.0),
        *runs(gpu("A"), 0.95, config={"target": 0.94124}, budget_seconds=None, expected_accuracy=None),
    ]
    found = compare.compare([write(tmp_path / "a.jsonl", *lines)])
    assert {group.key[2:]: group.cells["A"].value for group in found.groups} == {
        ("0.94123", "strict"): 59.0,
        ("0.94123", "comparable"): 50.25,
    }
    assert list(found.passed) == ["its dials were set by hand, not by the planner"]


def test_steps_are_compared_where_net_size_and_dtype_are_equal(tmp_path: Path):
    first = [a_step(gpu("A"), (0.010, 0.011, 0.009)), a_step(gpu("A"), (1.0,), dtype="float32")]
    first.append(a_step(gpu("A"), (1.0,), changed=["model.fused=norm"]))
    second = [a_step(gpu("B"), (0.020, 0.021, 0.019)), a_step(gpu("B"), (1.0,), dtype="float16")]
    found = two(tmp_path, first, second)
    (both,) = [group for group in found.groups if len(group.cells) == 2]
    versus = both.versus("B", "A")
    assert versus is not None
    assert versus.value == pytest.approx(2, rel=0.02)
    assert versus.low < versus.value < versus.high
    titles = found.unmatched[PARTS["step"].title, "B", "there only with dtype bfloat16"]
    assert [title for title in titles if "float32" in title] == titles != []
    assert [list(group.cells) for group in found.groups if "model.fused=norm" in group.title] == [["A"]]


def test_several_sessions_give_the_interval_and_one_gives_that_of_its_parts(tmp_path: Path):
    lines = [a_kernel(gpu("A"), 1e-5), a_kernel(gpu("A"), 1.2e-5), a_kernel(gpu("A"), 1e-4, name="flip")]
    found = compare.compare([write(tmp_path / "a.jsonl", *lines)])
    several, alone = (group.cells["A"] for group in found.groups)
    assert (several.drawn, several.values, several.value) == ("session", (1e-5, 1.2e-5), pytest.approx(1.1e-5))
    assert (alone.drawn, len(alone.values)) == ("part", 3)


def test_a_time_is_the_median_and_its_rates_and_ratio_are_those_of_it(tmp_path: Path):
    skewed, even = (0.010, 0.010, 0.030), (0.020, 0.020, 0.020)
    found = two(tmp_path, [a_step(gpu("A"), skewed)], [a_step(gpu("B"), even), a_step(gpu("B"), (0.040,) * 3)])
    (group,) = found.groups
    one, several = group.cells["A"], group.cells["B"]
    assert (one.value, one.half_width) == (0.010, pytest.approx(0.0287, abs=1e-4))
    assert one.extras["images/s"] == pytest.approx(1000 / 0.010)
    assert several.value == pytest.approx(0.030)
    assert several.extras["images/s"] == pytest.approx(1000 / 0.030)
    assert several.extras["TFLOP/s"] == pytest.approx(1 / 0.030)
    versus = group.versus("B", "A")
    assert versus is not None
    assert versus.value == pytest.approx(3)
    assert versus.low < 3 < versus.high


def test_two_files_of_one_kind_of_machine_are_two_machines(tmp_path: Path):
    found = two(tmp_path, runs(gpu("A"), 0.94), runs(gpu("A"), 0.95))
    assert list(found.machines) == ["A (a)", "A (b)"]
    assert "132 multiprocessors, 139 GiB" in found.machines["A (a)"]
    (tmp_path / "other").mkdir()
    alike = [write(folder / "a.jsonl", *runs(gpu("A"), 0.9)) for folder in (tmp_path, tmp_path / "other")]
    assert list(compare.compare(alike).machines) == [f"A ({path})" for path in alike]
    cpu = compare.compare([write(tmp_path / "c.jsonl", *runs(DEVICE, 0.9, threads=1), *runs(DEVICE, 0.9))])
    assert list(cpu.machines) == ["Test CPU, 1 thread", "Test CPU, 2 threads"]


def test_computers_that_share_the_name_of_a_device_are_told_apart(tmp_path: Path):
    small, large = {**gpu("A"), "cpu": "Xeon", "cores": 8}, {**gpu("A"), "cpu": "EPYC", "cores": 8}
    lines = [a_kernel(small, 1e-5), a_kernel(large, 2e-5)]
    found = compare.compare([write(tmp_path / "a.jsonl", *lines)])
    assert {name: cell.value for name, cell in found.groups[0].cells.items()} == {
        "A, fed by Xeon": pytest.approx(1e-5),
        "A, fed by EPYC": pytest.approx(2e-5),
    }
    weak = a_step(gpu("A"), (0.02,))
    weak["state"]["before"] = {**weak["state"]["before"], "power_limit_watts": 300.0}
    lines = [a_step(gpu("A"), (0.01,)), weak, *runs(gpu("A"), 0.9)]  # a run may not tell its limit
    found = compare.compare([write(tmp_path / "b.jsonl", *lines)])
    assert list(found.machines) == ["A, 700 W", "A, 300 W", "A"]


def test_a_machine_is_described_by_its_newest_record_and_the_power_that_any_tells(tmp_path: Path):
    step, run = a_step(gpu("A"), (0.01,)), runs(gpu("A"), 0.9, started="2999-01-01T00:00:00Z")[0]
    found = compare.compare([write(tmp_path / "a.jsonl", run, step)])
    assert "700 W at most" in found.machines["A"]
    assert "commit 0000000" in found.machines["A"]


def test_faults_are_told_by_line_and_do_not_stop_the_rest(tmp_path: Path):
    strange = json.dumps({**a_run(), "schema": 3})
    found = two(
        tmp_path, ["{", *runs(gpu("A"), 0.9)], [strange, *runs(gpu("B"), 0.9), *runs(gpu("B"), 0.9, dataset="x")]
    )
    text = "\n".join(tables.left_out(found))
    assert f"not read: {tmp_path / 'a.jsonl'}:1: not JSON" in text
    assert f"not read: {tmp_path / 'b.jsonl'}:1: schema: version 3 is not known here" in text
    assert "several data sets" in text
    assert len(found.groups[0].cells) == 2
    with pytest.raises(DataError, match=r"none\.jsonl: no record"):
        compare.compare([tmp_path / "none.jsonl"])


def test_the_terminal_shows_the_place_of_every_fault_as_it_is(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "500")
    path = write(tmp_path / "a.jsonl", *["{"] * 100, *runs(gpu("A"), 0.9))
    assert compare.main([str(path)]) == 0
    assert f"not read: {path}:100: not JSON" in capsys.readouterr().out


def test_evaluations_of_other_numbers_of_images_are_not_compared(tmp_path: Path):
    few, many = an_evaluation(gpu("A"), 0.1, 1_000), an_evaluation(gpu("B"), 0.8, 10_000)
    found = two(tmp_path, [few, an_evaluation(gpu("A"), 0.9, 10_000)], [many])
    assert [(group.key[4], len(group.cells)) for group in found.groups] == [("1000", 1), ("10000", 2)]
    assert (PARTS["evaluation"].title, "B", "there only with images 10000") in found.unmatched
    assert found.groups[0].cells["A"].extras["images/s"] == pytest.approx(1e4)


@pytest.fixture
def small(tmp_path: Path) -> Comparison:
    return two_that_differ(tmp_path)


def test_the_terminal_shows_values_ratios_and_what_is_left_out(small: Comparison):
    console = Console(file=io.StringIO(), width=200)
    console.print(tables.rich(small, wide=True))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "94.10 % ± 1.27 (2 runs)" in text
    assert "+1.00 points [" in text
    assert "share of peak" in text
    assert "not compared, Augmentation" in text
    assert HOSTILE in text
    assert comparison.LEGEND in " ".join(text.split())
    narrow = Console(file=io.StringIO(), width=80)
    narrow.print(tables.rich(small, wide=False))
    assert "share of peak" not in narrow.file.getvalue()  # type: ignore[attr-defined]


def test_markdown_keeps_its_columns_whatever_a_machine_is_called(small: Comparison):
    text = tables.markdown(small)
    blocks = [block for block in text.split("\n\n") if block.startswith("| ")]
    assert len(blocks) == 5
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert "<script>" not in text
    assert "## Not compared" in text
    assert comparison.LEGEND in text


def test_csv_has_the_bare_numbers(small: Comparison):
    rows = list(csv.DictReader(io.StringIO(tables.csv_text(small))))
    (row,) = [row for row in rows if row["part"] == "accuracy" and row["machine"] == HOSTILE]
    assert float(row["value"]) == pytest.approx(0.951)
    assert float(row["versus"]) == pytest.approx(0.01)
    assert (row["unit"], row["n"], row["drawn"], row["against"]) == ("fraction", "2", "run", "A")
    assert len(rows) == sum(len(group.cells) for group in small.groups)


def test_the_command_writes_what_it_is_asked_for(tmp_path: Path, capsys):
    pytest.importorskip("matplotlib")
    path = write(tmp_path / "a.jsonl", *runs(gpu("A"), 0.94), a_step(gpu("A"), (0.01,)), a_kernel(gpu("A"), 1e-5))
    outs = {name: tmp_path / f"out.{name}" for name in ("markdown", "csv", "png", "html")}
    assert compare.main([str(path), *(word for name, out in outs.items() for word in (f"--{name}", str(out)))]) == 0
    assert outs["png"].read_bytes().startswith(b"\x89PNG")
    assert outs["html"].read_text().startswith("<!doctype html>")
    assert "Accuracy at N seconds" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"does not write \.doc"):
        compare.main([str(path), "--png", str(tmp_path / "out.doc")])
    with pytest.raises(SpeedrunError, match="No such file"):
        compare.main([str(path), "--csv", str(tmp_path / "none" / "x.csv")])
    empty = compare.compare([write(tmp_path / "b.jsonl", a_run(expected_accuracy=0.9))])
    empty.groups.clear()
    with pytest.raises(SpeedrunError, match="nothing to draw"):
        pictures.draw(empty, outs["png"])


def test_a_picture_takes_names_as_text(tmp_path: Path):
    pytest.importorskip("matplotlib")
    name = r"A $\frac{$"
    target = runs(gpu(name), 0.95, config={"target": 0.94}, budget_seconds=None)
    lines = [*runs(gpu(name), 0.94), *target, a_step(gpu(name), (0.01,), recipe="$x"), a_kernel(gpu(name), 1e-5)]
    pictures.draw(compare.compare([write(tmp_path / "a.jsonl", *lines)]), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
