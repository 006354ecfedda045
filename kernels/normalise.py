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
    """`normalise` of values of `channel`: a tensor of 0, 1, 2 that broadcasts against them, or one such number.

    The divisions are done for the three channels and then chosen from: done for every element they would cost more than
    all the rest of a plain batch.
    """
    red, green, blue = tl.load(std), tl.load(std + 1), tl.load(std + 2)
    scale = tl.where(channel == 0, 1.0 / red, tl.where(channel == 1, 1.0 / green, 1.0 / blue))
    centre = tl.where(channel == 0, tl.load(mean), tl.where(channel == 1, tl.load(mean + 1), tl.load(mean + 2)))
    return value * (scale * (1.0 / 255.0)) - centre * scale
