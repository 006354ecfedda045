"""Bytes to normalised floats: (value / 255 - mean) / std for each channel, as one multiply-add in float32."""

import torch
from torch import Tensor

from kernels.backend import jit, tl


def normalise(batch: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(B, S, S, 3) of floats in 0..255 to normalised float32 of that shape.

    The coefficients are repeated along a whole row: a broadcast over an innermost axis of three would not vectorise.
    """
    b, s = batch.shape[:2]
    scale, bias = (1.0 / (255.0 * std)).repeat(s), (-mean / std).repeat(s)
    return torch.addcmul(bias, batch.reshape(b, s, s * 3), scale).view(b, s, s, 3)


@jit
def normalise_jit(value, channel, mean, std):
    """`normalise` of values of `channel` (a tensor that broadcasts against them, or one number)."""
    deviation = tl.load(std + channel)
    return value * (1.0 / (255.0 * deviation)) - tl.load(mean + channel) / deviation
