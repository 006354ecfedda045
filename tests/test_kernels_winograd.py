"""The convolution by Winograd's tiles against torch's own; that it runs faster is measured, not tested."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import native, winograd
from speedrun.models.layers import Conv

BF16 = torch.bfloat16
# What rounding may lose, root mean square, by outputs of a tile: 0.7 and 1.1 % of large maps, more of a few pixels.
LOST = {3: 0.013, 4: 0.018}
runs = pytest.mark.skipif(winograd._library(4) is None, reason="no AVX512-BF16 or no C compiler")


def random(*shape: int, seed: int = 0) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.to(BF16).contiguous(memory_format=torch.channels_last)


def lost(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("side", winograd.POINTS)
def test_the_matrices_make_a_correlation(side: int):
    inputs, outputs, filters = winograd.matrices(side)
    pixels, taps = [Fraction(3 * n * n - 7) for n in range(side + 2)], [Fraction(n) for n in (2, -5, 11)]

    def times(matrix: list[list[float]], column: list[Fraction]) -> list[Fraction]:
        return [sum((Fraction(a) * b for a, b in zip(row, column, strict=True)), Fraction(0)) for row in matrix]

    products = [a * b for a, b in zip(times(inputs, pixels), times(filters, taps), strict=True)]
    wanted = [sum(pixels[at + tap] * taps[tap] for tap in range(3)) for at in range(side)]
    assert [float(each) for each in times(outputs, products)] == pytest.approx([float(each) for each in wanted])


@runs
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 3), (5, 9), (6, 6), (7, 7), (15, 15), (31, 2)])
@pytest.mark.parametrize(("channels", "filters"), [(16, 32), (24, 64), (40, 48), (136, 16)])
@pytest.mark.parametrize("count", [1, 70])
def test_result_and_gradients_are_those_of_a_convolution(
    count: int, channels: int, filters: int, height: int, width: int
):
    x = random(count, channels, height, width).requires_grad_()
    weight = (random(filters, channels, 3, 3, seed=1) / 16).requires_grad_()
    gradient = random(count, filters, height, width, seed=2)
    exact = [each.detach().double().requires_grad_() for each in (x, weight)]
    expected, ours = F.conv2d(*exact, padding=1), winograd.winograd(x, weight)
    most = LOST[winograd._side(x)]
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert lost(ours, expected.detach()) < most
    of_ours = torch.autograd.grad(ours, (x, weight), gradient)
    for found, wanted in zip(of_ours, torch.autograd.grad(expected, exact, gradient.double()), strict=True):
        assert (found.shape, found.dtype) == (wanted.shape, BF16)
        assert lost(found, wanted) < most


@runs
def test_what_is_loaded_and_stored_ends_with_the_map():
    """Beyond its ends lie numbers that would be seen in a result, and that must stay."""

    def guarded(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        size = torch.Size(shape).numel()
        whole = torch.full((size + 256,), torch.inf, dtype=BF16)
        count, channels, height, width = shape
        view = whole[128:-128].view(count, height, width, channels).permute(0, 3, 1, 2)
        return whole, view

    _, x = guarded((5, 24, 6, 7))
    x.copy_(random(5, 24, 6, 7))
    _, gradient = guarded((5, 32, 6, 7))
    gradient.copy_(random(5, 32, 6, 7, seed=1))
    weight = random(32, 24, 3, 3, seed=2)
    assert winograd._convolve(x, weight).isfinite().all()
    assert winograd._filter_gradient(x, gradient).isfinite().all()

    library, transform = winograd._needed(x)
    shape = winograd._Shape(5, 6, 7, 32, 24, 2)
    whole, y = guarded((5, 24, 6, 7))
    filters = torch.zeros(len(transform) * 32 * 32, dtype=BF16)
    winograd._run(library, "convolve", shape, gradient, filters, y)
    assert not y.any()
    assert whole[:128].isposinf().all()
    assert whole[-128:].isposinf().all()


@runs
def test_bits_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch):
    x, weight, gradient = random(50, 64, 7, 7), random(64, 64, 3, 3, seed=1), random(50, 64, 7, 7, seed=2)
    made = []
    for count in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        made.append((winograd._convolve(x, weight), winograd._filter_gradient(x, gradient)))
    for of_x, of_weight in made[1:]:
        assert torch.equal(of_x, made[0][0])
        assert torch.equal(of_weight, made[0][1])


@runs
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_seen(bad: float):
    x, weight = random(2, 16, 7, 7), random(32, 16, 3, 3, seed=1)
    x[1, 3, 6, 0] = bad
    y = winograd.winograd(x, weight)
    assert y[0].isfinite().all()
    assert not y[1].isfinite().all()


@runs
def test_what_is_not_asked_for_is_not_computed(monkeypatch: pytest.MonkeyPatch):
    x, weight = random(2, 16, 4, 4).requires_grad_(), random(32, 16, 3, 3, seed=1)
    y = winograd.winograd(x, weight)
    monkeypatch.setattr(winograd, "_filter_gradient", lambda *_: pytest.fail("nobody asked for it"))
    y.sum().backward()
    assert x.grad is not None


@runs
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_any_memory_format_is_taken(layout: torch.memory_format):
    x, weight = random(3, 16, 5, 5), random(32, 16, 3, 3, seed=1)
    again = winograd.winograd(x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout))
    assert torch.equal(again, winograd.winograd(x, weight))


@pytest.mark.parametrize("shape", [(32, 16, 1, 1), (24, 16, 3, 3), (32, 8, 3, 3), (32, 20, 3, 3)])
def test_another_weight_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"weight must be .* not \(\d+, \d+, \d, \d\)"):
        winograd.winograd(random(2, shape[1], 4, 4), random(*shape))


def test_another_dtype_is_refused():
    with pytest.raises(ValueError, match=r"must be bfloat16, not torch\.float32"):
        winograd.winograd(random(2, 16, 4, 4).float(), random(32, 16, 3, 3))


@runs
def test_a_layer_takes_it_where_it_pays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "has", lambda feature: feature == "avx512_bf16")
    layer, x, taken = Conv(64, 64), random(2, 64, 7, 7), []
    monkeypatch.setattr(winograd, "winograd", lambda x, weight: taken.append(weight.dtype) or x)
    layer(x)
    assert taken == [BF16]
    layer(x.float())  # another dtype
    layer(x[:, :, :2, :2])  # a map that is too small
    assert taken == [BF16]
    layer.eval()(x)
    assert taken == [BF16, BF16]


@pytest.mark.parametrize("features", [{"avx512_bf16", "amx_tile"}, set()])
def test_it_is_for_processors_that_it_was_timed_on(features: set[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "has", features.__contains__)
    monkeypatch.setattr(native, "library", native.library.__wrapped__)
    assert not winograd.pays(random(2, 64, 7, 7), random(64, 64, 3, 3))
