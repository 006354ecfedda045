"""The config: each field from text, JSON and back, and what is refused."""

import dataclasses
import json
from pathlib import Path

import pytest

from speedrun import cli, config, recipes
from speedrun.config import (
    SEED_LIMIT,
    AugmentConfig,
    Config,
    ModelConfig,
    OptimConfig,
    SelectConfig,
    from_dict,
    leaf_names,
    to_dict,
)
from speedrun.errors import UsageError

# Every field with a text that differs from its default, and the value it stands for.
SETTINGS: dict[str, tuple[str, object]] = {
    "seconds": ("61.5", 61.5),
    "target": ("0.94", 0.94),
    "steps": ("12", 12),
    "epochs": ("2.5", 2.5),
    "recipe": ("another", "another"),
    "seed": ("4294967290", 4294967290),
    "runs": ("3", 3),
    "device": ("cuda:1", "cuda:1"),
    "dtype": ("bfloat16", "bfloat16"),
    "compile": ("max-autotune", "max-autotune"),
    "tta": ("mirror", "mirror"),
    "data_dir": ("/data sets", Path("/data sets")),
    "dataset": ("mine.npz", "mine.npz"),
    "out": ("runs/1", Path("runs/1")),
    "resume": ("runs/0", Path("runs/0")),
    "holdout": ("true", True),
    "holdout_fold": ("3", 3),
    "quiet": ("yes", True),
    "json": ("1", True),
    "dry_run": ("True", True),
    "batch_size": ("500", 500),
    "resolutions": ("24,28,32", (24, 28, 32)),
    "uncertain_share": ("0.5", 0.5),
    "normalise": ("false", False),
    "model.family": ("mynet", "mynet"),
    "model.widths": ("32,128,256", (32, 128, 256)),
    "model.depth": ("3", 3),
    "model.blocks": ("2,1,2", (2, 1, 2)),
    "model.kernels": ("3,5,3", (3, 5, 3)),
    "model.skip_kernels": ("1,1,3", (1, 1, 3)),
    "model.pool": ("2", 2),
    "model.stem": ("imagenet", "imagenet"),
    "model.dropout": ("0.2", 0.2),
    "model.activation": ("silu", "silu"),
    "model.fused": ("norm,conv", ("norm", "conv")),
    "model.fp8": ("256", 256),
    "model.parameter_limit": ("200000", 200_000),
    "augment.flip": ("random", "random"),
    "augment.translate": ("4", 4),
    "augment.padding": ("zero", "zero"),
    "augment.cutout": ("12", 12),
    "augment.affine": ("0.5", 0.5),
    "augment.tone": ("0.4", 0.4),
    "augment.hue": ("0.3", 0.3),
    "augment.grayscale": ("0.1", 0.1),
    "augment.holes": ("1", 1.0),
    "augment.policy": ("trivial", "trivial"),
    "augment.mixup": ("0.3", 0.3),
    "augment.cutmix": ("0.25", 0.25),
    "augment.ricap": ("0.2", 0.2),
    "augment.mix_per": ("batch", "batch"),
    "optim.filters": ("sgd", "sgd"),
    "optim.lr": ("0.1", 0.1),
    "optim.momentum": ("0.5", 0.5),
    "optim.newton_schulz_steps": ("5", 5),
    "optim.fused": ("true", True),
    "optim.bias_lr": ("1e-3", 1e-3),
    "optim.head_lr": ("1", 1.0),
    "optim.sgd_momentum": ("0", 0.0),
    "optim.weight_decay": ("0", 0.0),
    "optim.label_smoothing": ("0.1", 0.1),
    "optim.whiten_bias": ("1", 1.0),
    "optim.schedule": ("cosine", "cosine"),
    "optim.warmup": ("0.25", 0.25),
    "optim.start_lr": ("0.1", 0.1),
    "optim.clip": ("1", 1.0),
    "optim.ema": ("0.99", 0.99),
    "optim.lookahead": ("5", 5),
    "optim.sam": ("0.05", 0.05),
    "optim.sam_adaptive": ("true", True),
    "select.share": ("0.5", 0.5),
    "select.begin": ("0.1", 0.1),
    "select.end": ("0.9", 0.9),
    "select.every": ("3", 3),
    "select.widths": ("8,16,16", (8, 16, 16)),
    "validation.count": ("20", 20),
    "validation.patience": ("5", 5),
    "validation.delta": ("0.001", 0.001),
    "distributed.sync_batch_norm": ("true", True),
    "distributed.stall_seconds": ("30", 30.0),
}
EVERYTHING = {name: text for name, (text, _) in SETTINGS.items()}


