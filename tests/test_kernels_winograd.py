"""The convolution by Winograd's tiles against torch's own; that it runs faster is measured, not tested."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels import native, winograd
from speedrun.models.layers import Conv
from speedrun.models.speednet import Group

BF16 = torch.bfloat16
# What rounding may lose, root mean square, by outputs of a tile: of large maps it loses 0.7, 1.1, 2.4, 5 and 12 %.
LOST = {3: 0.013, 4: 0.022, 5: 0.04, 6: 0.09, 7: 0.16}
runs = pytest.mark.skipif(not winograd._libraries(), reason="no AVX512-BF16 or no C compiler")


def random(*shape: int, seed: int = 0) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.to(BF16).contiguous(memory_format=torch.channels_last)


def lost(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("side", winograd.POINTS)
def test_the_matrices_make_a_correlation(side: int):
    inputs, by_point, filters = winograd.matrices(side)
    outputs = [list(row) for row in zip(*by_point, strict=True)]
    pixels, taps = [Fraction(3 * n * n - 7) for n in range(side + 2)], [Fraction(n) for n in (2, -5, 11)]

    def times(matrix: list[list[float]], column: list[Fraction]) -> list[Fraction]:
        return [sum((Fraction(a) * b for a, b in zip(row, column, strict=True)), Fraction(0)) for row in matrix]

    products = [a * b for a, b in zip(times(inputs, pixels), times(filters, taps), strict=True)]
    wanted = [sum(pixels[at + tap] * taps[tap] for tap in range(3)) for at in range(side)]
    assert [float(each) for each in times(outputs, products)] == pytest.approx([float(each) for each in wanted])
    lone = side % 2 == 0  # the point 0; the rows of p and -p, which follow, are made of each other
    for matrix in (inputs, by_point, filters):
        for row, opposite in zip(matrix[lone:-1:2], matrix[lone + 1 : -1 : 2], strict=True):
            assert opposite == pytest.approx([(-1) ** at * factor for at, factor in enumerate(row)])


@runs
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (2, 2), (3, 3), (5, 5), (5, 9), (6, 6), (7, 7), (11, 12), (13, 13), (15, 15), (31, 2)]
)
@pytest.mark.parametrize(("channels", "filters"), [(16, 32), (24, 64), (40, 48), (136, 16)])
@pytest.mark.parametrize("count", [1, 70])
def test_result_and_gradients_are_those_of_a_convolution(
    count: int, channels: int, filters: int, height: int, width: int, pool: int
):
    if min(height, width) < pool:
        pytest.skip("nothing to pool")
    x = random(count, channels, height, width).requires_grad_()
    weight = (random(filters, channels, 3, 3, seed=1) / 16).requires_grad_()
    exact = [each.detach().double().requires_grad_() for each in (x, weight)]
    expected, ours = F.conv2d(*exact, padding=1), winograd.winograd(x, weight, pool)
    most = LOST[winograd._side(x, pool)]
    gradient = random(*ours.shape, seed=2)
    spread = gradient.double()
    if pool == 2:  # of nearly equal values another may be the largest: the gradient is that of those that were taken
        places = ours.grad_fn.saved_tensors[2].long()  # type: ignore[union-attr]
        down, across = (torch.arange(2 * length) for length in ours.shape[2:])
        windows = spread.repeat_interleave(2, 2).repeat_interleave(2, 3)
        taken = places.repeat_interleave(2, 2).repeat_interleave(2, 3) == (down % 2 * 2)[:, None] + across % 2
        rest = (0, width - 2 * ours.shape[3], 0, height - 2 * ours.shape[2])
        spread = F.pad(windows * taken, rest)
        assert lost(ours, F.max_pool2d(expected, 2).detach()) < most
    else:
        assert lost(ours, expected.detach()) < most
    assert ours.is_contiguous(memory_format=torch.channels_last)
    of_ours = torch.autograd.grad(ours, (x, weight), gradient)
    sides = winograd._gradient_side(x), winograd._gradient_side(x, pool)
    for found, wanted, side in zip(of_ours, torch.autograd.grad(expected, exact, spread), sides, strict=True):
        assert (found.shape, found.dtype) == (wanted.shape, BF16)
        assert lost(found, wanted) < LOST[side]


@runs
@pytest.mark.parametrize("side", [7, 13, 14])
def test_outputs_are_rounded_less_coarsely_than_gradients_may_be(side: int):
    x, weight = random(4, 64, side, side), random(64, 64, 3, 3, seed=1)
    assert winograd._gradient_side(x) == 7
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    assert lost(winograd.winograd(x, weight), exact) < LOST[6]


@runs
@pytest.mark.parametrize(("pool", "side"), [*((1, side) for side in winograd.POINTS), (2, 4), (2, 6)])
def test_what_is_loaded_and_stored_ends_with_the_map(pool: int, side: int):
    """Beyond the ends of maps lie numbers that would be seen in a result, and that must stay."""

    def guarded(shape: tuple[int, ...], dtype: torch.dtype, guard: float) -> tuple[Tensor, Tensor]:
        whole = torch.full((torch.Size(shape).numel() + 256,), guard, dtype=dtype)
        count, channels, height, width = shape
        return whole, whole[128:-128].view(count, height, width, channels).permute(0, 3, 1, 2)

    _, x = guarded((5, 24, 6, 7), BF16, torch.inf)
    x.copy_(random(5, 24, 6, 7))
    around, y = guarded((5, 40, 6 // pool, 7 // pool), BF16, torch.inf)
    around_index, index = guarded(tuple(y.shape), torch.uint8, 77)
    weight = random(40, 24, 3, 3, seed=2)
    winograd._convolve(side, winograd._Shape.of(x, 40, pool), x, None, weight, y, index if pool == 2 else None)
    assert y.isfinite().all()
    assert around[:128].isposinf().all()
    assert around[-128:].isposinf().all()
    if pool == 2:
        assert index.max() < 4
        assert {*around_index[:128].tolist(), *around_index[-128:].tolist()} == {77}
    around_x, of_x = guarded((5, 24, 6, 7), BF16, torch.inf)
    places = index if pool == 2 else None
    winograd._convolve(side, winograd._Shape.of(x, 40).turned(), y, places, weight, of_x, None, transposed=True)
    assert of_x.isfinite().all()
    assert around_x[:128].isposinf().all()
    assert around_x[-128:].isposinf().all()
    _, gradient = guarded((5, 48, *y.shape[2:]), BF16, torch.inf)  # of filters a multiple of 16
    gradient.copy_(random(*gradient.shape))
    places = torch.zeros_like(gradient, dtype=torch.uint8) if pool == 2 else None
    assert winograd._filter_gradient(side, winograd._Shape.of(x, 48, pool), x, gradient, places).isfinite().all()


@runs
@pytest.mark.parametrize("pool", [1, 2])
def test_bits_do_not_depend_on_threads(pool: int, monkeypatch: pytest.MonkeyPatch):
    made = []
    for count in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        x, weight = random(50, 64, 7, 7).requires_grad_(), random(64, 64, 3, 3, seed=1).requires_grad_()
        y = winograd.winograd(x, weight, pool)
        made.append((y, *torch.autograd.grad(y, (x, weight), random(*y.shape, seed=2))))
    for again in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(again, made[0], strict=True))


@runs
def test_of_equal_values_the_first_is_the_largest():
    x, weight = torch.zeros(1, 16, 4, 4, dtype=BF16), random(16, 16, 3, 3)
    x.requires_grad_()
    winograd.winograd(x, weight, 2).sum().backward()
    expected = torch.zeros(1, 16, 4, 4, requires_grad=True)
    F.max_pool2d(F.conv2d(expected, weight.float(), padding=1), 2).sum().backward()
    assert x.grad is not None
    assert expected.grad is not None
    assert lost(x.grad, expected.grad.double()) < LOST[4]


@runs
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_seen(bad: float, pool: int):
    x, weight = random(2, 16, 7, 7), random(32, 16, 3, 3, seed=1)
    x[1, 3, 3, 3] = bad
    y = winograd.winograd(x, weight, pool)
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
def test_any_memory_format_is_taken():
    x, weight = random(3, 16, 5, 5), random(32, 16, 3, 3, seed=1)
    expected = winograd.winograd(x, weight)
    for layout in (torch.contiguous_format, torch.channels_last):
        again = weight.contiguous(memory_format=layout)
        assert torch.equal(winograd.winograd(x.contiguous(memory_format=layout), again), expected)
    sliced = torch.zeros(64, 32, 3, 3, dtype=BF16)
    sliced[::2, ::2] = weight
    assert torch.equal(winograd.winograd(x, sliced[::2, ::2]), expected)
    turned = weight.transpose(2, 3).contiguous().transpose(2, 3)  # its taps are not evenly apart in order
    assert torch.equal(winograd.winograd(x, turned), expected)


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        ((2, 16, 4, 4), (32, 16, 1, 1)),
        ((2, 16, 4, 4), (24, 16, 3, 3)),
        ((2, 8, 4, 4), (32, 8, 3, 3)),
        ((2, 20, 4, 4), (32, 20, 3, 3)),
        ((2, 16, 4, 4), (32, 64, 3, 3)),
        ((2, 64, 4, 4), (32, 16, 3, 3)),
    ],
)
def test_other_shapes_are_refused(x: tuple[int, ...], weight: tuple[int, ...]):
    assert not winograd.pays(random(*x), random(*weight))
    with pytest.raises(ValueError, match=r"weight must be .* not \(\d+, \d+, \d, \d\)"):
        winograd.winograd(random(*x), random(*weight))


def test_an_image_alone_and_a_tensor_without_memory_are_left_to_torch():
    weight = random(32, 16, 3, 3)
    assert not winograd.pays(random(1, 16, 4, 4)[0], weight)
    with FakeTensorMode():
        assert Conv(16, 32)(torch.empty(2, 16, 4, 4, dtype=BF16)).shape == (2, 32, 4, 4)


@pytest.mark.parametrize(("pool", "height"), [(0, 4), (3, 4), (2, 1)])
def test_another_pool_is_refused(pool: int, height: int):
    with pytest.raises(ValueError, match=f"not {pool}"):
        winograd.winograd(random(2, 16, height, 4), random(32, 16, 3, 3), pool)


def test_another_dtype_is_refused():
    with pytest.raises(ValueError, match=r"must be bfloat16, not torch\.float32"):
        winograd.winograd(random(2, 16, 4, 4).float(), random(32, 16, 3, 3))


@runs
def test_a_layer_takes_it_where_it_pays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "has", lambda feature: feature == "avx512_bf16")
    layer, x, taken = Conv(64, 64), random(2, 64, 7, 7), []
    monkeypatch.setattr(winograd, "winograd", lambda x, weight, pool: taken.append(weight.dtype) or x)
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
    monkeypatch.setattr(winograd, "_libraries", winograd._libraries.__wrapped__)
    assert not winograd.pays(random(2, 64, 7, 7), random(64, 64, 3, 3))


@runs
@pytest.mark.parametrize(("side", "pools"), [(15, True), (7, True), (6, True), (5, True), (3, False), (2, False)])
def test_a_group_pools_while_convolving_where_that_is_faster(side: int, pools: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "has", lambda feature: feature == "avx512_bf16")
    group, x = Group(16, 32, 2, "gelu"), random(40, 16, side, side)
    assert winograd.pays(x, group.convs[0].weight, 2) == pools
    taken, real = [], winograd.winograd
    monkeypatch.setattr(winograd, "winograd", lambda *args: taken.append(args[2]) or real(*args))
    ours = group(x)
    assert (2 in taken) == pools
    expected = group(x.float())
    assert ours.shape == expected.shape
    assert lost(ours, expected.detach().double()) < 0.1  # two convolutions by tiles of up to six outputs
