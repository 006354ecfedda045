"""What a step and an evaluation cost on this machine, measured before the clock of the schedule starts."""

from dataclasses import dataclass

import torch

from speedrun.clock import Clock
from speedrun.device import synchronize
from speedrun.trainee import Trainee

# Largest share of the time left that calibration may take; past it, other resolutions are scaled by their area.
SHARE = 0.02


@dataclass(frozen=True)
class Costs:
    """step: seconds of a training step by resolution. view: seconds of one view of all scored images."""

    step: dict[int, float]
    view: float


def calibrate(trainee: Trainee, clock: Clock) -> Costs:
    """Time a step at each resolution and a batch of evaluation, each after one to warm up; the net is reset then.

    Without a deadline nothing is timed: the costs are the resolutions' areas.
    """
    if clock.deadline is None:
        return Costs({size: float(size * size) for size in trainee.resolutions}, 0.0)
    costs = Costs(_time_steps(trainee, clock), _time_view(trainee, clock))
    trainee.reset()
    return costs


def _time_steps(trainee: Trainee, clock: Clock) -> dict[int, float]:
    stream, step = trainee.stream(), trainee.step()
    device = trainee.machine.choice.device
    budget, began = SHARE * clock.remaining(), clock.now()
    timed: dict[int, float] = {}
    for size in sorted(set(trainee.resolutions)):
        if timed and clock.now() - began > budget:
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


def _time_view(trainee: Trainee, clock: Clock) -> float:
    evaluator = trainee.evaluator(trainee.machine.train_images)
    device = evaluator.images.device
    rows = torch.arange(min(evaluator.batch_size, len(evaluator.images)), device=device)
    seconds = 0.0
    for _ in range(2):
        synchronize(device)
        start = clock.now()
        evaluator.logits(rows)
        synchronize(device)
        seconds = clock.now() - start
    return seconds / len(rows) * trainee.machine.scored_count
