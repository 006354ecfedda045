"""The parts of a step beside torch's own; on real images, that averages and views lose nothing."""

from pathlib import Path

import pytest
import torch
from torch import nn

from speedrun import config, data, device, models, planner, recipes
from speedrun.config import ModelConfig, OptimConfig
from speedrun.evaluate import accuracy
from speedrun.machine import open_machine
from speedrun.methods.plain import PlainStep
from speedrun.optim import Muon, Optimizers
from speedrun.pacer import Pacer
from speedrun.selection import Work, stages
from speedrun.stream import Batch
from speedrun.trainee import build

NET = ModelConfig("dsnet", widths=(4, 8), blocks=(1, 1), activation="relu")


def net(model: ModelConfig = NET) -> nn.Module:
    torch.manual_seed(0)
    return models.build(model, 5)


def batches(count: int, size: int = 16) -> list[Batch]:
    made = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(5, (size,), generator=generator)
        made.append(Batch(torch.randn(size, 3, 12, 12, generator=generator), labels, labels))
    return made


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.05, betas=(0.9, 0.999), weight_decay=0.01),
}


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_optimiser_for_all_steps_like_torchs_own_on_the_mean_loss(name: str, clip: float):
    ours, twin = net(), net()
    optim = OptimConfig(
        filters=name, lr=0.05, momentum=0.9, weight_decay=0.01, label_smoothing=0.1, schedule="fixed", clip=clip
    )
    step = PlainStep(ours, ours, optim, 16, torch.float32)
    reference, norms = OPTIMIZERS[name](twin.parameters()), []
    for number, batch in enumerate(batches(5)):
        step(batch, number / 5)
        loss = nn.functional.cross_entropy(twin(batch.images), batch.labels, label_smoothing=0.1)
        reference.zero_grad()
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(twin.parameters(), clip or float("inf")).item())
        reference.step()
    assert max(norms) > 0.5  # there was something to clip
    for (path, parameter), other in zip(ours.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, atol=2e-5, rtol=1e-3, msg=path)


def test_muon_takes_filters_and_hidden_layers_and_leaves_it_what_has_nothing_to_orthogonalise():
    mynet = net(ModelConfig("mynet", widths=(4, 6, 8), activation="relu"))
    optimizers = Optimizers(mynet, OptimConfig(bias_lr=0.1, head_lr=0.2), 16, torch.float32)
    muon = next(member for member in optimizers.members if isinstance(member, Muon))
    by_muon = {id(parameter) for group in muon.param_groups for parameter in group["params"]}
    names = {name for name, parameter in mynet.named_parameters() if id(parameter) in by_muon}
    convolutions = {f"features.{place}.conv.weight" for place in (0, 2, 3)}
    assert names == {*convolutions, "features.1.pointwise.weight", "hidden.weight"}
    rates = {group["peak_lr"]: group["params"] for group in optimizers.members[0].param_groups}
    assert [parameter.shape for parameter in rates[0.2]] == [(5, 512)]
    assert any(parameter.shape == (4, 1, 3, 3) for parameter in rates[0.1])  # the depthwise filters


def test_what_is_dropped_depends_on_seed_and_progress_alone():
    def moved(seed: int, progress: float) -> torch.Tensor:
        torch.rand(torch.seed() % 7)  # anything may have been drawn before
        dropping = net(ModelConfig("mynet", widths=(4, 4, 4), activation="relu", dropout=0.5))
        before = torch.get_rng_state()
        PlainStep(dropping, dropping, OptimConfig(filters="sgd", lr=0.1), 16, torch.float32, seed)(
            batches(1)[0], progress
        )
        assert torch.equal(torch.get_rng_state(), before)
        return dropping.get_parameter("hidden.weight").detach()

    assert torch.equal(moved(1, 0.25), moved(1, 0.25))
    assert not torch.equal(moved(1, 0.25), moved(2, 0.25))
    assert not torch.equal(moved(1, 0.25), moved(1, 0.5))


@pytest.mark.real_data
@pytest.mark.slow
def test_N5_averaged_weights_and_test_views_lose_nothing(real_data: Path):
    """By more than a point, of 5,000 held-out images after 100 steps of dsnet at 20 pixels: statistics that do not fit
    the averaged weights cost tens of points."""
    machine = open_machine(device.choose("cpu", "float32"), data.load("cifar10", data_dir=real_data), holdout=True)
    asked = config.override(recipes.get("dsnet"), {"resolutions": "20", "batch_size": "200", "tta": "full"})
    planned = planner.choose(asked, machine.situation(), None).apply(asked)
    made = build(planned, machine)
    step, stream, pacer = made.step(), made.stream(), Pacer(stages((20,)), {Work(20): 1.0}, max_steps=100)
    pacer.plan(float("inf"))
    while not pacer.done:
        step(stream.next(20), pacer.progress)
        pacer.advance(None, float("inf"))
    images, labels = machine.scored()
    trained = accuracy(made.evaluator(images, step.net).plain(), labels)
    evaluator = made.evaluator(images, step.evaluated)
    plain = evaluator.plain()
    averaged = accuracy(plain, labels)
    viewed = {
        (tta, share): evaluator.with_views(plain, tta, share, time_left=lambda: 1e9, view_seconds=0.0)
        for tta, share in (("full", 0.25), ("mirror", 1.0), ("full", 1.0))
    }
    assert step.evaluated is not step.net
    assert trained > 0.4
    assert averaged > trained - 0.01
    for views, logits in viewed.items():
        assert accuracy(logits, labels) > averaged - 0.01, views
