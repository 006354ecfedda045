"""A trained net for use: uint8 images in, logits out."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speedrun import checkpoint, export, models
from speedrun.config import Config, from_dict
from speedrun.errors import SpeedrunError
from speedrun.evaluate import Evaluator
from speedrun.stream import Normalization

# What a trained net must know of itself to be used.
META = {"size", "image_size", "dataset", "classes", "mean", "std"}


class Predictor(nn.Module):
    """Takes uint8 NHWC images (N, H, W, 3) of the trained size, on its device, and gives float32 logits (N, classes).

    classes: the names, in the order of the logits. image_size: the shorter side of the images it was trained on, in
    pixels. dataset: their name. dtype: of the computation; float32 unless changed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, config: Config, meta: Mapping[str, Any]) -> None:
        """meta: what a checkpoint of a run says about itself."""
        super().__init__()
        self.net = net
        self.config = config
        self.size: int = meta["size"]
        self.image_size: int = meta["image_size"]
        self.dataset: str = meta["dataset"]
        self.classes: tuple[str, ...] = tuple(meta["classes"])
        self.dtype = torch.float32
        self.register_buffer("mean", torch.tensor(meta["mean"]))
        self.register_buffer("std", torch.tensor(meta["std"]))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """In parts, for the activations of ten thousand images are gigabytes."""
        return self._evaluator(images).plain()

    def with_views(self, images: Tensor, tta: str | None = None) -> Tensor:
        """Logits as the run's accuracy was scored: with its views at test, or with those of `tta`.

        The images that get further views are the least certain of these: give as many at once as memory takes.
        """
        share = self.config.uncertain_share if tta in (None, "auto", self.config.tta) else 1.0
        evaluator = self._evaluator(images)
        return evaluator.with_views(
            evaluator.plain(),
            self.config.tta if tta in (None, "auto") else tta,
            1.0 if share is None else share,
            time_left=lambda: math.inf,
            view_seconds=0.0,
        )

    def _evaluator(self, images: Tensor) -> Evaluator:
        return Evaluator(
            self.net,
            images.contiguous(),
            normalization=Normalization(self.mean, self.std),
            dtype=self.dtype,
            size=self.size,
        )


def load(run: Path | str, device: torch.device | str = "cpu") -> Predictor:
    """The net of a run: its folder, or the path of a model.pt or a .safetensors that was exported; to evaluate with.

    Raises SpeedrunError where there is no readable checkpoint, or one of another net.
    """
    path = locate(run)
    saved = export.read(path) if path.suffix == export.SUFFIX else checkpoint.load(path)
    config = from_dict(Config, saved.config)
    if not saved.meta.keys() >= META:
        raise SpeedrunError(f"{path} is a checkpoint of a training and no trained net: --resume goes on with it")
    net = models.build(config.model, len(saved.meta["classes"]))
    try:
        checkpoint.load_into(net, saved.model)
    except SpeedrunError as error:
        raise SpeedrunError(f"{path}: {error}") from None
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Predictor(net, config, saved.meta).to(device).eval()


def locate(run: Path | str) -> Path:
    """The file that holds a run's net. Raises SpeedrunError where there is none."""
    path = Path(run)
    path = path / "model.pt" if path.is_dir() else path
    if not path.exists():
        raise SpeedrunError(f"{path}: no checkpoint here")
    return path


def load_members(run: Path | str, device: torch.device | str = "cpu") -> list[Predictor]:
    """The nets of an ensemble's folder, in order; of another run, its one net. Raises as `load` does."""
    members = [load(path, device) for path in sorted(Path(run).glob("member-*/model.pt")) or [Path(run)]]
    if any((member.classes, member.image_size) != (members[0].classes, members[0].image_size) for member in members):
        raise SpeedrunError(f"{run}: its members were trained on different data")
    return members
