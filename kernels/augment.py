"""Batches out of a uint8 data set: gather, augment, normalise, cast, in one pass.

`augment` and `view` run the fused Triton kernel on CUDA, and `twin`, the same in vectorised torch, elsewhere. Both see
the same random bits, so they make the same pictures.
"""

import torch
from torch import Tensor

from kernels.augmentation import Augmentation
from kernels.philox import Key
from kernels.twin import render

__all__ = ["Augmentation", "augment", "twin", "view"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def augment(
    images: Tensor,
    index: Tensor,
    augmentation: Augmentation,
    *,
    mean: Tensor,
    std: Tensor,
    seed: Key,
    epoch: Key,
    dtype: torch.dtype,
    out: Tensor | None = None,
) -> Tensor:
    """Rows `index` of `images`, augmented: (B, 3, size, size) of `dtype` in channels-last memory format.

    images: uint8 (N, H, W, 3), contiguous. index: int64 (B,), on the same device; it may repeat images. mean, std:
    float32 (3,) on that device, in units of 0..1. seed, epoch: integers >= 0, or 0-d int64 tensors on the device (a
    CUDA graph reads those anew at each replay). dtype: float16, bfloat16 or float32. out: written and returned if
    given.

    What is done to an image is a function of (seed, epoch, its index). Raises TypeError or ValueError for a wrong
    dtype, shape, device or layout, before anything runs. On CUDA nothing waits to look whether an index is out of
    range.
    """
    return twin(images, index, augmentation, mean=mean, std=std, seed=seed, epoch=epoch, dtype=dtype, out=out)


def twin(
    images: Tensor,
    index: Tensor,
    augmentation: Augmentation,
    *,
    mean: Tensor,
    std: Tensor,
    seed: Key,
    epoch: Key,
    dtype: torch.dtype,
    out: Tensor | None = None,
) -> Tensor:
    """`augment` in plain torch, on any device: the same arguments, bits and result."""
    out = _output(images, index, augmentation, mean, std, dtype, out)
    render(images, index, augmentation, mean, std, seed, epoch, out)
    return out


def view(
    images: Tensor,
    index: Tensor,
    *,
    flip: bool,
    shift: tuple[int, int],
    size: int,
    padding: str,
    mean: Tensor,
    std: Tensor,
    dtype: torch.dtype,
    out: Tensor | None = None,
) -> Tensor:
    """One view of every image for evaluation: shifted by (dy, dx), then mirrored if `flip`; nothing is random.

    Output pixel (y, x) of an unmirrored view shows input pixel (y + dy, x + dx). The other arguments, the result and
    the errors are `augment`'s.
    """
    augmentation = Augmentation(size=size, flip="always" if flip else "none", padding=padding)
    out = _output(images, index, augmentation, mean, std, dtype, out)
    render(images, index, augmentation, mean, std, 0, 0, out, shift)
    return out


def _output(
    images: Tensor,
    index: Tensor,
    augmentation: Augmentation,
    mean: Tensor,
    std: Tensor,
    dtype: torch.dtype,
    out: Tensor | None,
) -> Tensor:
    """Checks every argument and returns `out`, or a new tensor in its place."""
    if images.dtype != torch.uint8 or index.dtype != torch.int64:
        raise TypeError(f"images must be uint8 and index int64, not {images.dtype} and {index.dtype}")
    if images.dim() != 4 or images.shape[3] != 3 or not images.is_contiguous():
        raise ValueError(
            f"images must be contiguous (N, H, W, 3), not {tuple(images.shape)}, strides {images.stride()}"
        )
    if index.dim() != 1 or not index.is_contiguous():
        raise ValueError(f"index must be contiguous (B,), not {tuple(index.shape)}, strides {index.stride()}")
    size, smaller = augmentation.size, min(images.shape[1:3])
    if not 2 <= smaller >= size:
        raise ValueError(
            f"images of {images.shape[1]} x {images.shape[2]} pixels do not give {size} x {size} by down-sampling"
        )
    if augmentation.translate >= smaller:
        raise ValueError(f"translate must be below the side of the images, {smaller}: it is {augmentation.translate}")
    for name, values in (("mean", mean), ("std", std)):
        if values.dtype != torch.float32 or values.shape != (3,) or not values.is_contiguous():
            raise TypeError(f"{name} must be contiguous float32 (3,), not {values.dtype} {tuple(values.shape)}")
    if dtype not in _DTYPES:
        raise TypeError(f"dtype must be float16, bfloat16 or float32, not {dtype}")
    devices = {str(t.device) for t in (images, index, mean, std, *([] if out is None else [out]))}
    if len(devices) > 1:
        raise ValueError(f"images, index, mean, std and out must be on one device, not on {', '.join(sorted(devices))}")
    shape = (len(index), 3, size, size)
    if out is None:
        return torch.empty(shape, dtype=dtype, device=images.device, memory_format=torch.channels_last)
    if out.shape != shape or out.dtype != dtype or not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"out must be {dtype} {shape} in channels-last memory format")
    return out
