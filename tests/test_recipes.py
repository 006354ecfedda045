"""The recipes: the nets that they promise, what was published, and that each of them trains."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import speedrun
from speedrun import checkpoint, config, models, planner, recipes, space
from speedrun.config import Config, ModelConfig
from speedrun.errors import UsageError

PARAMETERS = {
    "mynet": 2_479_562,
    "resnet18": 11_181_642,
    "dsnet": 150_690,
    "resnet34-ensemble": 21_282_122,
    "resnet5m": 4_697_162,
    "resnet4.9m": 4_918_602,
}
# Epochs, batch, rate and optimiser of the originals.
PUBLISHED = {
    "mynet": (20, 256, 0.1, "sgd"),
    "resnet18": (20, 256, 0.1, "sgd"),
    "dsnet": (200, 128, 0.05, "sgd"),
    "resnet34-ensemble": (100, 64, 0.02, "sgd"),
    "resnet5m": (200, 128, 0.1, "sgd"),
    "resnet4.9m": (50, 128, 1e-3, "adamw"),
}
SYSTEMS = [*PARAMETERS, *(f"{name}-published" for name in PARAMETERS)]
TIERS = [f"speednet-{percent}" for percent in (94, 95, 96, 97)]


def test_every_system_has_its_two_settings():
    assert set(recipes.names()) == {"speednet", *TIERS, *SYSTEMS}
    assert recipes.job("resnet34-ensemble") == ("ensemble", "--members=10")


def test_a_search_finds_nets_under_the_limit_and_others_are_refused():
    ranges, source = space.parse(recipes.space("resnet5m")), random.Random(0)
    base, refusals, stages = recipes.get("resnet5m"), [], set()
    for _ in range(60):
        try:
            model = config.override(base, space.draw(ranges, source)).model
            assert models.parameters(models.sketch(model, 10)) < 5_000_000
            stages.add(len(model.widths or ()))
        except UsageError as error:
            refusals.append(str(error))
    assert stages == {2, 3, 4}
    assert 5 < len(refusals) < 45
    assert all("must stay below 5,000,000" in line or "model.pool must divide" in line for line in refusals)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_net_has_exactly_its_parameters(name: str):
    model = recipes.get(name).model
    assert models.parameters(models.build(model, 10)) == PARAMETERS[name.removesuffix("-published")]
    assert models.build(model, 7)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_published_setting_is_that_of_the_original(name: str):
    found, tuned = recipes.get(f"{name}-published"), recipes.get(name)
    optim = found.optim
    assert (found.epochs, found.batch_size, optim.lr, optim.filters) == PUBLISHED[name]
    assert found.resolutions == (32,)
    assert found.budget is None  # its epochs end it
    assert tuned.budget == 600
    assert found.model == tuned.model


@pytest.mark.parametrize("name", ["dsnet", "resnet5m", "resnet4.9m"])
def test_B4_a_net_over_its_limit_is_refused(name: str):
    found = recipes.get(name)
    wide = config.override(found, {"model.widths": [2 * width for width in found.model.widths or ()]})
    with pytest.raises(UsageError, match=r"the net has [\d,]+ parameters and must stay below"):
        models.sketch(wide.model, 10)


def test_a_net_over_its_limit_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch):
    build, made = models.build, []

    def noted(model: ModelConfig, classes: int) -> torch.nn.Module:
        made.append(torch.empty(0).device.type)
        return build(model, classes)

    monkeypatch.setattr(models, "build", noted)
    wide = config.override(recipes.get("resnet5m"), {"model.widths": "256,256,256"})
    with pytest.raises(UsageError, match="must stay below 5,000,000"):
        planner.choose(wide, planner.Situation("cpu", 1e11), 60.0)
    assert made == ["meta"]  # the numbers of so many parameters take half a second to draw


def test_a_net_may_have_one_parameter_less_than_its_limit():
    model = recipes.get("dsnet").model
    assert models.parameters(models.build(replace(model, parameter_limit=150_691), 10)) == 150_690
    with pytest.raises(UsageError, match="150,690 parameters and must stay below 150,690"):
        models.build(replace(model, parameter_limit=150_690), 10)


@pytest.mark.parametrize("family", ["mynet", "dsnet", "resnet"])
def test_a_net_without_its_sizes_is_refused(family: str):
    with pytest.raises(UsageError, match=rf"a net of family {family} needs model\.widths"):
        models.build(ModelConfig(family), 10)


def short(name: str, data: Path, out: Path, **changes: object) -> Config:
    """20 steps of a recipe on images of 12 pixels, its net a quarter as wide."""
    base = replace(recipes.get(name), quiet=True, device="cpu", dtype="float32", dataset=str(data), out=out, steps=20)
    model = replace(base.model, widths=tuple(width // 4 for width in base.model.widths or ()))
    # A net that knows these images at once would be stopped before its twentieth step.
    validation = replace(base.validation, patience=base.validation.patience and 100)
    short = replace(base, model=model, batch_size=20, resolutions=(12,), tta="none", validation=validation)
    return replace(short, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TIERS)
def test_a_tier_leaves_the_planner_nothing_to_choose_and_is_promised_nothing(name: str):
    config = recipes.get(name)
    for seconds in (None, 600.0):
        plan = planner.choose(config, planner.Situation("cuda", 3e14), seconds)
        filled = plan.apply(config)
        assert replace(filled, compile="auto") == config
        assert plan.expected_accuracy is None
    assert config.budget is None
    assert f"aims at {name[-2:]} %" in recipes.summary(name)


def test_higher_tiers_take_more_operations():
    costs = []
    for name in TIERS:
        config = recipes.get(name)
        costs.append((config.epochs or 0) * models.forward_flops(models.sketch(config.model, 10), 32))
    assert costs == sorted(costs)
    assert costs[-1] > 100 * costs[0]


@pytest.mark.parametrize("name", [*SYSTEMS, *TIERS])
def test_every_recipe_trains(name: str, tiny_data: Path, tmp_path: Path):
    result = speedrun.train(short(name, tiny_data, tmp_path / "out"))
    found = result.record
    assert (found["status"], found["recipe"], found["steps"]) == ("complete", name, 20)
    assert found["config"]["epochs"] == recipes.get(name).epochs
    learned = checkpoint.load(tmp_path / "out" / "model.pt").model
    assert all(tensor.isfinite().all() for tensor in learned.values())
    if not name.endswith("-published"):  # three classes that any net tells apart at once
        assert result.accuracy is not None
        assert result.accuracy > 0.6


def test_R1_dropout_repeats_to_the_bit_whatever_was_drawn_before(tiny_data: Path, tmp_path: Path):
    states = []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        folder = tmp_path / str(number)
        speedrun.train(replace(short("mynet", tiny_data, folder), steps=3, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
        states.append(checkpoint.load(folder / "model.pt").model["head.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_epochs_end_a_run_as_steps_do(tiny_data: Path, tmp_path: Path):
    by_epochs = replace(short("mynet", tiny_data, tmp_path / "a"), steps=None, epochs=0.2)
    result = speedrun.train(by_epochs)
    assert (result.record["steps"], result.record["epochs"]) == (6, 0.2)  # 600 images in batches of 20
    both = speedrun.train(replace(by_epochs, steps=4, out=tmp_path / "b"))
    assert both.record["steps"] == 4


def test_without_normalising_pixels_stay_in_0_to_1(tiny_data: Path, tmp_path: Path):
    result = speedrun.train(replace(short("mynet", tiny_data, tmp_path / "out", normalise=False), steps=1))
    assert result.folder is not None
    meta = checkpoint.load(result.folder / "model.pt").meta
    assert (meta["mean"], meta["std"]) == ([0, 0, 0], [1, 1, 1])
