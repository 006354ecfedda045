"""How others augment a batch, for `benchmarks.kernels`: each function makes a call that makes one batch.

Each starts from what its users keep on the device: airbench from the whole set normalised, mirrored at random and
padded, triton-augment from floats, kornia from bytes that it converts a batch at a time. All end with a batch of the
dtype that is trained in. What a peer lacks it leaves out, which is in its favour. kornia and triton-augment are not
needed: they take part where they are installed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from kernels.augmentation import Augmentation
from speedrun.device import synchronize

if TYPE_CHECKING:
    from benchmarks.kernels import Data

Call = Callable[[], object]


@dataclass
class Shared:
    """A call, and the seconds of what is done once for many of them that fall to each: `besides`."""

    call: Call
    besides: float

    def __call__(self) -> object:
        return self.call()


def airbench(
    images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype, index: Tensor, augmentation: Augmentation
) -> Shared:
    """airbench's way: once an epoch the whole set is cropped, by a masked copy for each of the shifts, erased, and
    every other time mirrored whole; a batch is then gathered. Its call is the gather, its share of the epoch's work
    beside it. Written anew after the description of KellerJordan/cifar10-airbench."""
    epoch = airbench_epoch(images, mean, std, dtype, augmentation)
    whole = [epoch(number) for number in (0, 1)][-1]
    synchronize(images.device)
    start = time.perf_counter()
    for number in (0, 1):  # without and with the mirror
        epoch(number)
    synchronize(images.device)
    seconds = (time.perf_counter() - start) / 2
    return Shared(lambda: whole[index], seconds * len(index) / len(images))


def airbench_epoch(
    images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype, augmentation: Augmentation
) -> Callable[[int], Tensor]:
    """What makes all images of an epoch by its number, (N, 3, side, side) in channels-last memory format."""
    r, side = augmentation.translate, images.shape[1]
    normal = ((images.permute(0, 3, 1, 2).float() / 255 - mean[:, None, None]) / std[:, None, None]).to(dtype)
    mirrored = (torch.rand(len(images), device=images.device) < 0.5).view(-1, 1, 1, 1)
    normal = torch.where(mirrored, normal.flip(-1), normal)
    padded = functional.pad(normal, (r,) * 4, mode="reflect").contiguous(memory_format=torch.channels_last)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=images.device, memory_format=torch.channels_last)

    def shifted(batch: Tensor, shift: Tensor, dim: int) -> Tensor:
        shape = list(batch.shape)
        shape[dim] = side
        out = empty(*shape)
        for offset in range(2 * r + 1):
            mask = shift == offset
            out[mask] = batch[mask].narrow(dim, offset, side)
        return out

    def epoch(number: int) -> Tensor:
        dy, dx = torch.randint(0, 2 * r + 1, (2, len(padded)), device=padded.device)
        if r > 2:
            batch = shifted(shifted(padded, dy, 2), dx, 3)
        else:
            batch = empty(len(padded), 3, side, side)
            for y in range(2 * r + 1):
                for x in range(2 * r + 1):
                    mask = (dy == y) & (dx == x)
                    batch[mask] = padded[mask][:, :, y : y + side, x : x + side]
        if augmentation.cutout:
            corner = torch.randint(0, side - augmentation.cutout + 1, (2, len(batch), 1), device=batch.device)
            away = torch.arange(side, device=batch.device) - corner
            inside = (away >= 0) & (away < augmentation.cutout)
            batch = batch.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)
        return batch.flip(-1) if number % 2 else batch

    return epoch


def kornia(data: "Data", index: Tensor, name: str) -> Call | None:
    """kornia's modules, per sample, with our ranges. It has no RICAP and one hole; its labels are left out."""
    k = import_module("kornia.augmentation")

    flip, erase = k.RandomHorizontalFlip(p=0.5), k.RandomErasing(p=0.3)
    affine = k.RandomAffine(15, (0.0625, 0.0625), (0.9, 1.1), p=0.5, padding_mode="reflection")
    tone, hue = k.ColorJiggle(brightness=0.2, contrast=0.2, p=0.5), k.ColorJiggle(saturation=0.12, hue=0.055, p=0.5)
    normalise = k.Normalize(data.mean, data.std)
    pipelines: dict[str, list[Any]] = {
        "normalise": [],
        "flip + translate": [k.RandomCrop((32, 32), padding=2, padding_mode="reflect"), flip],
        "affine": [affine],
        "brightness + contrast": [tone],
        "hue + saturation + value": [hue],
        "grayscale": [k.RandomGrayscale(p=1.0)],
        "dsnet": [flip, affine, tone, hue, erase],
    }
    if name not in pipelines:
        return None
    pipeline = torch.nn.Sequential(*pipelines[name], normalise)
    mixes = [k.RandomMixUpV2(p=0.3), k.RandomCutMixV2(p=0.3, use_correct_lambda=True)] if name == "dsnet" else []
    mixers = [k.AugmentationSequential(mixer, data_keys=["input"]) for mixer in mixes]
    images = data.images.permute(0, 3, 1, 2).contiguous()

    def call() -> Tensor:
        batch = pipeline(images[index].float() / 255)
        for mixer in mixers:
            batch = mixer(batch)
        return batch.to(data.dtype, memory_format=torch.channels_last)

    return call


def triton_augment(data: "Data", index: Tensor, name: str) -> Call | None:
    """triton-augment's one fused transform. It has no reflected border, no hue, no holes and no mixing."""
    if not index.is_cuda:
        return None
    affine = {"degrees": 15, "translate": (0.0625, 0.0625), "scale": (0.9, 1.1)}
    tone = {"brightness": 0.2, "contrast": 0.2}
    fields: dict[str, dict[str, Any]] = {
        "normalise": {},
        "affine": affine,
        "brightness + contrast": tone,
        "grayscale": {"grayscale_p": 1.0},
        "dsnet": {"horizontal_flip_p": 0.5, "saturation": 0.12, **affine, **tone},
    }
    if name not in fields:
        return None
    mean, std = tuple(data.mean.tolist()), tuple(data.std.tolist())
    transform = import_module("triton_augment").TritonFusedAugment(crop_size=32, mean=mean, std=std, **fields[name])
    images = (data.images.permute(0, 3, 1, 2).float() / 255).to(data.dtype)
    return lambda: transform(images[index]).contiguous(memory_format=torch.channels_last)
