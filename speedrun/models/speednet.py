"""SpeedNet: the family of fast nets that the planner draws from; width and depth are its dials.

Whitening 2x2 -> activation -> three groups -> global max pool -> linear. A group is [conv 3x3, max pool 2, BN,
activation, conv 3x3, BN, activation], with a third convolution and a residual at depth 3; each may have a depth of its
own. Global max pooling lets one set of weights take any resolution. At widths 64/256/256 and depth 2: 1.97 M
parameters, 0.236 GFLOP forward at 32 pixels. Source: github.com/KellerJordan/cifar10-airbench (depth 2: airbench94,
depth 3: airbench96).
"""

from collections.abc import Collection, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.conv_pool import conv_pool_norm
from kernels.whiten import whiten
from speedrun.config import ModelConfig
from speedrun.models.layers import ACTIVATIONS, BatchNorm, Conv, Linear, Whitening


class Group(nn.Module):
    """One stage: halves the resolution, sets the width. (N, in, S, S) -> (N, out, S // 2, S // 2).

    fused: what Triton kernels do in training, where those run. norm: pooling, BN and activation; conv: the first
    convolution with what follows it.
    """

    def __init__(
        self, channels_in: int, channels_out: int, depth: int, activation: str, fused: Collection[str] = ()
    ) -> None:
        super().__init__()
        if depth not in (2, 3):
            raise ValueError(f"depth must be 2 or 3, not {depth}")
        self.activation, self.activation_name, self.fused = ACTIVATIONS[activation], activation, fused
        self.convs = nn.ModuleList(Conv(channels_in if i == 0 else channels_out, channels_out) for i in range(depth))
        self.norms = nn.ModuleList(BatchNorm(channels_out) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        norms = cast("list[BatchNorm]", self.norms)
        parts, name = _in_kernels(self), self.activation_name
        if "conv" in parts and norms[0].add_up is None:  # a kernel knows this device's batch alone
            x = conv_pool_norm(x, cast(Conv, self.convs[0]).weight, **norms[0].taken(), activation=name)
        else:
            first = cast(Conv, self.convs[0])
            while_convolving, after = (2, 1) if first.pools(x) else (1, 2)
            x = norms[0].activated(first(x, while_convolving), name, pool=after, fused="norm" in parts)
        skip = x
        x = norms[1].activated(self.convs[1](x), name, fused="norm" in parts)
        if len(self.convs) == 3:
            x = self.activation(self.norms[2](self.convs[2](x)) + skip)
        return x


def _in_kernels(part: "Group | SpeedNet") -> Collection[str]:
    """What kernels do now: evaluation has no statistics to take, and a compiler makes kernels of its own."""
    return part.fused if part.training and not torch.compiler.is_compiling() else ()


def _global_max(x: Tensor) -> Tensor:
    """The largest value of each map: (N, C, S, S) -> (N, C)."""
    if torch.compiler.is_compiling():
        # Compiled code computes the map anew for the backward pass, unrounded: amax, which looks there for the value
        # that it gave, finds it nowhere and divides by zero. Pooling remembers the place.
        return F.max_pool2d(x, list(x.shape[2:])).flatten(1)
    return x.amax(dim=(2, 3))


class SpeedNet(nn.Module):
    """Images (N, 3, S, S) in the compute dtype -> logits (N, classes) in the same dtype.

    fused: what Triton kernels do in training, where those run: whiten, conv (of the first group) and norm.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (64, 256, 256),
        depths: Sequence[int] = (2, 2, 2),
        activation: str = "gelu",
        classes: int = 10,
        fused: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.activation, self.activation_name, self.fused = ACTIVATIONS[activation], activation, fused
        self.whiten = Whitening()
        inputs = (self.whiten.out_channels, *widths[:-1])
        self.groups = nn.ModuleList(
            Group(narrow, wide, depth, activation, [part for part in fused if part != "conv" or place == 0])
            for place, (narrow, wide, depth) in enumerate(zip(inputs, widths, depths, strict=True))
        )
        self.head = Linear(widths[-1], classes, bias=False)
        self.reset_head()

    @torch.no_grad()
    def reset_head(self) -> None:
        """Scale the head to unit deviation; `forward` divides by the width, so logits start small."""
        self.head.weight.div_(self.head.weight.std())

    def initialize(self, images: Tensor) -> None:
        """Compute the whitening filters from normalised training images (N, 3, H, W)."""
        self.whiten.initialize(images)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.whiten.bias
        if "whiten" in _in_kernels(self) and not bias.requires_grad:
            x = whiten(x, self.whiten.weight, bias, self.activation_name)
        else:
            x = self.activation(self.whiten(x))
        for group in self.groups:
            x = group(x)
        x = _global_max(x)
        return self.head(x) / x.shape[1]


def build(config: ModelConfig, classes: int) -> SpeedNet:
    """The net that the config describes. Raises UsageError where a size is missing."""
    net = SpeedNet(config.need("widths"), config.depths, config.activation, classes, config.fused)
    for layer in net.modules():
        if isinstance(layer, Conv) and config.fp8 is not None:
            layer.fp8 = layer.in_channels >= config.fp8
    return net
