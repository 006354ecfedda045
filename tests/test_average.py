"""Lookahead beside a plain twin: slow weights every few steps, as airbench96 has them. (The average: test_optim.)"""

import copy
from typing import Any

import pytest
import torch
from test_guard import a_step
from torch import Tensor

from speedrun.stream import Batch

STEPS = 13


def batches() -> list[Batch]:
    _, batch = a_step()
    draws = (torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(seed)) for seed in range(STEPS))
    return [Batch(images, batch.labels, batch.index) for images in draws]


def twin(every: int, **optim: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Slow weights and weights of a training whose every few steps are followed by hand."""
    step, _ = a_step(**optim)
    slow = {name: tensor.clone() for name, tensor in step.net.state_dict().items()}
    for number, batch in enumerate(batches()):
        step(batch, number / STEPS)
        if number >= every and (number + 1) % every:
            continue
        keeps = 0.95**every * (number / STEPS) ** 3 if number >= every else 0.0
        for name, tensor in step.net.state_dict().items():
            if tensor.is_floating_point():
                slow[name] = keeps * slow[name] + (1 - keeps) * tensor
                tensor.copy_(slow[name])
            else:
                slow[name] = tensor.clone()
    return slow, step.net.state_dict()


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("filters", ["muon", "sgd"])
def test_lookahead_is_that_of_a_plain_twin(every: int, filters: str):
    step, _ = a_step(filters=filters, lookahead=every)
    for number, batch in enumerate(batches()):
        step(batch, number / STEPS)
    slow, fast = twin(every, filters=filters)
    assert step.evaluated is not step.net
    for name, tensor in step.evaluated.state_dict().items():
        torch.testing.assert_close(tensor, slow[name], atol=1e-5, rtol=1e-4, msg=name)
        torch.testing.assert_close(step.net.state_dict()[name], fast[name], atol=1e-5, rtol=1e-4, msg=name)
    plain, _ = a_step(filters=filters)
    for number, batch in enumerate(batches()):
        plain(batch, number / STEPS)
    assert (plain.net.get_parameter("head.weight") - step.net.get_parameter("head.weight")).abs().max() > 1e-4


def test_a_run_shorter_than_its_first_update_evaluates_what_was_trained():
    step, _ = a_step(lookahead=5)
    for number, batch in enumerate(batches()[:3]):
        step(batch, number / 3)
        trained = step.net.state_dict()
        assert all(torch.equal(tensor, trained[name]) for name, tensor in step.evaluated.state_dict().items())
    assert step.lookahead is not None
    step.lookahead.restart(step.net)  # as a captured step is begun again
    step.net.get_parameter("head.weight").data.add_(1.0)
    step.follow(0.0)
    assert torch.equal(step.evaluated.get_parameter("head.weight"), step.net.get_parameter("head.weight"))


def test_lookahead_goes_on_from_its_state_to_the_bit():
    step, _ = a_step(lookahead=3, ema=0.5)
    given = batches()
    for number in range(4):
        step(given[number], number / STEPS)
    again, _ = a_step(lookahead=3, ema=0.5)
    again.net.load_state_dict(step.net.state_dict())
    again.restore(copy.deepcopy(step.state()))
    for number in range(4, STEPS):
        assert torch.equal(step(given[number], number / STEPS), again(given[number], number / STEPS))
    theirs = step.evaluated.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in again.evaluated.state_dict().items())
    assert step.average is not None
    assert step.evaluated is step.average.net  # of both it is the average that is evaluated
    without, _ = a_step(ema=0.5)
    with pytest.raises(ValueError, match="on one side only"):
        without.restore(step.state())
