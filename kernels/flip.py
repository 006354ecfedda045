"""Mirror left and right: at random every epoch, or at random once and then alternating."""

import torch
from torch import Tensor

from kernels import philox
from kernels.backend import constant, jit, tl
from kernels.philox import Key, words_jit

_STREAM = constant(philox.FLIP)


def flips(mode: str, word: Tensor, epoch: Key) -> Tensor:
    """Which images to mirror: bool (B,).

    "random": the top bit of the image's word of this epoch. "alternating": the top bit of its word of epoch 0, negated
    in odd epochs, so that any two consecutive epochs show both sides of an image (K. Jordan, airbench, 2024).
    """
    bit = word >> 31
    return (bit + epoch & 1 if mode == "alternating" else bit).to(torch.bool)


@jit
def flips_jit(seed, epoch, index, A: tl.constexpr):
    """`flips` of images `index`; for "always", all of them."""
    MODE: tl.constexpr = A.value.flip
    if MODE == "always":
        mirror = index == index
    elif MODE == "alternating":
        first, _, _, _ = words_jit(seed, epoch * 0, index, _STREAM)
        mirror = ((first >> 31) + epoch) & 1 == 1
    else:
        first, _, _, _ = words_jit(seed, epoch, index, _STREAM)
        mirror = first >> 31 == 1
    return mirror
