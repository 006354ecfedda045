"""Mirror left and right: at random every epoch, or at random once and then alternating."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.philox import Key


def flips(mode: str, word: Tensor, epoch: Key) -> Tensor:
    """Which images to mirror: bool (B,).

    "random": the top bit of the image's word of this epoch. "alternating": the top bit of its word of epoch 0, negated in
    odd epochs, so that an image shows both its sides in any two consecutive epochs (K. Jordan, airbench, 2024).
    """
    bit = word >> 31
    return (bit + epoch & 1 if mode == "alternating" else bit).to(torch.bool)
