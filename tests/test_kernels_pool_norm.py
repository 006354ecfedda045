"""Pooling, normalisation and activation as kernels, and their twin, against plain numpy."""

import oracle_training as oracles
import pytest
import torch

from kernels import backend, pool_norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEEDS_TRITON = pytest.mark.skipif(not backend.ENABLED, reason="no Triton that runs here")
METHODS = ["torch", pytest.param("fused", marks=NEEDS_TRITON)]
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
EPS = 1e-5


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(x, grad, method, activation="gelu", pool=2, momentum=0.4):
    """Result, gradients of x, weight and bias, and the running averages, on the CPU."""
    channels = x.shape[1]
    x = x.to(DEVICE).detach().requires_grad_()
    weight = (1 + 0.3 * random(channels, seed=1)).to(DEVICE).requires_grad_()
    bias = (0.5 * random(channels, seed=2)).to(DEVICE).requires_grad_()
    mean, var = torch.zeros(channels, device=DEVICE), torch.ones(channels, device=DEVICE)
    options = {"momentum": momentum, "eps": EPS, "activation": activation, "pool": pool, "method": method}
    out = pool_norm.pool_norm(x, weight, bias, mean, var, **options)
    assert out.is_contiguous(memory_format=torch.channels_last)
    gradients = torch.autograd.grad(out, (x, weight, bias), grad.to(DEVICE, x.dtype))
    return [each.detach().cpu() for each in (out, *gradients, mean, var)], weight.detach().cpu(), bias.detach().cpu()


CASES = [
    (torch.float32, "gelu", 2, (3, 5, 7, 9)),  # sides that windows do not fill, channels that no tile fills
    (torch.float32, "silu", 2, (4, 8, 6, 6)),
    (torch.float32, "relu", 3, (2, 3, 7, 8)),
    (torch.float32, "gelu", 1, (3, 6, 5, 5)),
    (torch.float32, "gelu", 2, (5, 70, 10, 10)),  # more tiles than one, both ways
    (torch.float16, "gelu", 2, (3, 16, 7, 7)),
    (torch.bfloat16, "gelu", 2, (3, 16, 7, 7)),
    (torch.bfloat16, "silu", 1, (3, 16, 4, 4)),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "activation", "pool", "shape"), CASES)
def test_result_gradients_and_averages_equal_the_oracle(dtype, activation, pool, shape, method):
    x = (3 + 2 * random(*shape)).to(dtype).to(memory_format=torch.channels_last)
    n, c, h, w = shape
    grad = random(n, c, h // pool, w // pool, seed=3).to(dtype)
    found, weight, bias = run(x, grad, method, activation, pool)
    arrays = (tensor.double().numpy() for tensor in (x, weight, bias))
    wanted = oracles.pool_norm(*arrays, EPS, activation, pool, grad.double().numpy())
    averages = (0.4 * wanted.mean, 0.6 + 0.4 * wanted.variance)
    expected = (wanted.out, wanted.dx, wanted.dweight, wanted.dbias, *averages)
    sums = (n * (h // pool) * (w // pool)) ** 0.5  # errors of halves add up in them at random
    for position, (got, want) in enumerate(zip(found, expected, strict=True)):
        atol = TOLERANCE[dtype] * (sums if position in (2, 3) else 1)
        torch.testing.assert_close(got.double(), torch.from_numpy(want), atol=atol, rtol=TOLERANCE[dtype])


@NEEDS_TRITON
def test_of_equal_pixels_the_first_gets_the_gradient_and_the_rest_exactly_none():
    x = random(2, 4, 7, 7).round().to(memory_format=torch.channels_last)  # most windows have equals
    grad = random(2, 4, 3, 3, seed=3)
    (fused, *_), (twin, *_) = (run(x, grad, method)[0][1:] for method in ("fused", "torch"))
    assert torch.equal(fused != 0, twin != 0)
    assert (fused != 0).sum() == grad.numel()
    assert not fused[:, :, 6].any()


@NEEDS_TRITON
def test_a_mean_far_from_zero_costs_no_accuracy():
    x = (1000 + random(4, 3, 6, 6)).to(memory_format=torch.channels_last)
    grad = random(4, 3, 3, 3, seed=3)
    found, weight, bias = run(x, grad, "fused")
    arrays = (tensor.double().numpy() for tensor in (x, weight, bias))
    wanted = oracles.pool_norm(*arrays, EPS, "gelu", 2, grad.double().numpy())
    torch.testing.assert_close(found[0].double(), torch.from_numpy(wanted.out), atol=2e-3, rtol=0)


@NEEDS_TRITON
def test_no_number_is_passed_on():
    x = random(2, 3, 4, 4)
    x[1, 2, 3, 3] = torch.nan
    (out, *_), *_ = run(x.to(memory_format=torch.channels_last), random(2, 3, 2, 2), "fused")
    assert out[:, 2].isnan().all()
    assert not out[:, :2].isnan().any()


@NEEDS_TRITON
def test_a_second_derivative_is_refused():
    x = random(2, 3, 4, 4).to(DEVICE).requires_grad_()
    weight, bias = torch.ones(3, device=DEVICE), torch.zeros(3, device=DEVICE)
    out = pool_norm.fused(x, weight, bias, None, None, momentum=0.4, eps=EPS, activation="gelu")
    (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.square().sum().backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "tanh"}, "activation must be one of gelu, silu, relu"),
        ({"weight": torch.ones(3)}, r"weight and bias \(C,\)"),
        ({"x": torch.zeros(1, 2, 2, 2)}, "two values a channel"),
        ({"pool": 0}, "two values a channel"),
        ({"method": "fast"}, "method must be one of"),
        ({"x": torch.zeros(2, 2, 4, 4).double()}, "float16, bfloat16 or float32, not float64"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    arguments = {"x": torch.zeros(2, 2, 4, 4), "weight": torch.ones(2), "bias": torch.zeros(2)}
    options = {"running_mean": None, "running_var": None, "momentum": 0.4, "eps": EPS, "activation": "gelu"}
    with pytest.raises(ValueError, match=message):
        pool_norm.pool_norm(**{**arguments, **options, **changes})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_captured_graph_gives_the_eager_gradients():
    x = random(64, 64, 31, 31).cuda().half().to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.ones(64, device="cuda"), torch.zeros(64, device="cuda", requires_grad=True)
    options = {"momentum": 0.4, "eps": EPS, "activation": "gelu"}

    def call():
        out = pool_norm.fused(x, weight, bias, None, None, **options)
        return torch.autograd.grad(out.float().square().sum(), (x, bias))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        eager = call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    graph.replay()
    for ours, theirs in zip(captured, eager, strict=True):
        torch.testing.assert_close(ours, theirs)
