"""Max pooling, batch normalisation and activation in training, forward and backward, in six launches.

Forward: one kernel pools and leaves partial statistics, a small one merges them, one normalises and activates. What is
kept for the backward pass is the pooled map and, a byte each, which pixel of its window was the largest; the map before
pooling is not. Backward: sums over the pooled map, then the gradient, computed at the maxima alone and written with the
zeros around them. Of equal pixels the first is the maximum, and NaN is larger than all, as in torch.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import norm
from kernels.activation import ACTIVATIONS
from kernels.backend import check_dtype, jit, on_device, tl, wanted
from kernels.norm import gradient_jit, merge_jit, store_partial_jit


def pool_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    momentum: float,
    eps: float,
    activation: str,
    pool: int = 2,
    method: str = "auto",
) -> Tensor:
    """activation(batch_norm(max_pool2d(x, pool))) with the batch's statistics: (N, C, H // pool, W // pool), as x.

    x: (N, C, H, W) of float16, bfloat16 or float32; the kernels want channels-last memory and copy what is not. weight,
    bias: float32 (C,), gradients for both, which have none of their own. running_mean, running_var: float32 (C,) or
    None, moved in place by `momentum` towards mean and unbiased variance. activation: gelu, silu or relu. pool: side of
    the windows, 1 for none. method: "fused", "torch" or "auto", the kernels on CUDA. Raises ValueError for other names,
    shapes or dtypes, and for less than two values a channel.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    if x.dim() != 4 or weight.shape != (x.shape[1],) or bias.shape != weight.shape:
        raise ValueError(f"x must be (N, C, H, W), weight and bias (C,), not {tuple(x.shape)}, {tuple(weight.shape)}")
    if pool < 1 or len(x) * (x.shape[2] // pool) * (x.shape[3] // pool) < 2:
        raise ValueError(f"statistics need two values a channel or more: {tuple(x.shape)}, pooled by {pool}")
    check_dtype(x)
    if wanted(method, x):
        return _PoolNorm.apply(x, weight, bias, running_mean, running_var, momentum, eps, activation, pool)
    pooled = F.max_pool2d(x, pool) if pool > 1 else x
    return ACTIVATIONS[activation](F.batch_norm(pooled, running_mean, running_var, weight, bias, True, momentum, eps))


twin = partial(pool_norm, method="torch")
fused = partial(pool_norm, method="fused")


class _PoolNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Any, var: Any, *rest: Any) -> Tensor:
        momentum, eps, ctx.activation, ctx.pool = rest
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.shape = n, c, h, w = x.shape
        count, width = n * (h // ctx.pool) * (w // ctx.pool), norm.tile_channels(c)
        pooled, index = x, None
        if ctx.pool > 1:
            pooled = empty(x, h // ctx.pool, w // ctx.pool)
            index = torch.empty_like(pooled, dtype=torch.uint8)
        found = torch.empty(norm.programs(count), 3, c, device=x.device)
        with on_device(x):
            _pool_kernel[(len(found), -(-c // width))](
                x, pooled, index, found, count, h, w, c, POOL=ctx.pool, ROWS=norm.ROWS, CHANNELS=width
            )
            statistics = norm.finish(found, count, eps, momentum, mean, var)
            out = norm.apply(pooled, statistics, weight, bias, ctx.activation)
        ctx.save_for_backward(pooled, index, statistics, weight, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        pooled, index, statistics, weight, bias = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        with on_device(grad):
            sums = norm.sums(grad, pooled, statistics, weight, bias, ctx.activation)
            dx = None
            if ctx.needs_input_grad[0]:
                dx = spread(grad, pooled, index, statistics, weight, bias, sums, ctx.activation, ctx.shape, ctx.pool)
        return dx, sums[1].to(weight.dtype), sums[0].to(bias.dtype), *[None] * 6


def empty(like: Tensor, height: int, width: int) -> Tensor:
    """A channels-last map of the same images and channels."""
    shape = (*like.shape[:2], height, width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def spread(
    grad: Tensor, pooled: Tensor, index: Tensor | None, statistics: Tensor, weight: Tensor, bias: Tensor, sums: Tensor,
    activation: str, shape: tuple[int, int, int, int], pool: int,
) -> Tensor:  # fmt: skip
    """The gradient of the map before pooling, of `shape`: that of the pooled map at the maxima, 0 elsewhere."""
    n, c, h, w = shape
    dx, width = empty(grad, h, w), norm.tile_channels(c)
    cells = n * -(-h // pool) * -(-w // pool)  # with those that pooling left out
    _spread_kernel[(-(-cells // norm.ROWS), -(-c // width))](
        grad, pooled, index, statistics, weight, bias, sums, dx, cells, h, w, c, pooled.numel() // c,
        ACTIVATION=activation, POOL=pool, ROWS=norm.ROWS, CHANNELS=width,
    )  # fmt: skip
    return dx


@jit
def larger_jit(value, position, best, where):
    """The largest value of a window so far and its position, with one value more; float32, for the interpreter takes
    bfloat16 for whole numbers."""
    more = (value > best) | (value != value)
    return tl.where(more, value, best), tl.where(more, position, where)


@jit
def _pool_kernel(
    x, pooled, index, partial, count, height, width, channels,
    POOL: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    own = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    channel = own[None, :]
    pooled_height, pooled_width = height // POOL, width // POOL
    seen = tl.zeros((CHANNELS,), tl.float32)
    mean = tl.zeros((CHANNELS,), tl.float32)
    apart = tl.zeros((CHANNELS,), tl.float32)
    for begin in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        row = (begin + tl.arange(0, ROWS))[:, None]  # divided as 32 bits, which is quick; offsets may need 64
        inside = (row < count) & (channel < channels)
        image, column = (row // (pooled_height * pooled_width)).to(tl.int64), row % pooled_width
        line = (row // pooled_width) % pooled_height
        source = x + ((image * height + line * POOL) * width + column * POOL) * channels + channel
        place = row.to(tl.int64) * channels + channel
        best = tl.load(source, mask=inside, other=0.0).to(tl.float32)
        if POOL > 1:
            where = tl.zeros((ROWS, CHANNELS), tl.int32)
            for position in tl.static_range(1, POOL * POOL):
                offset = ((position // POOL) * width + position % POOL) * channels
                value = tl.load(source + offset, mask=inside, other=0.0).to(tl.float32)
                best, where = larger_jit(value, position, best, where)
            tl.store(pooled + place, best.to(pooled.dtype.element_ty), mask=inside)
            tl.store(index + place, where.to(tl.uint8), mask=inside)
        rows = tl.minimum(count - begin, ROWS).to(tl.float32)
        seen, mean, apart = merge_jit(best, inside, rows, seen, mean, apart)
    store_partial_jit(partial, own, channels, seen, mean, apart)


@jit
def _spread_kernel(
    grad, pooled, index, statistics, weight, bias, sums, dx, cells, height, width, channels, count,
    ACTIVATION: tl.constexpr, POOL: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    cell = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    known = channel < channels
    lines, columns = (height + POOL - 1) // POOL, (width + POOL - 1) // POOL
    image, line, column = (cell // (lines * columns)).to(tl.int64), (cell // columns) % lines, cell % columns
    here = (cell < cells) & known
    inside = here & (line < height // POOL) & (column < width // POOL)
    place = ((image * (height // POOL) + line) * (width // POOL) + column) * channels + channel
    gradient = gradient_jit(
        grad, pooled, statistics, weight, bias, sums, place, channel, inside, known, channels, count, ACTIVATION
    )
    where = 0
    if POOL > 1:
        where = tl.load(index + place, mask=inside, other=0).to(tl.int32)
    for position in tl.static_range(POOL * POOL):
        y, x = line * POOL + position // POOL, column * POOL + position % POOL
        target = dx + ((image * height + y) * width + x) * channels + channel
        value = gradient if POOL == 1 else tl.where(where == position, gradient, 0.0)
        tl.store(target, value.to(dx.dtype.element_ty), mask=here & (y < height) & (x < width))
