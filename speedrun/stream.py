"""The dataset on the device, and batches out of it.

The whole set lies on the device as uint8 NHWC. A batch is gathered, augmented, normalised and cast there in one pass;
what happens to image i in epoch e depends on (seed, e, i) alone, but for mixes that are drawn once a batch
(`Augmentation.mix_per`), which depend on (seed, step).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.augment import Augmentation, mix, view
from kernels.philox import Key
from speedrun import seeds


@dataclass(frozen=True)
class Batch:
    """images (B, 3, S, S) channels-last in the compute dtype; labels int64 (B,); index int64 (B,), rows of the set.

    Where images are mixed, labels are (B, K), of the K images that make one up, and weights float32 (B, K), whose rows
    sum to 1, say how much of each is seen; else weights is None.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    weights: Tensor | None = None

    def of(self, rows: Tensor) -> "Batch":
        """The images at `rows`, int64 (N,), alone."""
        images = self.images[rows].contiguous(memory_format=torch.channels_last)
        weights = None if self.weights is None else self.weights[rows]
        return Batch(images, self.labels[rows], self.index[rows], weights)


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation by channel, float32 (3,), of pixels scaled to 0..1."""

    mean: Tensor
    std: Tensor

    @classmethod
    def none(cls, device: torch.device) -> "Normalization":
        """Leaves pixels in 0..1."""
        return cls(torch.zeros(3, device=device), torch.ones(3, device=device))

    @classmethod
    def of(cls, images: Tensor) -> "Normalization":
        """The statistics of uint8 images (N, H, W, 3), from exact sums of integers.

        A channel of one value has the deviation 1, so that it becomes 0 and nothing is divided by 0.
        """
        pixels = images.reshape(-1, images.shape[-1])
        channels = []
        for channel in range(pixels.shape[1]):
            counts = torch.bincount(pixels[:, channel].int(), minlength=256).cpu().double()
            values = torch.arange(256, dtype=torch.float64) / 255
            mean = (counts * values).sum() / counts.sum()
            variance = (counts * (values - mean) ** 2).sum() / counts.sum()
            several = (counts > 0).sum() > 1  # told by whole numbers: of one value the variance may round above 0
            channels.append((mean, variance.sqrt() if several else torch.ones_like(mean)))
        means, deviations = (torch.stack(column).float().to(images.device) for column in zip(*channels, strict=True))
        return cls(means, deviations)


class Stream:
    """Augmented batches of a data set, shuffled anew each epoch: `next` never ends, a loop over the stream is an epoch.

    images: uint8 (N, H, W, 3), contiguous; labels: int64 (N,), on the same device. The last images of an epoch that do
    not fill a batch are left out, as another order leaves out others. batches: how many were taken; set it, and the
    stream goes on from there, for nothing else is remembered of them. part: which rows of a batch are taken; the others
    are another device's, so that all together see the batches that one would.

    The numbers of an augmentation that count pixels are those of its own `size`. On CUDA a batch, labels included, is
    one launch, and the host never waits. Its tensors are new, of the memory that torch holds on to; who wants them
    written into tensors of their own calls `kernels.augment.mix` with `out`.

    Raises TypeError for another dtype, ValueError for another shape, layout or device, or a batch larger than the set.
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
        part: slice = slice(None),
    ) -> None:
        _check(images, labels, batch_size)
        if batch_size > len(images):
            raise ValueError(f"a batch of {batch_size} needs as many images, the set has {len(images)}")
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.normalization = normalization
        self.dtype = dtype
        self.seed = seed
        self.part = part
        self.batches = 0
        self._augment_seed: Key = seeds.derive(seed, "augment")
        self._order = images.new_empty(0, dtype=torch.int64)
        self._ordered = -1  # the epoch whose order that is

    @property
    def batches_per_epoch(self) -> int:
        return len(self.images) // self.batch_size

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.batches_per_epoch

    @property
    def epoch(self) -> float:
        """Epochs gone by."""
        return self.batches / self.batches_per_epoch

    @property
    def size(self) -> int:
        """Side in pixels of a batch that is asked for without one: the augmentation's, or the set's if that is less."""
        return min(self.augmentation.size, *self.images.shape[1:3])

    def next(self, size: int | None = None, batches: int = 1) -> Batch:
        """The next batch, at `size` pixels a side (None: `self.size`); or so many batches as one.

        Those are of one epoch: where it has fewer left they are the first of the next. ValueError where it never has.
        """
        if batches > self.batches_per_epoch:
            raise ValueError(
                f"{batches} batches of {self.batch_size} are more than the set's {len(self.images)} images"
            )
        epoch, position = divmod(self.batches, self.batches_per_epoch)
        if position + batches > self.batches_per_epoch:
            epoch, position = epoch + 1, 0
        if epoch != self._ordered:
            self._order, self._ordered = self._shuffled(epoch), epoch
        self.batches = epoch * self.batches_per_epoch + position + batches
        index = self._order[position * self.batch_size : (position + batches) * self.batch_size]
        size = size or self.size
        if self.augmentation.members == 1 or self.augmentation.mix_per == "sample":
            return self._made(index[self.part], size, epoch, self.batches)
        # Each image is mixed with others of the whole batch, wherever those are taken.
        whole = self._made(index, size, epoch, self.batches)
        assert whole.weights is not None
        part = self.part
        return Batch(whole.images[part], whole.labels[part], whole.index[part], whole.weights[part])

    def _made(self, index: Tensor, size: int, epoch: Key, step: Key) -> Batch:
        """The batch of these images, at `size` pixels a side."""
        augmentation = self._at(size)
        images, labels, weights = mix(
            self.images,
            self.labels,
            index,
            augmentation,
            mean=self.normalization.mean,
            std=self.normalization.std,
            seed=self._augment_seed,
            epoch=epoch,
            step=step,
            dtype=self.dtype,
        )
        if augmentation.members == 1:
            return Batch(images, labels[:, 0], index)
        return Batch(images, labels, index, weights)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of an epoch; of one that was begun, those that are left."""
        end = (self.batches // len(self) + 1) * len(self)
        while self.batches < end:
            yield self.next()

    def _at(self, size: int) -> Augmentation:
        """The augmentation at `size` pixels: erased squares keep their share of the picture."""
        scale = size / self.size
        cutout = round(self.augmentation.cutout * scale)
        return replace(
            self.augmentation, size=size, cutout=cutout, hole_size=max(1, round(self.augmentation.hole_size * scale))
        )

    def _shuffled(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seeds.derive(self.seed, "order", epoch))
        order = torch.randperm(len(self.images), generator=generator)
        if self.images.is_cuda:
            order = order.pin_memory()  # from pageable memory the copy would wait for the queue
        return order.to(self.images.device, non_blocking=True)


def in_order(
    images: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    normalization: Normalization,
    dtype: torch.dtype,
    size: int | None = None,
    flip: bool = False,
    shift: tuple[int, int] = (0, 0),
) -> Iterator[Batch]:
    """All images once, in their order and with nothing random, to score a net: the last batch may be smaller.

    images, labels: as `Stream`'s. size: side in pixels of the batches (None: the set's own). flip, shift: one of the
    views of a test, mirrored, shifted by (dy, dx), as `kernels.augment.view` has them. Raises as `Stream`, at once.
    """
    _check(images, labels, batch_size)
    side = size or min(images.shape[1:3])

    def made(index: Tensor) -> Batch:
        seen = view(
            images,
            index,
            flip=flip,
            shift=shift,
            size=side,
            padding="reflect",
            mean=normalization.mean,
            std=normalization.std,
            dtype=dtype,
        )
        return Batch(seen, labels[index], index)

    return map(made, torch.arange(len(images), device=images.device).split(batch_size))


def _check(images: Tensor, labels: Tensor, batch_size: int) -> None:
    """Refuses what is no data set, each with one line: the kernel would only notice at the first batch."""
    for name, tensor, dtype in (("images", images, torch.uint8), ("labels", labels, torch.int64)):
        if not isinstance(tensor, Tensor) or tensor.dtype != dtype:
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise TypeError(f"{name} must be a tensor of {dtype}, not {kind}")
    if images.dim() != 4 or images.shape[3] != 3 or not images.is_contiguous():
        raise ValueError(
            f"images must be contiguous (N, H, W, 3), not {tuple(images.shape)}, strides {images.stride()}"
        )
    if labels.shape != images.shape[:1] or not labels.is_contiguous():
        raise ValueError(f"labels must be contiguous ({len(images)},) as the images, not {tuple(labels.shape)}")
    if labels.device != images.device:
        raise ValueError(f"labels must be on {images.device} as the images, not on {labels.device}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(f"batch_size must be an integer, not {type(batch_size).__name__}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
