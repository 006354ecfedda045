"""Erase squares: after normalising they are 0, the colour of the mean.

`cutout` erases one of every image; `holes` several of some images (coarse dropout). A square always lies wholly inside
the image, and squares may overlap. Sources: T. DeVries and G. W. Taylor, arXiv 1708.04552; K. Jordan, airbench.
"""

import torch
from torch import Tensor

from kernels import philox
from kernels.augmentation import Augmentation
from kernels.backend import constant, jit, tl
from kernels.philox import Words, below, below_jit, chance, chance_jit, words_jit

_CUTOUT = constant(philox.CUTOUT)
_ERASE = constant(philox.ERASE)
_HOLES = constant(philox.HOLES)


def streams(augmentation: Augmentation) -> list[int]:
    """The random streams that erasing needs."""
    cutout = [philox.CUTOUT] if augmentation.cutout else []
    pairs = (augmentation.hole_count + 1) // 2
    return cutout + ([philox.ERASE, *range(philox.HOLES, philox.HOLES + pairs)] if augmentation.holes else [])


def erase_(batch: Tensor, augmentation: Augmentation, words: dict[int, Words]) -> None:
    """Sets the squares of each image of (B, S, S, 3) floats to 0, in place."""
    if augmentation.cutout:
        corners = torch.stack(words[philox.CUTOUT][:2], 1)[:, None]
        _erase_squares_(batch, corners, augmentation.cutout)
    if augmentation.holes:
        rows = chance(words[philox.ERASE][0], augmentation.holes).nonzero()[:, 0]
        pairs = [torch.stack(words[philox.HOLES + pair], 1)[rows] for pair in range((augmentation.hole_count + 1) // 2)]
        corners = torch.cat(pairs, 1).view(len(rows), 2 * len(pairs), 2)[:, : augmentation.hole_count]
        some = batch.index_select(0, rows)
        _erase_squares_(some, corners, augmentation.hole_size)
        batch.index_copy_(0, rows, some)


def _erase_squares_(batch: Tensor, words: Tensor, side: int) -> None:
    """Sets squares of each of (B, S, S, 3) floats to 0, in place. words: int64 (B, squares, 2), for each corner's y, x.

    A pixel stays if its row or its column lies outside: a bitwise and of the floats' own bits with all ones or none, on
    the CPU eight times as fast as a product of matrices that counts the squares over each pixel, which is eight times
    as fast as a masked fill.
    """
    size = batch.shape[1]
    bits = torch.int32 if batch.element_size() == 4 else torch.int16
    away = torch.arange(size, device=batch.device) - below(words, size - side + 1)[..., None]
    y, x = ((away < 0) | (away >= side)).to(bits).neg_().unbind(2)
    x = x.repeat_interleave(3, 2)
    pixels = batch.view(bits).view(len(batch), size, 3 * size)
    for square in range(words.shape[1]):
        pixels.bitwise_and_(y[:, square, :, None] | x[:, square, None, :])


@jit
def erased_jit(seed, epoch, index, y, x, A: tl.constexpr):
    """Whether output pixel (y, x) of each image lies in one of its squares."""
    SIZE: tl.constexpr = A.value.size
    CUTOUT: tl.constexpr = A.value.cutout
    HOLES: tl.constexpr = A.value.holes
    erased = (y < 0) & (x < 0) & (index < 0)
    if CUTOUT > 0:
        first, second, _, _ = words_jit(seed, epoch, index, _CUTOUT)
        erased = erased | _inside_jit(y, x, first, second, CUTOUT, SIZE)
    if HOLES > 0.0:
        COUNT: tl.constexpr = A.value.hole_count
        SIDE: tl.constexpr = A.value.hole_size
        word, _, _, _ = words_jit(seed, epoch, index, _ERASE)
        some = chance_jit(word, HOLES)
        for pair in tl.static_range((COUNT + 1) // 2):
            y0, x0, y1, x1 = words_jit(seed, epoch, index, _HOLES + pair)
            erased = erased | (some & _inside_jit(y, x, y0, x0, SIDE, SIZE))
            if 2 * pair + 1 < COUNT:
                erased = erased | (some & _inside_jit(y, x, y1, x1, SIDE, SIZE))
    return erased


@jit
def _inside_jit(y, x, word_y, word_x, SIDE: tl.constexpr, SIZE: tl.constexpr):
    down = y - below_jit(word_y, SIZE - SIDE + 1)
    right = x - below_jit(word_x, SIZE - SIDE + 1)
    return (down >= 0) & (down < SIDE) & (right >= 0) & (right < SIDE)
