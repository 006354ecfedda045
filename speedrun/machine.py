"""What the runs of one process share: the device and its speed, the data on it, and which images are scored."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from speedrun import compiler, device, memory, probe, seeds
from speedrun.data import Dataset
from speedrun.planner import Situation


@dataclass
class Machine:
    """A device with the training images on it.

    train_images: uint8 (N, H, W, 3); train_labels: int64 (N,). held_out: images and labels that are not trained on.
    scores_held_out: whether accuracy is reported on those, or on the test set.
    split: which images train and which are scored, for the record. flops_per_second: the probe's. free_bytes: of the
    device's memory before the first net, None where nobody says; the same for every run. devices: those that train one
    net together, this one among them.
    """

    choice: device.Choice
    description: dict[str, Any]
    flops_per_second: float
    dataset: Dataset
    train_images: Tensor
    train_labels: Tensor
    held_out: tuple[Tensor, Tensor] | None
    split: dict[str, str]
    scores_held_out: bool = True
    free_bytes: int | None = None
    devices: int = 1

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
        return len(self.held_out[0]) if self.held_out and self.scores_held_out else len(self.dataset.test_images)

    def scored(self) -> tuple[Tensor, Tensor]:
        """Images and labels to report accuracy on: those held out, or the test set, which is read here alone."""
        if self.held_out and self.scores_held_out:
            return self.held_out
        target = self.choice.device
        return (
            torch.from_numpy(self.dataset.test_images).to(target),
            torch.from_numpy(self.dataset.test_labels).to(target),
        )

    def scoring(self, count: int) -> "Machine":
        """This machine, accuracy being reported on only the first `count` of the images held out."""
        assert self.held_out is not None
        images, labels = self.held_out
        split = {**self.split, "scored": f"train[{count} of {len(self.dataset.train_images)}, held out]"}
        return replace(self, held_out=(images[:count], labels[:count]), split=split)

    def situation(self) -> Situation:
        """What the planner asks of a machine."""
        return Situation(
            device=self.choice.device.type,
            flops_per_second=self.flops_per_second,
            image_size=self.image_size,
            images=len(self.train_images),
            scored=self.scored_count,
            known=self.dataset.name == "cifar10",
            compiled=compiler.compiled_before(self.description["name"]),
            devices=self.devices,
        )

    def lines(self) -> list[str]:
        """What was found and why it was chosen, for a person."""
        choice, about = self.choice, self.description
        dtype = str(choice.dtype).removeprefix("torch.")
        threads = f", {torch.get_num_threads()} threads" if choice.device.type == "cpu" else ""
        several = f", times {self.devices} devices" if self.devices > 1 else ""
        return [
            f"device  {about['name']} ({choice.device}, {about['cores']} cores): {choice.device_reason}",
            f"dtype  {dtype}: {choice.dtype_reason}",
            f"data  {self.dataset.name} ({self.dataset.source}): {self.split['train']}, {self.split['scored']}",
            f"speed  {self.flops_per_second / 1e12:.3g} TFLOP/s in training steps of the probe{threads}{several}",
        ]


def open_machine(
    choice: device.Choice,
    dataset: Dataset,
    *,
    holdout: bool,
    fold: int = 0,
    validates: bool = False,
    settle_threads: bool = False,
) -> Machine:
    """Put the training images on the device, hold out a tenth of them if asked, and measure the device's speed.

    holdout: accuracy is reported on the images held out. fold: which tenth that is, 0 to 9. validates: they are looked
    at while training.
    settle_threads: on a CPU, take half the threads where that is faster.
    """
    images, labels = torch.from_numpy(dataset.train_images), torch.from_numpy(dataset.train_labels)
    total, held_out = len(images), None
    split = {"train": f"train[{total}]", "scored": f"test[{len(dataset.test_images)}]"}
    target = choice.device
    if holdout or validates:
        # The same images for every seed of a run, so that seeds differ in training alone.
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seeds.derive(0, "holdout")))
        first, last = fold * (total // 10), (fold + 1) * (total // 10)
        # Those held out stay in the order drawn, so that any first part of them is a fair sample.
        out, kept = order[first:last], torch.cat([order[:first], order[last:]]).sort().values
        held_out = images[out].to(target), labels[out].to(target)
        images, labels = images[kept], labels[kept]
        split["train"] = f"train[{len(kept)} of {total}]"
        if holdout:
            split["scored"] = f"train[{len(out)} of {total}, held out]"
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
        scores_held_out=holdout,
        free_bytes=memory.free_bytes(target),
    )
