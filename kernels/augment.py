"""Batches out of a uint8 data set: gather, augment, normalise, cast, in one pass.

`augment` runs the fused Triton kernel on CUDA and `twin`, the same in vectorised torch, elsewhere. Both see the same random
bits, so they give the same pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels import philox
from kernels.augmentation import Augmentation
from kernels.cutout import corners, erase_
from kernels.flip import flips
from kernels.normalise import coefficients, normalise
from kernels.philox import Key
from kernels.resize import resize
from kernels.translate import crop, shifts

__all__ = ["Augmentation", "augment", "twin", "view"]

_CHUNK = 256  # images at a time in the twin: its float intermediates stay in the cache and in malloc's heap
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

    images: uint8 (N, H, W, 3), contiguous. index: int64 (B,), on the same device; it may repeat images. mean, std: float32
    (3,) on that device, in units of 0..1. seed, epoch: integers >= 0 or 0-d int64 tensors on the device (a CUDA graph reads
    those anew at each replay). dtype: float16, bfloat16 or float32. out: written and returned if given.

    What is done to an image is a function of (seed, epoch, its index). Raises TypeError or ValueError for a wrong dtype,
    shape, device or layout, before anything runs. An index out of range is undefined on CUDA, where nobody waits to look.
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
    size = augmentation.size
    out = _output(images, index, size, mean, std, dtype, out)
    words = draws(augmentation, seed, epoch, index)
    for part in _chunks(len(index)):
        here = {stream: tuple(word[part] for word in four) for stream, four in words.items()}
        mirror = flips(augmentation.flip, here[philox.FLIP][0], epoch) if augmentation.flip != "none" else None
        shift = shifts(augmentation.translate, here[philox.TRANSLATE]) if augmentation.translate else None
        _render(images, index[part], mirror, shift, augmentation.translate, augmentation.padding, mean, std, out[part])
        if augmentation.cutout:
            erase_(
                out[part].permute(0, 2, 3, 1),
                augmentation.cutout,
                corners(augmentation.cutout, size, here[philox.CUTOUT]),
            )
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
    """One view of every image for evaluation: shifted by (dy, dx), then mirrored if `flip`, nothing random.

    Output pixel (y, x) of an unmirrored view shows input pixel (y + dy, x + dx). The other arguments, the result and the
    errors are `augment`'s.
    """
    Augmentation(size=size, padding=padding)  # refuses what it would refuse there
    out = _output(images, index, size, mean, std, dtype, out)
    for part in _chunks(len(index)):
        rows = index[part]
        mirror = torch.ones_like(rows, dtype=torch.bool) if flip else None
        moved = (torch.full_like(rows, shift[0]), torch.full_like(rows, shift[1])) if any(shift) else None
        _render(images, rows, mirror, moved, max(map(abs, shift)), padding, mean, std, out[part])
    return out


def draws(augmentation: Augmentation, seed: Key, epoch: Key, index: Tensor) -> dict[int, tuple[Tensor, ...]]:
    """The random words that `augmentation` needs of each image: {stream: four int64 (B,)}."""
    streams = [philox.TRANSLATE] * bool(augmentation.translate) + [philox.CUTOUT] * bool(augmentation.cutout)
    if augmentation.flip == "random":
        streams.append(philox.FLIP)
    words = philox.draw(seed, epoch, index, streams)
    if augmentation.flip == "alternating":
        words |= philox.draw(seed, 0, index, [philox.FLIP])
    return words


def _render(
    images: Tensor,
    rows: Tensor,
    mirror: Tensor | None,
    shift: tuple[Tensor, Tensor] | None,
    margin: int,
    padding: str,
    mean: Tensor,
    std: Tensor,
    out: Tensor,
) -> None:
    """Crop, mirror, down-sample, normalise and cast one chunk into `out`, (B, 3, size, size) channels-last."""
    cropped = crop(images, rows, mirror, shift or (torch.zeros_like(rows),) * 2, margin, padding)
    batch = resize(cropped.to(torch.float32), out.shape[-1])
    out.permute(0, 2, 3, 1).copy_(normalise(batch, *coefficients(mean, std)))


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, count, _CHUNK)]


def _output(
    images: Tensor, index: Tensor, size: int, mean: Tensor, std: Tensor, dtype: torch.dtype, out: Tensor | None
) -> Tensor:
    """Checks every argument and returns `out`, or a new tensor in its place."""
    if images.dtype != torch.uint8 or index.dtype != torch.int64:
        raise TypeError(f"images must be uint8 and index int64, not {images.dtype} and {index.dtype}")
    if images.dim() != 4 or images.shape[3] != 3 or not images.is_contiguous():
        raise ValueError(
            f"images must be contiguous (N, H, W, 3), not {tuple(images.shape)} of strides {images.stride()}"
        )
    if index.dim() != 1:
        raise ValueError(f"index must be (B,), not {tuple(index.shape)}")
    if size > min(images.shape[1:3]):
        raise ValueError(f"an output of {size} pixels is larger than the images, {images.shape[1]} x {images.shape[2]}")
    for name, values in (("mean", mean), ("std", std)):
        if values.dtype != torch.float32 or values.shape != (3,):
            raise TypeError(f"{name} must be float32 (3,), not {values.dtype} {tuple(values.shape)}")
    if dtype not in _DTYPES:
        raise TypeError(f"dtype must be float16, bfloat16 or float32, not {dtype}")
    devices = {t.device for t in (images, index, mean, std, *([] if out is None else [out]))}
    if len(devices) > 1:
        raise ValueError(f"images, index, mean, std and out must be on one device, not on {sorted(map(str, devices))}")
    shape = (len(index), 3, size, size)
    if out is None:
        return torch.empty(shape, dtype=dtype, device=images.device, memory_format=torch.channels_last)
    if out.shape != shape or out.dtype != dtype or not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"out must be {dtype} {shape} in channels-last memory format")
    return out
