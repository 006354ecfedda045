"""Batches out of a uint8 data set: gather, augment, normalise, cast and mix, in one pass.

Every function here runs the fused Triton kernel on CUDA, and the same in vectorised torch elsewhere (`method` "fused"
or "torch" insists on one). Both see the same random bits, so they make the same pictures.
"""

import operator
import warnings
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from kernels import backend
from kernels.augmentation import Augmentation
from kernels.mixing import Mixed
from kernels.philox import Key
from kernels.request import Request
from kernels.twin import render

__all__ = ["Augmentation", "augment", "fused", "mix", "twin", "view"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_launches: dict[Augmentation, bool] = {}  # whether the kernel could be launched on this machine; not there: not tried


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
    method: str = "auto",
) -> Tensor:
    """Rows `index` of `images`, augmented: (B, 3, size, size) of `dtype` in channels-last memory format.

    images: uint8 (N, H, W, 3), contiguous. index: int64 (B,), on the same device; it may repeat images. mean, std:
    float32 (3,) on that device, in units of 0..1. seed, epoch: integers >= 0, or 0-d int64 tensors on the device (a
    CUDA graph reads those anew at each replay). dtype: float16, bfloat16 or float32. out: written and returned if
    given.

    What is done to an image is a function of (seed, epoch, its index). A CUDA graph captures a call after one with the
    same augmentation outside of it, which compiles the kernel. Raises TypeError or ValueError for a wrong
    dtype, shape, device or layout, before anything runs. On CUDA nothing waits to look whether an index is in range.
    An augmentation that mixes makes labels too: ask `mix` for it.
    """
    if augmentation.members > 1:
        raise ValueError("an augmentation with mixup, cutmix or ricap gives labels too: call mix, not augment")
    keys = _keys(images.device, seed=seed, epoch=epoch)
    return _run(method, _request(images, index, augmentation, mean, std, dtype, out, **keys))


twin = partial(augment, method="torch")  # the torch composition, on any device
fused = partial(augment, method="fused")  # the Triton kernel: on CUDA, or under Triton's interpreter


def mix(
    images: Tensor,
    labels: Tensor,
    index: Tensor,
    augmentation: Augmentation,
    *,
    mean: Tensor,
    std: Tensor,
    seed: Key,
    epoch: Key,
    dtype: torch.dtype,
    step: Key = 0,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
    method: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """`augment`, and the labels that belong to it: (batch, labels int64 (B, K), weights float32 (B, K)).

    labels: int64 (N,), of the data set. K is `augmentation.members`, 1, 2 or 4; a row of weights sums to 1, and a
    member that is not seen has weight 0. step: an integer or 0-d tensor, which keys the mixing of `mix_per="batch"`.
    out: such a triple, written and returned if given. The other arguments and the errors are `augment`'s. The call that
    must come before a graph captures one also makes the table that mixes are drawn from, which waits for its copy.
    """
    keys = _keys(images.device, seed=seed, epoch=epoch, step=step)
    shape = (len(index), augmentation.members)
    batch, out_labels, out_weights = out or (
        None,
        torch.empty(shape, dtype=torch.int64, device=images.device),
        torch.empty(shape, dtype=torch.float32, device=images.device),
    )
    for name, tensor, wanted, dtypes in (
        ("labels", labels, (len(images),), torch.int64),
        ("labels of out", out_labels, shape, torch.int64),
        ("weights of out", out_weights, shape, torch.float32),
    ):
        if tensor.shape != wanted or tensor.dtype != dtypes or not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous {dtypes} {wanted}, not {tensor.dtype} {tuple(tensor.shape)}")
        if tensor.device != images.device:
            raise ValueError(f"{name} must be on {images.device}, not on {tensor.device}")
    mixed = Mixed(labels, keys.pop("step"), out_labels, out_weights)
    request = _request(images, index, augmentation, mean, std, dtype, batch, mixed=mixed, **keys)
    return _run(method, request), out_labels, out_weights


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
    method: str = "auto",
) -> Tensor:
    """One view of every image for evaluation: shifted by (dy, dx), then mirrored if `flip`; nothing is random.

    Output pixel (y, x) of an unmirrored view shows input pixel (y + dy, x + dx). The other arguments, the result and
    the errors are `augment`'s.
    """
    augmentation = Augmentation(size=size, flip="always" if flip else "none", padding=padding)
    request = _request(images, index, augmentation, mean, std, dtype, out, offset=shift)
    if max(map(abs, shift)) >= min(images.shape[1:3]):
        raise ValueError(f"a view's shift must be smaller than the image, not {shift}")
    return _run(method, request)


