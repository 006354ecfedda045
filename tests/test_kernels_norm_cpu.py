"""Pooling, normalisation and activation for CPUs against torch's own in float64; its speed is measured, not tested."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import norm_cpu
from kernels.activation import ACTIVATIONS
from speedrun.models.layers import BatchNorm

BF16 = torch.bfloat16
KWARGS: dict[str, Any] = {"momentum": 0.3, "eps": 1e-5}
runs = pytest.mark.skipif(norm_cpu._library("gelu") is None, reason="no AVX512-BF16 or no C compiler")


def random(*shape: int, seed: int = 0) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.to(BF16).contiguous(memory_format=torch.channels_last)


def lost(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm())


def plain(x: Tensor, weight: Tensor, bias: Tensor, mean: Any, var: Any, activation: str, pool: int) -> Tensor:
    pooled = F.max_pool2d(x, pool) if pool > 1 else x
    return ACTIVATIONS[activation](F.batch_norm(pooled, mean, var, weight, bias, True, **KWARGS))


@runs
@pytest.mark.parametrize("activation", ["gelu", "silu", "relu"])
@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize(("count", "channels", "height", "width"), [(7, 16, 3, 3), (40, 48, 5, 8), (3, 80, 31, 31)])
def test_result_gradients_and_averages_are_those_of_torch(
    count: int, channels: int, height: int, width: int, pool: int, activation: str
):
    x = (2 * random(count, channels, height, width) + 0.7).requires_grad_()
    weight, bias = torch.linspace(-1, 2, channels).requires_grad_(), torch.linspace(2, -1, channels).requires_grad_()
    mean, var = torch.linspace(0, 1, channels), torch.linspace(1, 2, channels)
    exact = [each.detach().double().requires_grad_() for each in (x, weight, bias)]
    averages = mean.double(), var.double()
    ours = norm_cpu.norm_cpu(x, weight, bias, mean, var, activation=activation, pool=pool, **KWARGS)
    expected = plain(*exact, *averages, activation, pool)
    assert lost(ours, expected) < 0.003
    for found, wanted in zip((mean, var), averages, strict=True):
        torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-5)
    gradient = random(*ours.shape, seed=1)
    of_ours = torch.autograd.grad(ours, (x, weight, bias), gradient)
    of_torch = torch.autograd.grad(expected, exact, gradient.double())
    for found, wanted, most in zip(of_ours, of_torch, (0.004, 1e-3, 1e-3), strict=True):
        assert lost(found, wanted) < most
    if pool > 1:  # as many zeros, in the same places
        assert torch.equal(of_ours[0] == 0, of_torch[0] == 0) or activation == "relu"


@runs
@pytest.mark.parametrize("activation", ["gelu", "silu", "relu"])
def test_far_values_and_those_that_are_not_finite(activation: str):
    """Statistics of two channels of values at both ends: the activation sees what the bias sets."""
    bias = torch.tensor([-1e30, -200, -20, -5, -1, 0, 1, 5, 20, 200, 1e30, torch.inf, torch.nan, 0.5, 2, 3])
    x = torch.zeros(2, 16, 2, 2, dtype=BF16)
    ours = norm_cpu.norm_cpu(x, torch.ones(16), bias, None, None, activation=activation, **KWARGS)
    expected = ACTIVATIONS[activation](bias.double())
    torch.testing.assert_close(ours[0, :, 0, 0].double(), expected, rtol=0.004, atol=1e-6, equal_nan=True)


@runs
@pytest.mark.parametrize("activation", ["gelu", "silu", "relu"])
def test_far_slopes(activation: str):
    """Of what the bias sets, as above: the gradient of the bias is the slope, summed up."""
    far = torch.tensor([-1e30, -200, -20, -5, -1, -0.5, 1, 5, 20, 200, 1e30, 1e10, -1e10, 0.5, 2, 3])
    bias, exact = far.clone().requires_grad_(), far.double().requires_grad_()
    x = torch.zeros(2, 16, 2, 2, dtype=BF16)
    norm_cpu.norm_cpu(x, torch.ones(16), bias, None, None, activation=activation, **KWARGS).sum().backward()
    (8 * ACTIVATIONS[activation](exact)).sum().backward()
    assert bias.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(bias.grad.double(), exact.grad, rtol=1e-3, atol=1e-3)


@runs
def test_of_equal_values_the_first_is_the_largest_and_nan_above_all():
    x = torch.zeros(64, 16, 2, 2, dtype=BF16)
    x[::2, 0] = torch.tensor([[1.0, 3.0], [3.0, 2.0]])
    x[1, 1, 1, 0] = torch.nan
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    args = (torch.ones(16), torch.zeros(16), None, None)
    ours = norm_cpu.norm_cpu(x, *args, activation="gelu", pool=2, **KWARGS)
    (ours[:, 0] * torch.linspace(-1, 1, 64)[:, None, None]).sum().backward()
    assert x.grad is not None
    places = {tuple(place) for _, *place in x.grad[::2, 0].nonzero().tolist()}
    assert places == {(0, 1)}
    assert ours[:, 1].isnan().all()
    assert not ours[:, 2:].isnan().any()


@runs
def test_parameters_are_taken_in_any_dtype_and_layout():
    x, options = random(5, 16, 4, 4), {"activation": "gelu", **KWARGS}
    weight, bias = torch.linspace(1, 2, 16), torch.linspace(-1, 1, 16)
    expected = norm_cpu.norm_cpu(x, weight, bias, None, None, **options)
    spread = torch.zeros(32)
    spread[::2] = bias
    assert torch.equal(norm_cpu.norm_cpu(x, weight.double(), spread[::2], None, None, **options), expected)


@runs
def test_bits_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch):
    made = []
    for count in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        x, bias = random(50, 64, 7, 7).requires_grad_(), torch.zeros(64, requires_grad=True)
        y = norm_cpu.norm_cpu(x, torch.ones(64), bias, None, None, activation="gelu", pool=2, **KWARGS)
        made.append((y, *torch.autograd.grad(y, (x, bias), random(*y.shape, seed=1))))
    for again in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(again, made[0], strict=True))


@runs
def test_a_gradient_that_is_not_wanted_is_not_made():
    x, bias = random(5, 16, 4, 4), torch.zeros(16, requires_grad=True)
    norm_cpu.norm_cpu(x, torch.ones(16), bias, None, None, activation="gelu", pool=2, **KWARGS).sum().backward()
    exact = torch.zeros(16, dtype=torch.float64, requires_grad=True)
    plain(x.double(), torch.ones(16).double(), exact, None, None, "gelu", 2).sum().backward()
    assert bias.grad is not None
    assert exact.grad is not None
    assert lost(bias.grad, exact.grad) < 1e-3


@pytest.mark.parametrize(
    ("x", "changes", "message"),
    [
        (random(2, 16, 4, 4), {"activation": "tanh"}, "activation must be"),
        (random(2, 16, 4, 4).float(), {}, "of bfloat16"),
        (random(2, 24, 4, 4), {}, "16 c"),
        (random(1, 16, 3, 3), {"pool": 3}, "two values a channel"),
        (random(2, 16, 4, 4), {"pool": 5}, "two values a channel"),
        (random(9, 16, 17, 17), {"pool": 17}, "pooled by 17"),
        (random(2, 16, 4, 4), {"weight": torch.ones(8)}, r"must be \(C,\)"),
        (random(2, 16, 4, 4), {"bias": torch.ones(8)}, r"must be \(C,\)"),
    ],
)
def test_what_it_does_not_take_is_refused(x: Tensor, changes: dict[str, Any], message: str):
    given = {
        "weight": torch.ones(x.shape[1]),
        "bias": torch.zeros(x.shape[1]),
        "activation": "gelu",
        **KWARGS,
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        norm_cpu.norm_cpu(x, running_mean=None, running_var=None, **given)


def test_another_activation_does_not_pay():
    assert not norm_cpu.pays(random(2, 16, 4, 4), "tanh")


@runs
def test_a_layer_takes_it_in_training_alone(monkeypatch: pytest.MonkeyPatch):
    layer, x, taken = BatchNorm(16), random(4, 16, 4, 4), []
    real = norm_cpu.norm_cpu
    monkeypatch.setattr(norm_cpu, "norm_cpu", lambda *args, **more: taken.append(more["pool"]) or real(*args, **more))
    before = layer.activated(x, "gelu", pool=2)
    assert taken == [2]
    assert layer.num_batches_tracked == 1
    layer.activated(x.float(), "gelu")
    layer.add_up = lambda sums: sums
    layer.activated(x, "gelu")
    layer.add_up = None
    layer.eval().activated(x, "gelu")
    assert taken == [2]
    exact = BatchNorm(16).activated(x.float(), "gelu", pool=2)
    assert lost(before, exact.double()) < 0.005
