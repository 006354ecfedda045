"""Convolutions of 8-bit floats, by kernels and by their twin, against plain numpy and against what is not rounded."""

import oracle_training as oracles
import pytest
import torch
from torch.nn.functional import conv2d

from kernels import backend, conv_fp8
from kernels.conv_fp8 import BACKWARD, FORWARD, rounded
from speedrun import models
from speedrun.config import ModelConfig, OptimConfig
from speedrun.methods.plain import PlainStep
from speedrun.models import layers
from speedrun.stream import Batch

pytestmark = pytest.mark.usefixtures("full_float32")
CAPABLE = not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 9)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEEDS_TRITON = pytest.mark.skipif(not (backend.ENABLED and CAPABLE), reason="no Triton that runs here")
METHODS = ["torch", pytest.param("fused", marks=NEEDS_TRITON)]
# Units of 8 bits keep 14 of a sum.
TOLERANCE = {torch.float32: 2e-5 if DEVICE == "cpu" else 1e-3, torch.float16: 4e-3, torch.bfloat16: 3e-2}
FORMATS = {FORWARD: (3, -6, 8), BACKWARD: (2, -14, 15)}  # bits, exponent of the least normal number, end


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernels", [False, pytest.param(True, marks=NEEDS_TRITON)])
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("scale", [1.0, 3e-5, 7e4])
def test_rounding_is_to_the_nearest_of_its_eight_bits(kind, scale, kernels):
    x = scale * random(5000) * 10.0 ** (4 * random(5000, seed=1).clamp(-2, 1))  # down to below the least normal number
    x[:3] = torch.tensor([0.0, -x.abs().max(), x.abs().max()])
    found = rounded(x.to(DEVICE), kind, kernels)
    assert found.values.dtype == kind
    assert found.scale.cpu().log2().frac() == 0
    expected = torch.from_numpy(oracles.rounded(x.double().numpy(), *FORMATS[kind]))
    assert torch.equal(found.back(torch.float32).cpu().double(), expected)


@pytest.mark.parametrize("kernels", [False, pytest.param(True, marks=NEEDS_TRITON)])
def test_zeros_stay_and_what_is_not_finite_shows(kernels):
    assert not rounded(torch.zeros(40, device=DEVICE), FORWARD, kernels).back(torch.float32).any()
    for bad in (torch.inf, -torch.inf, torch.nan):
        x = torch.ones(40, device=DEVICE)
        x[7] = bad
        assert rounded(x, BACKWARD, kernels).back(torch.float32).isnan().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("dtype", "shape", "count"),
    [
        (torch.float32, (2, 5, 4, 3), 6),
        (torch.float32, (3, 20, 7, 7), 130),  # tiles, more than one, of pixels, filters and values of a patch
        (torch.float16, (2, 16, 5, 5), 16),
        (torch.bfloat16, (2, 16, 5, 5), 16),
    ],
)
def test_result_and_gradients_are_those_of_rounded_numbers(dtype, shape, count, method):
    x = random(*shape).to(dtype).to(DEVICE, memory_format=torch.channels_last).requires_grad_()
    filters = (random(count, shape[1], 3, 3, seed=1) / (3 * shape[1] ** 0.5)).to(dtype).float().to(DEVICE)
    grad = (1e-3 * random(shape[0], count, *shape[2:], seed=2)).to(dtype)
    out = conv_fp8.conv_fp8(x, filters.requires_grad_(), method)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    gradients = torch.autograd.grad(out, (x, filters), grad.to(DEVICE))
    arrays = [tensor.detach().cpu().double().numpy() for tensor in (x, filters, grad)]
    near_x, near_filters = (oracles.rounded(array, *FORMATS[FORWARD]) for array in arrays[:2])
    dx, _ = oracles.convolution_gradients(near_x, near_filters, 1, oracles.rounded(arrays[2], *FORMATS[BACKWARD]))
    _, dfilters = oracles.convolution_gradients(*arrays[:2], 1, arrays[2])
    wanted = (oracles.convolution(near_x, near_filters, 1), dx, dfilters)
    for got, want in zip((out, *gradients), map(torch.from_numpy, wanted), strict=True):
        atol = TOLERANCE[dtype] * want.abs().max().item()
        torch.testing.assert_close(got.detach().cpu().double(), want, atol=atol, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("method", METHODS)
def test_rounding_costs_a_few_hundredths(method):
    x, filters = random(2, 32, 6, 6).to(DEVICE).requires_grad_(), random(32, 32, 3, 3, seed=1).to(DEVICE)
    grad = random(2, 32, 6, 6, seed=2).to(DEVICE)
    exact, near = conv2d(x, filters, padding=1), conv_fp8.conv_fp8(x, filters, method)
    (dx,), (near_dx,) = (torch.autograd.grad(out, x, grad) for out in (exact, near))

    def error(found, wanted):
        return (torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted)).item()

    # Errors of up to half a step are 2.6 % of a value at most, by three bits, and 5.2 % by two; they add up by squares.
    assert 0.01 < error(near, exact) < 0.04
    assert 0.02 < error(near_dx, dx) < 0.06


