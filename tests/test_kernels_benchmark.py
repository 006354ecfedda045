"""The benchmark of the kernels: its timings, how it takes a peer that fails, its table; the sheet of pictures."""

import time

import numpy as np
import pytest
import torch
from test_kernels import images

from benchmarks import augment_sheet, harness, kernels, peers, readme, training_kernels

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(harness, "_FLUSH", 2**20)
    monkeypatch.setattr(kernels, "DATA", 600)


@pytest.mark.parametrize("cold", [False, True])
def test_measure_times_a_call(cold):
    timing = harness.measure(lambda: time.sleep(0.005), CPU, cold=cold, seconds=0.05)
    assert 0.005 <= timing.p20 <= timing.median <= timing.p80
    assert timing.calls >= 3


def test_calls_together_count_as_their_mean():
    calls = []
    timing = harness.measure(lambda: calls.append(time.sleep(0.001)), CPU, cold=False, seconds=0.0, together=10)
    assert len(calls) == 2 + 3 * 10
    assert 0.001 <= timing.median < 0.01


def test_copy_bandwidth_counts_bytes_both_ways():
    assert 1e8 < harness.copy_bandwidth(CPU, 2**22) < 1e13


def test_a_contender_that_fails_costs_one_row(monkeypatch):
    def broken(*_):
        raise RuntimeError("no such thing in '/home/me/x.py', on an a/b\nand more")

    monkeypatch.setattr(peers, "airbench", broken)
    monkeypatch.setattr(kernels, "find_spec", lambda _: None)
    rows = list(kernels.rows("flip + translate", kernels.Data.on(CPU), (32,), (16,), True, 1e9))
    twin = [row for row in rows if row["contender"] == "twin"]
    assert [row["cold"] for row in twin] == [True, False]
    assert all(row["images_per_second"] == pytest.approx(16 / row["median"]) for row in twin)
    assert [row["error"] for row in rows if "error" in row] == ["RuntimeError: no such thing in '...', on an a/b"]
    lines = kernels.markdown(rows).splitlines()
    assert len(lines) == 2 + 2
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("name", training_kernels.CASES)
def test_the_kernels_of_training_are_timed_beside_torch(name, monkeypatch):
    monkeypatch.setattr(training_kernels, "FILTERS", ((4, 8), (8, 4)))
    monkeypatch.setattr(training_kernels, "IMAGES", 10)
    rows = list(training_kernels.rows(name, CPU, torch.float32, True, 1e9))
    assert [(row["contender"], row["cold"]) for row in rows] == [("twin", True), ("twin", False)]
    assert all(row["bandwidth_share"] == pytest.approx(row["bytes"] / row["median"] / 1e9) for row in rows)


def record(started: str, *rows: tuple[str, str, int, int, float], torch: str = "2.9") -> dict:
    made = [
        {"operation": name, "contender": by, "batch": batch, "size": size, "cold": cold, "median": median}
        for name, by, batch, size, median in rows
        for cold in (True, False)
    ]
    return {
        "kind": "kernel",
        "started": started,
        "device": {"name": "Fast", "kind": "cpu"},
        "versions": {"torch": torch},
        "values": {"threads": 2, "copy_bytes_per_second": 2e10, "rows": made},
    }


def test_the_table_joins_records_and_shows_the_newest():
    newer = record("2026-02", ("dsnet", "twin", 512, 32, 0.004), ("dsnet", "twin", 50_000, 32, 1.0))
    older = record("2026-01", ("dsnet", "twin", 512, 32, 0.009), ("affine", "kornia", 512, 32, 0.02))
    elsewhere = record("2026-01", ("ricap", "twin", 512, 32, 0.001), torch="2.8")
    table = readme.kernels([newer, older, elsewhere, {"kind": "run"}])
    assert "Fast, 2 threads, torch 2.9, copies 20.0 GB/s" in table
    assert "| affine | 512 |  | 20 |" in table
    assert "| dsnet | 512 | 4 |  |" in table
    assert "50,000" not in table
    assert "ricap" not in table  # by another torch than the one that is named
    assert readme.kernels([]) == ""


def test_the_table_of_the_kernels_of_training_shows_each_at_its_size():
    line = record("2026-01", ("newton-schulz", "fused", 6, 256, 0.0001), ("norm", "twin", 2000, 15, 0.002))
    table = readme.training_kernels([{**line, "kind": "training_kernel"}, line])
    assert "| newton-schulz | 6 | 0.1 |  |" in table
    assert "| norm | 2,000 |  | 2 |" in table
    assert readme.training_kernels([line]) == ""


def test_the_sheet_shows_every_operation():
    data = images(400)
    paper = augment_sheet.sheet(data, "torch")
    names = len(augment_sheet.ROWS) + 2 + 14
    cell = 32 * augment_sheet.SCALE + augment_sheet.GAP
    assert paper.size == (augment_sheet.LABEL + augment_sheet.COLUMNS * cell, names * cell)
    first = np.asarray(paper)[: 32 * augment_sheet.SCALE, augment_sheet.LABEL + cell :][:, : 32 * augment_sheet.SCALE]
    assert np.array_equal(first[:: augment_sheet.SCALE, :: augment_sheet.SCALE], data[1].numpy())
    rows = np.asarray(paper)[:, augment_sheet.LABEL :].reshape(names, cell, -1)
    assert all((row != rows[0]).any() for row in rows[1:])
