"""The first convolution with pooling, normalisation and activation as kernels, and their twin, against plain numpy."""

import oracle_training as oracles
import pytest
import torch

from kernels import backend, conv_pool, pool_norm

pytestmark = pytest.mark.usefixtures("full_float32")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEEDS_TRITON = pytest.mark.skipif(not backend.ENABLED, reason="no Triton that runs here")
METHODS = ["torch", pytest.param("fused", marks=NEEDS_TRITON)]
TOLERANCE = {torch.float32: 2e-5, torch.float16: 6e-3, torch.bfloat16: 4e-2}
EPS = 1e-5


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filters_for(x: torch.Tensor, count: int) -> torch.Tensor:
    """Random ones, exact in the dtype of x, so that products are the oracle's."""
    channels = x.shape[1]
    return (random(count, channels, 3, 3, seed=4) / (3 * channels**0.5)).to(x.dtype).float()


def run(x, count, grad, method, activation="gelu", want_dx=True):
    """Result, gradients of filters, weight, bias and perhaps x, running averages, on the CPU; filters, weight, bias."""
    x = x.to(DEVICE).detach().requires_grad_(want_dx)
    filters = filters_for(x.cpu(), count).to(DEVICE, memory_format=torch.channels_last).requires_grad_()
    weight = (1 + 0.3 * random(count, seed=1)).to(DEVICE).requires_grad_()
    bias = (0.5 * random(count, seed=2)).to(DEVICE).requires_grad_()
    mean, var = torch.zeros(count, device=DEVICE), torch.ones(count, device=DEVICE)
    options = {"momentum": 0.4, "eps": EPS, "activation": activation, "method": method}
    out = conv_pool.conv_pool_norm(x, filters, weight, bias, mean, var, **options)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.dtype == x.dtype
    wanted = (filters, weight, bias, *([x] if want_dx else []))
    gradients = torch.autograd.grad(out, wanted, grad.to(DEVICE, x.dtype))
    assert all(found.dtype == given.dtype for found, given in zip(gradients, wanted, strict=True))
    found = [each.detach().cpu() for each in (out, mean, var, *gradients)]
    return found, [each.detach().cpu() for each in (filters, weight, bias)]


def expected(x, parameters, activation, grad):
    """What `run` should find: all but running averages from the oracle."""
    x, filters, weight, bias, grad = (tensor.double().numpy() for tensor in (x, *parameters, grad))
    whole = oracles.convolution(x, filters, 1)
    normed = oracles.pool_norm(whole, weight, bias, EPS, activation, 2, grad)
    dx, dfilters = oracles.convolution_gradients(x, filters, 1, normed.dx)
    averages = (0.4 * normed.mean, 0.6 + 0.4 * normed.variance)
    return [normed.out, *averages, dfilters, normed.dweight, normed.dbias, dx]


