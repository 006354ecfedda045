"""MixUp, CutMix and RICAP: pictures, labels and weights against the oracle, and how often they happen."""

import numpy as np
import oracles
import pytest
import torch
from test_kernels import BLURRED, DEVICE, MEAN, METHODS, STD, TOLERANCE, assert_close, images, oracle, run

from kernels import beta, mixing
from kernels.augment import augment, mix
from kernels.augmentation import Augmentation

MIXES = [
    Augmentation(mixup=1.0, mixup_alpha=0.4),
    Augmentation(cutmix=1.0, flip="random"),
    Augmentation(ricap=1.0, size=24, flip="random", translate=3),
    Augmentation(mixup=0.3, cutmix=0.3, ricap=0.3, translate=4, cutout=8),
    Augmentation(mixup=0.3, cutmix=0.3, ricap=0.3, size=28, tone=0.5, hue=0.5, holes=0.3, hole_count=3),
    Augmentation(cutmix=0.5, policy="trivial"),
]


def mixed(data, labels, index, augmentation, *, seed=3, epoch=2, step=0, method="torch", dtype=torch.float32, out=None):
    got = mix(
        data.to(DEVICE),
        labels.to(DEVICE),
        torch.as_tensor(index, device=DEVICE),
        augmentation,
        mean=torch.tensor(MEAN, device=DEVICE),
        std=torch.tensor(STD, device=DEVICE),
        seed=seed,
        epoch=epoch,
        step=step,
        dtype=dtype,
        method=method,
        out=out,
    )
    return [part.cpu() for part in got]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per", ["sample", "batch"])
