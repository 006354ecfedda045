"""Every tier at a tiny width: compiled, its twenty steps give the eager losses, with each method that it may be given.

That they train is shown in test_recipes, that a graph of their steps gives the eager losses in test_captured.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_captured import TIERS, eager, progresses, trainee

from speedrun import data, device
from speedrun.machine import Machine, open_machine
from speedrun.trainee import Trainee

METHODS = {
    "lookahead": {"optim.lookahead": 5},
    "sam": {"optim.sam": 0.05},
    "select": {"select.share": 0.5},
}


@pytest.fixture(scope="module")
def machine(tiny_data: Path) -> Machine:
    return open_machine(device.choose("cpu", "float32"), data.load(str(tiny_data)), holdout=False)


def losses(made: Trainee) -> torch.Tensor:
    """Of twenty steps, in the middle of which images are picked where that is asked for."""
    step, stream = made.step(), made.stream()
    found = []
    for progress, size in progresses(made.resolutions):
        work = next(stage.work for stage in made.stages if progress < stage.until)
        assert work.size == size
        found.append(step(stream.next(*work), progress)[0])
    return torch.stack(found)


def compare(made: Trainee, twin: Trainee, backend: str) -> None:
    torch._dynamo.reset()
    made.forward = torch.compile(made.net, backend=backend, dynamic=False)
    expected = losses(twin)
    torch.testing.assert_close(losses(made), expected, atol=2e-4, rtol=2e-3)
    assert expected[0] > 1.05 * expected[-1]


@pytest.mark.parametrize("recipe", TIERS)
def test_a_tier_that_is_traced_for_a_compiler_gives_the_eager_losses(recipe: str, machine: Machine):
    compare(trainee(machine, recipe), trainee(machine, recipe), "aot_eager")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recipe", ["speednet-94", "speednet-96"])
def test_a_method_that_is_traced_for_a_compiler_gives_the_eager_losses(recipe: str, method: str, machine: Machine):
    settings = METHODS[method]
    compare(trainee(machine, recipe, **settings), trainee(machine, recipe, **settings), "aot_eager")
    plain = eager(trainee(machine, recipe))[0][:, 0]
    assert not torch.equal(losses(trainee(machine, recipe, **settings)), plain)  # it is another training


@pytest.mark.slow
def test_a_tier_that_is_compiled_gives_the_eager_losses(machine: Machine):
    made, twin = trainee(machine, "speednet-96"), trainee(machine, "speednet-96")
    made.config = replace(made.config, compile="default")
    warm, problem = made.compile(150.0)
    if warm is None:
        pytest.skip(problem)
    torch.testing.assert_close(losses(made), losses(twin), atol=2e-4, rtol=2e-3)
