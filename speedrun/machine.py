"""What the runs of one process share: the device and its speed, the data on it, and which images are scored."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speedrun import device, probe, seeds
from speedrun.data import Dataset


@dataclass
class Machine:
    """A device with the training images on it.

    train_images: uint8 (N, H, W, 3); train_labels: int64 (N,). held_out: images and labels that `holdout` took away.
    split: which images train and which are scored, for the record. flops_per_second: the probe's.
    """

    choice: device.Choice
    description: dict[str, Any]
    flops_per_second: float
    dataset: Dataset
    train_images: Tensor
    train_labels: Tensor
    held_out: tuple[Tensor, Tensor] | None
    split: dict[str, str]

    @property
    def classes(self) -> int:
        return len(self.dataset.classes)

    @property
    def image_size(self) -> int:
        """The shorter side of the images in pixels."""
        return min(self.train_images.shape[1:3])

    @property
    def scored_count(self) -> int:
        """Number of images that accuracy is reported on."""
        return len(self.dataset.test_images) if self.held_out is None else len(self.held_out[0])

    def scored(self) -> tuple[Tensor, Tensor]:
        """Images and labels to report accuracy on: those held out, or the test set, which is read here alone."""
        if self.held_out is not None:
            return self.held_out
        target = self.choice.device
        return (
            torch.from_numpy(self.dataset.test_images).to(target),
            torch.from_numpy(self.dataset.test_labels).to(target),
        )

    def lines(self) -> list[str]:
        """What was found and why it was chosen, for a person."""
        choice, about = self.choice, self.description
        dtype = str(choice.dtype).removeprefix("torch.")
        threads = f", {torch.get_num_threads()} threads" if choice.device.type == "cpu" else ""
        return [
            f"device  {about['name']} ({choice.device}, {about['cores']} cores): {choice.device_reason}",
            f"dtype  {dtype}: {choice.dtype_reason}",
            f"data  {self.dataset.name} ({self.dataset.source}): {self.split['train']}, {self.split['scored']}",
            f"speed  {self.flops_per_second / 1e12:.3g} TFLOP/s in training steps of the probe{threads}",
        ]


def open_machine(choice: device.Choice, dataset: Dataset, *, holdout: bool, settle_threads: bool = False) -> Machine:
    """Put the training images on the device, hold out a tenth of them if asked, and measure the device's speed.

    settle_threads: on a CPU, take half the threads where that is faster.
    """
    images, labels = torch.from_numpy(dataset.train_images), torch.from_numpy(dataset.train_labels)
    total, held_out = len(images), None
    split = {"train": f"train[{total}]", "scored": f"test[{len(dataset.test_images)}]"}
    target = choice.device
    if holdout:
        # The same images for every seed of a run, so that seeds differ in training alone.
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seeds.derive(0, "holdout")))
        out, kept = order[: total // 10].sort().values, order[total // 10 :].sort().values
        held_out = images[out].to(target), labels[out].to(target)
        images, labels = images[kept], labels[kept]
        split = {"train": f"train[{len(kept)} of {total}]", "scored": f"train[{len(out)} of {total}, held out]"}
    if target.type == "cpu" and settle_threads:
        flops_per_second = probe.settle_threads(choice.dtype)
    else:
        flops_per_second = probe.training_flops_per_second(target, choice.dtype)
    return Machine(
        choice=choice,
        description=device.describe(target),
        flops_per_second=flops_per_second,
        dataset=dataset,
        train_images=images.to(target),
        train_labels=labels.to(target),
        held_out=held_out,
        split=split,
    )