@pytest.mark.parametrize("case", range(len(MIXES)))
def test_a_mix_equals_the_oracle(case, per, method):
    augmentation = Augmentation(**{**MIXES[case].__dict__, "mix_per": per})
    data, labels, index = images(40), torch.arange(40) * 7 % 10, [3, 39, 0, 17, 17, 4, 5, 6]
    for step in range(1 if per == "sample" else 3):
        batch, members, weights = mixed(data, labels, index, augmentation, step=step, method=method)
        who = oracle(data, augmentation, step=step)
        for row in range(len(index)):
            picture, members_of_it, share = who.mixed(index, row)
            assert_close(batch[row : row + 1], torch.from_numpy(picture.transpose(2, 0, 1))[None], BLURRED)
            assert members[row].tolist() == labels[members_of_it].tolist()
            assert_close(weights[row], torch.from_numpy(share), 1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mix_in_half_precision(dtype, method):
    data, labels, index = images(40), torch.arange(40), [3, 39, 17, 17, 5, 6]
    batch, _, weights = mixed(data, labels, index, MIXES[3], dtype=dtype, method=method)
    assert (batch.dtype, weights.dtype) == (dtype, torch.float32)
    who = oracle(data, MIXES[3])
    pictures = np.stack([who.mixed(index, row)[0].transpose(2, 0, 1) for row in range(len(index))])
    assert_close(batch, torch.from_numpy(pictures), TOLERANCE[dtype])


@pytest.mark.parametrize("method", METHODS)
def test_a_step_from_memory(method):
    augmentation = Augmentation(mixup=0.3, cutmix=0.3, ricap=0.4, mix_per="batch")
    data, labels = images(40), torch.arange(40)
    numbers = [mixed(data, labels, range(8), augmentation, step=step, method=method) for step in range(4)]
    for step, number in enumerate(numbers):
        memory = mixed(data, labels, range(8), augmentation, step=torch.tensor(step, device=DEVICE), method=method)
        assert all(torch.equal(one, other) for one, other in zip(memory, number, strict=True))
        assert step == 0 or not torch.equal(number[0], numbers[step - 1][0])


@pytest.mark.parametrize("method", METHODS)
def test_a_mix_larger_than_a_block(method):
    augmentation = Augmentation(mixup=0.3, cutmix=0.3, ricap=0.4, size=44, flip="random")
    data, labels, index = images(12, 44, 45), torch.arange(12), list(range(12))
    batch, members, weights = mixed(data, labels, index, augmentation, method=method)
    who = oracle(data, augmentation)
    for row in index:
        picture, members_of_it, share = who.mixed(index, row)
        assert_close(batch[row : row + 1], torch.from_numpy(picture.transpose(2, 0, 1))[None], BLURRED)
        assert members[row].tolist() == members_of_it
        assert_close(weights[row], torch.from_numpy(share), 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_T6_weights_sum_to_one_and_areas_to_the_image(method):
    augmentation = Augmentation(mixup=0.3, cutmix=0.3, ricap=0.4, size=24)
    data, labels = images(200), torch.arange(200)
    _, members, weights = mixed(data, labels, range(200), augmentation, method=method)
    assert weights.min() >= 0
    assert_close(weights.sum(1), torch.ones(200), 2e-7)
    plan = mixing.plan(augmentation, 3, 2, 0, torch.arange(200), 200)
    areas = (plan.bottom - plan.top) * (plan.right - plan.left)
    ricap = (areas > 0)[:, 0]  # only RICAP gives member 0 a rectangle of its own
    assert ricap.any()
    assert (areas[ricap].sum(1) == 24 * 24).all()
    assert torch.equal(weights[ricap], areas[ricap] / torch.tensor(24.0 * 24))
    assert (members[:, 0] == labels).all()


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_how_often_each_happens(per):
    """Each share of 20,000 images, or of 1,000 batches, lies within five standard errors of its probability."""
    augmentation = Augmentation(mixup=0.3, mixup_alpha=1.0, ricap=0.2, mix_per=per)
    if per == "sample":
        plans = [mixing.plan(augmentation, 1, 0, 0, torch.arange(20_000), 50_000)]
    else:
        plans = [mixing.plan(augmentation, 1, 0, step, torch.arange(1), 50_000) for step in range(1000)]
    mixup = torch.cat([plan.share[:, 1] < 1 for plan in plans]).float()
    ricap = torch.cat([(plan.bottom + plan.right)[:, [0, 2, 3]].amax(1) > 0 for plan in plans]).float()
    for happened, probability in ((mixup, 0.3), (ricap, 0.2)):
        error = (probability * (1 - probability) / len(happened)) ** 0.5
        assert abs(happened.mean().item() - probability) < 5 * error


def test_how_often_cutmix_happens_and_that_its_places_are_uniform(monkeypatch):
    """Boxes of one pixel, so that each tells its place: chi-squared over the 1,024 places."""
    monkeypatch.setattr(mixing, "table", lambda *_: torch.ones((3, 4096), dtype=torch.int32))
    count = 51_200
    plan = mixing.plan(Augmentation(cutmix=0.4), 1, 0, 0, torch.arange(count), 50_000)
    happened = plan.bottom[:, 1] > plan.top[:, 1]
    assert abs(happened.float().mean().item() - 0.4) < 5 * (0.4 * 0.6 / count) ** 0.5
    cells = torch.bincount((plan.top * 32 + plan.left)[happened, 1], minlength=1024)
    assert len(cells) == 1024
    mean = cells.sum() / 1024
    assert ((cells - mean) ** 2 / mean).sum() < 1023 + 5 * (2 * 1023) ** 0.5


def test_partners_are_uniform_and_differ_by_epoch_and_member():
    augmentation = Augmentation(ricap=1.0)
    plans = [mixing.plan(augmentation, 1, epoch, 0, torch.arange(20_000), 100) for epoch in (0, 1)]
    for k in (1, 2, 3):
        counts = torch.bincount(plans[0].image[:, k], minlength=100)
        assert len(counts) == 100
        assert ((counts - 200.0) ** 2 / 200).sum() < 99 + 5 * (2 * 99) ** 0.5
        assert (plans[0].image[:, k] == plans[1].image[:, k]).float().mean() < 0.02
    assert (plans[0].image[:, 1] == plans[0].image[:, 2]).float().mean() < 0.02


def test_a_batch_mixes_with_itself_and_in_one_way():
    index = torch.randperm(1000)[:64]
    plan = mixing.plan(Augmentation(cutmix=1.0, mix_per="batch"), 5, 0, 8, index, 1000)
    assert set(plan.image[:, 1].tolist()) == set(index.tolist())
    assert (plan.image[:, 1] != index).all()
    assert len(set(zip(plan.top[:, 1].tolist(), plan.left[:, 1].tolist(), strict=True))) == 1


@pytest.mark.parametrize("alpha", [0.1, 0.3, 1.0, 2.5])
def test_beta_quantiles(alpha):
    got = beta.beta_quantiles(alpha, 4096).numpy()
    assert np.allclose(got, oracles.beta_quantiles(alpha), atol=2e-5)
    assert np.allclose(got.var(), 1 / (4 * (2 * alpha + 1)), rtol=2e-3)  # Beta's own variance
    assert (np.diff(got) >= 0).all()


def test_tables_are_shared_by_what_they_depend_on_and_kept():
    device = torch.device("cpu")
    table = mixing.table(Augmentation(cutmix=1.0), device)
    assert mixing.table(Augmentation(ricap=0.5, flip="random", hue=0.2), device) is table
    assert not torch.equal(mixing.table(Augmentation(cutmix=1.0, cutmix_alpha=0.5), device), table)
    for size in range(1, 100):
        mixing.table(Augmentation(size=size), device)
    assert mixing.table(Augmentation(cutmix=1.0), device) is table


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_is_the_same_in_any_batch(method):
    augmentation = Augmentation(mixup=0.3, cutmix=0.3, ricap=0.3, flip="random", translate=4)
    data, labels = images(50), torch.arange(50)
    whole = mixed(data, labels, range(20), augmentation, method=method)
    for one, all_ in zip(mixed(data, labels, [13, 7], augmentation, method=method), whole, strict=True):
        assert torch.equal(one, all_[[13, 7]])


def test_augment_sends_mixes_to_mix():
    tensor = torch.tensor(MEAN)
    with pytest.raises(ValueError, match="call mix"):
        augment(images(), torch.arange(3), MIXES[0], mean=tensor, std=tensor, seed=0, epoch=0, dtype=torch.float32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(size=24, tone=1.0)], ids=["plain", "coloured"])
def test_mix_without_a_mix_gives_plain_labels(augmentation, method):
    shape = (2, 3, augmentation.size, augmentation.size)
    out = (
        torch.empty(shape, dtype=torch.float16, device=DEVICE, memory_format=torch.channels_last),
        torch.full((2, 1), -1, device=DEVICE),
        torch.full((2, 1), float("nan"), device=DEVICE),
    )
    labels = torch.arange(10, 19)
    batch, members, weights = mixed(
        images(9), labels, [4, 2], augmentation, dtype=torch.float16, method=method, out=out
    )
    assert torch.equal(batch, run(images(9), [4, 2], augmentation, dtype=torch.float16, method=method))
    assert members.tolist() == [[14], [12]]
    assert weights.tolist() == [[1.0], [1.0]]


def test_mix_writes_into_out_and_checks_it():
    out = (
        torch.empty((2, 3, 32, 32), dtype=torch.float16, device=DEVICE).to(memory_format=torch.channels_last),
        torch.empty((2, 2), dtype=torch.int64, device=DEVICE),
        torch.empty((2, 2), device=DEVICE),
    )
    got = mixed(images(9), torch.arange(9), [4, 2], MIXES[0], dtype=torch.float16, out=out)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(got, out, strict=True))
    with pytest.raises(ValueError, match="weights"):
        mixed(images(9), torch.arange(9), [4, 2], MIXES[0], dtype=torch.float16, out=(*out[:2], out[2].half()))
    with pytest.raises(ValueError, match="labels"):
        mixed(images(9), torch.arange(8), [4, 2], MIXES[0])
