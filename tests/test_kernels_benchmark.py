"""The benchmark of the kernels: its timings, how it takes a peer that fails, its table; the sheet of pictures."""

import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_kernels import images

from benchmarks import augment_sheet, harness, kernels, launches, peers, readme, results, training_kernels
from kernels import conv_cpu, norm_cpu, winograd
from kernels.augment import view
from kernels.augmentation import Augmentation
from speedrun import record as records
from speedrun.errors import DataError, SpeedrunError, UsageError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(harness, "_FLUSH", 2**20)
    monkeypatch.setattr(harness, "_WARM", 0.0)
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
    usual = kernels.contenders

    def contenders(name, data, index, augmentation, quick):
        yield from usual(name, data, index, augmentation, quick)
        yield "twice", partial(kernels.eager, data, index, augmentation, "torch")
        yield "cannot", lambda: None

    monkeypatch.setattr(kernels, "contenders", contenders)
    turns: list[tuple[set[str], bool]] = []
    in_turn = launches.in_turn

    def noted(calls, *words, cold, **options):
        turns.append((set(calls), cold))
        return in_turn(calls, *words, cold=cold, **options)

    monkeypatch.setattr(launches, "in_turn", noted)
    rows = list(kernels.rows("flip + translate", kernels.Data.on(CPU), (32,), (16,), True, 1e9))
    twin = [row for row in rows if row["contender"] == "twin"]
    assert [row["cold"] for row in twin] == [True, False]
    assert turns == [({"twin", "twice"}, True), ({"twin", "twice"}, False)]
    assert all(len(row["runs"]) == row["calls"] for row in twin)
    assert all(row["images_per_second"] == pytest.approx(16 / row["median"]) for row in twin)
    assert [row["error"] for row in rows if "error" in row] == ["RuntimeError: no such thing in '...', on an a/b"]
    lines = launches.markdown(rows).splitlines()
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1


def test_what_is_done_once_for_many_batches_counts_with_its_share(monkeypatch):
    monkeypatch.setattr(peers, "airbench", lambda *_: peers.Shared(lambda: None, 5.0))
    monkeypatch.setattr(kernels, "find_spec", lambda _: None)
    rows = list(kernels.rows("flip + translate", kernels.Data.on(CPU), (32,), (16,), True, 1e9))
    shared = [row for row in rows if row["contender"] == "airbench's way"]
    assert [row["cold"] for row in shared] == [True, False]
    for row in shared:
        assert 5 < row["p20"] <= row["median"] <= row["p80"] < 6
        assert row["images_per_second"] == pytest.approx(16 / row["median"])


@pytest.mark.parametrize("translate", [0, 2, 4])
def test_airbenchs_way_crops_whole_epochs_and_mirrors_every_other_one(translate):
    data = kernels.Data.on(CPU)
    arguments = data.images, data.mean, data.std, torch.float32
    epoch = peers.airbench_epoch(*arguments, Augmentation(translate=translate, cutout=8))
    normal = (data.images.permute(0, 3, 1, 2) / 255 - data.mean[:, None, None]) / data.std[:, None, None]
    padded = torch.nn.functional.pad(normal, (translate,) * 4, mode="reflect")
    places = [(y, x) for y in range(2 * translate + 1) for x in range(2 * translate + 1)]
    mirrored = []
    for number in (0, 1):
        made, found = epoch(number), torch.full((len(normal),), -1)
        assert ((made == 0).all(1).sum((1, 2)) == 64).all()
        for flip in (0, 1):
            for y, x in places:
                seen = padded[:, :, y : y + 32, x : x + 32]
                same = ((made == (seen.flip(-1) if flip else seen)) | (made == 0)).flatten(1).all(1)
                found[same] = flip
        assert (found >= 0).all()
        mirrored.append(found)
    assert torch.equal(mirrored[0], 1 - mirrored[1])
    assert set(mirrored[0].tolist()) == {0, 1}
    call = peers.airbench(*arguments, torch.arange(30), Augmentation(translate=translate))
    batch = call()
    assert batch.shape == (30, 3, 32, 32)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(call(), batch)
    assert call.besides > 0


