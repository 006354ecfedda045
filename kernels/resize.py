"""Bilinear down-sampling of a crop to a smaller square.

Output pixel o shows input coordinate (o + 1/2) * side / size - 1/2, interpolated between its two neighbours along each
axis: align_corners off, no antialiasing. As size <= side, no coordinate leaves the crop.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kernels.backend import jit, tl


def resize(batch: Tensor, size: int) -> Tensor:
    """float32 (B, H, W, 3) to (B, size, size, 3), size <= H and W."""
    if batch.shape[1] == batch.shape[2] == size:
        return batch
    planes = functional.interpolate(batch.permute(0, 3, 1, 2), (size, size), mode="bilinear", align_corners=False)
    return planes.permute(0, 2, 3, 1)


def coordinates(size: int, side: int, device: torch.device) -> Tensor:
    """The input coordinates that the output pixels show, float32 (size,)."""
    return (torch.arange(size, dtype=torch.float32, device=device) + 0.5) * (side / size) - 0.5


@jit
def coordinates_jit(pixel, SIDE: tl.constexpr, SIZE: tl.constexpr):
    """`coordinates` of integer output pixels."""
    return (pixel.to(tl.float32) + 0.5) * (SIDE / SIZE) - 0.5
