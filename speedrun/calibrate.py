"""What a step and an evaluation cost on this machine, measured before the clock of the schedule starts."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from speedrun.clock import Clock
from speedrun.device import synchronize
from speedrun.evaluate import views
from speedrun.trainee import Trainee

# Largest share of the time left that timing steps may take, and that timing an evaluation may. Past it, other
# resolutions are scaled by their area, and no more images are evaluated than a step takes; else as many as this.
SHARE, TIMED_IMAGES = 0.02, 500


@dataclass(frozen=True)
class Costs:
    """step: seconds of a training step by resolution. view: seconds of one view of all scored images."""

    step: dict[int, float]
    view: float


def calibrate(trainee: Trainee, clock: Clock) -> Costs:
    """Time a step at each resolution and an evaluation, each after one to warm up; the net is reset then.

    Without a deadline nothing is timed: the costs are the resolutions' areas.
    """
    if clock.deadline is None:
        return Costs({size: float(size * size) for size in trainee.resolutions}, 0.0)
    step = _time_steps(trainee, clock)
    costs = Costs(step, _time_view(trainee, clock, step[trainee.resolutions[-1]]))
    trainee.reset()
    return costs


def _time_steps(trainee: Trainee, clock: Clock) -> dict[int, float]:
    stream, step = trainee.stream(), trainee.step()
    device = trainee.machine.choice.device
    budget, began = SHARE * clock.remaining(), clock.now()
    timed: dict[int, float] = {}
    for size in sorted(set(trainee.resolutions)):
        # A GPU's first step at a size compiles; to skip it would only put that into the training.
        if timed and device.type != "cuda" and clock.now() - began > budget:
            nearest = max(timed)
            timed[size] = timed[nearest] * (size / nearest) ** 2
            continue
        for _ in range(2):  # the first warms up: memory is taken, kernels are chosen
            synchronize(device)
            start = clock.now()
            step(stream.next(size), 0.0)
            synchronize(device)
            timed[size] = clock.now() - start
    return timed


def _time_view(trainee: Trainee, clock: Clock, step_seconds: float) -> float:
    """Seconds of one view of all scored images, from training images in their place. step_seconds: at their size."""
    count, images = trainee.machine.scored_count, trainee.machine.train_images
    if images.is_cuda:
        return _rehearse(trainee, clock, images[:count]) * count / min(count, len(images))
    evaluator, least = trainee.evaluator(images), trainee.batch_size
    affordable = int(SHARE * clock.remaining() / (2 * step_seconds / 3) * least)  # a step is about three forward passes
    rows = torch.arange(min(max(affordable, least), TIMED_IMAGES, len(images)))
    evaluator.logits(rows)
    start = clock.now()
    evaluator.logits(rows)
    return (clock.now() - start) / len(rows) * count


def _rehearse(trainee: Trainee, clock: Clock, images: Tensor) -> float:
    """The whole evaluation, the second time by the clock: on a GPU each new view or batch compiles something first."""
    evaluator, config = trainee.evaluator(images), trainee.config
    share = config.uncertain_share or 0.0
    seconds = 0.0
    for _ in range(2):
        synchronize(images.device)
        start = clock.now()
        plain = evaluator.plain(lambda: 1.0)
        evaluator.with_views(plain, config.tta, share, time_left=lambda: math.inf, view_seconds=0.0)
        synchronize(images.device)
        seconds = clock.now() - start
    return seconds / (1 + share * (views(config.tta) - 1))
