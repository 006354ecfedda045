"""MyNet: three plain stages, a depthwise-separable branch after the first, and a hidden linear layer.

At widths 64/128/256 and 10 classes: 2,479,562 parameters. Normalisation comes after the activation.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from speedrun.config import ModelConfig
from speedrun.models.layers import ACTIVATIONS, BatchNorm2d, Conv2d, Linear

HIDDEN = 512
# Side in pixels of the map that the linear layers see: what three halvings leave of 32.
GRID = 4


class Stage(nn.Module):
    """Convolution, activation, BN, max pool. (N, in, S, S) -> (N, out, S // 2, S // 2)."""

    def __init__(self, channels_in: int, channels_out: int, activation: str) -> None:
        super().__init__()
        self.conv = Conv2d(channels_in, channels_out, bias=True)
        self.norm = BatchNorm2d(channels_out)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.norm(self.activation(self.conv(x))), 2)


class Branch(nn.Module):
    """A depthwise-separable convolution, added to its input. (N, channels, S, S), in and out."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.depthwise = Conv2d(channels, channels, groups=channels, bias=True)
        self.depthwise_norm = BatchNorm2d(channels)
        self.pointwise = Conv2d(channels, channels, kernel_size=1, bias=True)
        self.pointwise_norm = BatchNorm2d(channels)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        spread = self.activation(self.depthwise_norm(self.depthwise(x)))
        return self.activation(x + self.pointwise_norm(self.pointwise(spread)))


class MyNet(nn.Module):
    """Images (N, 3, S, S) in the compute dtype -> logits (N, classes) in the same dtype."""

    def __init__(self, widths: tuple[int, ...], activation: str, dropout: float, classes: int) -> None:
        super().__init__()
        first, second, third = widths
        self.activation = ACTIVATIONS[activation]
        self.features = nn.Sequential(
            Stage(3, first, activation),
            Branch(first, activation),
            Stage(first, second, activation),
            Stage(second, third, activation),
        )
        self.hidden = Linear(third * GRID**2, HIDDEN)
        self.dropout = nn.Dropout(dropout)
        self.head = Linear(HIDDEN, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        if x.shape[-1] != GRID:  # images of another size than 32
            x = F.adaptive_avg_pool2d(x, GRID)
        x = self.activation(self.hidden(x.flatten(1)))
        return self.head(self.dropout(x))


def build(config: ModelConfig, classes: int) -> MyNet:
    """The net that the config describes. Raises UsageError where a size is missing."""
    return MyNet(config.need("widths"), config.activation, config.dropout, classes)