def value_of(whole: Config, name: str) -> object:
    part: object = whole
    for word in name.split("."):
        part = getattr(part, word)
    return part


def test_the_table_above_knows_every_field():
    assert list(SETTINGS) == leaf_names(Config)


@pytest.mark.parametrize("name", SETTINGS)
def test_B1_each_field_can_be_set_by_text(name: str):
    text, expected = SETTINGS[name]
    changed = config.override(Config(), {name: text})
    assert value_of(changed, name) == expected
    assert type(value_of(changed, name)) is type(expected)
    assert value_of(Config(), name) != expected
    others = [other for other in SETTINGS if other != name]
    assert [value_of(changed, other) for other in others] == [value_of(Config(), other) for other in others]


def test_one_depth_of_all_stages_is_one_number():
    assert config.override(Config(), {"model.depth": "3,3,3"}) == config.override(Config(), {"model.depth": 3})


MIXED = config.override(Config(), {"model.depth": "2,2,3"})  # a field of two types


@pytest.mark.parametrize(
    "whole",
    [Config(), config.override(Config(), EVERYTHING), MIXED],
    ids=["defaults", "all-changed", "another-type"],
)
def test_B1_a_config_survives_JSON(whole: Config, tmp_path: Path):
    text = json.dumps(to_dict(whole), allow_nan=False)
    assert from_dict(Config, json.loads(text)) == whole
    (tmp_path / "config.json").write_text(text)
    assert config.load(tmp_path / "config.json") == whole


def test_B1_the_command_line_sets_every_field(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recipes, "get", lambda name: Config(recipe=name))
    wanted = config.override(Config(), EVERYTHING)
    assert cli.parse([f"--set={name}={text}" for name, text in EVERYTHING.items()]) == wanted
    flags = [spec for spec in dataclasses.fields(Config) if spec.metadata.get("flag")]
    switches = [f"--{spec.name.replace('_', '-')}" for spec in flags if spec.type is bool]
    valued = [f"--{spec.name.replace('_', '-')}={EVERYTHING[spec.name]}" for spec in flags if spec.type is not bool]
    rest = [f"--set={name}={text}" for name, text in EVERYTHING.items() if name not in {spec.name for spec in flags}]
    assert cli.parse([*switches, *valued, *rest]) == wanted


def test_B1_every_field_says_what_it_is():
    for kind in (Config, ModelConfig, AugmentConfig, OptimConfig, SelectConfig):
        for spec in dataclasses.fields(kind):
            assert spec.metadata.get("help") or dataclasses.is_dataclass(spec.default_factory), spec.name


@pytest.mark.parametrize("name", ["seconds", "steps", "batch_size", "resolutions", "model.widths", "augment.cutout"])
def test_what_may_be_open_can_be_opened_again(name: str):
    changed = config.override(Config(), {name: EVERYTHING[name]})
    for word in ("none", "auto", "None"):
        assert config.override(changed, {name: word}) == Config()


def test_names_are_a_list_that_may_be_empty():
    changed = config.override(Config(), {"model.fused": "norm, conv,norm"})
    assert changed.model.fused == ("norm", "conv")
    for nothing in ("", "none", []):
        assert config.override(changed, {"model.fused": nothing}) == Config()
    assert config.override(changed, config.differences(changed, Config())) == Config()
    assert from_dict(Config, {"model": {"fused": "norm"}}).model.fused == ("norm",)  # as it was saved once


