"""Whitening and activation in one kernel, and its twin, against plain numpy."""

import numpy as np
import oracle_training as oracles
import pytest
import torch

from kernels import backend, whiten

pytestmark = pytest.mark.usefixtures("full_float32")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEEDS_TRITON = pytest.mark.skipif(not backend.ENABLED, reason="no Triton that runs here")
METHODS = ["torch", pytest.param("fused", marks=NEEDS_TRITON)]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("dtype", "activation", "shape", "count", "side"),
    [
        (torch.float32, "gelu", (3, 3, 9, 8), 24, 2),  # more rows than a tile has
        (torch.float32, "silu", (2, 3, 4, 5), 70, 3),  # more filters than a tile has
        (torch.float32, "relu", (1, 1, 2, 2), 3, 2),
        (torch.float16, "gelu", (3, 3, 8, 8), 24, 2),
        (torch.bfloat16, "gelu", (3, 3, 8, 8), 24, 2),
    ],
)
def test_it_equals_the_oracle(dtype, activation, shape, count, side, method):
    x = random(*shape).to(dtype).to(DEVICE, memory_format=torch.channels_last)
    filters = random(count, shape[1], side, side, seed=1).to(dtype).float().to(DEVICE)
    bias = random(count, seed=2).to(dtype).float().to(DEVICE)
    out = whiten.whiten(x, filters, bias, activation, method)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.dtype == dtype
    arrays = [tensor.cpu().double().numpy() for tensor in (x, filters, bias)]
    z = oracles.convolution(*arrays[:2], 0) + arrays[2][:, None, None]
    expected = torch.from_numpy(np.vectorize(oracles.ACTIVATIONS[activation])(z))
    torch.testing.assert_close(out.cpu().double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@NEEDS_TRITON
def test_where_a_gradient_is_wanted_it_is_torchs(monkeypatch):
    monkeypatch.setattr(whiten, "wanted", lambda method, _: method != "torch")  # as on a GPU
    x, filters = random(2, 3, 5, 5).to(DEVICE), random(24, 3, 2, 2, seed=1).to(DEVICE)
    bias = torch.zeros(24, device=DEVICE, requires_grad=True)
    out = whiten.whiten(x, filters, bias, "gelu")
    (gradient,) = torch.autograd.grad(out.sum(), bias)
    assert gradient.abs().min() > 0
    assert whiten.whiten(x, filters, bias.detach(), "gelu").grad_fn is None
    with torch.no_grad():
        torch.testing.assert_close(whiten.fused(x, filters, bias, "gelu"), out.detach())
    with pytest.raises(ValueError, match="has no gradient"):
        whiten.fused(x, filters, bias, "gelu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "tanh"}, "activation must be one of gelu, silu, relu"),
        ({"bias": torch.zeros(3)}, r"bias \(F,\), not .*\(3,\)"),
        ({"x": torch.zeros(2, 3, 1, 4)}, "too large for"),
        ({"filters": torch.zeros(24, 3, 5, 5)}, "too large for"),
        ({"method": "fast"}, "method must be one of"),
        ({"filters": torch.zeros(24, 3, 2, 3)}, r"filters \(F, C, k, k\)"),
        ({"x": torch.zeros(2, 3, 6, 6).double()}, "float16, bfloat16 or float32, not float64"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    given = {"x": torch.zeros(2, 3, 6, 6), "filters": torch.zeros(24, 3, 2, 2), "bias": torch.zeros(24)}
    with pytest.raises(ValueError, match=message):
        whiten.whiten(**{**given, "activation": "gelu", **changes})
