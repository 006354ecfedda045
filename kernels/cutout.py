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
    """Sets the squares of each image of (B, S, S, 3) floats to 0, in place.

    A bitwise and of the floats' own bits with all ones or none: on the CPU eight times as fast as a masked fill.
    """
    size, side = augmentation.size, augmentation.hole_size
    masks = []
    if augmentation.cutout:
        word = words[philox.CUTOUT]
        masks.append(_keep(word[0], word[1], augmentation.cutout, size, batch))
    for hole in range(augmentation.hole_count if augmentation.holes else 0):
        word = words[philox.HOLES + hole // 2]
        first = 2 * (hole % 2)
        masks.append(_keep(word[first], word[first + 1], side, size, batch))
        masks[-1] |= chance(words[philox.ERASE][0], augmentation.holes).to(masks[-1].dtype)[:, None, None] - 1
    bits = batch.view(_bits(batch)).view(len(batch), size, size * 3)
    for mask in masks:
        bits.bitwise_and_(mask)


def _keep(word_y: Tensor, word_x: Tensor, side: int, size: int, batch: Tensor) -> Tensor:
    """All ones outside a square, none inside: integers of the width of `batch`'s floats, (B, S, 3 S)."""
    position = torch.arange(size, device=batch.device)
    y, x = (position - below(word, size - side + 1)[:, None] for word in (word_y, word_x))
    rows, columns = (((d < 0) | (d >= side)).to(_bits(batch)).neg_() for d in (y, x))
    return rows[:, :, None] | columns.repeat_interleave(3, dim=1)[:, None, :]


def _bits(batch: Tensor) -> torch.dtype:
    return torch.int32 if batch.element_size() == 4 else torch.int16


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