def refusal(call, *arguments: object) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seconds", "soon", "seconds takes a number, not 'soon'"),
        ("seconds", "nan", "seconds takes a number, not 'nan'"),
        ("seconds", "inf", "seconds takes a number, not 'inf'"),
        ("seconds", "-1", "seconds must not be negative"),
        ("steps", "1.5", "steps takes a whole number, not '1.5'"),
        ("steps", 1.5, "steps takes a whole number, not 1.5"),
        ("steps", True, "steps takes a whole number, not True"),
        ("steps", "0", "steps must be at least 1"),
        ("epochs", "0", "epochs must be more than 0"),
        ("target", "94", "target must be in (0, 1): 0.94, not 94.0"),
        ("seed", "-1", "seed must be in 0..4294967295, not -1"),
        ("seed", str(SEED_LIMIT), "seed must be in 0..4294967295, not 4294967296"),
        ("seed", "x", "seed takes a whole number, not 'x'"),
        ("runs", "0", "runs must be at least 1"),
        ("holdout_fold", "10", "holdout_fold must be in 0..9, not 10"),
        ("dtype", "float64", "dtype must be one of auto, float32, float16, bfloat16, not 'float64'"),
        ("holdout", "maybe", "holdout takes true or false, not 'maybe'"),
        ("device", 3, "device takes a text, not 3"),
        ("batch_size", "0", "batch_size must be at least 1"),
        ("resolutions", "24,x", "resolutions takes whole numbers separated by commas, not '24,x'"),
        ("resolutions", "8", "resolutions must be 9 pixels or more"),
        ("resolutions", [], "resolutions must be 9 pixels or more"),
        ("uncertain_share", "1.5", "uncertain_share must be in [0, 1]"),
        ("model.depth", "4", "model.depth must be 2 or 3, or three of these, not 4"),
        ("model.depth", "2,3,4", "model.depth must be 2 or 3, or three of these, not 2,3,4"),
        ("model.depth", "2,3", "model.depth must be 2 or 3, or three of these, not 2,3"),
        ("model.depth", "deep", "model.depth takes a whole number or whole numbers separated by commas, not 'deep'"),
        ("model.widths", "8,8", "model.widths takes three"),
        ("model.widths", "8,8,0", "model.widths takes three"),
        ("model.blocks", "2,2", "model.blocks takes one number a stage, 3 in all"),
        ("model.kernels", "3,4,3", "model.kernels must be odd, for a map to keep its size"),
        ("model.pool", "3", "model.pool must divide the 8 pixels of the last map, not 3"),
        ("model.dropout", "1", "model.dropout must be in [0, 1), not 1.0"),
        ("model.fused", "norm,pool", "fused must be one of norm, conv, whiten, not 'pool'"),
        ("model.fused", 3, "model.fused takes names separated by commas, not 3"),
        ("model.fp8", "0", "model.fp8 must be at least 1, not 0"),
        ("model", "3", "model is a group of fields"),
        ("seed.x", "3", "seed.x is not a field"),
        ("augment.translate", "16", "augment.translate must be in 0..15, not 16"),
        ("augment.cutout", "33", "augment.cutout must be in 0..32, not 33"),
        ("optim.lr", "-0.1", "optim.lr must not be negative"),
        ("optim.sam", "-1", "optim.sam must not be negative"),
        ("optim.lookahead", "-5", "optim.lookahead must not be negative"),
        ("optim.momentum", "1", "optim.momentum must be in [0, 1)"),
        ("optim.label_smoothing", "1.5", "optim.label_smoothing must be in [0, 1]"),
        ("optim.newton_schulz_steps", "0", "optim.newton_schulz_steps must be at least 1"),
        ("select.share", "0.7", "select.share must be 1 over a whole number, as 0.5, 0.33 or 0.25, not 0.7"),
        ("select.share", "0", "select.share must be 1 over a whole number, as 0.5, 0.33 or 0.25, not 0.0"),
        ("select.end", "0.1", "select.begin 0.2 and select.end 0.1 must rise within [0, 1]"),
        ("select.every", "0", "select.every must be at least 1, not 0"),
        ("select.widths", "8,8", "select.widths takes one number a stage, 3 in all"),
        ("select.widths", "8,8,0", "select.widths takes a positive number for each stage"),
        ("secnds", "3", "unknown field secnds; did you mean seconds?"),
        ("model.witdhs", "3", "unknown field model.witdhs; did you mean model.widths?"),
        ("zzz", "3", "unknown field zzz"),
    ],
)
def test_R5_a_value_that_makes_no_sense_is_refused_in_one_line(name: str, value: object, message: str):
    assert refusal(config.override, Config(), {name: value}) == message