def test_views_are_timed_as_they_are_made():
    data, index = kernels.Data.on(CPU), torch.arange(9)
    made = kernels.batches(data, index, Augmentation(**kernels.OPERATIONS["view: mirror + shift"]), "torch")(3)
    options = {"mean": data.mean, "std": data.std, "dtype": data.dtype, "size": 32, "padding": "reflect"}
    assert torch.equal(made, view(data.images, index, flip=True, shift=(1, 1), **options))


def test_a_batch_is_mixed_in_another_way_at_every_call():
    data, index = kernels.Data.on(CPU), torch.arange(9)
    make = kernels.batches(data, index, Augmentation(**kernels.OPERATIONS["mixes, one a batch"]), "torch")
    weights = [make(number)[2].clone() for number in range(8)]
    assert len({tuple(some.flatten().tolist()) for some in weights}) > 2


def test_on_a_gpu_the_numbers_that_are_promised_are_measured_quickly_too():
    cuda = torch.device("cuda")
    assert set(kernels.quick_counts("flip + translate", cuda)) == {512, 1024, 2048, 50_000}
    assert kernels.quick_counts("dsnet", cuda) == kernels.quick_counts("flip + translate", CPU) == (512, 2048)
    assert kernels.quick_counts("affine", cuda) == (512,)


def test_what_is_asked_of_most_comes_first_and_what_is_recorded_is_left_out(tmp_path, monkeypatch):
    measured: list[str] = []

    def rows(name, data, sizes, counts, *_):
        measured.append(name)
        if len(measured) == 4:
            raise KeyboardInterrupt
        timing = {"median": 1.0, "p20": 1.0, "p80": 1.0, "calls": 3, "drift": 0.0, "parts": [1.0]}
        about = {"operation": name, "contender": "twin", "cold": True, "images_per_second": 1.0, "bytes": 1}
        for count in counts:
            for size in sizes:
                yield {**about, **timing, "batch": count, "size": size, "bandwidth_share": 0.1}

    state = {"sha": "a" * 40, "dirty": False}
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(kernels, "rows", rows)
    monkeypatch.setattr(kernels, "copy_bandwidth", lambda _: 1e9)
    monkeypatch.setattr("speedrun.record.git_state", lambda: state)
    monkeypatch.setattr("sys.argv", ["kernels", "--device", "cpu", "--quick", "--resume"])
    with pytest.raises(KeyboardInterrupt):
        kernels.main()
    assert measured[:2] == ["flip + translate", "dsnet"]
    assert kernels.main() == 0
    assert measured[4:] == measured[3:4] + [name for name in kernels.OPERATIONS if name not in measured[:4]]
    monkeypatch.setattr("sys.argv", ["kernels", "--device", "cpu", "--resume", "--only", "dsnet"])  # further places
    assert kernels.main() == 0
    assert measured[-1] == "dsnet"
    state["dirty"] = True  # one change is not told from another
    assert kernels.main() == 0
    assert measured[-2:] == ["dsnet", "dsnet"]
    assert records.git_state() == state


@pytest.mark.parametrize("name", training_kernels.CASES)
def test_the_kernels_of_training_are_timed_beside_torch(name, monkeypatch):
    monkeypatch.setattr(training_kernels, "FILTERS", ((4, 8), (8, 4)))
    monkeypatch.setattr(training_kernels, "IMAGES", 10)
    rows = list(training_kernels.rows(name, CPU, torch.float32, True, 1e9))
    assert [(row["contender"], row["cold"]) for row in rows] == [("twin", True), ("twin", False)]
    assert all(row["bandwidth_share"] == pytest.approx(row["bytes"] / row["median"] / 1e9) for row in rows)


