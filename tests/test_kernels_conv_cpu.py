"""The convolution for CPUs against torch's own, in float64; that the products run faster is measured, not tested."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import conv_cpu, native, winograd
from speedrun.models.layers import Conv


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.fixture(params=["amx_tile", "avx512_bf16"])
def only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The one feature that the processor is said to have."""
    monkeypatch.setattr(native, "has", lambda feature: feature == request.param)
    return request.param


@pytest.mark.parametrize("count", [1, conv_cpu.CHUNK, conv_cpu.CHUNK + 7])
@pytest.mark.parametrize(("height", "width"), [(2, 2), (5, 5), (3, 7), (1, 1), (4, 1), (1, 4)])
def test_result_and_gradients_are_those_of_a_convolution(count: int, height: int, width: int, only: str):
    x, weight = random(count, 4, height, width).requires_grad_(), random(6, 4, 3, 3, seed=1).requires_grad_()
    gradient = random(count, 6, height, width, seed=2)
    expected, ours = F.conv2d(x, weight, padding=1), conv_cpu.conv_cpu(x, weight)
    torch.testing.assert_close(ours, expected)
    of_ours = torch.autograd.grad(ours, (x, weight), gradient)
    for found, wanted in zip(of_ours, torch.autograd.grad(expected, (x, weight), gradient), strict=True):
        # Sums of products are float32, whatever the dtype.
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("way", "count", "side"), [(conv_cpu.by_patches, 16 * conv_cpu.CHUNK, 2), (conv_cpu.by_taps, 50, 16)]
)
def test_in_bfloat16_the_weight_gradient_is_rounded_about_once(way: Callable[..., Tensor], count: int, side: int):
    """However many products there are: sums of sixteen in bfloat16 would be rounded as often."""
    x = random(count, 16, side, side, dtype=torch.bfloat16)
    gradient = random(count, 8, side, side, seed=1, dtype=torch.bfloat16)
    exact = way(x.double(), gradient.double()).double()
    error = (way(x, gradient).double() - exact).norm() / exact.norm()
    assert error < 2.5e-3


def test_another_kernel_is_refused():
    with pytest.raises(ValueError, match=r"weight must be \(K, C, 3, 3\), not \(5, 3, 1, 1\)"):
        conv_cpu.conv_cpu(random(2, 3, 4, 4), random(5, 3, 1, 1))


def test_what_is_not_asked_for_is_not_computed(only: str, monkeypatch: pytest.MonkeyPatch):
    for way in ("by_patches", "by_taps"):
        monkeypatch.setattr(conv_cpu, way, lambda *_: pytest.fail("nobody asked for it"))
    x, weight = random(2, 3, 4, 4).requires_grad_(), random(5, 3, 3, 3, seed=1)
    conv_cpu.conv_cpu(x, weight).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(("both", "taken"), [(True, "by_patches"), (False, "by_taps")])
def test_a_processor_with_amx_takes_patches_whatever_else_it_has(
    both: bool, taken: str, monkeypatch: pytest.MonkeyPatch
):
    ways: list[str] = []

    def counted(name: str) -> Callable[..., Tensor]:
        way = getattr(conv_cpu, name)
        return lambda *given: (ways.append(name), way(*given))[1]

    monkeypatch.setattr(native, "has", lambda feature: both or feature == "avx512_bf16")
    for name in ("by_patches", "by_taps"):
        monkeypatch.setattr(conv_cpu, name, counted(name))
    conv_cpu.conv_cpu(random(2, 3, 4, 4), random(5, 3, 3, 3, seed=1).requires_grad_()).sum().backward()
    assert ways == [taken]


@pytest.mark.parametrize(
    ("feature", "side", "channels", "filters", "expected"),
    [
        ("amx_tile", 11, 64, 64, True),
        ("amx_tile", 12, 64, 64, False),
        ("amx_tile", 5, 64, 63, False),
        ("avx512_bf16", 3, 64, 64, True),
        ("avx512_bf16", 3, 63, 64, False),
        ("avx512_bf16", 5, 128, 256, True),
        ("avx512_bf16", 5, 64, 256, False),
        ("avx512_bf16", 7, 256, 256, True),
        ("avx512_bf16", 7, 128, 256, False),
        ("avx512_bf16", 8, 256, 256, False),
        ("both", 11, 64, 64, True),
        ("neither", 3, 256, 256, False),
    ],
)
def test_it_pays_for_small_maps_of_many_channels(
    feature: str, side: int, channels: int, filters: int, expected: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(native, "has", lambda asked: feature in (asked, "both"))
    x = torch.empty(2, channels, side, side, dtype=torch.bfloat16)
    assert conv_cpu.pays(x, torch.empty(filters, channels, 3, 3)) is expected
    assert not conv_cpu.pays(x.float(), torch.empty(filters, channels, 3, 3))
    assert not conv_cpu.pays(x, torch.empty(filters, channels, 1, 1))


def test_a_layer_takes_it_in_training_alone(only: str, monkeypatch: pytest.MonkeyPatch):
    used: list[torch.dtype] = []

    def counted(x: Tensor, weight: Tensor) -> Tensor:
        used.append(weight.dtype)
        return plain(x, weight)

    plain = conv_cpu.conv_cpu
    monkeypatch.setattr(winograd, "pays", lambda *_: False)  # it is asked first
    monkeypatch.setattr(conv_cpu, "conv_cpu", counted)
    layer, x = Conv(64, 64), random(2, 64, 3, 3, dtype=torch.bfloat16)
    layer.eval()(x)
    assert used == []
    layer.train()(x).float().sum().backward()
    assert used == [torch.bfloat16]
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