def test_fields_that_must_fit_each_other_change_together():
    net = {"model.family": "resnet", "model.widths": "16,32", "model.blocks": "1,2", "model.pool": "4"}
    deeper = {"model.widths": "16,32,64,128", "model.blocks": "1,1,1,1"}
    changed = config.override(config.override(Config(), net), deeper).model
    assert (changed.widths, changed.blocks, changed.pool) == ((16, 32, 64, 128), (1, 1, 1, 1), 4)
    too_deep = {"model.family": "resnet", "model.widths": "8,8,8,8,8,8,8"}
    assert refusal(config.override, Config(), too_deep) == "7 stages halve 32 pixels too often"


@pytest.mark.parametrize("seed", [0, SEED_LIMIT - 1])
def test_R5_the_ends_of_the_range_of_seeds_are_taken(seed: int):
    assert config.override(Config(), {"seed": str(seed)}).seed == seed


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ([], "a config must be an object, not []"),
        ({"model": 3}, "model must be an object, not 3"),
        ({"sed": 3}, "unknown field sed; did you mean seed?"),
        ({"optim": {"leaning": 3}}, "unknown field optim.leaning"),
        ({"optim": {"lr": "fast"}}, "optim.lr takes a number, not 'fast'"),
        ({"seed": None}, "seed takes a whole number, not None"),
        ({"dataset": None}, "dataset takes a text, not None"),
        ({"resolutions": 3}, "resolutions takes whole numbers separated by commas, not 3"),
    ],
)
def test_a_saved_config_is_checked_like_a_typed_one(plain: object, message: str):
    assert refusal(from_dict, Config, plain) == message


@pytest.mark.parametrize("content", ["{", "\x00", "[1]", '{"seed": 1e400}'])
def test_a_file_that_is_no_config_is_named(content: str, tmp_path: Path):
    path = tmp_path / "c.json"
    path.write_text(content)
    assert refusal(config.load, path).startswith(f"{path}: ")


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path):
    assert refusal(config.load, tmp_path / "c.json") == f"{tmp_path / 'c.json'}: No such file or directory"
    assert str(tmp_path) in refusal(config.load, tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert str(tmp_path / "binary") in refusal(config.load, tmp_path / "binary")


def test_a_config_cannot_be_changed_and_can_be_hashed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 3  # type: ignore[misc]
    assert len({Config(), Config(seed=0), Config(seed=1)}) == 2


def test_the_budget_is_600_seconds_unless_seconds_steps_or_epochs_are_given():
    assert Config().budget == 600
    assert Config(seconds=60).budget == 60
    assert Config(steps=10).budget is None
    assert Config(epochs=10).budget is None
    assert Config(seconds=60, steps=10).budget == Config(seconds=60, epochs=10).budget == 60
    assert Config(seconds=0).budget == 0


@pytest.mark.parametrize("name", recipes.names())
def test_each_recipe_is_a_config_under_its_own_name(name: str):
    assert recipes.get(name).recipe == name
    assert "\n" not in recipes.summary(name)


def test_an_unknown_recipe_is_refused_with_a_hint():
    assert refusal(recipes.get, "spednet") == "unknown recipe 'spednet'; did you mean speednet?"
    assert refusal(recipes.get, "zzz").startswith("unknown recipe 'zzz'; there are ")
