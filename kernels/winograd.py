"""A 3x3 convolution in bfloat16 on a CPU with a quarter to a half of the multiplications, by Winograd's tiles.

A tile of M x M outputs takes (M + 2)^2 products instead of 9 M^2, each a matrix product over the channels of many
tiles: of filters g and the pixels d of a tile the outputs are A' [(G g G') * (B' d B)] A (Lavin and Gray, arXiv
1509.09308). Both gradients are made of the same products, transposed. The matrices come from the points at which
polynomials are multiplied (Toom and Cook). In bfloat16 the points in use, 0, 1, -1, 2 and -2 for M = 4, lose 2.4 % of
a map, root mean square; of those tried the points below lose least, 1.1 %, for M = 3 0.7 %; a plain convolution loses
0.2 %.

`winograd.c` does it all. Two cores of an AMD EPYC of family 25, 1,000 images, forward / gradient of the input / of the
filters, ms, oneDNN and this: 24 -> 64 channels at 31 pixels 60 / 84 / 80 and 39 / 47 / 52, 64 -> 256 at 15 146 / 138 /
190 and 60 / 67 / 79, 256 -> 256 at 7 110 / 110 / 151 and 52 / 52 / 73, at 3 20 / 21 / 45 and 12 / 12 / 15.
"""

import ctypes
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kernels import native
from kernels.native import address

# By the outputs of a tile, a side: its finite points; infinity is one more.
POINTS = {3: (3 / 8, -3 / 8, 5 / 4, -5 / 4), 4: (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)}
LEAST_SIDE = 3  # of a map for which this is the faster way


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `winograd` is the fastest way to convolve x (N, C, H, W) with weight (K, C, k, k), on this machine."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and min(x.shape[2:]) >= LEAST_SIDE
        and _takes(weight)
        and not native.has("amx_tile")  # whose direct convolutions were not timed against this
        and _library(_side(x)) is not None
    )


