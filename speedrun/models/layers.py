"""Layers that the nets share. Parameters stay float32; every layer computes in the dtype of its input.

That is mixed precision without autocast: the casts are in the open, a captured graph or a compiled step sees the same
operations as eager, and the optimiser always updates float32 weights.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import conv_cpu, norm_cpu, winograd
from kernels.activation import ACTIVATIONS
from kernels.conv_fp8 import conv_fp8
from kernels.pool_norm import pool_norm

__all__ = ["ACTIVATIONS", "BatchNorm", "BatchNorm2d", "Conv", "Conv2d", "Linear", "Whitening"]


class Conv2d(nn.Conv2d):
    """torch's convolution and initialisation, of an odd kernel, padded so that a stride of 1 keeps the size.

    Input (N, in_channels, H, W), output (N, out_channels, ceil(H / stride), ceil(W / stride)), dtype of the input.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, *, groups: int = 1, bias: bool
    ) -> None:
        padding = kernel_size // 2
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv2d(x, self.weight.to(x.dtype), bias, self.stride, self.padding, groups=self.groups)


class Conv(Conv2d):
    """A convolution without bias, its first `in_channels` filters the identity (Dirac) at the start.

    Input (N, in_channels, H, W), output (N, out_channels, H, W), dtype of the input. fp8: multiplies 8-bit floats in
    training, its kernel being 3x3; compiled code does not. Eager code on a CPU takes Winograd's tiles, in training also
    products for its weight gradient, where `kernels.winograd` or `kernels.conv_cpu` is the faster one.
    Dirac initialisation: github.com/KellerJordan/cifar10-airbench.
    """

    fp8 = False

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            nn.init.dirac_(self.weight[: self.in_channels])

    def forward(self, x: Tensor, pool: int = 1) -> Tensor:
        """pool: 2 for the maxima of windows of 2 by 2, (N, out_channels, H // 2, W // 2), where `pools` says so."""
        if pool == 2 or self._by_tiles(x):
            return winograd.winograd(x, self.weight.to(x.dtype), pool)
        if torch.compiler.is_compiling() or not self.training:
            return super().forward(x)
        if self.fp8:
            return conv_fp8(x, self.weight)
        if conv_cpu.pays(x, self.weight):
            return conv_cpu.conv_cpu(x, self.weight.to(x.dtype))
        return super().forward(x)

    def pools(self, x: Tensor) -> bool:
        """Whether the fastest way to pool what comes of x is to do it while convolving."""
        return self._by_tiles(x, pool=2)

    def _by_tiles(self, x: Tensor, pool: int = 1) -> bool:
        if torch.compiler.is_compiling() or (self.training and self.fp8):
            return False
        return winograd.pays(x, self.weight, pool)


class BatchNorm2d(nn.BatchNorm2d):
    """torch's batch normalisation, (N, C, H, W) of any float dtype, which may span several devices.

    add_up: adds a float32 tensor up over the devices that train together, and its gradient too; None, as it is at
    first: statistics are of this device's part of the batch alone.
    """

    add_up: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.add_up is None or not self.training:
            return super().forward(x)
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        wide = x.float()
        # Twice over the map, so that a mean far from zero costs the variance no digits.
        own = torch.cat([wide.sum((0, 2, 3)), wide.new_tensor([x.numel() / x.shape[1]])])
        *_, count = sums = self.add_up(own)
        mean = sums[:-1] / count
        centred = wide - mean[:, None, None]
        variance = self.add_up(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class BatchNorm(BatchNorm2d):
    """Batch normalisation with its scale fixed at 1 and a trained bias; statistics and bias in float32.

    momentum: weight of the newest batch in the running averages. 0.4 is high because a run has few steps.
    """

    def __init__(self, channels: int, momentum: float = 0.4, eps: float = 1e-12) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.weight.requires_grad_(False)

    def taken(self) -> dict[str, Any]:
        """What a kernel takes that normalises a batch in this layer's place; the batch is counted."""
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        names = ("weight", "bias", "running_mean", "running_var", "momentum", "eps")
        return {name: getattr(self, name) for name in names}

    def activated(self, x: Tensor, activation: str, *, pool: int = 1, fused: bool = False) -> Tensor:
        """(N, C, S, S) pooled by `pool`, normalised and activated: (N, C, S // pool, S // pool).

        fused: by Triton kernels where those run, always with the statistics of this device's batch. Eager training on a
        CPU takes `kernels.norm_cpu` where it is the faster way.
        """
        if fused and self.add_up is None:
            return pool_norm(x, **self.taken(), activation=activation, pool=pool)
        eager = self.training and self.add_up is None and not torch.compiler.is_compiling()
        if eager and norm_cpu.pays(x, activation):
            return norm_cpu.norm_cpu(x, **self.taken(), activation=activation, pool=pool)
        # Pooling before BN and activation: they then touch a quarter of the bytes.
        return ACTIVATIONS[activation](self(F.max_pool2d(x, pool) if pool > 1 else x))


class Linear(nn.Linear):
    """torch's linear layer, computing in the dtype of its input. (N, in) -> (N, out)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class Whitening(nn.Module):
    """The first layer: filters that decorrelate k x k patches, computed from training images and then frozen.

    Input (N, 3, S, S), output (N, 6 k^2, S - k + 1, S - k + 1). The filters are the eigenvectors of the patch
    covariance, each divided by the root of its eigenvalue, with both signs. The bias is trained.
    Source: github.com/tysam-code/hlb-CIFAR10, by way of David Page's whitening.
    """

    def __init__(self, kernel_size: int = 2, channels: int = 3) -> None:
        super().__init__()
        width = 2 * channels * kernel_size**2
        # Until `initialize`, single pixels with both signs: a net of zeros would divide by no deviation.
        pixels = torch.eye(width // 2).reshape(-1, channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.cat([pixels, -pixels]), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(width))

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @torch.no_grad()
    def initialize(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the filters from normalised images (N, 3, H, W) of any float dtype."""
        width, channels, k, _ = self.weight.shape
        patches = F.unfold(images.float(), k).transpose(1, 2).reshape(-1, channels * k * k)
        covariance = patches.T @ patches / len(patches)
        # 12 x 12: the CPU's solver in float64 gives the same filters on every device.
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance.cpu().double())
        filters = eigenvectors.T / torch.sqrt(eigenvalues[:, None] + eps)
        filters = torch.cat([filters, -filters]).reshape(width, channels, k, k)
        self.weight.copy_(filters)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype))
