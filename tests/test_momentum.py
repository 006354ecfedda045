"""Muon's momentum as a dial of the planner: it follows a training's length and leaves the choice of the net alone."""

from dataclasses import replace

import pytest
from planning import LARGE, SMALL, expectation, plan, rung, situation, widths

from speedrun import config as configs
from speedrun.config import Config, ModelConfig, OptimConfig
from speedrun.planner import least_seconds

CALM = rung((64, 256, 256), (1e12, 0.60), (1e13, 0.96), forward_flops=1e8, lr=0.1, momentum=0.3)


def test_of_one_net_that_momentum_is_taken_which_suits_its_length():
    for seconds, momentum in ((5, 0.5), (1000, 0.3)):
        chosen = plan(seconds, rungs=(LARGE, CALM))
        assert chosen.dials["optim.momentum"] == momentum
        assert f", momentum {momentum:g}, about" in chosen.lines()[0]


@pytest.mark.parametrize("momentum", [0.3, 0.4])
def test_a_momentum_that_not_all_nets_have_does_not_choose_the_net(momentum: float):
    nets = (SMALL, LARGE, CALM)
    asked = Config(optim=OptimConfig(momentum=momentum))
    assert widths(plan(1, rungs=nets)) == widths(plan(1, asked, rungs=nets)) == (8, 8, 8)
    assert least_seconds(asked, situation(), nets) == least_seconds(Config(), situation(), nets)
    chosen = plan(1, asked, rungs=nets)
    assert (chosen.dials["optim.momentum"], chosen.expected_accuracy) == (momentum, None)


def test_a_momentum_that_all_nets_have_is_the_tables():
    asked = Config(optim=OptimConfig(momentum=0.5))
    assert expectation(plan(1000, asked, rungs=(SMALL, LARGE, CALM))) == expectation(plan(1000))
    asked = replace(asked, model=ModelConfig(widths=(64, 256, 256)), optim=OptimConfig(momentum=0.3))
    assert expectation(plan(1000, asked, rungs=(SMALL, LARGE, CALM))) == expectation(plan(1000, rungs=(CALM,)))


@pytest.mark.parametrize("filters", ["sgd", "adamw"])
def test_the_momentum_of_muon_is_no_other_optimisers(filters: str):
    assert plan(60).apply(Config()).optim.momentum == 0.5
    asked = configs.override(Config(), {"optim.filters": filters, "optim.lr": "0.1"})
    assert plan(60, asked).apply(asked).optim.momentum == Config().optim.filter_momentum
    asked = configs.override(asked, {"optim.momentum": "0.8"})
    assert plan(60, asked).dials["optim.momentum"] == 0.8
