"""Training with kernels and with their twins, from one seed: the same losses step by step, the same gradients."""

from functools import partial

import pytest
import torch

from kernels import backend, conv_pool, pool_norm
from kernels import whiten as whitening
from kernels.augment import Augmentation, mix
from speedrun import models, stream
from speedrun.config import ModelConfig, OptimConfig
from speedrun.methods.plain import PlainStep
from speedrun.models import layers, speednet

STEPS = 20
CASES = {
    "plain": Augmentation(flip="alternating", translate=2, cutout=8),
    "mixed": Augmentation(flip="random", translate=2, tone=0.5, mixup=0.3, cutmix=0.3, ricap=0.2),
}


def losses(method, device, widths, count, batch_size, rates, monkeypatch, augmentation, dtype=torch.float32):
    """Losses of twenty steps at 24 and 32 pixels."""
    monkeypatch.setattr(stream, "mix", partial(mix, method=method))
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(10, (count,), generator=generator)
    noise = torch.randint(0, 60, (count, 32, 32, 3), generator=generator)
    images = (noise + 18 * labels[:, None, None, None]).to(torch.uint8).to(device)  # brightness tells the class
    source = stream.Stream(
        images,
        labels.to(device),
        batch_size=batch_size,
        augmentation=augmentation,
        normalization=stream.Normalization.of(images),
        dtype=dtype,
        seed=3,
    )
    torch.manual_seed(0)
    net = models.build(ModelConfig(widths=widths, depth=2), 10).to(device).to(memory_format=torch.channels_last)
    net.initialize(source.next().images)
    step = PlainStep(net, net, rates, batch_size, dtype)
    return [step(source.next(24 if i < STEPS // 2 else 32), i / STEPS)[0].item() for i in range(STEPS)]


@pytest.mark.skipif(not backend.INTERPRETED, reason="needs TRITON_INTERPRET=1")
@pytest.mark.parametrize("case", CASES)
def test_a_tiny_net_learns_the_same_from_the_interpreted_kernel(case, monkeypatch):
    rates = OptimConfig(lr=0.05, head_lr=0.02, bias_lr=0.005)
    by_kernel, by_twin = (
        losses(method, "cpu", (8, 8, 8), 60, 20, rates, monkeypatch, CASES[case]) for method in ("fused", "torch")
    )
    assert by_kernel == pytest.approx(by_twin, rel=1e-3)
    assert by_twin[-1] < by_twin[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-2), (torch.bfloat16, 5e-2)])
def test_the_real_net_learns_the_same_from_the_fused_kernel(dtype, tolerance, case, monkeypatch, full_float32):
    # At the full rates the loss rises at first, and what changes a last digit of a pixel changes it by a twentieth.
    rates = OptimConfig(lr=0.05, head_lr=0.1, bias_lr=0.01)
    by_kernel, by_twin = (
        losses(method, "cuda", (64, 256, 256), 4000, 1000, rates, monkeypatch, CASES[case], dtype)
        for method in ("fused", "torch")
    )
    assert by_kernel == pytest.approx(by_twin, rel=tolerance)
    assert by_twin[-1] < by_twin[0]


@pytest.fixture
def in_kernels(monkeypatch) -> list[str]:
    """Has a net's parts in Triton kernels wherever Triton runs; the names of those that were."""
    used: list[str] = []

    def counted(name, function):
        def call(*arguments, **options):
            used.append(name)
            return function(*arguments, **options, method="fused")

        return call

    monkeypatch.setattr(layers, "pool_norm", counted("norm", pool_norm.pool_norm))
    monkeypatch.setattr(speednet, "conv_pool_norm", counted("conv", conv_pool.conv_pool_norm))
    monkeypatch.setattr(speednet, "whiten", counted("whiten", whitening.whiten))
    return used


def test_statistics_of_several_devices_are_no_kernels_business(in_kernels):
    net = models.build(ModelConfig(widths=(6, 8, 8), depth=2, fused=("conv", "norm")), 4)
    summed: list[int] = []

    def add_up(own: torch.Tensor) -> torch.Tensor:
        summed.append(len(own))
        return own

    for layer in net.modules():
        if isinstance(layer, layers.BatchNorm2d):
            layer.add_up = add_up
    net.train()(torch.randn(6, 3, 17, 17))
    assert in_kernels == []
    assert len(summed) == 2 * 6  # count and mean, then the variance, of every layer


@pytest.mark.usefixtures("full_float32")
@pytest.mark.skipif(not backend.ENABLED, reason="no Triton that runs here")
@pytest.mark.parametrize(
    ("parts", "frozen", "depth"),
    [
        (("norm",), False, 2),
        (("norm",), False, 3),
        (("conv",), False, 3),
        (("norm", "conv", "whiten"), True, 2),
        (("conv", "whiten"), False, 2),
    ],
)
def test_a_net_with_parts_in_kernels_trains_like_a_plain_one(parts, frozen, depth, in_kernels):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    nets = []
    for fused in ((), parts):
        torch.manual_seed(0)
        net = models.build(ModelConfig(widths=(6, 8, 8), depth=depth, fused=fused), 4).to(device)
        net.whiten.bias.requires_grad_(not frozen)
        nets.append(net.to(memory_format=torch.channels_last))
    images = torch.randn(6, 3, 17, 17, generator=torch.Generator().manual_seed(0))
    images = images.to(device, memory_format=torch.channels_last)
    for step in range(2):
        logits = [net.train()(images + step) for net in nets]
        torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)
        for net, result in zip(nets, logits, strict=True):
            net.zero_grad()
            result.square().sum().backward()
        for plain, fused in zip(*(net.parameters() for net in nets), strict=True):
            assert (plain.grad is None) == (fused.grad is None)
            if plain.grad is not None:
                torch.testing.assert_close(fused.grad, plain.grad, atol=1e-4, rtol=1e-3)
    assert set(in_kernels) == {part for part in parts if part != "whiten" or frozen}
    assert in_kernels.count("conv") == 2 * ("conv" in parts)  # of the first group alone
    for plain, fused in zip(*(net.state_dict().values() for net in nets), strict=True):
        torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-4)
    in_kernels.clear()
    with torch.no_grad():
        torch.testing.assert_close(*(net.eval()(images) for net in nets), atol=1e-4, rtol=1e-4)
    assert not in_kernels
