"""What a user of the kernels relies on: independence of the batch, distributions, graphs, devices."""

import numpy as np
import pytest
import torch
from test_kernels import DEVICE, MEAN, METHODS, STD, images, run

from kernels import fused, twin
from kernels.augment import augment
from kernels.augmentation import Augmentation

EVERYTHING = Augmentation(
    flip="random", translate=4, affine=0.5, tone=0.5, hue=0.5, grayscale=0.2, holes=0.3, cutout=8, policy="trivial"
)


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_does_not_depend_on_its_batch(method):
    data = images(300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:12]
    whole = run(data, order, EVERYTHING, method=method)
    parts = [run(data, order[start : start + 5], EVERYTHING, method=method) for start in range(0, 12, 5)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(run(data, order.flip(0), EVERYTHING, method=method), whole.flip(0))


def test_chunks_of_the_twin_change_nothing(monkeypatch):
    data, index = images(300), torch.arange(300)
    augmentation = Augmentation(flip="random", translate=4, affine=0.5, size=24)
    whole = run(data, index, augmentation)
    monkeypatch.setattr(twin, "CHUNK", 7)
    assert torch.equal(run(data, index, augmentation), whole)


@pytest.mark.parametrize("method", METHODS)
def test_seeds_and_epochs_from_memory_and_beyond_32_bits(method):
    data, index = images(), torch.arange(20)
    augmentation = Augmentation(flip="alternating", translate=4)
    for seed, epoch in ((0, 1), (1, 0), (2**40 + 3, 7)):
        number = run(data, index, augmentation, seed=seed, epoch=epoch, method=method)
        memory = [torch.tensor(value, device=DEVICE) for value in (seed, epoch)]
        assert torch.equal(run(data, index, augmentation, seed=memory[0], epoch=memory[1], method=method), number)
        for other in ((seed + 1, epoch), (seed, epoch + 1), (seed + 2**35, epoch)):
            assert not torch.equal(run(data, index, augmentation, seed=other[0], epoch=other[1], method=method), number)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [np.int64, np.uint32])
def test_any_kind_of_integer_is_a_key(kind, method):
    augmentation = Augmentation(flip="random", translate=4)
    for seed, epoch in ((2**31 + 5, 7), (2**32 - 1, 0)):
        number = run(images(), range(9), augmentation, seed=seed, epoch=epoch, method=method)
        same = run(images(), range(9), augmentation, seed=kind(seed), epoch=kind(epoch), method=method)
        assert torch.equal(same, number)


LARGE = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40 + 2**31, 2**63 - 1)


@pytest.mark.parametrize("number", LARGE)
def test_integers_go_to_the_kernel_as_two_that_fit_its_smallest_type(number):
    low, high = fused._halves(number)
    assert all(-(2**31) <= half < 2**31 for half in (low, high))
    assert (high << 32) + (low & 0xFFFFFFFF) == number
    runtime = pytest.importorskip("triton.runtime.jit")
    if hasattr(runtime, "native_specialize_impl"):  # by which it tells what it compiles for: of older ones, internal
        told = [runtime.native_specialize_impl(runtime.BaseBackend, n, False, False, False)[0] for n in (low, high)]
        assert told == ["i32", "i32"]


def marked(count: int) -> torch.Tensor:
    """Black images whose one white pixel tells where it was moved."""
    data = torch.zeros((count, 32, 32, 3), dtype=torch.uint8)
    data[:, 16, 10] = 255
    return data


