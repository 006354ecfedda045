"""A 3x3 convolution in bfloat16 on a CPU with a fifth to a third of the multiplications, by Winograd's tiles.

A tile of M x M outputs takes (M + 2)^2 products instead of 9 M^2, each a matrix product over the channels of many
tiles: of filters g and the pixels d of a tile the outputs are A' [(G g G') * (B' d B)] A (Lavin and Gray, arXiv
1509.09308). Both gradients are made of the same products, transposed. The matrices come from the points at which
polynomials are multiplied (Toom and Cook). In bfloat16 the usual points, 0, 1, -1, 2 and -2 for M = 4, lose 2.4 % of
a map, root mean square; of those tried the points below lose least, for M of 3 to 7 0.7, 1.1, 2.4, 5 and 12 %; a plain
convolution loses 0.2 %. So outputs take no tiles of 7. Gradients do, of filters and of maps: at the end of a training
bfloat16 alone changes the filters' by 5 to 11 %, all tiles together by 10 to 18 %, another batch by 100 %.

`winograd.c` does it all. Two cores of an AMD EPYC of family 25, 1,000 images, forward / gradient of the input / of the
filters, ms, oneDNN and this, the first two pooled: 24 -> 64 channels at 31 pixels 60 / 84 / 80 and 30 / 41 / 36,
64 -> 256 at 15 146 / 138 / 190 and 56 / 55 / 50, 256 -> 256 at 7 110 / 110 / 151 and 50 / 34 / 48, at 3 20 / 21 / 45
and 10 / 10 / 15.
"""

import ctypes
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import native
from kernels.native import address

# The finite points by the side of a tile's outputs; infinity is one more. 0 is the first where it is one, and p is
# followed by -p: the C code makes the rows of both of p's.
POINTS = {
    3: (3 / 8, -3 / 8, 5 / 4, -5 / 4),
    4: (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2),
    5: (1 / 4, -1 / 4, 7 / 8, -7 / 8, 7 / 4, -7 / 4),
    6: (0.0, 1 / 2, -1 / 2, 1.0, -1.0, 2.0, -2.0),
    7: (1 / 4, -1 / 4, 2 / 3, -2 / 3, 6 / 5, -6 / 5, 11 / 5, -11 / 5),
}
# What a product of a tile costs, with its share of the transforms and a penalty, chosen, for coarser rounding.
COST = {3: 1.0, 4: 1.0, 5: 1.2, 6: 1.2, 7: 1.4}
LARGEST = 6  # tile for outputs
POOLING = 1.2  # a convolution and pooling apart take so many times the convolution alone
LANES = 16  # channels of a vector
LEAST_SIDE = 3  # of a map for which this is the faster way


def pays(x: Tensor, weight: Tensor, pool: int = 1) -> bool:
    """Whether `winograd` is the fastest way to convolve x (N, C, H, W) with weight (K, C, k, k), on this machine; with
    pool 2, whether it should pool too."""
    return (
        type(x) is Tensor  # others may have no memory
        and x.dtype == torch.bfloat16
        and _takes(x, weight)
        and min(x.shape[2:]) >= LEAST_SIDE
        and (pool == 1 or _cost(x, _side(x, pool), pool) <= POOLING * _cost(x, _side(x)))
        and not native.has("amx_tile")  # whose direct convolutions were not timed against this
        and bool(_libraries())
    )


def winograd(x: Tensor, weight: Tensor, pool: int = 1) -> Tensor:
    """Convolution of x (N, C, H, W) with weight (K, C, 3, 3), both bfloat16, padded to keep the size, and with pool 2
    the maxima of windows of 2 by 2: (N, K, H // pool, W // pool).

    C is a multiple of 8 and 16 or more, K of 16. Raises ValueError where that or a dtype is another, RuntimeError where
    the C code does not compile or the processor has no AVX512-BF16.
    """
    if not _takes(x, weight):
        raise ValueError(
            "weight must be (16 k, 8 c, 3, 3) with c > 1, x (N, 8 c, H, W), both on the CPU, not "
            f"{tuple(weight.shape)}, {tuple(x.shape)}, {weight.device} and {x.device}"
        )
    if (x.dtype, weight.dtype) != (torch.bfloat16, torch.bfloat16):
        raise ValueError(f"x and weight must be bfloat16, not {x.dtype} and {weight.dtype}")
    if pool not in (1, 2) or min(x.shape[2:]) < pool:
        raise ValueError(f"pool must be 1, or 2 for a map of two pixels a side or more, not {pool}")
    if not _libraries():
        raise RuntimeError("Winograd's tiles need AVX512-BF16 and a C compiler")
    out: Tensor = _Winograd.apply(x, weight, pool)
    return out


