"""The first convolution with its pooling, batch normalisation and activation in training, forward and backward.

Forward: one kernel convolves and pools, so that the map between them, four times the pooled one, is never written; then
statistics and activation as in `kernels.pool_norm`. Backward: the filters' gradient comes from the pooled maxima alone,
whose pixels the forward pass has noted, a byte each. The gradient of the input is torch's, from the whole map's: a run
wants it only while the bias of the layer before is trained.

A maximum is another pixel for each filter, and matrix units take a patch for all of them. So they get each pixel of a
window in turn, in the backward pass with zeros where it is not the maximum: what is spared is memory, not products.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import norm, pool_norm
from kernels.activation import ACTIVATIONS
from kernels.backend import check_dtype, jit, on_device, tl, wanted
from kernels.dot import dot_jit, precision
from kernels.norm import gradient_jit, merge_jit, store_partial_jit
from kernels.patches import as_filters, filter_rows, patch_jit, place_jit, power_of_two
from kernels.pool_norm import larger_jit

POOL = 2  # side of the windows
LONGEST = 256  # values of a patch: a program holds it whole, of all its rows
_PROGRAMS = 264  # that share the rows: two for each multiprocessor of an H100
# What Triton's compiler fits into the registers and the shared memory of an H100 best.
_OPTIONS = {"num_warps": 8, "num_stages": 2}


def conv_pool_norm(
    x: Tensor,
    filters: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    momentum: float,
    eps: float,
    activation: str,
    method: str = "auto",
) -> Tensor:
    """activation(batch_norm(max_pool2d(conv2d(x, filters, padding=1), 2))), with the batch's statistics, dtype of x.

    x: (N, C, H, W) of float16, bfloat16 or float32, at most 28 channels, sides of 2 or more; the kernels want
    channels-last memory and copy what is not. filters: (F, C, 3, 3), multiplied in the dtype of x. The result is
    (N, F, H // 2, W // 2). The rest is as in `kernels.pool_norm.pool_norm`. Raises ValueError for other names, shapes
    or dtypes, and for less than two values a channel.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    if x.dim() != 4 or filters.shape[1:] != (x.shape[1], 3, 3) or not (weight.shape == bias.shape == filters.shape[:1]):
        raise ValueError(
            "x must be (N, C, H, W), filters (F, C, 3, 3), weight and bias (F,), not "
            f"{', '.join(str(tuple(tensor.shape)) for tensor in (x, filters, weight, bias))}"
        )
    if 9 * x.shape[1] > LONGEST:
        raise ValueError(f"x must have at most {LONGEST // 9} channels, not {x.shape[1]}")
    if len(x) * (x.shape[2] // POOL) * (x.shape[3] // POOL) < 2:
        raise ValueError(f"statistics need two values a channel or more: {tuple(x.shape)}, pooled by {POOL}")
    check_dtype(x)
    if wanted(method, x):
        return _ConvPoolNorm.apply(x, filters, weight, bias, running_mean, running_var, momentum, eps, activation)
    pooled = F.max_pool2d(F.conv2d(x, filters.to(x.dtype), padding=1), POOL)
    return ACTIVATIONS[activation](F.batch_norm(pooled, running_mean, running_var, weight, bias, True, momentum, eps))


twin = partial(conv_pool_norm, method="torch")
fused = partial(conv_pool_norm, method="fused")


class _ConvPoolNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, filters: Tensor, weight: Tensor, bias: Tensor, mean: Any, var: Any, *rest: Any
    ) -> Tensor:
        momentum, eps, ctx.activation = rest
        x = x.contiguous(memory_format=torch.channels_last)
        n, _, h, w = x.shape
        pooled = torch.empty(
            (n, len(filters), h // POOL, w // POOL), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
        )
        index = torch.empty_like(pooled, dtype=torch.uint8)
        count = pooled.numel() // len(filters)
        grid, tile = _tiles(x, filters, count)
        found = torch.empty(grid[0], 3, len(filters), device=x.device)
        with on_device(x):
            _forward_kernel[grid](
                x, filter_rows(filters, x.dtype), pooled, index, found, count, h, w, len(filters), **tile
            )
            statistics = norm.finish(found, count, eps, momentum, mean, var)
            out = norm.apply(pooled, statistics, weight, bias, ctx.activation)
        ctx.save_for_backward(x, filters, pooled, index, statistics, weight, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, filters, pooled, index, statistics, weight, bias = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        dx = dfilters = None
        with on_device(grad):
            sums = norm.sums(grad, pooled, statistics, weight, bias, ctx.activation)
            normed = (grad, pooled, index, statistics, weight, bias, sums, ctx.activation)
            if ctx.needs_input_grad[0]:
                shape = (len(x), len(filters), *x.shape[2:])
                whole = pool_norm.spread(*normed, shape, POOL)
                dx, dfilters, _ = torch.ops.aten.convolution_backward(
                    whole, x, filters.to(x.dtype), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
                )
            elif ctx.needs_input_grad[1]:
                dfilters = _filters_gradient(x, filters, *normed)
        dfilters = None if dfilters is None else dfilters.to(filters.dtype)
        return dx, dfilters, sums[1].to(weight.dtype), sums[0].to(bias.dtype), *[None] * 5


def _tiles(x: Tensor, filters: Tensor, count: int) -> tuple[tuple[int, int], dict[str, Any]]:
    """The grid of programs for `count` pooled pixels, and the tile that one makes at a time."""
    rows, width = 128 // x.element_size(), norm.tile_channels(len(filters))
    tile = {"CHANNELS": x.shape[1], "POOL": POOL, "ROWS": rows, "LENGTH": power_of_two(filters[0].numel())}
    grid = min(_PROGRAMS, -(-count // rows)), -(-len(filters) // width)
    return grid, {**tile, "FILTERS": width, "PRECISION": precision(x.dtype), **_OPTIONS}


def _filters_gradient(
    x: Tensor, filters: Tensor, grad: Tensor, pooled: Tensor, index: Tensor, statistics: Tensor,
    weight: Tensor, bias: Tensor, sums: Tensor, activation: str,
) -> Tensor:  # fmt: skip
    """That of sum(out * grad), shape and dtype of the filters."""
    count = pooled.numel() // len(filters)
    grid, tile = _tiles(x, filters, count)
    found = torch.empty(grid[0], len(filters), filters[0].numel(), device=x.device)
    _filters_kernel[grid](
        x, grad, pooled, index, statistics, weight, bias, sums, found, count, *x.shape[2:], len(filters),
        ACTIVATION=activation, **tile,
    )  # fmt: skip
    return as_filters(found.sum(0), filters)


@jit
def _forward_kernel(
    x, filters, pooled, index, partial, count, height, width, channels,
    CHANNELS: tl.constexpr, POOL: tl.constexpr, ROWS: tl.constexpr, LENGTH: tl.constexpr, FILTERS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    own = tl.program_id(1) * FILTERS + tl.arange(0, FILTERS)
    channel = own[None, :]
    k = tl.arange(0, LENGTH)
    mine = (k < 9 * CHANNELS)[:, None] & (channel < channels)
    taps = tl.load(filters + channel * (9 * CHANNELS) + k[:, None], mask=mine, other=0.0)
    seen = tl.zeros((FILTERS,), tl.float32)
    mean = tl.zeros((FILTERS,), tl.float32)
    apart = tl.zeros((FILTERS,), tl.float32)
    for begin in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        row = (begin + tl.arange(0, ROWS))[:, None]
        image, line, column = place_jit(row, height // POOL, width // POOL)
        best = tl.full((ROWS, FILTERS), float("-inf"), tl.float32)
        where = tl.zeros((ROWS, FILTERS), tl.int32)
        # Not unrolled: the compiler would keep the patches of all four pixels in shared memory.
        for position in range(POOL * POOL):
            y, z = line * POOL + position // POOL - 1, column * POOL + position % POOL - 1
            patch = patch_jit(x, image, y, z, row < count, k[None, :], height, width, CHANNELS, 3)
            value = dot_jit(patch, taps, tl.zeros((ROWS, FILTERS), tl.float32), PRECISION)
            best, where = larger_jit(value, position, best, where)
        inside = (row < count) & (channel < channels)
        place = row.to(tl.int64) * channels + channel
        rounded = best.to(pooled.dtype.element_ty)
        tl.store(pooled + place, rounded, mask=inside)
        tl.store(index + place, where.to(tl.uint8), mask=inside)
        rows = tl.minimum(count - begin, ROWS).to(tl.float32)
        # Of what is kept, which the backward pass normalises again.
        seen, mean, apart = merge_jit(rounded.to(tl.float32), inside, rows, seen, mean, apart)
    store_partial_jit(partial, own, channels, seen, mean, apart)


@jit
def _filters_kernel(
    x, grad, pooled, index, statistics, weight, bias, sums, partial, count, height, width, channels,
    CHANNELS: tl.constexpr, POOL: tl.constexpr, ROWS: tl.constexpr, LENGTH: tl.constexpr, FILTERS: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    own = tl.program_id(1) * FILTERS + tl.arange(0, FILTERS)
    channel = own[None, :]
    known = channel < channels
    k = tl.arange(0, LENGTH)[None, :]
    total = tl.zeros((FILTERS, LENGTH), tl.float32)
    for begin in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        row = (begin + tl.arange(0, ROWS))[:, None]
        image, line, column = place_jit(row, height // POOL, width // POOL)
        place, inside = row.to(tl.int64) * channels + channel, (row < count) & known
        gradient = gradient_jit(
            grad, pooled, statistics, weight, bias, sums, place, channel, inside, known, channels, count, ACTIVATION
        ).to(x.dtype.element_ty)
        where = tl.load(index + place, mask=inside, other=0).to(tl.int32)
        for position in range(POOL * POOL):
            y, z = line * POOL + position // POOL - 1, column * POOL + position % POOL - 1
            patch = patch_jit(x, image, y, z, row < count, k, height, width, CHANNELS, 3)
            here = tl.where(where == position, gradient, 0.0)
            total = dot_jit(tl.trans(here), patch, total, PRECISION)
    target = partial + (tl.program_id(0) * channels + own[:, None]) * (9 * CHANNELS) + k
    tl.store(target, total, mask=(own < channels)[:, None] & (k < 9 * CHANNELS))
