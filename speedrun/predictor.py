"""A trained net for use: uint8 images in, logits out."""

from pathlib import Path

import torch
from torch import Tensor, nn

from kernels.augment import view
from speedrun import checkpoint, models
from speedrun.config import Config, from_dict
from speedrun.errors import SpeedrunError

PART = 500  # images at a time


class Predictor(nn.Module):
    """Takes uint8 NHWC images (N, H, W, 3) of the trained size, on its device, and gives float32 logits (N, classes).

    classes: the names, in the order of the logits. dtype: of the computation; float32 unless changed.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, net: nn.Module, config: Config, *, mean: Tensor, std: Tensor, size: int, classes: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.net = net
        self.config = config
        self.size = size
        self.classes = classes
        self.dtype = torch.float32
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """In parts, for the activations of ten thousand images are gigabytes."""
        return torch.cat([self._part(part) for part in images.split(PART)])

    def _part(self, images: Tensor) -> Tensor:
        rows = torch.arange(len(images), device=images.device)
        normalised = view(
            images.contiguous(),
            rows,
            flip=False,
            shift=(0, 0),
            size=self.size,
            padding="reflect",
            mean=self.mean,
            std=self.std,
            dtype=self.dtype,
        )
        return self.net(normalised).float()


def load(run: Path | str, device: torch.device | str = "cpu") -> Predictor:
    """The net of a run: its folder, or the path of a model.pt. In evaluation mode.

    Raises SpeedrunError where there is no readable checkpoint, or one of another net.
    """
    path = Path(run)
    path = path / "model.pt" if path.is_dir() else path
    if not path.exists():
        raise SpeedrunError(f"{path}: no checkpoint here")
    saved = checkpoint.load(path)
    config = from_dict(Config, saved.config)
    meta = saved.meta
    net = models.build(config.model, len(meta["classes"]))
    checkpoint.load_into(net, saved.model)
    predictor = Predictor(
        net.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        config,
        mean=torch.tensor(meta["mean"]),
        std=torch.tensor(meta["std"]),
        size=meta["size"],
        classes=tuple(meta["classes"]),
    )
    return predictor.to(device).eval()
