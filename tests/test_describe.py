"""`python -m speedrun describe`: what it prints is what the net has."""

import json

import pytest

from speedrun import cli, recipes
from speedrun.errors import UsageError


def described(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["describe", *arguments], 0.0) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_can_be_described(name: str, capsys: pytest.CaptureFixture[str]):
    found = json.loads(described(capsys, name, "--json"))
    assert found["recipe"] == name
    assert found["parameters"] == sum(layer["parameters"] for layer in found["layers"])
    assert found["forward_flops"] == sum(layer["flops"] for layer in found["layers"])


def test_numbers_are_for_people(capsys: pytest.CaptureFixture[str]):
    lines = described(capsys, "dsnet").splitlines()
    assert lines[0] == f"dsnet: {recipes.summary('dsnet')}"
    assert [word for line in lines if "stem" in line for word in line.split()] == [
        *("stem", "Conv2d", "20", "x", "32", "x", "32", "540", "1.11", "3")
    ]
    assert lines[-3:] == [
        "parameters       150,690 (limit 200,000)",
        "operations       0.01682 GFLOP forward, an image of 32 pixels",
        "receptive field  109 pixels",
    ]


def test_a_changed_net_is_described_at_another_size(capsys: pytest.CaptureFixture[str]):
    words = ["resnet5m", "--json", "--size=64", "--set=model.widths=8,16", "--set=model.blocks=1,1"]
    found = json.loads(described(capsys, *words))
    assert found["image_size"] == 64
    assert found["layers"][0]["shape"] == [8, 64, 64]
    assert found["layers"][-1]["shape"] == [10]
    assert found["receptive_field"] == 3 + 2 * 2 + 2 + 4  # the stem, a block, one that halves


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dsnt"], "unknown recipe 'dsnt'; did you mean dsnet"),
        (["dsnet", "--size=8"], "--size must be 9 pixels or more, not 8"),
        (["dsnet", "--set=model.blocks=2,2,2,9"], "parameters and must stay below 200,000"),
    ],
)
def test_what_cannot_be_described_is_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["describe", *arguments], 0.0) == UsageError.exit_code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