def positions(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    place = batch[:, 0].flatten(1).argmax(1)
    return place // 32, place % 32


def test_shifts_and_flips_are_uniform_and_independent():
    """Chi-squared over the 81 shifts times 2 mirrors of 16,200 pictures: within five deviations of its mean."""
    count, limit = 16_200, 4
    batch = run(marked(count), torch.arange(count), Augmentation(flip="random", translate=limit, padding="zero"))
    y, x = positions(batch)
    mirrored = x > 15
    dx = torch.where(mirrored, 31 - x, x) - 10 + limit
    cells = torch.bincount(((y - 16 + limit) * 9 + dx) * 2 + mirrored, minlength=162)
    assert len(cells) == 162
    assert ((cells - 100.0) ** 2 / 100).sum() < 161 + 5 * (2 * 161) ** 0.5
    agreement = (mirrored[1:] == mirrored[:-1]).float().mean().item()  # neighbours in the data set know nothing
    assert abs(agreement - 0.5) < 5 * 0.5 / count**0.5


def test_alternating_flips_show_both_sides_in_turn():
    count = 2000
    sides = []
    for epoch in range(4):
        batch = run(marked(count), torch.arange(count), Augmentation(flip="alternating"), epoch=epoch)
        sides.append(positions(batch)[1] > 15)
    assert abs(sides[0].float().mean().item() - 0.5) < 5 * 0.5 / count**0.5
    assert torch.equal(sides[0], ~sides[1])
    assert torch.equal(sides[0], sides[2])
    assert torch.equal(sides[1], sides[3])


def test_cutout_reaches_every_place_and_stays_inside():
    count, side = 4000, 8
    batch = run(torch.full((count, 32, 32, 3), 255, dtype=torch.uint8), torch.arange(count), Augmentation(cutout=side))
    erased = (batch == 0).all(1)
    assert (erased.sum((1, 2)) == side * side).all()
    corners = erased.flatten(1).float().argmax(1)
    rows = torch.bincount(corners // 32, minlength=25)
    assert len(rows) == 25
    assert ((rows - count / 25) ** 2 / (count / 25)).sum() < 24 + 5 * 48**0.5


@pytest.mark.parametrize("name", ["affine", "tone", "hue", "grayscale", "holes"])
@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_probabilities(name, probability):
    data = images()[torch.full((2000,), 20)]
    plain = run(data, torch.arange(2000), Augmentation())
    changed = (run(data, torch.arange(2000), Augmentation(**{name: probability})) != plain).flatten(1).any(1)
    assert abs(changed.float().mean().item() - probability) <= 5 * (probability * (1 - probability) / 2000) ** 0.5


@pytest.mark.parametrize("method", METHODS)
def test_inputs_stay_and_out_is_written(method):
    data, index = images().to(DEVICE), torch.arange(30, device=DEVICE)
    before = data.clone()
    out = torch.empty((30, 3, 32, 32), device=DEVICE).to(memory_format=torch.channels_last)
    got = run(data, index, EVERYTHING, method=method, out=out)
    assert torch.equal(got, out.cpu())
    assert torch.equal(data, before)
    assert torch.equal(index, torch.arange(30, device=DEVICE))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU")
def test_a_graph_reads_the_epoch_anew_and_nothing_recompiles():
    from kernels.fused import _kernel

    data, index = images().to(DEVICE), torch.arange(40, device=DEVICE)
    augmentation = Augmentation(flip="random", translate=4)
    mean, std = torch.tensor(MEAN, device=DEVICE), torch.tensor(STD, device=DEVICE)
    epoch = torch.tensor(0, device=DEVICE)
    options = {"mean": mean, "std": std, "seed": 1, "dtype": torch.float16}
    out = augment(data, index, augmentation, epoch=epoch, **options)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        augment(data, index, augmentation, epoch=epoch, out=out, **options)
    for number in (0, 1, 16, 17):
        epoch.fill_(number)
        graph.replay()
        assert torch.equal(out, augment(data, index, augmentation, epoch=number, **options))
    compiled = sum(len(cache[0]) for cache in _kernel.device_caches.values())
    for number in range(2, 40):
        augment(data, index[1 : number + 1], augmentation, epoch=number, **options)  # begins at 8 bytes, not 16
    for number in LARGE:
        augment(data, index, augmentation, epoch=number, **{**options, "seed": number})
    assert sum(len(cache[0]) for cache in _kernel.device_caches.values()) == compiled


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second GPU")
def test_a_second_device():
    data, index = images(), torch.arange(40)
    there = [tensor.to("cuda:1") for tensor in (data, index, torch.tensor(MEAN), torch.tensor(STD))]
    got = augment(*there[:2], EVERYTHING, mean=there[2], std=there[3], seed=3, epoch=2, dtype=torch.float32)
    assert torch.allclose(got.cpu(), run(data, index, EVERYTHING), atol=3e-4)