def _run(method: str, request: Request) -> Tensor:
    """Launches the kernel or calls the twin, and returns the batch. Where the kernel cannot be compiled: one warning,
    and the twin."""
    images, augmentation = request.images, request.augmentation
    backend.check_method(method, images)
    known = None if method == "torch" else _launches.get(augmentation)
    if method == "fused" or (method == "auto" and known is not False and _on_device(images)):
        try:
            from kernels.fused import launch  # not before it is needed: the twin's machines never load it

            launch(request)
            if not known:
                _launches[augmentation] = True
            return request.out
        except Exception as error:  # a compiler that is missing or fails has no one type
            # What ran before, was being captured or lacked memory is no fault of the compiler: others must hear of it.
            if method == "fused" or known or _capturing(images) or "out of memory" in str(error):
                raise
            _launches[augmentation] = False
            _warn(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")
    render(request)
    return request.out


def _capturing(images: Tensor) -> bool:
    return images.is_cuda and torch.cuda.is_current_stream_capturing()


def _on_device(images: Tensor) -> bool:
    """Whether the images are where Triton has kernels. Without Triton that is worth the same one warning."""
    if images.is_cuda and not backend.ENABLED:
        _warn("Triton is not installed")
    return images.is_cuda and backend.ENABLED


@cache
def _warn(reason: str) -> None:
    warnings.warn(
        f"augmenting with torch, since the fused kernel cannot run here ({reason})", RuntimeWarning, stacklevel=4
    )


def _request(
    images: Tensor,
    index: Tensor,
    augmentation: Augmentation,
    mean: Tensor,
    std: Tensor,
    dtype: torch.dtype,
    out: Tensor | None,
    **rest: Any,
) -> Request:
    """Checks every argument but `rest`, fields of a request; without `out` makes a new tensor in its place."""
    if images.dtype != torch.uint8 or index.dtype != torch.int64:
        raise TypeError(f"images must be uint8 and index int64, not {images.dtype} and {index.dtype}")
    if images.dim() != 4 or images.shape[3] != 3 or not images.is_contiguous():
        raise ValueError(
            f"images must be contiguous (N, H, W, 3), not {tuple(images.shape)}, strides {images.stride()}"
        )
    if index.dim() != 1 or not index.is_contiguous():
        raise ValueError(f"index must be contiguous (B,), not {tuple(index.shape)}, strides {index.stride()}")
    size, smaller = augmentation.size, min(images.shape[1:3])
    if smaller < max(size, 2):
        raise ValueError(
            f"images of {images.shape[1]} x {images.shape[2]} pixels are too small to give {size} x {size}"
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
        out = torch.empty(shape, dtype=dtype, device=images.device, memory_format=torch.channels_last)
    elif out.shape != shape or out.dtype != dtype or not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"out must be {dtype} {shape} in channels-last memory format")
    return Request(images, index, augmentation, mean, std, out, **rest)


def _keys(device: torch.device, **keys: Key) -> dict[str, Key]:
    """The keys, each a tensor or an int of Python, whatever kind of integer it was. Refuses what the kernel and the
    twin would read differently, or could not read."""
    for name, key in keys.items():
        if isinstance(key, Tensor):
            if key.dtype != torch.int64 or key.dim() != 0:
                raise TypeError(f"{name} must be an integer or 0-d int64, not {key.dtype} {tuple(key.shape)}")
            if key.device != device:
                raise ValueError(f"{name} must be on {device}, not on {key.device}")
            continue
        if isinstance(key, bool) or not hasattr(key, "__index__"):
            raise TypeError(f"{name} must be an integer or a 0-d int64 tensor, not {type(key).__name__}")
        keys[name] = operator.index(key)
        if not 0 <= key < 2**63:
            raise ValueError(f"{name} must lie in 0..2**63 - 1, not {key}")
    return keys
