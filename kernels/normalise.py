"""Bytes to normalised floats: (value / 255 - mean) / std for each channel, as one multiply-add in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def coefficients(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, bias), float32 (3,): a byte's normalised value is byte * scale + bias."""
    return 1.0 / (255.0 * std), -mean / std


def normalise(batch: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """(B, S, S, 3) of floats in 0..255 to normalised float32 of that shape.

    The three coefficients are repeated along a whole row: a broadcast over an innermost axis of three would not vectorise.
    """
    b, s = batch.shape[:2]
    return torch.addcmul(bias.repeat(s), batch.reshape(b, s, s * 3), scale.repeat(s)).view(b, s, s, 3)
