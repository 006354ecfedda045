"""Sharpness-aware steps beside a plain twin, written parameter by parameter; what they leave as it was."""

import copy
import math
from typing import Any

import pytest
import torch
from test_guard import a_step, poisoned
from torch import Tensor, nn

from speedrun.losses import cross_entropy
from speedrun.methods.plain import PlainStep
from speedrun.optim import Optimizers
from speedrun.stream import Batch


def gradients(net: nn.Module, batch: Batch, smoothing: float) -> dict[str, Tensor]:
    net.zero_grad()
    cross_entropy(net.train()(batch.images), batch.labels, smoothing).backward()
    return {name: each.grad.clone() for name, each in net.named_parameters() if each.grad is not None}


def twin_step(net: nn.Module, optimizers: Optimizers, batch: Batch, progress: float) -> None:
    """One step as the papers write it, on a copy of the net, so that nothing uphill can reach the net itself."""
    config = optimizers.config
    optimizers.set_progress(progress)
    optimizers.freeze_faded(progress)
    found = gradients(net, batch, config.label_smoothing)
    sizes = {name: net.get_parameter(name).detach().abs() if config.sam_adaptive else 1.0 for name in found}
    norm = math.sqrt(sum(float(((sizes[name] * gradient) ** 2).sum()) for name, gradient in found.items()))
    uphill = copy.deepcopy(net)
    for name, gradient in found.items():
        uphill.get_parameter(name).data += config.sam / norm * sizes[name] ** 2 * gradient
    for name, gradient in gradients(uphill, batch, config.label_smoothing).items():
        net.get_parameter(name).grad = gradient
    for optimizer in optimizers.members:
        optimizer.step()


def state(step: PlainStep) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in step.net.state_dict().items()}


@pytest.mark.parametrize("filters", ["muon", "sgd", "adamw"])
@pytest.mark.parametrize(("rho", "adaptive"), [(0.05, False), (0.5, True)])
def test_a_step_is_that_of_the_papers_whatever_optimiser_descends(filters: str, rho: float, adaptive: bool):
    step, batch = a_step(filters=filters, sam=rho, sam_adaptive=adaptive, momentum=0.5)
    start = state(step)
    net = copy.deepcopy(step.net)
    optimizers = Optimizers(net, step.config, 16, torch.float32)
    for number in range(6):
        images = torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(number))
        each = Batch(images, batch.labels, batch.index)
        step(each, number / 6)
        twin_step(net, optimizers, each, number / 6)
    for name, tensor in net.state_dict().items():  # the statistics are among them
        torch.testing.assert_close(step.net.state_dict()[name], tensor, atol=2e-5, rtol=1e-4, msg=name)
    plain, _ = a_step(filters=filters, momentum=0.5)
    for number in range(6):
        images = torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(number))
        plain(Batch(images, batch.labels, batch.index), number / 6)
    moved = max(float((start[name] - tensor).abs().max()) for name, tensor in state(plain).items())
    apart = max(float((state(step)[name] - tensor).abs().max()) for name, tensor in state(plain).items())
    assert moved > apart > 1e-3  # it is another step, and not another training


def test_a_radius_of_zero_is_the_plain_step_to_the_bit():
    (step, batch), (plain, _) = a_step(sam=0.0, sam_adaptive=True), a_step()
    for progress in (0.0, 0.2, 0.6):
        assert torch.equal(step(batch, progress), plain(batch, progress))
    assert all(torch.equal(tensor, state(plain)[name]) for name, tensor in state(step).items())


def test_it_passes_twice_tells_of_the_first_and_counts_the_batch_once():
    step, batch = a_step(sam=0.05)
    plain, _ = a_step()
    passes: list[int] = []
    step.net.register_forward_hook(lambda *_: passes.append(1))
    assert torch.equal(step(batch, 0.0), plain(batch, 0.0))
    assert len(passes) == 2
    counts = [tensor for name, tensor in step.net.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts
    assert all(count == 1 for count in counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("adaptive", [False, True])
def test_N1_uphill_of_a_batch_that_is_not_finite_leads_nowhere(dtype: torch.dtype, adaptive: bool):
    settings: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "filters": "sgd"}
    step, batch = a_step(dtype=dtype, sam=0.1, sam_adaptive=adaptive, **settings)
    before = state(step)
    assert math.isnan(step(poisoned(batch), 0.0)[0])
    counted = {name for name in before if name.endswith("num_batches_tracked")}
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(step).items() if name not in counted)
    first = step(batch, 0.1)
    assert first[0] > step(batch, 0.2)[0]


def test_memory_that_runs_out_uphill_leaves_the_weights_where_they_were():
    step, batch = a_step(sam=0.1)
    before, passes = state(step), []

    def forward(images: Tensor) -> Tensor:
        passes.append(1)
        if len(passes) == 2:
            raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")
        return step.net(images)

    step.forward = forward
    with pytest.raises(torch.OutOfMemoryError):
        step(batch, 0.0)
    assert all(torch.equal(parameter, before[name]) for name, parameter in step.net.named_parameters())


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("settings", [{"sam": 0.5}, {"clip": 1e-3}])
def test_a_bias_that_has_faded_out_counts_in_no_norm_though_a_compiled_net_keeps_its_gradient(
    settings: dict[str, float], held: bool
):
    (step, batch), (compiled, _) = (a_step(filters="sgd", whiten_bias=0.3, **settings) for _ in range(2))
    bias, start = compiled.net.get_parameter("whiten.bias"), state(compiled)["whiten.bias"]

    def forward(images: Tensor) -> Tensor:
        """Another than the net itself, as what is compiled, with the same numbers and a large gradient of the bias."""
        nothing = 100 * (bias.sum() - bias.detach().sum())
        return compiled.net(images) + nothing * torch.tensor([1.0, 0.0, 0.0])

    compiled.forward = forward
    if held:
        compiled.hold_numbers()
    for progress in (0.3, 0.5, 0.7):
        torch.testing.assert_close(compiled(batch, progress), step(batch, progress))
    for name, tensor in state(step).items():
        torch.testing.assert_close(state(compiled)[name], tensor, msg=name)
    assert torch.equal(bias, start)
    compiled(batch, 0.2)
    assert not torch.equal(bias, start)  # before that it is trained
