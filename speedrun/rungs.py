"""What the planner knows: nets with their dials, and the held-out accuracy each reached for a number of operations.

The table is package data (`planner.json`), written by `python -m benchmarks.scaling`. Standard library only, until the
operations of a recipe's own net are asked for.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from speedrun.config import LARGEST_CUTOUT, SMALLEST_SIDE, Config, ModelConfig

# The family of nets that the table is about, and the images that it was measured on: side in pixels, their number.
FAMILY = "speednet"
SIDE = 32
IMAGES, CLASSES = 50_000, 10
# Fewer steps than these teach a net little, however large they are.
STEPS = 400
# Epochs and accuracies of a net that nobody has measured.
GUESS = ((0.01, 0.2), (1, 0.6), (10, 0.88), (100, 0.95))


@dataclass(frozen=True)
class Point:
    """A measurement: training operations in all, and the accuracy on the images held out (fraction of 1)."""

    flops: float
    accuracy: float


@dataclass(frozen=True)
class Rung:
    """A net with its training dials, and its measured curve, cheapest point first.

    dials: config fields by dotted name; all of them are None in a config that leaves them to the planner.
    speed: its operations a second as a share of the probe's, on a CPU. forward_flops: operations to evaluate an image.
    accuracies of the points: with all views. batches: sizes, largest first, of which the operations decide, where the
    points are not of one.
    """

    dials: Mapping[str, Any]
    speed: float
    forward_flops: float
    measured: bool
    source: str
    points: tuple[Point, ...]
    batches: tuple[int, ...] = ()

    def expected(self, flops: float) -> float:
        """Accuracy at a cost: log-error is interpolated over log-cost; beyond the ends it is cautious.

        Below the cheapest point the slope of the first two goes on; above the dearest, accuracy stays.
        """
        points = self.points
        if flops >= points[-1].flops:
            return points[-1].accuracy
        if len(points) == 1:
            return points[0].accuracy * min(1.0, flops / points[0].flops)
        right = next(i for i in range(1, len(points)) if flops < points[i].flops or i == len(points) - 1)
        low, high = points[right - 1], points[right]
        position = math.log(max(flops, 1.0) / low.flops) / math.log(high.flops / low.flops)
        log_error = (1 - position) * math.log(1 - low.accuracy) + position * math.log(1 - high.accuracy)
        return max(0.1, 1.0 - math.exp(log_error))

    def dials_for(self, image_size: int, images: int, flops: float = math.inf) -> dict[str, Any]:
        """The dials for `images` images of `image_size` pixels, which the sides in pixels follow.

        flops: to train with; a batch that may be chosen is the largest with which these are `STEPS` steps.
        """
        scale = image_size / SIDE
        fits = flops / (3 * self.forward_flops * STEPS)
        batch = next((size for size in self.batches if size <= fits), self.dials["batch_size"])
        sides = tuple(max(round(side * scale), SMALLEST_SIDE) for side in self.dials["resolutions"])
        return {
            **self.dials,
            "resolutions": sides,
            "batch_size": min(batch, images),
            "augment.cutout": min(round(self.dials["augment.cutout"] * scale), LARGEST_CUTOUT),
        }


def table() -> list[Rung]:
    """The rungs of the package, cheapest net first."""
    text = resources.files("speedrun").joinpath("planner.json").read_text(encoding="utf-8")
    return [_rung(plain) for plain in json.loads(text)["rungs"]]


def _rung(plain: Mapping[str, Any]) -> Rung:
    dials = {name: tuple(value) if isinstance(value, list) else value for name, value in plain["dials"].items()}
    points = (Point(point["flops"], point["accuracy"]) for point in plain["points"])
    return Rung(
        dials=dials,
        speed=plain["speed"],
        forward_flops=plain["forward_flops"],
        measured=plain["measured"],
        source=plain["source"],
        points=tuple(sorted(points, key=lambda point: point.flops)),
    )


def choices(config: Config) -> list[Rung]:
    """What a config leaves to choose from: the table, or the one net that its recipe brings.

    Raises UsageError where that net's sizes are missing or it is over its parameter limit.
    """
    return table() if config.model.family == FAMILY else [_own(config.model)]


@cache
def _own(model: ModelConfig) -> Rung:
    """The rung of a recipe's own net, of which nothing is measured.

    Its points are a guess for any net, by epochs: they only tell whether further views at test are worth their time.
    """
    import torch  # which whoever plans has loaded

    from speedrun import models

    models.sketch(model, CLASSES)  # a search draws nets far over its limit: to make one takes up to half a second
    # No pass through that: the first on torch's meta device imports nine hundred modules, a second of the budget.
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are left as they were
        forward_flops = models.forward_flops(models.build(model, CLASSES), SIDE)
    epoch = 3 * IMAGES * forward_flops
    return Rung(
        dials={
            "model.widths": model.widths,
            "resolutions": (24, 28, SIDE),
            "batch_size": 64,
            "augment.cutout": 0,
        },
        speed=1.0,
        forward_flops=forward_flops,
        measured=False,
        source="the recipe's own net",
        points=tuple(Point(epochs * epoch, accuracy) for epochs, accuracy in GUESS),
        batches=(512, 256, 128),
    )
