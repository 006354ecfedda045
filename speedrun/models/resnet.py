"""ResNet with basic blocks; stages, blocks, channels and kernels are its dials.

Each stage but the first halves the map. Of 10 classes: ImageNet's stem and blocks 2/2/2/2 at 64/128/256/512 are
ResNet-18 (11,181,642 parameters); a 3x3 stem and blocks 3/4/6/3 there are ResNet-34 (21,282,122).
Source: He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from speedrun.config import ModelConfig
from speedrun.models.layers import ACTIVATIONS, BatchNorm2d, Conv2d, Linear


class Block(nn.Module):
    """Two convolutions and a residual. (N, in, S, S) -> (N, out, ceil(S / stride), ceil(S / stride))."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, kernel: int, skip_kernel: int, activation: str
    ) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels_in, channels_out, kernel, stride, bias=False)
        self.norm1 = BatchNorm2d(channels_out)
        self.conv2 = Conv2d(channels_out, channels_out, kernel, bias=False)
        self.norm2 = BatchNorm2d(channels_out)
        self.activation = ACTIVATIONS[activation]
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.skip = nn.Sequential(
                Conv2d(channels_in, channels_out, skip_kernel, stride, bias=False), BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.norm1(self.conv1(x)))
        return self.activation(self.norm2(self.conv2(out)) + self.skip(x))


class ResNet(nn.Module):
    """Images (N, 3, S, S) in the compute dtype -> logits (N, classes) in the same dtype.

    kernels, skip_kernels: one a stage. stem: "cifar", a 3x3 convolution, or "imagenet", 7x7 with stride 2 and a max
    pool. pool: kernel of the average pool for images of 32 pixels; None pools the whole map.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        kernels: tuple[int, ...],
        skip_kernels: tuple[int, ...],
        *,
        stem: str,
        pool: int | None,
        activation: str,
        dropout: float,
        classes: int,
    ) -> None:
        super().__init__()
        imagenet = stem == "imagenet"
        self.stem = Conv2d(3, widths[0], 7 if imagenet else 3, 2 if imagenet else 1, bias=False)
        self.norm = BatchNorm2d(widths[0])
        self.activation = ACTIVATIONS[activation]
        self.stem_pool = nn.MaxPool2d(3, stride=2, padding=1) if imagenet else nn.Identity()
        layers: list[nn.Module] = []
        channels = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(Block(channels, width, stride, kernels[stage], skip_kernels[stage], activation))
                channels = width
        self.blocks = nn.Sequential(*layers)
        side = (8 if imagenet else 32) >> (len(widths) - 1)
        # Side of the map after pooling; other sizes of image are pooled to the same.
        self.grid = 1 if pool is None else side // pool
        self.dropout = nn.Dropout(dropout)
        self.head = Linear(channels * self.grid**2, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_pool(self.activation(self.norm(self.stem(x))))
        x = self.blocks(x)
        x = x.mean(dim=(2, 3)) if self.grid == 1 else F.adaptive_avg_pool2d(x, self.grid).flatten(1)
        return self.head(self.dropout(x))


def build(config: ModelConfig, classes: int) -> ResNet:
    """The net that the config describes. Raises UsageError where a size is missing."""
    widths = config.need("widths")
    return ResNet(
        widths,
        config.need("blocks"),
        config.kernels or (3,) * len(widths),
        config.skip_kernels or (1,) * len(widths),
        stem=config.stem,
        pool=config.pool,
        activation=config.activation,
        dropout=config.dropout,
        classes=classes,
    )
