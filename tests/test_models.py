"""The nets: sizes, costs, their first layer, and the dtype they compute in."""

import numpy as np
import pytest
import torch
from torch import nn

from speedrun import models
from speedrun.config import ModelConfig
from speedrun.errors import UsageError
from speedrun.models.layers import BatchNorm, BatchNorm2d, Conv, Linear, Whitening
from speedrun.models.speednet import Group, SpeedNet

Depth = int | tuple[int, int, int]


def build(
    widths: tuple[int, int, int] = (64, 256, 256), depth: Depth = 2, classes: int = 10, seed: int = 0
) -> SpeedNet:
    torch.manual_seed(seed)
    net = models.build(ModelConfig(widths=widths, depth=depth), classes)
    assert isinstance(net, SpeedNet)
    return net


def images(count: int = 200, size: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth pictures, whose neighbouring pixels and channels go together as in photographs."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, size // 4, size // 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    grey = smooth.mean(1, keepdim=True)
    return 0.7 * grey + 0.3 * smooth + 0.05 * torch.randn(count, 3, size, size, generator=generator)


def convolutions(widths: tuple[int, int, int], depth: Depth) -> list[tuple[int, int, bool]]:
    """(in, out, whether it is the first of its group) of every 3x3 convolution, in order."""
    found, depths = [], depth if isinstance(depth, tuple) else (depth,) * 3
    for narrow, wide, deep in zip((24, *widths[:-1]), widths, depths, strict=True):
        found += [(narrow, wide, True)] + [(wide, wide, False)] * (deep - 1)
    return found


@pytest.mark.parametrize(
    ("widths", "depth", "expected"),
    [
        ((64, 256, 256), 2, 1_972_792),
        ((64, 256, 256), 3, 3_190_456),
        ((64, 256, 256), (2, 2, 3), 1_972_792 + 9 * 256 * 256 + 2 * 256),
        ((8, 8, 8), 2, None),
        ((128, 384, 512), 3, None),
    ],
)
def test_the_number_of_parameters(widths: tuple[int, int, int], depth: Depth, expected: int | None):
    whitening = 24 * 3 * 2 * 2 + 24
    # With scale and bias of the norm after each convolution.
    groups = sum(9 * narrow * wide + 2 * wide for narrow, wide, _ in convolutions(widths, depth))
    by_hand = whitening + groups + 10 * widths[-1]
    net = build(widths, depth)
    assert models.parameters(net) == by_hand == sum(parameter.numel() for parameter in net.parameters())
    assert expected in (by_hand, None)


@pytest.mark.parametrize(("depth", "expected"), [(2, 0.236e9), (3, None), ((2, 3, 2), None)])
@pytest.mark.parametrize("size", [32, 24, 17])
def test_the_operations_of_a_forward_pass(depth: Depth, size: int, expected: float | None):
    widths = (64, 256, 256)
    side = size - 1
    by_hand = 2 * 24 * 3 * 2 * 2 * side**2
    for narrow, wide, first in convolutions(widths, depth):
        by_hand += 2 * 9 * narrow * wide * side**2
        if first:  # pooling follows it
            side //= 2
    by_hand += 2 * widths[-1] * 10
    net = build(widths, depth)
    assert models.forward_flops(net, size) == by_hand
    assert net.training
    if expected and size == 32:
        assert by_hand == pytest.approx(expected, rel=0.002)


def test_counting_leaves_the_net_as_it_was():
    net = build((8, 8, 8))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    models.forward_flops(net, 32)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("depth", [2, 3, (2, 2, 3)])
@pytest.mark.parametrize("size", [9, 10, 15, 16, 24, 31, 32, 40, 64])
def test_any_resolution_gives_logits(size: int, depth: Depth):
    logits = build((8, 12, 16), depth, classes=7)(torch.randn(4, 3, size, size))
    assert logits.shape == (4, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_stay_float32_and_the_net_computes_in_the_dtype_of_its_input(dtype: torch.dtype):
    net = build((8, 12, 16))
    seen = []
    for layer in net.modules():
        if isinstance(layer, Conv | Linear | BatchNorm | Whitening):
            layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    logits = net(images(4).to(dtype))
    logits.float().sum().backward()
    assert set(seen) == {logits.dtype} == {dtype}
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    gradients = [parameter.grad for parameter in net.parameters() if parameter.requires_grad]
    assert {gradient.dtype for gradient in gradients if gradient is not None} == {torch.float32}
    assert None not in gradients


def test_half_precision_gives_about_the_same_logits():
    net, batch = build((32, 64, 64)), images(32)
    net.initialize(batch)
    full, half = net(batch), net(batch.bfloat16()).float()
    assert (full - half).abs().max() < 0.05 * full.abs().max()


@pytest.mark.slow
def test_a_compiled_net_has_the_gradients_of_an_eager_one():
    """In bfloat16, where what compiled code computes anew differs in its last digits from what it gave."""
    net = build((8, 16, 16)).to(memory_format=torch.channels_last)
    batch = images(40, size=24).bfloat16().to(memory_format=torch.channels_last)
    found = []
    for forward in (net, torch.compile(net, dynamic=False)):
        net.zero_grad()
        try:
            forward(batch)[:, 0].float().sum().backward()
        except Exception as error:
            if "compiler" not in str(error).lower():
                raise
            pytest.skip("there is no C++ compiler here")
        found.append(torch.cat([each.grad.flatten() for each in net.parameters() if each.grad is not None]))
    eager, compiled = found
    assert torch.isfinite(compiled).all()
    assert torch.cosine_similarity(eager, compiled, dim=0) > 0.9


def test_a_convolution_begins_as_the_identity_on_its_input():
    torch.manual_seed(0)
    conv, x = Conv(5, 12), torch.randn(2, 5, 9, 9)
    assert torch.equal(conv(x)[:, :5], x)
    others = conv.weight[5:]
    assert others.std() > 0.05  # the further filters are random
    assert len({tuple(row.flatten().tolist()) for row in others}) == len(others)


def test_only_biases_of_the_normalisation_are_trained():
    net = build((8, 12, 16))
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    norms = {f"groups.{group}.norms.{index}.weight" for group in range(3) for index in range(2)}
    assert frozen == {"whiten.weight", *norms}
    assert all((net.get_parameter(name) == 1).all() for name in norms)


def test_the_head_starts_with_unit_deviation_and_is_scaled_by_the_width():
    net = build((8, 12, 64))
    assert net.head.weight.std().item() == pytest.approx(1)
    net.initialize(images())
    features = torch.randn(3, 64, 1, 1)
    expected = features[:, :, 0, 0] @ net.head.weight.T / 64
    net.groups = nn.ModuleList([Constant(features)])
    torch.testing.assert_close(net(images(3)), expected)


class Constant(nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value


def patches(x: torch.Tensor) -> torch.Tensor:
    """(patches, channels) of an output (N, C, H, W)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def test_whitening_whitens():
    batch = images()
    layer = Whitening()
    layer.initialize(batch, eps=1e-8)
    output = patches(layer(batch).detach())
    moments = output[:, :12].T @ output[:, :12] / len(output)
    np.testing.assert_allclose(moments.numpy(), np.eye(12), atol=0.02)
    # The pictures themselves are far from white.
    raw = nn.functional.unfold(batch, 2).transpose(1, 2).flatten(0, 1)
    eigenvalues = torch.linalg.eigvalsh(raw.T @ raw / len(raw))
    assert eigenvalues[-1] / eigenvalues[0] > 100


def test_whitening_gives_both_signs_and_a_trained_bias_of_zero():
    layer = Whitening()
    layer.initialize(images())
    assert layer.out_channels == 24
    assert torch.equal(layer.weight[12:], -layer.weight[:12])
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == (False, True)
    assert not layer.bias.any()


def test_a_floor_keeps_weak_directions_from_being_blown_up():
    flat = torch.zeros(10, 3, 8, 8) + torch.randn(10, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    layer = Whitening()
    layer.initialize(flat)
    assert layer.weight.isfinite().all()
    assert layer.weight.abs().max() <= 1 / 5e-4**0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_filters_do_not_depend_on_the_compute_dtype(dtype: torch.dtype):
    batch = images().to(dtype)  # the same values, whatever type holds them
    half, full = Whitening(), Whitening()
    half.initialize(batch)
    full.initialize(batch.float())
    assert torch.equal(half.weight, full.weight)


def test_depth_3_has_a_residual():
    torch.manual_seed(0)
    group = Group(6, 8, 3, "gelu").eval()
    x = torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        group.convs[2].weight.zero_()
    shallow = Group(6, 8, 2, "gelu").eval()
    shallow.load_state_dict({name: group.state_dict()[name] for name in shallow.state_dict()})
    skipped = shallow.activation(shallow.norms[0](nn.functional.max_pool2d(shallow.convs[0](x), 2)))
    assert skipped.std() > 0.1
    torch.testing.assert_close(group(x), group.activation(skipped))  # the third convolution adds nothing here


def test_another_depth_is_refused():
    with pytest.raises(ValueError, match="depth must be 2 or 3, not 4"):
        Group(3, 8, 4, "gelu")


def test_a_net_whose_size_was_not_chosen_is_refused():
    with pytest.raises(UsageError, match=r"a net of family speednet needs model\.widths"):
        models.build(ModelConfig(), 10)


def test_one_seed_gives_one_net():
    first, same, other = build(seed=1), build(seed=1), build(seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not torch.equal(first.groups[0].convs[0].weight, other.groups[0].convs[0].weight)


@pytest.mark.parametrize("activation", ["gelu", "silu", "relu"])
def test_the_activation_is_the_one_asked_for(activation: str):
    torch.manual_seed(0)
    net = models.build(ModelConfig(widths=(8, 8, 8), depth=2, activation=activation), 10)
    x = torch.linspace(-3, 3, 13)
    expected = getattr(nn.functional, activation)(x)
    for part in (net, *net.groups):
        assert torch.equal(part.activation(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_over_several_devices_are_torchs_where_there_is_one(dtype: torch.dtype):
    """Output, gradients and running averages; half of the channels lie far from zero."""
    x = (
        3 * torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0))
        + torch.tensor([0, 0, 50, 50])[:, None, None]
    ).to(dtype)
    found = []
    for add_up in (None, lambda own: own):
        norm, given = BatchNorm2d(4), x.clone().requires_grad_()
        norm.add_up = add_up
        out = norm(given)
        (out.float() * torch.arange(25.0).view(5, 5)).sum().backward()
        found.append([out, given.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
        assert norm.num_batches_tracked == 1
        assert out.dtype == dtype
        assert torch.equal(norm.eval()(x), torch.nn.BatchNorm2d.forward(norm, x))
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert torch.allclose(ours.float(), theirs.float(), rtol=1e-3 if dtype is torch.float32 else 2e-2, atol=2e-2)
