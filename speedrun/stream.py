"""The dataset on the device, and batches out of it.

The whole set lies on the device as uint8 NHWC. A batch is gathered, augmented, normalised and cast there in one pass;
what happens to image i in epoch e depends on (seed, e, i) alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.augment import Augmentation, augment
from speedrun import seeds


@dataclass(frozen=True)
class Batch:
    """images (B, 3, S, S) channels-last in the compute dtype; labels int64 (B,); index int64 (B,), rows of the set."""

    images: Tensor
    labels: Tensor
    index: Tensor


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation by channel, float32 (3,), of pixels scaled to 0..1."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, images: Tensor) -> "Normalization":
        """The statistics of uint8 images (N, H, W, 3), from exact sums of integers."""
        pixels = images.reshape(-1, images.shape[-1])
        channels = []
        for channel in range(pixels.shape[1]):
            counts = torch.bincount(pixels[:, channel].int(), minlength=256).double()
            values = torch.arange(256, dtype=torch.float64, device=images.device) / 255
            mean = (counts * values).sum() / counts.sum()
            variance = (counts * (values - mean) ** 2).sum() / counts.sum()
            channels.append((mean, variance.sqrt()))
        return cls(
            torch.stack([mean for mean, _ in channels]).float(), torch.stack([std for _, std in channels]).float()
        )


class Stream:
    """An endless sequence of augmented batches, shuffled anew each epoch.

    images: uint8 (N, H, W, 3); labels: int64 (N,), both on the device. The last images of an epoch that do not fill a
    batch are left out, as another order leaves out others.
    Raises ValueError where a batch is larger than the set.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        augmentation: Augmentation,
        normalization: Normalization,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        if batch_size > len(images):
            raise ValueError(f"a batch of {batch_size} needs as many images, the set has {len(images)}")
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.normalization = normalization
        self.dtype = dtype
        self.seed = seed
        self.batches = 0
        self._order = images.new_empty(0, dtype=torch.int64)

    @property
    def batches_per_epoch(self) -> int:
        return len(self.images) // self.batch_size

    @property
    def epoch(self) -> float:
        """Epochs gone by."""
        return self.batches / self.batches_per_epoch

    def next(self, size: int | None = None) -> Batch:
        """The next batch, at `size` pixels a side (None: the set's own)."""
        epoch, position = divmod(self.batches, self.batches_per_epoch)
        if position == 0:
            self._order = self._shuffled(epoch)
        self.batches += 1
        index = self._order[position * self.batch_size : (position + 1) * self.batch_size]
        images = augment(
            self.images,
            index,
            self._at(size or self.images.shape[1]),
            mean=self.normalization.mean,
            std=self.normalization.std,
            seed=seeds.derive(self.seed, "augment"),
            epoch=epoch,
            dtype=self.dtype,
        )
        return Batch(images, self.labels[index], index)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.next()

    def _at(self, size: int) -> Augmentation:
        """The augmentation at `size` pixels: the erased square keeps its share of the picture."""
        cutout = round(self.augmentation.cutout * size / self.images.shape[1])
        return replace(self.augmentation, size=size, cutout=cutout)

    def _shuffled(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seeds.derive(self.seed, "order", epoch))
        return torch.randperm(len(self.images), generator=generator).to(self.images.device, non_blocking=True)
