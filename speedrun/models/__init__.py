"""The nets: one module a family, with `build(config, classes)`."""

import importlib
from typing import TYPE_CHECKING

from speedrun.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from speedrun.config import ModelConfig


def build(config: "ModelConfig", classes: int) -> "nn.Module":
    """A net for (N, 3, S, S) images in any float dtype, giving logits (N, classes); parameters float32.

    Raises UsageError where a size that the family needs is not set, and for a net at or over its parameter limit.
    """
    family = importlib.import_module(f"{__name__}.{config.family}")
    net: nn.Module = family.build(config, classes)
    limit, count = config.parameter_limit, parameters(net)
    if limit is not None and count >= limit:
        raise UsageError(f"the net has {count:,} parameters and must stay below {limit:,}")
    return net


def sketch(config: "ModelConfig", classes: int) -> "nn.Module":
    """The same net without its numbers: for counting, at no cost. Raises as `build` does."""
    import torch

    with torch.device("meta"):
        return build(config, classes)


def parameters(net: "nn.Module") -> int:
    """Number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in net.parameters())


def forward_flops(net: "nn.Module", size: int) -> int:
    """Floating-point operations of one image's forward pass at `size` pixels, two a multiply-add.

    Counts convolutions and linear layers. By hooks on a real pass of one image: torch's own counter takes over a second
    to import.
    """
    return _summed(net, size, layer_flops)


def outputs(net: "nn.Module", size: int) -> int:
    """Numbers that convolutions and linear layers give of one image of `size` pixels: what a step keeps most of."""
    return _summed(net, size, lambda layer, output: output.numel() if layer_flops(layer, output) else 0)


def _summed(net: "nn.Module", size: int, of: "Callable[[nn.Module, Tensor], int]") -> int:
    """The sum of a number over all layers and what they give of one image."""
    total = 0

    def count(layer: "nn.Module", inputs: "tuple[Tensor, ...]", output: "Tensor") -> None:
        nonlocal total
        total += of(layer, output)

    hooks = [layer.register_forward_hook(count) for layer in net.modules()]
    try:
        run_once(net, size)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def layer_flops(layer: "nn.Module", output: "Tensor") -> int:
    """Operations that a layer spent on `output`, two a multiply-add; 0 where it multiplies no matrices."""
    weight = getattr(layer, "weight", None)
    # Every layer that multiplies has a weight of two or more dimensions; normalisation has one of one.
    return 2 * output.numel() * weight[0].numel() if weight is not None and weight.ndim >= 2 else 0


def run_once(net: "nn.Module", size: int) -> None:
    """A forward pass of one black image of `size` pixels; leaves the net as it was."""
    import torch

    training = net.training
    parameter = next(net.parameters())
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, 3, size, size, device=parameter.device, dtype=parameter.dtype))
    finally:
        net.train(training)