CASES = [
    (torch.float32, "gelu", (3, 5, 7, 9), 6),  # sides that windows do not fill, channels that no tile fills
    (torch.float32, "silu", (2, 3, 4, 6), 4),
    (torch.float32, "relu", (2, 1, 2, 3), 2),  # every patch reaches over the border
    (torch.float32, "gelu", (3, 24, 11, 11), 70),  # tiles, more than one, of rows and of filters
    (torch.float16, "gelu", (3, 24, 7, 7), 16),
    (torch.bfloat16, "gelu", (3, 24, 7, 7), 16),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("want_dx", [True, False])
@pytest.mark.parametrize(("dtype", "activation", "shape", "count"), CASES)
def test_result_gradients_and_averages_equal_the_oracle(dtype, activation, shape, count, want_dx, method):
    x = random(*shape).to(dtype).to(memory_format=torch.channels_last)
    n, _, h, w = shape
    grad = random(n, count, h // 2, w // 2, seed=3).to(dtype)
    found, parameters = run(x, count, grad, method, activation, want_dx)
    wanted = expected(x, parameters, activation, grad)
    sums = (n * (h // 2) * (w // 2)) ** 0.5  # errors of halves add up in them at random
    assert len(found) == len(wanted) - (not want_dx)
    for position, (got, want) in enumerate(zip(found, wanted, strict=False)):
        scale = sums if position in (3, 4, 5) else 1
        torch.testing.assert_close(
            got.double(), torch.from_numpy(want), atol=TOLERANCE[dtype] * scale, rtol=TOLERANCE[dtype]
        )


@NEEDS_TRITON
def test_the_map_before_pooling_is_not_made_where_no_one_wants_its_gradient(monkeypatch):
    monkeypatch.setattr(pool_norm, "spread", lambda *_: pytest.fail("the whole map's gradient was made"))
    x, grad = random(2, 3, 6, 6), random(2, 4, 3, 3, seed=3)
    run(x, 4, grad, "fused", want_dx=False)
    with pytest.raises(pytest.fail.Exception):
        run(x, 4, grad, "fused", want_dx=True)


@NEEDS_TRITON
def test_of_equal_pixels_the_first_gets_the_gradient():
    x = random(2, 2, 8, 8).round().to(memory_format=torch.channels_last)
    x[:, :, :, 4:] = 1.0  # whole windows of equal pixels
    grad = random(2, 3, 4, 4, seed=3)
    (fused, _), (twin, _) = (run(x, 3, grad, method) for method in ("fused", "torch"))
    torch.testing.assert_close(fused, twin, atol=2e-5, rtol=1e-4)


@NEEDS_TRITON
def test_no_number_is_passed_on():
    x = random(3, 2, 6, 6)
    x[1, 1, 5, 5] = torch.nan
    (out, *_), _ = run(x, 4, random(3, 4, 3, 3), "fused", want_dx=False)
    assert out.isnan().all()  # statistics are of all images, and every filter sees the pixel


@NEEDS_TRITON
def test_a_second_derivative_is_refused():
    x = random(2, 3, 4, 4).to(DEVICE).requires_grad_()
    weight, bias = torch.ones(4, device=DEVICE), torch.zeros(4, device=DEVICE)
    options = {"momentum": 0.4, "eps": EPS, "activation": "gelu"}
    out = conv_pool.fused(x, filters_for(x.detach().cpu(), 4).to(DEVICE), weight, bias, None, None, **options)
    (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.square().sum().backward()


@NEEDS_TRITON
@pytest.mark.parametrize("want_dx", [True, False])
def test_a_gradient_that_is_no_number_is_passed_back(want_dx):
    x, grad = random(3, 2, 6, 6), random(3, 4, 3, 3, seed=3)
    grad[1, 2, 0, 0] = torch.nan
    (fused, _), (twin, _) = (run(x, 4, grad, method, want_dx=want_dx) for method in ("fused", "torch"))
    assert fused[3][2].isnan().all()  # every value of that filter, by the statistics
    for ours, theirs in zip(fused, twin, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_of_negative_numbers_has_its_largest_and_not_zero(method, monkeypatch):
    monkeypatch.setattr(f"{__name__}.filters_for", lambda x, count: -random(count, x.shape[1], 3, 3, seed=4).abs())
    x, grad = 0.1 + random(2, 3, 6, 8).abs(), random(2, 5, 3, 4, seed=3)
    found, parameters = run(x, 5, grad, method)
    for got, want in zip(found, expected(x, parameters, "gelu", grad), strict=True):
        torch.testing.assert_close(got.double(), torch.from_numpy(want), atol=2e-4, rtol=1e-4)
    assert found[1].max() < 0  # the mean of every channel


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "tanh"}, "activation must be one of gelu, silu, relu"),
        ({"weight": torch.ones(3)}, r"weight and bias \(F,\), not .*\(3,\)"),
        ({"filters": torch.zeros(4, 2, 5, 5)}, r"filters \(F, C, 3, 3\)"),
        ({"x": torch.zeros(2, 40, 4, 4), "filters": torch.zeros(4, 40, 3, 3)}, "at most 28 channels, not 40"),
        ({"x": torch.zeros(1, 2, 2, 2)}, "two values a channel"),
        ({"method": "fast"}, "method must be one of"),
        ({"x": torch.zeros(2, 2, 4, 4).double()}, "float16, bfloat16 or float32, not float64"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    arguments = {"x": torch.zeros(2, 2, 4, 4), "filters": torch.zeros(4, 2, 3, 3)}
    arguments |= {"weight": torch.ones(4), "bias": torch.zeros(4), "running_mean": None, "running_var": None}
    with pytest.raises(ValueError, match=message):
        conv_pool.conv_pool_norm(**{**arguments, "momentum": 0.4, "eps": EPS, "activation": "gelu", **changes})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("want_dx", [True, False])
def test_on_a_gpu_it_is_its_twin_at_the_size_of_a_step(want_dx):
    x = random(200, 24, 31, 31).half().to(memory_format=torch.channels_last)
    grad = random(200, 64, 15, 15, seed=3).half()
    (fused, _), (twin, _) = (run(x, 64, grad, method, want_dx=want_dx) for method in ("fused", "torch"))
    for ours, theirs in zip(fused, twin, strict=True):
        error = torch.linalg.vector_norm((ours - theirs).double()) / torch.linalg.vector_norm(theirs.double())
        assert error < 2e-2  # of nearly equal pixels, rounding decides which is the larger