def _takes(x: Tensor, weight: Tensor) -> bool:
    filters, channels, *kernel = weight.shape
    fits = kernel == [3, 3] and filters % LANES == 0 and channels % 8 == 0 and channels >= LANES
    return fits and x.dim() == 4 and x.shape[1] == channels and {x.device.type, weight.device.type} == {"cpu"}


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, pool: int) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        y = _empty(x, len(weight), [length // pool for length in x.shape[2:]])
        index = None if pool == 1 else torch.empty_like(y, dtype=torch.uint8)
        _convolve(_side(x, pool), _Shape.of(x, len(weight), pool), x, None, weight, y, index)
        ctx.save_for_backward(x, weight, index)
        ctx.pool = pool
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, index = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = torch.empty_like(x)
            shape = _Shape.of(x, len(weight)).turned()
            _convolve(_gradient_side(x), shape, gradient, index, weight, of_x, None, transposed=True)
        if ctx.needs_input_grad[1]:
            shape = _Shape.of(x, len(weight), ctx.pool)
            side = _gradient_side(x, ctx.pool)
            of_weight = _filter_gradient(side, shape, x, gradient, index).to(weight.dtype)
        return of_x, of_weight, None


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("images", "height", "width", "rows", "columns", "inputs", "outputs", "threads")
    ]

    @classmethod
    def of(cls, x: Tensor, filters: int, pool: int = 1) -> "_Shape":
        count, channels, *size = x.shape
        return cls(count, *size, *_covered(x, pool), channels, filters, torch.get_num_threads())

    def turned(self) -> "_Shape":
        """Of the convolution that makes the gradient of the input."""
        turned = _Shape.from_buffer_copy(self)
        turned.inputs, turned.outputs = self.outputs, self.inputs
        return turned


def _convolve(
    side: int, shape: _Shape, x: Tensor, x_index: Tensor | None, weight: Tensor, y: Tensor, y_index: Tensor | None,
    *, transposed: bool = False,
) -> None:  # fmt: skip
    """Into y, maps being in channels-last memory format. transposed: with the filters' inputs for outputs and their
    taps turned round. x_index, y_index: where a map is pooled, the places of its maxima."""
    if weight.stride(2) != 3 * weight.stride(3):  # the taps are read as nine numbers evenly apart
        weight = weight.contiguous()
    of_output, of_input, _, of_tap = weight.stride()
    first = weight.data_ptr()
    if transposed:  # from the last tap to the first
        of_output, of_input, of_tap = of_input, of_output, -of_tap
        first += 8 * -of_tap * weight.element_size()
    filters = torch.empty((side + 2) ** 2 * -(-shape.outputs // LANES) * LANES * shape.inputs, dtype=x.dtype)
    library, here = _libraries()[side], ctypes.byref(shape)
    apart = map(ctypes.c_int64, (of_output, of_input, of_tap))
    library.transform_filters(here, ctypes.c_void_p(first), *apart, address(filters))
    work = torch.empty(library.work_bytes(here, 0), dtype=torch.uint8)
    library.convolve(here, *map(address, (x, x_index, filters, y, y_index, work)))


def _filter_gradient(side: int, shape: _Shape, x: Tensor, gradient: Tensor, index: Tensor | None) -> Tensor:
    """Of weights, (K, C, 3, 3) float32. x, gradient: in channels-last memory format; index: as in `_convolve`."""
    library, here, transform = _libraries()[side], ctypes.byref(shape), _filter_transform(side)
    total = torch.empty(len(transform), shape.inputs * shape.outputs, dtype=torch.float32)
    work = torch.empty(library.work_bytes(here, 1), dtype=torch.uint8)
    library.filter_gradient(here, *map(address, (x, gradient, index, total, work)))
    return (transform.T @ total).view(3, 3, shape.inputs, shape.outputs).permute(3, 2, 0, 1)


def _empty(like: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    shape = (len(like), channels, *size)
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)


def _covered(x: Tensor, pool: int) -> list[int]:
    """Rows and columns of the outputs that whole windows hold; of others nothing is used."""
    return [length // pool * pool for length in x.shape[2:]]


def _cost(x: Tensor, side: int, pool: int = 1) -> float:
    """Of the products by tiles of `side` outputs a side."""
    return math.prod(-(-length // side) for length in _covered(x, pool)) * (side + 2) ** 2 * COST[side]


def _side(x: Tensor, pool: int = 1) -> int:
    """Of the tiles that convolve x at the lowest cost. A window of 2 by 2 lies whole in one of them."""
    sides = (side for side in COST if side <= LARGEST and side % pool == 0)
    return min(sides, key=lambda side: _cost(x, side, pool))


def _gradient_side(x: Tensor, pool: int = 1) -> int:
    """Of the tiles that make a gradient: with the `pool` of the convolution that of its filters, with 1 that of x, all
    of whose pixels have one."""
    return min(COST, key=lambda side: _cost(x, side, pool))


@cache
def _filter_transform(side: int) -> Tensor:
    """((M + 2)^2, 9) float32: from the taps of a filter to its products' factors, G on both sides."""
    rows = torch.tensor(matrices(side)[2], dtype=torch.float32)
    return torch.kron(rows, rows)


def matrices(side: int) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
    """B' (N, N), A (N, side) and G (N, 3) of tiles of `side` outputs, N = side + 2.

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
        [[power * a * b for power in row] for row, (a, b) in zip(outputs, lengths, strict=True)],
        [[factor / length for factor in row] for row, (_, length) in zip(filters, lengths, strict=True)],
    )


def _polynomial(roots: Sequence[float]) -> list[float]:
    """The factors of the powers of x, from x^0 on, of the product of all x - root."""
    factors = [1.0]
    for root in roots:
        factors = [high - root * low for high, low in zip([0.0, *factors], [*factors, 0.0], strict=True)]
    return factors


@cache
def _libraries() -> dict[int, ctypes.CDLL]:
    """The C code by the outputs of a tile, a side; empty where any cannot be had. All are compiled at once: a net needs
    several, and its first step waits for them."""

    def load(side: int) -> ctypes.CDLL | None:
        inputs, outputs, filters = map(_rows, matrices(side))
        library = native.library("winograd", M=str(side), INPUT=inputs, OUTPUT=outputs, FILTER=filters)
        if library is not None:
            library.work_bytes.restype = ctypes.c_int64
        return library

    with ThreadPoolExecutor(len(POINTS)) as pool:
        found = {side: library for side, library in zip(POINTS, pool.map(load, POINTS), strict=True) if library}
    return found if len(found) == len(POINTS) else {}


def _rows(matrix: list[list[float]]) -> str:
    """As C writes it."""
    return "{" + ",".join("{" + ",".join(map(float.hex, row)) + "}" for row in matrix) + "}"
