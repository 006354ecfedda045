"""Optimisers beside plain references: one matrix at a time for Muon, torch's own for SGD; and the averaged weights."""

import math

import pytest
import torch
from torch import nn

from kernels import backend
from speedrun import models
from speedrun.config import ModelConfig, OptimConfig
from speedrun.losses import cross_entropy
from speedrun.methods.plain import PlainStep
from speedrun.models.layers import BatchNorm
from speedrun.optim import Muon, Optimizers
from speedrun.stream import Batch

NEEDS_TRITON = pytest.mark.skipif(not backend.ENABLED, reason="no Triton that runs here")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = models.build(ModelConfig(widths=(8, 12, 16), depth=2), classes=5)
    net.initialize(random(64, 3, 16, 16))  # type: ignore[operator]
    return net


def batches(count: int, size: int = 24) -> list[Batch]:
    """Pictures in which the class is the place of a bright stripe."""
    made = []
    for seed in range(count):
        labels = torch.randint(5, (size,), generator=torch.Generator().manual_seed(seed))
        images = 0.5 * random(size, 3, 16, 16, seed=seed)
        for image, label in zip(images, labels, strict=True):
            image[:, 3 * label : 3 * label + 3] += 1
        made.append(Batch(images, labels, labels))
    return made


class PlainMuon:
    """Muon, one filter bank after the other, in the words of its description."""

    def __init__(self, parameters: list[torch.Tensor], lr: float, momentum: float, steps: int) -> None:
        self.parameters, self.lr, self.momentum, self.steps = parameters, lr, momentum, steps
        self.buffers = [torch.zeros_like(parameter) for parameter in parameters]

    def step(self, gradients: list[torch.Tensor]) -> None:
        for position, gradient in enumerate(gradients):
            self.buffers[position] = self.momentum * self.buffers[position] + gradient
            nesterov = gradient + self.momentum * self.buffers[position]
            matrix = nesterov.flatten(1)
            u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
            s = s / s.square().sum().sqrt()
            for _ in range(self.steps):
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            update = (u * s) @ vh
            weight = self.parameters[position]
            weight = weight * math.sqrt(len(weight)) / weight.square().sum().sqrt()
            self.parameters[position] = weight - self.lr * update.view_as(weight)


@pytest.mark.parametrize("method", ["torch", pytest.param("fused", marks=NEEDS_TRITON)])
def test_muon_steps_like_the_plain_reference(method: str):
    shapes = [(8, 4, 3, 3), (8, 4, 3, 3), (16, 8, 3, 3), (6, 10)]
    here = "cuda" if method == "fused" and torch.cuda.is_available() else "cpu"
    parameters = [nn.Parameter(random(*shape, seed=i).to(here)) for i, shape in enumerate(shapes)]
    plain = PlainMuon([p.detach().double() for p in parameters], lr=0.1, momentum=0.6, steps=3)
    fast = Muon(parameters, lr=0.1, momentum=0.6, newton_schulz_steps=3, dtype=None)
    fast.method = method
    for step in range(6):
        gradients = [random(*shape, seed=100 + 10 * step + i).to(here) for i, shape in enumerate(shapes)]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        if step == 3:  # the schedule moves the rate
            fast.param_groups[0]["lr"] = plain.lr = 0.02
        fast.step()
        plain.step([gradient.double() for gradient in gradients])
        for parameter, expected, gradient in zip(parameters, plain.parameters, gradients, strict=True):
            torch.testing.assert_close(parameter.detach().double(), expected, atol=1e-4, rtol=1e-4)
            assert torch.equal(parameter.grad, gradient)  # gradients are read only


def test_muon_in_bfloat16_goes_the_same_way():
    wide, narrow = (nn.Parameter(random(16, 8, 3, 3)) for _ in range(2))
    start = wide.detach() * 4 / wide.detach().norm()
    for parameter, dtype in ((wide, None), (narrow, torch.bfloat16)):
        parameter.grad = random(16, 8, 3, 3, seed=1)
        Muon([parameter], lr=0.1, dtype=dtype).step()
    steps = [(parameter.detach() - start).flatten() for parameter in (wide, narrow)]
    assert torch.cosine_similarity(*steps, dim=0) > 0.999


