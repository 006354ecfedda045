"""What is told of a net's layers: each layer's sight is compared with which pixels reach it in a real pass."""

import pytest
import torch

from speedrun import anatomy, models
from speedrun.config import ModelConfig

NETS = {
    "speednet": ModelConfig(widths=(2, 3, 4), depth=3),
    "mynet": ModelConfig("mynet", widths=(2, 3, 4)),
    "dsnet": ModelConfig("dsnet", widths=(2, 3), blocks=(1, 2)),
    "resnet": ModelConfig(
        "resnet", widths=(2, 3, 3), blocks=(1, 2, 1), kernels=(3, 5, 1), skip_kernels=(1, 7, 3), pool=4
    ),
    "resnet-imagenet": ModelConfig("resnet", widths=(2, 3), blocks=(2, 1), stem="imagenet"),
}
SIDE = 128


def reached(net: torch.nn.Module) -> dict[str, int]:
    """For each layer's map: how many columns of the image reach the element in its middle.

    Image number c is not-a-number in column c, and that spreads to all that depends on it, to nothing else.
    """
    maps: dict[str, torch.Tensor] = {}
    for name, layer in net.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _, inputs, output, name=name: maps.update({name: output}))
    images = torch.zeros(SIDE, 3, 32, SIDE, dtype=torch.float64)
    images[range(SIDE), :, :, range(SIDE)] = float("nan")
    with torch.no_grad():
        net.double().eval()(images)
    pixels = {name: m[:, 0, m.shape[2] // 2, m.shape[3] // 2] for name, m in maps.items() if m.ndim == 4}
    return {name: int(pixel.isnan().sum()) for name, pixel in pixels.items()}


@pytest.mark.parametrize("name", NETS)
def test_a_layer_sees_as_far_as_pixels_reach_it(name: str):
    layers = anatomy.layers(models.sketch(NETS[name], 10), SIDE)
    found = {layer.name: layer.field for layer in layers if layer.field is not None}
    expected = reached(models.build(NETS[name], 10))
    assert found == {name: expected[name] for name in found}
    assert len(found) > 6


def test_the_receptive_field_is_that_of_the_last_map_before_it_is_pooled_as_a_whole():
    for name in ("dsnet", "resnet", "resnet-imagenet"):
        net = models.sketch(NETS[name], 10)
        assert anatomy.receptive_field(net) == max(layer.field or 0 for layer in anatomy.layers(net, 32)), name
    # Three 3x3 and the branch's, and three poolings by 2: 1 + 2 + 1 + 4 + 4 + 2 + 8 + 4.
    assert anatomy.receptive_field(models.sketch(NETS["mynet"], 10)) == 26


@pytest.mark.parametrize("name", NETS)
def test_the_layers_make_up_the_net(name: str):
    net = models.build(NETS[name], 10)
    layers = anatomy.layers(net, 32)
    assert sum(layer.parameters for layer in layers) == models.parameters(net)
    assert sum(layer.flops for layer in layers) == models.forward_flops(net, 32)
    assert layers[-1].shape == (10,)
    assert not any(layer._forward_hooks for layer in net.modules())


def test_a_layer_is_told_as_it_runs():
    first, norm, *_ = anatomy.layers(models.sketch(NETS["resnet-imagenet"], 10), 32)
    assert first == anatomy.Layer("stem", "Conv2d", (2, 16, 16), 2 * 3 * 49, 2 * 3 * 49 * 2 * 16 * 16, 7)
    assert norm == anatomy.Layer("norm", "BatchNorm2d", (2, 16, 16), 4, 0, 7)
