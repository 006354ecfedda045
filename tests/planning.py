"""Made-up nets for the planner, and what it plans with them."""

from collections.abc import Sequence
from typing import Any

from speedrun.config import Config
from speedrun.planner import Plan, Situation, choose
from speedrun.rungs import Point, Rung

PROBE = 1e11  # operations a second


def rung(
    widths: tuple[int, int, int], *points: tuple[float, float], lr: float = 0.2, momentum: float = 0.5, **changes: Any
) -> Rung:
    dials = {
        "model.widths": widths,
        "model.depth": 2,
        "resolutions": (24, 32),
        "batch_size": 500,
        "augment.cutout": 8,
        "optim.lr": lr,
        "optim.momentum": momentum,
    }
    values = {"speed": 1.0, "forward_flops": 1e6, "measured": True, "source": f"measured on {widths[0]}"}
    return Rung(dials, **{**values, **changes}, points=tuple(Point(*point) for point in points))


SMALL = rung((8, 8, 8), (1e11, 0.60), (1e12, 0.80))
LARGE = rung((64, 256, 256), (1e12, 0.70), (1e13, 0.94), forward_flops=1e8, lr=0.1)
RUNGS = (SMALL, LARGE)
GUESS = rung((256, 512, 512), (1e16, 0.97), forward_flops=1e9, measured=False, lr=0.3)


def situation(**changes: Any) -> Situation:
    return Situation(**{"device": "cpu", "flops_per_second": PROBE, **changes})


def plan(seconds: float | None, config: Config | None = None, rungs: Sequence[Rung] | None = RUNGS, **changes: Any):
    return choose(config or Config(), situation(**changes), seconds, rungs=rungs)


def widths(chosen: Plan) -> tuple[int, ...]:
    return chosen.dials["model.widths"]


def expectation(chosen: Plan) -> float:
    assert chosen.expected_accuracy is not None
    return chosen.expected_accuracy
