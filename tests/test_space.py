"""Ranges of config fields: what they draw, how they narrow, and what is no range."""

import json
import math
import random
from pathlib import Path

import pytest

from speedrun import config, space
from speedrun.config import Config
from speedrun.errors import UsageError


def drawn(name: str, text: str, count: int = 400) -> list:
    ranges = space.parse({name: text})
    return [space.draw(ranges, random.Random(seed))[name] for seed in range(count)]


def test_a_uniform_range():
    values = drawn("optim.momentum", "0.5..0.9")
    assert 0.5 <= min(values) < 0.52
    assert 0.88 < max(values) <= 0.9
    assert sum(value < 0.7 for value in values) == pytest.approx(200, abs=40)


def test_a_logarithmic_range_has_as_many_in_each_decade():
    values = drawn("optim.lr", "log:1e-6..1")
    assert 1e-6 <= min(values) < 1e-5 < 0.1 < max(values) <= 1
    assert sum(value < 1e-3 for value in values) == pytest.approx(200, abs=40)


def test_whole_numbers_and_their_ends():
    assert set(drawn("batch_size", "3..6")) == {3, 4, 5, 6}
    assert set(drawn("augment.cutout", "log:1..4")) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("model.activation", "relu|silu", {"relu", "silu"}),
        ("optim.lr", "0.1, 0.2", {0.1, 0.2}),
        ("optim.lr", "none,0.2", {None, 0.2}),
        ("model.widths", "8,8,8|16,16,16", {(8, 8, 8), (16, 16, 16)}),
        ("model.widths", "8,8,8", {(8, 8, 8)}),
        ("model.depth", "2,3", {2, 3}),
        ("model.depth", "2|2,2,3", {2, (2, 2, 3)}),
        ("model.fused", "none|norm|norm,conv", {(), ("norm",), ("norm", "conv")}),
    ],
)
def test_choices(name: str, text: str, values: set):
    assert set(drawn(name, text, 40)) == values


def test_fields_of_as_many_stages_agree_on_their_number():
    ranges = space.parse({"model.widths": "8|16|32 x 2..4", "resolutions": "9..12 x 2..4", "model.depth": "2,3"})
    draws = [space.draw(ranges, random.Random(seed)) for seed in range(60)]
    assert {len(values["model.widths"]) for values in draws} == {2, 3, 4}
    assert all(len(values["model.widths"]) == len(values["resolutions"]) for values in draws)
    assert {width for values in draws for width in values["model.widths"]} == {8, 16, 32}
    assert {size for values in draws for size in values["resolutions"]} == {9, 10, 11, 12}
    config.override(Config(), {"resolutions": draws[0]["resolutions"]})  # a draw is a value of its field


def test_a_range_narrows_around_the_best_and_never_widens():
    ranges = space.parse({"optim.lr": "log:1e-4..1", "batch_size": "100..500", "model.activation": "relu|silu"})
    best = [{"optim.lr": 0.01, "batch_size": 480, "model.activation": "relu"}]
    best.append({"optim.lr": 0.1, "batch_size": 500, "model.activation": "relu"})
    narrowed = space.narrow(ranges, best)
    assert narrowed["optim.lr"].low == pytest.approx(0.01 * 1e-4**0.1)
    assert narrowed["optim.lr"].high == pytest.approx(0.1 / 1e-4**0.1)
    assert (narrowed["batch_size"].low, narrowed["batch_size"].high) == (440, 500)
    assert narrowed["model.activation"] == ranges["model.activation"]
    again = space.narrow(narrowed, best)
    assert narrowed["optim.lr"].low < again["optim.lr"].low < 0.01
    assert math.isclose(again["batch_size"].high, 500)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("optim.lrr", "0..1", "unknown field optim.lrr; did you mean optim.lr?"),
        ("optim", "0..1", "optim is a group of fields"),
        ("optim.lr", "log:0..1", "is no range"),
        ("optim.lr", "1..0", "is no range"),
        ("optim.lr", "a..b", "is no range"),
        ("batch_size", "1.5..3", "is no range"),
        ("model.activation", "a..b", "is no range"),
        ("model.widths", "8..16 x 0..2", "is no range"),
        ("model.widths", "a|b x 2", "is no range"),
        ("optim.lr", "much|more", "optim.lr takes a number, not 'much'"),
    ],
)
def test_what_is_no_range_is_named(name: str, text: str, message: str):
    with pytest.raises(UsageError) as caught:
        space.parse({name: text})
    assert message in str(caught.value)


def test_ranges_come_from_words_and_files(tmp_path: Path):
    path = tmp_path / "space.json"
    path.write_text(json.dumps({"optim.lr": "0.1..1", "model.depth": "2,3"}))
    assert space.read([str(path), "optim.lr=a=b"]) == {"optim.lr": "a=b", "model.depth": "2,3"}
    for text in ('{"optim.lr": 3}', "{}", '["optim.lr"]'):
        path.write_text(text)
        with pytest.raises(UsageError, match="their ranges as text"):
            space.read([str(path)])
    with pytest.raises(UsageError, match="a range is written FIELD=RANGE"):
        space.read([str(tmp_path / "none")])
