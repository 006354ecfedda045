"""The convolution for AMX against torch's own, in float64; that the products run faster is measured, not tested."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import conv_amx
from speedrun.models import layers
from speedrun.models.layers import Conv


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("count", [3, conv_amx.CHUNK, conv_amx.CHUNK + 7])
@pytest.mark.parametrize(("height", "width"), [(2, 2), (5, 5), (3, 7), (1, 1)])
def test_result_and_gradients_are_those_of_a_convolution(count: int, height: int, width: int):
    x, weight = random(count, 4, height, width).requires_grad_(), random(6, 4, 3, 3, seed=1).requires_grad_()
    gradient = random(count, 6, height, width, seed=2)
    expected, ours = F.conv2d(x, weight, padding=1), conv_amx.conv_amx(x, weight)
    torch.testing.assert_close(ours, expected)
    of_ours = torch.autograd.grad(ours, (x, weight), gradient)
    for found, wanted in zip(of_ours, torch.autograd.grad(expected, (x, weight), gradient), strict=True):
        # Sums over chunks are float32, whatever the dtype.
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)


def test_in_bfloat16_the_weight_gradient_is_rounded_about_once():
    """However many chunks there are: sums of sixteen in bfloat16 would be rounded as often."""
    count = 16 * conv_amx.CHUNK
    x, gradient = random(count, 16, 2, 2, dtype=torch.bfloat16), random(count, 8, 2, 2, seed=1, dtype=torch.bfloat16)
    exact = conv_amx.weight_gradient(x.double(), gradient.double()).double()
    error = (conv_amx.weight_gradient(x, gradient).double() - exact).norm() / exact.norm()
    assert error < 2.5e-3


def test_another_kernel_is_refused():
    with pytest.raises(ValueError, match=r"weight must be \(K, C, 3, 3\), not \(5, 3, 1, 1\)"):
        conv_amx.conv_amx(random(2, 3, 4, 4), random(5, 3, 1, 1))


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no list of what the processor has")
def test_amx_is_where_the_processor_lists_it():
    assert conv_amx.has_amx() == ("amx_tile" in Path("/proc/cpuinfo").read_text().split())


def test_what_is_not_asked_for_is_not_computed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(conv_amx, "weight_gradient", lambda *_: pytest.fail("nobody asked for it"))
    x, weight = random(2, 3, 4, 4).requires_grad_(), random(5, 3, 3, 3, seed=1)
    conv_amx.conv_amx(x, weight).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"amx": False}, False),
        ({"dtype": torch.float32}, False),
        ({"side": conv_amx.LARGEST_SIDE + 1}, False),
        ({"channels": conv_amx.FEWEST_CHANNELS - 1}, False),
        ({"kernel": 1}, False),
    ],
)
def test_it_pays_for_small_maps_of_many_channels(
    changes: dict[str, object], expected: bool, monkeypatch: pytest.MonkeyPatch
):
    asked = {"amx": True, "dtype": torch.bfloat16, "side": 5, "channels": 64, "kernel": 3, **changes}
    monkeypatch.setattr(conv_amx, "has_amx", lambda: asked["amx"])
    x = torch.empty(2, asked["channels"], asked["side"], asked["side"], dtype=asked["dtype"])
    assert conv_amx.pays(x, torch.empty(8, asked["channels"], asked["kernel"], asked["kernel"])) is expected


def test_a_layer_takes_it_in_training_alone(monkeypatch: pytest.MonkeyPatch):
    used: list[torch.dtype] = []

    def counted(x: Tensor, weight: Tensor) -> Tensor:
        used.append(weight.dtype)
        return conv_amx.conv_amx(x, weight)

    monkeypatch.setattr(conv_amx, "has_amx", lambda: True)
    monkeypatch.setattr(layers, "conv_amx", counted)
    layer, x = Conv(64, 16), random(2, 64, 4, 4, dtype=torch.bfloat16)
    layer.eval()(x)
    assert used == []
    layer.train()(x).float().sum().backward()
    assert used == [torch.bfloat16]
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
