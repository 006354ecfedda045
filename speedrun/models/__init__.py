"""The nets: one module a family. `build` makes one from its config."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from speedrun.config import ModelConfig


def build(config: "ModelConfig", classes: int) -> "nn.Module":
    """A net for (N, 3, S, S) images in any float dtype, giving logits (N, classes); parameters float32."""
    from speedrun.models.speednet import SpeedNet

    if config.widths is None or config.depth is None:
        raise ValueError("the planner has not chosen widths and depth yet")
    return SpeedNet(config.widths, config.depth, config.activation, classes)


def parameters(net: "nn.Module") -> int:
    """Number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in net.parameters())


def forward_flops(net: "nn.Module", size: int) -> int:
    """Floating-point operations of one image's forward pass at `size` pixels, two a multiply-add.

    Counts convolutions and linear layers. By hooks on a real pass of one image: torch's own counter takes over a second
    to import.
    """
    import torch
    from torch import Tensor, nn

    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        total += 2 * output.numel() * weight[0].numel()

    # Every layer that multiplies has a weight of two or more dimensions; normalisation has one of one.
    layers = [layer for layer in net.modules() if getattr(getattr(layer, "weight", None), "ndim", 0) >= 2]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    training = net.training
    parameter = next(net.parameters())
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, 3, size, size, device=parameter.device, dtype=parameter.dtype))
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return total