def losses(fp8: int | None, method: str, monkeypatch: pytest.MonkeyPatch, steps: int) -> tuple[list[float], list[int]]:
    """Of the first of twenty steps of a tiny net in bfloat16, on images whose brightness tells their class; and the
    input channels of each convolution of 8 bits."""
    used: list[int] = []

    def conv(x, filters):
        used.append(filters.shape[1])
        return conv_fp8.conv_fp8(x, filters, method)

    monkeypatch.setattr(layers, "conv_fp8", conv)
    torch.manual_seed(0)
    net = models.build(ModelConfig(widths=(8, 16, 16), depth=2, fp8=fp8), 10).to(DEVICE)
    net = net.to(memory_format=torch.channels_last)
    labels = torch.arange(40, device=DEVICE) % 10
    noise = random(40, 3, 9, 9).to(DEVICE)
    images = 0.5 * noise + labels[:, None, None, None] / 3 - 1.5
    images = images.to(torch.bfloat16, memory_format=torch.channels_last)
    net.initialize(images)
    step = PlainStep(net, net, OptimConfig(lr=0.05, head_lr=0.02, bias_lr=0.005), len(labels), torch.bfloat16)
    return [step(Batch(images, labels, labels), i / 20)[0].item() for i in range(steps)], used


def test_a_tiny_net_learns_as_in_bfloat16(monkeypatch):
    (plain, none), (eight, used) = (losses(fp8, "torch", monkeypatch, 20) for fp8 in (None, 16))
    assert (none, used) == ([], 20 * [24, 16, 16, 16])  # 8 channels are fewer than asked for
    assert eight == pytest.approx(plain, rel=0.05)
    assert eight != plain
    assert eight[-1] < 0.9 * eight[0]


@NEEDS_TRITON
def test_a_tiny_net_learns_the_same_from_the_kernels(monkeypatch):
    (kernels, used), (twin, _) = (losses(16, method, monkeypatch, 3) for method in ("fused", "torch"))
    assert used == 3 * [24, 16, 16, 16]
    assert kernels == pytest.approx(twin, rel=1e-2)


@pytest.mark.parametrize(
    ("capability", "hip", "kernels"),
    [((9, 0), None, True), ((8, 9), None, True), ((8, 0), None, False), ((9, 4), "6", False)],
)
def test_a_gpu_without_such_units_has_the_twin(capability, hip, kernels, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(conv_fp8, "wanted", lambda method, _: method == "auto")
    monkeypatch.setattr(conv_fp8._ConvFp8, "apply", lambda *arguments: arguments[-1])
    assert conv_fp8.conv_fp8(torch.zeros(1, 2, 3, 3), torch.zeros(2, 2, 3, 3)) is kernels


def test_it_is_for_training_alone(monkeypatch):
    monkeypatch.setattr(layers, "conv_fp8", lambda *_: pytest.fail("evaluated in 8 bits"))
    net = models.build(ModelConfig(widths=(8, 8, 8), depth=2, fp8=8), 10).eval()
    with torch.no_grad():
        net(random(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(2, 4, 4)}, r"x must be \(N, C, H, W\)"),
        ({"filters": torch.zeros(2, 4, 5, 5)}, r"filters \(F, C, 3, 3\)"),
        ({"method": "fast"}, "method must be one of"),
        ({"x": torch.zeros(2, 4, 4, 4).double()}, "float16, bfloat16 or float32, not float64"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        conv_fp8.conv_fp8(**{"x": torch.zeros(2, 4, 4, 4), "filters": torch.zeros(2, 4, 3, 3), **changes})


@pytest.mark.parametrize("method", METHODS)
def test_a_second_derivative_is_refused(method):
    x = random(2, 4, 4, 4).to(DEVICE).requires_grad_()
    out = conv_fp8.conv_fp8(x, random(4, 4, 3, 3, seed=1).to(DEVICE), method)
    (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.square().sum().backward()
