"""Device functions and launchers of batch normalisation with an activation over (rows, channels), in training.

A row is a pixel of an image. Whoever makes the rows leaves partial statistics, (programs, 3, C) float32: how many rows
a program saw, their mean and the sum of squares about it. Those merge without cancellation, which sums of squares of
half-precision numbers would suffer. Statistics are (2, C) float32: mean and 1 / deviation.

Source of the merging: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", Stanford CS-79-773.
"""

import torch
from torch import Tensor

from kernels.activation import activation_jit, slope_jit
from kernels.backend import jit, tl

ROWS = 64  # of a tile
PROGRAMS = 512  # that share the rows at most, so that merging what they found is little work
_MERGED = 16  # channels that a program merges


def tile_channels(channels: int) -> int:
    """Channels of a tile."""
    return min(64, max(16, 1 << (channels - 1).bit_length()))


def programs(rows: int) -> int:
    """Programs that share the rows."""
    return min(PROGRAMS, -(-rows // ROWS))


def finish(
    partial: Tensor, rows: int, eps: float, momentum: float, running_mean: Tensor | None, running_var: Tensor | None
) -> Tensor:
    """Statistics of all rows from partial ones; moves the running averages towards them, as torch does."""
    count, _, channels = partial.shape
    statistics = partial.new_empty(2, channels)
    _merge_kernel[(-(-channels // _MERGED),)](
        partial, statistics, running_mean, running_var, count, rows, channels, eps, momentum,
        PROGRAMS=PROGRAMS, CHANNELS=_MERGED,
    )  # fmt: skip
    return statistics


def apply(rows: Tensor, statistics: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    """Activated rows, like `rows`: contiguous in (pixel, channel) order."""
    out = torch.empty_like(rows)
    channels = len(weight)
    count, width = rows.numel() // channels, tile_channels(channels)
    _apply_kernel[(-(-count // ROWS), -(-channels // width))](
        rows, statistics, weight, bias, out, count, channels, ACTIVATION=activation, ROWS=ROWS, CHANNELS=width
    )
    return out


def sums(grad: Tensor, rows: Tensor, statistics: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    """(2, C) float32: the gradients of bias and weight, which the gradient of the rows needs as well."""
    channels = len(weight)
    count, width = rows.numel() // channels, tile_channels(channels)
    partial = statistics.new_empty(programs(count), 2, channels)
    _sums_kernel[(len(partial), -(-channels // width))](
        grad, rows, statistics, weight, bias, partial, count, channels,
        ACTIVATION=activation, ROWS=ROWS, CHANNELS=width,
    )  # fmt: skip
    return partial.sum(0)


@jit
def merge_jit(value, inside, seen, count, mean, spread):
    """Partial statistics, float32 (C,) each, with a tile more. value: float32 (R, C). seen: how many rows it has."""
    tile_mean = tl.sum(tl.where(inside, value, 0.0), 0) / seen
    away = tl.where(inside, value - tile_mean[None, :], 0.0)
    apart = tile_mean - mean
    total = count + seen
    return (
        total,
        mean + apart * (seen / total),
        spread + tl.sum(away * away, 0) + apart * apart * (count * seen / total),
    )


@jit
def store_partial_jit(partial, channel, channels, count, mean, spread):
    """Writes what a program found. channel: (C,)."""
    target = partial + tl.program_id(0) * 3 * channels + channel
    tl.store(target, count, mask=channel < channels)
    tl.store(target + channels, mean, mask=channel < channels)
    tl.store(target + 2 * channels, spread, mask=channel < channels)


@jit
def _merge_kernel(
    partial, statistics, running_mean, running_var, count, rows, channels, eps, momentum,
    PROGRAMS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    program = tl.arange(0, PROGRAMS)[:, None]
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    source = partial + program * 3 * channels + channel[None, :]
    inside = (program < count) & known[None, :]
    seen = tl.load(source, mask=inside, other=0.0)
    means = tl.load(source + channels, mask=inside, other=0.0)
    spreads = tl.load(source + 2 * channels, mask=inside, other=0.0)
    total = rows.to(tl.float32)
    mean = tl.sum(seen * means, 0) / total
    apart = means - mean[None, :]
    spread = tl.sum(spreads + seen * apart * apart, 0)
    tl.store(statistics + channel, mean, mask=known)
    tl.store(statistics + channels + channel, 1.0 / tl.sqrt(spread / total + eps), mask=known)
    if running_mean is not None:
        old = tl.load(running_mean + channel, mask=known, other=0.0)
        tl.store(running_mean + channel, old + momentum * (mean - old), mask=known)
        old = tl.load(running_var + channel, mask=known, other=0.0)
        tl.store(running_var + channel, old + momentum * (spread / (total - 1.0) - old), mask=known)


@jit
def normal_jit(rows, statistics, weight, bias, place, channel, inside, known, channels):
    """Of a tile: normalised values and those that the activation sees, and 1 / deviation times weight; float32."""
    mean = tl.load(statistics + channel, mask=known, other=0.0)
    inverse = tl.load(statistics + channels + channel, mask=known, other=0.0)
    scale = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    normal = (tl.load(rows + place, mask=inside, other=0.0).to(tl.float32) - mean) * inverse
    return normal, normal * scale + shift, inverse * scale


@jit
def _apply_kernel(
    rows, statistics, weight, bias, out, count, channels,
    ACTIVATION: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    known = channel < channels
    inside = (row < count) & known
    place = row * channels + channel
    _, z, _ = normal_jit(rows, statistics, weight, bias, place, channel, inside, known, channels)
    tl.store(out + place, activation_jit(z, ACTIVATION).to(out.dtype.element_ty), mask=inside)


@jit
def _sums_kernel(
    grad, rows, statistics, weight, bias, partial, count, channels,
    ACTIVATION: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = (channel < channels)[None, :]
    plain = tl.zeros((CHANNELS,), tl.float32)
    weighted = tl.zeros((CHANNELS,), tl.float32)
    for begin in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        row = (begin + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        inside = (row < count) & known
        place = row * channels + channel[None, :]
        normal, z, _ = normal_jit(rows, statistics, weight, bias, place, channel[None, :], inside, known, channels)
        slope = slope_jit(z, ACTIVATION)
        g = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32) * slope
        g = tl.where(inside, g, 0.0)
        plain += tl.sum(g, 0)
        weighted += tl.sum(g * normal, 0)
    target = partial + tl.program_id(0) * 2 * channels + channel
    tl.store(target, plain, mask=channel < channels)
    tl.store(target + channels, weighted, mask=channel < channels)


@jit
def gradient_jit(
    grad, rows, statistics, weight, bias, sums, place, channel, inside, known, channels, count,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of rows, float32, 0 outside. count: all rows."""
    normal, z, scale = normal_jit(rows, statistics, weight, bias, place, channel, inside, known, channels)
    g = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32) * slope_jit(z, ACTIVATION)
    plain = tl.load(sums + channel, mask=known, other=0.0)
    weighted = tl.load(sums + channels + channel, mask=known, other=0.0)
    return tl.where(inside, scale * (g - (plain + normal * weighted) / count.to(tl.float32)), 0.0)