@pytest.mark.parametrize("name", training_kernels.FOR_CPU)
@pytest.mark.parametrize("by_tiles", [True, False])
def test_what_is_made_for_cpus_is_timed_where_it_pays(name, by_tiles, monkeypatch, capsys):
    if (by_tiles or name in training_kernels.NORMALISED) and norm_cpu._library("gelu") is None:
        pytest.skip("no AVX512-BF16 or no C compiler")
    monkeypatch.setattr(training_kernels, "IMAGES", 10)
    monkeypatch.setattr(winograd, "pays", lambda *_: by_tiles)
    monkeypatch.setattr(conv_cpu, "pays", lambda *_: not by_tiles)
    rows = list(training_kernels.rows(name, CPU, torch.bfloat16, True, 1e9))
    assert {row["contender"] for row in rows} == {"fused", "twin"}
    for module in (winograd, conv_cpu, norm_cpu):
        monkeypatch.setattr(module, "pays", lambda *_: False)
    monkeypatch.setattr("sys.argv", ["training_kernels", "--device", "cpu", "--only", name])
    with pytest.raises(SpeedrunError, match="pays on a CPU alone"):
        training_kernels.main()


@pytest.mark.parametrize(
    ("feature", "names"),
    [
        ("amx_tile", list(training_kernels.CONVOLVED)[1:]),
        ("avx512_bf16", [*training_kernels.CONVOLVED, *training_kernels.NORMALISED]),
        ("neither", []),
    ],
)
def test_a_cpu_times_what_pays_on_it(feature, names, monkeypatch):
    monkeypatch.setattr("kernels.native.has", lambda asked: asked == feature)
    compiled = feature == "avx512_bf16"
    monkeypatch.setattr(winograd, "_libraries", lambda: {3: object()} if compiled else {})
    monkeypatch.setattr(norm_cpu, "_library", lambda _: object() if compiled else None)
    found = training_kernels.cases(CPU)
    assert [name for name in training_kernels.FOR_CPU if name in found] == names
    assert not set(training_kernels.cases(torch.device("meta"))) & set(training_kernels.FOR_CPU)


def record(
    started: str, *rows: tuple[str, str, int, int, float], torch: str = "2.9", sha: str = "a", copied: float = 2e10
) -> dict:
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
        "git": {"sha": sha, "dirty": False},
        "values": {"threads": 2, "copy_bytes_per_second": copied, "rows": made},
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


def test_an_operation_of_the_table_is_of_one_commit_and_the_bandwidths_of_all_are_told():
    old = record("2026-01", ("dsnet", "twin", 512, 32, 0.009), ("dsnet", "kornia", 512, 32, 0.02))
    other = record("2026-01", ("affine", "twin", 512, 32, 0.03), copied=1.8e10)
    new = record("2026-02", ("dsnet", "twin", 512, 32, 0.004), sha="b")
    table = readme.kernels([old, other, new])
    assert "kornia" not in table
    assert "| dsnet | 512 | 4 |" in table
    assert "| affine | 512 | 30 |" in table
    assert "copies 18.0 to 20.0 GB/s" in table


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


def sheet_of(monkeypatch: pytest.MonkeyPatch, out: object) -> int:
    monkeypatch.setattr("sys.argv", ["augment_sheet", "--out", str(out)])
    return augment_sheet.main()


def test_a_sheet_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    asked: list[str] = []

    def load(name="auto", **_):
        asked.append(name)
        return SimpleNamespace(train_images=images(400).numpy())

    monkeypatch.setattr(augment_sheet.data, "load", load)
    for name in ("sheet", "sheet.mp4"):
        with pytest.raises(UsageError, match=rf"--out .*{name}: no kind of picture ends so"):
            sheet_of(monkeypatch, tmp_path / name)
    assert asked == []
    with pytest.raises(SpeedrunError, match=r"--out .*sheet\.png cannot be written: .*No such file"):
        sheet_of(monkeypatch, tmp_path / "none" / "sheet.png")
    assert sheet_of(monkeypatch, tmp_path / "sheet.png") == 0
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    assert set(asked) == {"cifar10"}  # never generated images in its place


def test_a_sheet_is_of_real_images_or_not_made(tmp_path, monkeypatch):
    def load(name="auto", **_):
        raise DataError(f"{name} is not here")

    monkeypatch.setattr(augment_sheet.data, "load", load)
    with pytest.raises(DataError, match="cifar10 is not here"):
        sheet_of(monkeypatch, tmp_path / "sheet.png")
