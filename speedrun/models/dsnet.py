"""DSNet: residual blocks of depthwise-separable convolutions, for accuracy from few parameters.

At widths 20/40/80/160 with two blocks each and 10 classes: 150,690 parameters. Each stage but the first halves the map.
"""

from torch import Tensor, nn

from speedrun.config import ModelConfig
from speedrun.models.layers import ACTIVATIONS, BatchNorm2d, Conv2d, Linear


class Separable(nn.Module):
    """Depthwise 3x3, pointwise 1x1, BN. (N, in, S, S) -> (N, out, ceil(S / stride), ceil(S / stride))."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = Conv2d(channels_in, channels_in, stride=stride, groups=channels_in, bias=False)
        self.pointwise = Conv2d(channels_in, channels_out, kernel_size=1, bias=False)
        self.norm = BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.pointwise(self.depthwise(x)))


class Block(nn.Module):
    """Two separable convolutions and a residual. (N, in, S, S) -> (N, out, ceil(S / stride), ceil(S / stride))."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, activation: str) -> None:
        super().__init__()
        self.first = Separable(channels_in, channels_out, stride)
        self.second = Separable(channels_out, channels_out)
        self.activation = ACTIVATIONS[activation]
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.skip = nn.Sequential(
                Conv2d(channels_in, channels_out, kernel_size=1, stride=stride, bias=False),
                BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.second(self.activation(self.first(x))) + self.skip(x))


class DSNet(nn.Module):
    """Images (N, 3, S, S) in the compute dtype -> logits (N, classes) in the same dtype."""

    def __init__(
        self, widths: tuple[int, ...], blocks: tuple[int, ...], activation: str, dropout: float, classes: int
    ) -> None:
        super().__init__()
        self.stem = Conv2d(3, widths[0], bias=False)
        self.norm = BatchNorm2d(widths[0])
        self.activation = ACTIVATIONS[activation]
        layers: list[nn.Module] = []
        channels = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(Block(channels, width, stride, activation))
                channels = width
        self.blocks = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.activation(self.norm(self.stem(x))))
        return self.head(self.dropout(x.mean(dim=(2, 3))))


def build(config: ModelConfig, classes: int) -> DSNet:
    """The net that the config describes. Raises UsageError where a size is missing."""
    return DSNet(config.need("widths"), config.need("blocks"), config.activation, config.dropout, classes)
