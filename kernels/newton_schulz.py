"""Newton-Schulz orthogonalisation of many matrices of any shapes at once: four launches and three a step for all.

Every matrix lies in one buffer, wide side along the rows, padded with zeros to whole tiles, which the iteration leaves
zero; a program makes one tile of a product and finds in a table which. Of X X^T and of its polynomial, both symmetric,
only the tiles on and below the diagonal are computed; the others are their mirror images.

Source: Keller Jordan's Muon, github.com/KellerJordan/Muon.
"""

from collections.abc import Sequence
from functools import cache, partial
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.backend import jit, on_device, tl, wanted
from kernels.dot import dot_jit, precision

# Quintic whose slope at zero is as steep as it gets while singular values stay within about (0.5, 1.5).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPS = 1e-7  # added to a norm: a matrix of zeros stays one
_TILE = 64  # rows and columns of a tile: the sides of the filter banks are its multiples


def orthogonalize(matrices: Tensor, steps: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """Replace the singular values of each matrix of one shape by values near 1, by Newton-Schulz iteration.

    matrices: (n, rows, columns), any float dtype. dtype: of the products and of the result; None keeps the matrices'.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    # The largest singular value is now at most 1, before a dtype of small range is asked to hold it.
    x = (x / (torch.linalg.matrix_norm(x, keepdim=True) + EPS)).to(dtype or x.dtype)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def orthogonalize_all(
    matrices: Sequence[Tensor], steps: int = 3, dtype: torch.dtype | None = None, method: str = "auto"
) -> list[Tensor]:
    """`orthogonalize` for matrices (rows, columns) of any shapes, all of one dtype on one device; same order.

    method: "fused", the Triton kernels; "torch", one batched product for each shape; "auto", the kernels on CUDA.
    Results of the kernels are views of one buffer. Raises ValueError or TypeError for matrices that do not fit
    together, before anything runs, and ValueError for an unknown method or kernels that cannot run here.
    """
    if not matrices:
        return []
    first = matrices[0]
    if any(matrix.dim() != 2 for matrix in matrices):
        raise ValueError(f"matrices must be 2-d, not of shapes {', '.join(str(tuple(m.shape)) for m in matrices)}")
    if any((matrix.dtype, matrix.device) != (first.dtype, first.device) for matrix in matrices):
        raise TypeError("matrices must be of one dtype, on one device")
    if wanted(method, first):
        return _launch(matrices, steps, dtype or first.dtype)
    banks: dict[torch.Size, list[int]] = {}
    for position, matrix in enumerate(matrices):
        banks.setdefault(matrix.shape, []).append(position)
    results: dict[int, Tensor] = {}
    for positions in banks.values():
        stacked = torch.stack([matrices[position] for position in positions])
        results.update(zip(positions, orthogonalize(stacked, steps, dtype), strict=True))
    return [results[position] for position in range(len(matrices))]


twin = partial(orthogonalize_all, method="torch")
fused = partial(orthogonalize_all, method="fused")


class _Place(NamedTuple):
    """Where a matrix lies, in elements: `rows` x `columns`, the wide side along the rows; its padded sides; offsets."""

    rows: int
    columns: int
    tall: bool
    height: int
    width: int
    source: int  # in the matrices one behind the other, as they are given
    x: int  # in the padded buffer
    gram: int  # in the buffer of squares

    def tiles(self, columns: int) -> list[tuple[int, int]]:
        """Row and column of each tile of a buffer that is `columns` wide."""
        return [(i, j) for i in range(self.height // _TILE) for j in range(columns // _TILE)]


class _Plan(NamedTuple):
    """Of matrices of some shapes: their places, and a table of tiles (int64, a row a program) for each kernel."""

    places: list[_Place]
    padding: Tensor  # tiles of X: source, its two strides, rows and columns left there, target, its stride, matrix
    gram: Tensor  # left, right and out of a tile; the length of the sum; the width of out; whether it is mirrored
    square: Tensor
    apply: Tensor


def _padded(length: int) -> int:
    return -(-length // _TILE) * _TILE


@cache
def _plan(shapes: tuple[tuple[int, int], ...], device: torch.device) -> _Plan:
    """Made once: a captured graph reads its tables at every replay."""
    sides = [(min(shape), max(shape)) for shape in shapes]
    heights, widths = [_padded(rows) for rows, _ in sides], [_padded(columns) for _, columns in sides]
    sources = accumulate((rows * columns for rows, columns in sides), initial=0)
    xs = accumulate((height * width for height, width in zip(heights, widths, strict=True)), initial=0)
    grams = accumulate((height**2 for height in heights), initial=0)
    places = [
        _Place(rows, columns, shape[0] > shape[1], height, width, source, x, gram)
        for shape, (rows, columns), height, width, source, x, gram in zip(
            shapes, sides, heights, widths, sources, xs, grams, strict=False
        )
    ]

    padding, gram, square, apply = [], [], [], []
    for number, p in enumerate(places):
        down, right = (1, p.rows) if p.tall else (p.columns, 1)  # strides in the source
        for i, j in p.tiles(p.width):
            row, column = i * _TILE, j * _TILE
            source, out = p.source + row * down + column * right, p.x + row * p.width + column
            padding.append((source, down, right, p.rows - row, p.columns - column, out, p.width, number))
            apply.append((p.gram + row * p.height, p.x + column, out, p.height, p.width, 0))
        for i, j in p.tiles(p.height):
            if i >= j:
                row, column = i * _TILE, j * _TILE
                out = p.gram + row * p.height + column
                gram.append((p.x + row * p.width, p.x + column * p.width, out, p.width, p.height, i - j))
                square.append((p.gram + row * p.height, p.gram + column * p.height, out, p.height, p.height, i - j))
    return _Plan(places, *(torch.tensor(table, device=device) for table in (padding, gram, square, apply)))


def _launch(matrices: Sequence[Tensor], steps: int, dtype: torch.dtype) -> list[Tensor]:
    first = matrices[0]
    plan = _plan(tuple((matrix.shape[0], matrix.shape[1]) for matrix in matrices), first.device)
    last = plan.places[-1]
    x, other = first.new_empty((2, last.x + last.height * last.width), dtype=dtype)
    gram, polynomial = first.new_empty((2, last.gram + last.height**2), dtype=dtype)
    common = {"TILE": _TILE, "PRECISION": precision(dtype)}
    a, b, c = COEFFICIENTS
    norms = torch.stack(torch._foreach_norm(list(matrices)))
    source = torch.cat([matrix.reshape(-1) for matrix in matrices])
    with on_device(first):
        _pad_kernel[(len(plan.padding),)](source, norms, x, plan.padding, EPS, TILE=_TILE)
        for _ in range(steps):
            _product_kernel[(len(plan.gram),)](x, x, None, gram, plan.gram, 1.0, 0.0, SYMMETRIC=True, **common)
            _product_kernel[(len(plan.square),)](
                gram, gram, gram, polynomial, plan.square, c, b, SYMMETRIC=True, **common
            )
            _product_kernel[(len(plan.apply),)](polynomial, x, x, other, plan.apply, 1.0, a, SYMMETRIC=False, **common)
            x, other = other, x
    return [_view(x, place) for place in plan.places]


def _view(x: Tensor, place: _Place) -> Tensor:
    """The matrix at a place, as it was given."""
    padded = x[place.x : place.x + place.height * place.width].view(place.height, place.width)
    matrix = padded[: place.rows, : place.columns]
    return matrix.mT if place.tall else matrix


@jit
def _pad_kernel(source, norms, out, table, eps, TILE: tl.constexpr):
    """A tile of X: its part of the source over the norm, zeros around it."""
    entry = table + tl.program_id(0) * 8
    rows, columns = tl.load(entry + 3), tl.load(entry + 4)
    row, column = tl.arange(0, TILE)[:, None], tl.arange(0, TILE)[None, :]
    place = tl.load(entry) + row * tl.load(entry + 1) + column * tl.load(entry + 2)
    value = tl.load(source + place, mask=(row < rows) & (column < columns), other=0.0).to(tl.float32)
    value = value / (tl.load(norms + tl.load(entry + 7)).to(tl.float32) + eps)
    width = tl.multiple_of(tl.load(entry + 6), TILE)
    target = tl.multiple_of(tl.load(entry + 5), TILE) + row * width + column
    tl.store(out + target, value.to(out.dtype.element_ty))


@jit
def _product_kernel(
    left, right, add, out, table, alpha, beta, SYMMETRIC: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr
):
    """A tile of alpha L R^T + beta A and, off the diagonal, its mirror image; not symmetric: of alpha L R + beta A."""
    entry = table + tl.program_id(0) * 6
    # Whole tiles: loads and stores may be as wide as they get.
    left += tl.multiple_of(tl.load(entry), TILE)
    right += tl.multiple_of(tl.load(entry + 1), TILE)
    place = tl.multiple_of(tl.load(entry + 2), TILE)
    length = tl.multiple_of(tl.load(entry + 3), TILE)
    width = tl.multiple_of(tl.load(entry + 4), TILE)
    row, column = tl.arange(0, TILE)[:, None], tl.arange(0, TILE)[None, :]
    total = tl.zeros((TILE, TILE), tl.float32)
    for begin in range(0, length, TILE):
        a = tl.load(left + row * length + (begin + column))
        if SYMMETRIC:
            b = tl.load(right + column * length + (begin + row))
        else:
            b = tl.load(right + (begin + row) * width + column)
        total = dot_jit(a, b, total, PRECISION)
    total *= alpha
    target = row * width + column
    if add is not None:
        total += beta * tl.load(add + place + target).to(tl.float32)
    value = total.to(out.dtype.element_ty)
    tl.store(out + place + target, value)
    if SYMMETRIC:
        below = tl.load(entry + 5)  # by how many tiles this one lies below the diagonal
        if below > 0:
            tl.store(out + (place - below * TILE * (width - 1)) + target, tl.trans(value))