def winograd(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution of x (N, C, H, W) with weight (K, C, 3, 3), both bfloat16, padded to keep the size: (N, K, H, W).

    C is a multiple of 8 and 16 or more, K of 16. Raises ValueError where that or a dtype is another,
    RuntimeError where the C code does not compile or the processor has no AVX512-BF16.
    """
    if not _takes(weight):
        raise ValueError(f"weight must be (16 k, 8 c, 3, 3) with c > 1, not {tuple(weight.shape)}")
    if (x.dtype, weight.dtype) != (torch.bfloat16, torch.bfloat16):
        raise ValueError(f"x and weight must be bfloat16, not {x.dtype} and {weight.dtype}")
    if _library(_side(x)) is None:
        raise RuntimeError("Winograd's tiles need AVX512-BF16 and a C compiler")
    out: Tensor = _Winograd.apply(x, weight)
    return out


def _takes(weight: Tensor) -> bool:
    filters, channels, *kernel = weight.shape
    return kernel == [3, 3] and filters % 16 == 0 and channels % 8 == 0 and channels >= 16


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _convolve(gradient, weight.flip(2, 3).transpose(0, 1))
        if ctx.needs_input_grad[1]:
            of_weight = _filter_gradient(x, gradient).to(weight.dtype)
        return of_x, of_weight


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    """`winograd` without gradients, x in channels-last memory format; K may be any number from 16 on."""
    library, transform = _needed(x)
    filters, channels = weight.shape[:2]
    # (groups, places, C / 2, 16, 2): 16 outputs of two inputs each are what an instruction multiplies by. The last
    # group has some of those before where their number asks for it.
    places = [min(first, filters - 16) + at for first in range(0, filters, 16) for at in range(16)]
    grouped = weight.float() if filters % 16 == 0 else weight.float()[places]
    taps = grouped.reshape(-1, 16, channels // 2, 2, 3, 3).permute(4, 5, 0, 2, 1, 3).reshape(9, -1)
    by_place = (transform @ taps).to(x.dtype).view(len(transform), -1, channels * 16)
    transformed = by_place.transpose(0, 1).contiguous()
    y = torch.empty((len(x), filters, *x.shape[2:]), dtype=x.dtype, memory_format=torch.channels_last)
    shape = _Shape(len(x), *x.shape[2:], channels, filters, torch.get_num_threads())
    _run(library, "convolve", shape, x, transformed, y)
    return y


def _filter_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """Of weights, (K, C, 3, 3) float32, from x and the gradient of the output, both in channels-last memory format."""
    library, transform = _needed(x)
    channels, filters = x.shape[1], gradient.shape[1]
    total = torch.empty(len(transform), channels * filters)
    shape = _Shape(len(x), *x.shape[2:], channels, filters, torch.get_num_threads())
    _run(library, "filter_gradient", shape, x, gradient, total)
    return (transform.T @ total).view(3, 3, channels, filters).permute(3, 2, 0, 1)


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("images", "height", "width", "inputs", "outputs", "threads")]


def _run(library: ctypes.CDLL, name: str, shape: _Shape, *tensors: Tensor) -> None:
    work = torch.empty(library.work_bytes(ctypes.byref(shape), name == "filter_gradient"), dtype=torch.uint8)
    getattr(library, name)(ctypes.byref(shape), *map(address, (*tensors, work)))


def _side(x: Tensor) -> int:
    """Outputs of a tile, a side, for which the map takes the fewest products."""
    height, width = x.shape[2:]
    return min(POINTS, key=lambda side: -(-height // side) * -(-width // side) * (side + 2) ** 2)


def _needed(x: Tensor) -> tuple[ctypes.CDLL, Tensor]:
    library = _library(_side(x))
    assert library is not None
    return library, _filter_transform(_side(x))


@cache
def _filter_transform(side: int) -> Tensor:
    """((M + 2)^2, 9) float32: from the taps of a filter to its products' factors, G on both sides."""
    rows = torch.tensor(matrices(side)[2])
    return torch.kron(rows, rows)


def matrices(side: int) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
    """B' (N, N), A' (side, N) and G (N, 3) of tiles of `side` outputs, N = side + 2.

    Outputs are values of a product of polynomials turned round (Toom and Cook, transposed). The rows of B' and G are of
    length 1, A' makes up for it: so no place is rounded more coarsely than others.
    """
    points = POINTS[side]
    inputs, filters, outputs = [], [], []
    for at, point in enumerate(points):
        others = points[:at] + points[at + 1 :]
        scale = math.prod(point - other for other in others)
        inputs.append([factor / scale for factor in _polynomial(others)] + [0.0])
        filters.append([point**power for power in range(3)])
        outputs.append([point**power for power in range(side)])
    inputs.append(_polynomial(points))
    filters.append([0.0, 0.0, 1.0])
    outputs.append([0.0] * (side - 1) + [1.0])
    lengths = [(math.hypot(*row), math.hypot(*taps)) for row, taps in zip(inputs, filters, strict=True)]
    return (
        [[factor / length for factor in row] for row, (length, _) in zip(inputs, lengths, strict=True)],
        [[row[at] * a * b for row, (a, b) in zip(outputs, lengths, strict=True)] for at in range(side)],
        [[factor / length for factor in row] for row, (_, length) in zip(filters, lengths, strict=True)],
    )


def _polynomial(roots: Sequence[float]) -> list[float]:
    """The factors of the powers of x, from x^0 on, of the product of all x - root."""
    factors = [1.0]
    for root in roots:
        factors = [high - root * low for high, low in zip([0.0, *factors], [*factors, 0.0], strict=True)]
    return factors


def _library(side: int) -> ctypes.CDLL | None:
    """The C code for tiles of `side` outputs a side; None where it cannot be had."""
    return native.library("winograd", M=str(side), **_constants(side))


@cache
def _constants(side: int) -> dict[str, str]:
    inputs, outputs, _ = matrices(side)
    return {"INPUT": _rows(inputs), "OUTPUT": _rows(outputs)}


def _rows(matrix: list[list[float]]) -> str:
    """As C writes it."""
    return "{" + ",".join("{" + ",".join(map(float.hex, row)) + "}" for row in matrix) + "}"