def test_muon_takes_the_kernels_where_they_run_if_the_config_says_so():
    for fused, method in ((True, "auto"), (False, "torch")):
        muon = Optimizers(tiny_net(), OptimConfig(fused=fused), 24, torch.float32).members[1]
        assert isinstance(muon, Muon)
        assert muon.method == method


def test_muon_skips_what_has_no_gradient_and_takes_no_closure():
    with_gradient, without = nn.Parameter(random(4, 4, 3, 3)), nn.Parameter(random(4, 4, 3, 3, seed=1))
    before = without.detach().clone()
    with_gradient.grad = random(4, 4, 3, 3, seed=2)
    optimizer = Muon([with_gradient, without])
    optimizer.step()
    assert torch.equal(without.detach(), before)
    with pytest.raises(ValueError, match="no closure"):
        optimizer.step(lambda: 0.0)


def named_groups(net: nn.Module, optimizers: Optimizers) -> dict[str, tuple[str, float]]:
    """For each parameter's name: its optimiser and its rate now."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return {
        names[id(parameter)]: (type(member).__name__, group["lr"])
        for member in optimizers.members
        for group in member.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("filters", ["muon", "sgd", "adamw"])
def test_every_trained_parameter_is_dealt_out_once(filters: str):
    net = tiny_net()
    optimizers = Optimizers(net, OptimConfig(filters=filters), 100, torch.float32)
    dealt = [p for member in optimizers.members for group in member.param_groups for p in group["params"]]
    assert len(dealt) == len({id(parameter) for parameter in dealt})
    found = named_groups(net, optimizers)
    assert set(found) == {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    for name, (optimizer, _) in found.items():
        is_filter = net.get_parameter(name).ndim == 4
        expected = {"muon": "Muon" if is_filter else "SGD", "sgd": "SGD", "adamw": "AdamW"}
        assert optimizer == expected[filters], name


@pytest.mark.parametrize(
    ("progress", "share", "whitening"),
    [(0.0, 1.0, 1.0), (0.1875, 0.8125, 0.5), (0.375, 0.625, 0.0), (0.75, 0.25, 0.0), (1.0, 0.0, 0.0)],
)
def test_rates_at_a_point_of_the_run(progress: float, share: float, whitening: float):
    net, config = tiny_net(), OptimConfig(lr=0.3, bias_lr=0.05, head_lr=0.7)
    optimizers = Optimizers(net, config, 100, torch.float32)
    optimizers.set_progress(0.9)  # rates are a function of progress, not of what came before
    assert optimizers.set_progress(progress) == share
    for name, (_, rate) in named_groups(net, optimizers).items():
        parameter = net.get_parameter(name)
        peak = {4: 0.3, 2: 0.7, 1: 0.05}[parameter.ndim]
        assert rate == pytest.approx(peak * (whitening if name == "whiten.bias" else share)), name


def test_at_the_end_every_rate_is_exactly_zero():
    net = tiny_net()
    optimizers = Optimizers(net, OptimConfig(warmup=0.2), 100, torch.float32)
    optimizers.set_progress(1.0)
    assert {rate for _, rate in named_groups(net, optimizers).values()} == {0.0}


def test_with_rates_of_zero_a_step_moves_nothing_that_sgd_trains():
    net = tiny_net()
    step = PlainStep(net, net, OptimConfig(), 24, torch.float32)
    for batch in batches(3):
        step(batch, 0.2)
    before = {name: p.detach().clone() for name, p in net.named_parameters() if p.ndim < 4}
    step(batches(1)[0], 1.0)
    assert all(torch.equal(net.get_parameter(name), value) for name, value in before.items())


def test_the_sgd_part_steps_like_torchs_own():
    config = OptimConfig(weight_decay=1e-3, sgd_momentum=0.8, bias_lr=0.02, head_lr=0.3)
    net, twin = tiny_net(), tiny_net()
    optimizers = Optimizers(net, config, batch_size=50, dtype=torch.float32)
    by_kind: dict[str, list[nn.Parameter]] = {"bias": [], "head": []}
    for name, parameter in twin.named_parameters():
        if parameter.requires_grad and parameter.ndim < 4 and name != "whiten.bias":
            by_kind["head" if parameter.ndim == 2 else "bias"].append(parameter)
    # The decay an image, times the images of a batch, does not depend on the rate.
    reference = torch.optim.SGD(
        [
            {"params": by_kind["bias"], "lr": 0.02, "weight_decay": 1e-3 * 50 / 0.02},
            {"params": by_kind["head"], "lr": 0.3, "weight_decay": 1e-3 * 50 / 0.3},
        ],
        momentum=0.8,
        nesterov=True,
    )
    for number, progress in enumerate((0.0, 0.1, 0.5, 0.9)):
        optimizers.set_progress(progress)
        for group, peak in zip(reference.param_groups, (0.02, 0.3), strict=True):
            group["lr"] = peak * (1 - progress)
        for seed, (name, parameter) in enumerate(net.named_parameters()):
            gradient = random(*parameter.shape, seed=1000 * number + seed)
            parameter.grad = gradient if parameter.requires_grad else None
            twin.get_parameter(name).grad = gradient.clone() if parameter.requires_grad else None
        optimizers.members[0].step()
        reference.step()
        for kind in by_kind.values():
            for expected in kind:
                name = next(n for n, p in twin.named_parameters() if p is expected)
                torch.testing.assert_close(net.get_parameter(name), expected)


def test_the_whitening_bias_is_spared_its_gradient_once_it_has_faded():
    net = tiny_net()
    step = PlainStep(net, net, OptimConfig(whiten_bias=0.5), 24, torch.float32)
    bias = net.get_parameter("whiten.bias")
    first = batches(1)[0]
    step(first, 0.49)
    moved = bias.detach().clone()
    assert moved.any()
    assert bias.requires_grad
    step(first, 0.5)
    assert torch.equal(bias.detach(), moved)
    assert not bias.requires_grad


def test_a_step_trains_and_reports_mean_loss_and_accuracy():
    net = tiny_net()
    step = PlainStep(net, net, OptimConfig(lr=0.1, label_smoothing=0.1), 24, torch.float32)
    first = batches(1)[0]
    net.train()
    with torch.no_grad():
        logits = tiny_net().train()(first.images)
    expected = [
        cross_entropy(logits, first.labels, 0.1).item() / 24,
        (logits.argmax(1) == first.labels).float().mean().item(),
    ]
    assert step(first, 0.0).tolist() == pytest.approx(expected)
    losses = [step(batch, 0.3)[0].item() for batch in batches(30)]
    assert losses[-1] < 0.6 * losses[0]
    assert all(parameter.grad is None for parameter in net.parameters())


def trained(ema: float, steps: int = 40) -> PlainStep:
    net = tiny_net()
    step = PlainStep(net, net, OptimConfig(lr=0.1, ema=ema), 24, torch.float32)
    for number, batch in enumerate(batches(steps)):
        step(batch, number / steps)
    return step


def test_without_averaging_the_trained_net_is_evaluated():
    step = trained(0.0, steps=2)
    assert step.evaluated is step.net


def test_the_average_is_the_exponential_one_of_weights_and_statistics():
    net = tiny_net()
    step = PlainStep(net, net, OptimConfig(lr=0.1, ema=0.1), 24, torch.float32)
    expected: dict[str, torch.Tensor] = {}
    for number, batch in enumerate(batches(6)):
        step(batch, number / 6)
        for name, value in net.state_dict().items():
            value = value.detach().double()
            decay = min(0.1, number / (20 + number))  # a short memory at first
            expected[name] = decay * expected.get(name, value) + (1 - decay) * value
    for name, value in step.evaluated.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], atol=1e-5, rtol=1e-4)


def test_N5_the_averaged_net_is_evaluated_with_statistics_that_match_it():
    step = trained(0.9)
    average = step.evaluated
    held = {name: m for name, m in average.named_modules() if isinstance(m, BatchNorm)}
    latest = {name: m for name, m in step.net.named_modules() if isinstance(m, BatchNorm)}
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in held}
    for name, norm in held.items():
        norm.register_forward_hook(lambda _, inputs, output, name=name: seen[name].append(inputs[0]))
    average.eval()
    with torch.no_grad():
        average(torch.cat([batch.images for batch in batches(40)]))
    for name, norm in held.items():
        true_mean, true_std = seen[name][0].mean((0, 2, 3)), seen[name][0].std((0, 2, 3))
        assert ((norm.running_mean - true_mean) / true_std).abs().max() < 0.35, name
        assert (norm.running_var.sqrt() / true_std - 1).abs().max() < 0.35, name
        assert not torch.equal(norm.running_mean, latest[name].running_mean)
