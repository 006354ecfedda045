"""What a step and an evaluation cost on this machine, measured before the clock of the schedule starts."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from speedrun.clock import Clock
from speedrun.device import synchronize
from speedrun.evaluate import views
from speedrun.methods.plain import PlainStep
from speedrun.methods.selective import SelectiveStep
from speedrun.selection import Work, begin_of
from speedrun.stream import Stream
from speedrun.trainee import Trainee

# Largest share of the time left that timing steps may take, and that timing an evaluation may. Past it, other
# resolutions are scaled by their area, and no more images are evaluated than a step takes; else as many as this.
SHARE, TIMED_IMAGES = 0.02, 500


@dataclass(frozen=True)
class Costs:
    """step: seconds of a training step by its work. view: seconds of one view of all scored images."""

    step: dict[Work, float]
    view: float


def calibrate(trainee: Trainee, clock: Clock) -> Costs:
    """Time a step of each work and an evaluation, each after one to warm up; the net is reset then.

    Without a deadline nothing is timed: the costs are the resolutions' areas. A GPU still makes its first evaluation
    here, for it compiles, which the comparable clock does not count.
    """
    if clock.deadline is None:
        if trainee.machine.choice.device.type == "cuda":
            _rehearse(trainee, clock, trainee.machine.train_images[: trainee.machine.scored_count])
        return Costs({stage.work: float(stage.work.size**2) for stage in trainee.stages}, 0.0)
    step = _time_steps(trainee, clock)
    (view,) = trainee.world.most(_time_view(trainee, clock, step[trainee.stages[-1].work]))
    costs = Costs(step, view)
    trainee.reset()
    return costs


def _time_steps(trainee: Trainee, clock: Clock) -> dict[Work, float]:
    stream, step = trainee.stream(), trainee.step()
    device = trainee.machine.choice.device
    budget, began = SHARE * clock.remaining(), clock.now()
    timed: dict[Work, float] = {}
    for work in sorted({stage.work for stage in trainee.stages}, key=lambda work: (work.batches, work.size)):
        # A GPU's first step at a size compiles; to skip it would only put that into the training. Nor is the cost of
        # picking images known from that of a step without.
        alike = [known.size for known in timed if known.batches == work.batches]
        if alike and device.type != "cuda" and trainee.world.lead(clock.now() - began - budget)[0] > 0:
            timed[work] = timed[Work(max(alike), work.batches)] * (work.size / max(alike)) ** 2
            continue
        timed[work] = _mean_seconds(trainee, clock, step, stream, work)
    return dict(zip(timed, trainee.world.most(*timed.values()), strict=True))


def _mean_seconds(trainee: Trainee, clock: Clock, step: PlainStep, stream: Stream, work: Work) -> float:
    """Seconds of a step of a work, the mean of those that follow each other in a run."""
    select, device = trainee.config.select, trainee.machine.choice.device
    late = select.picks and begin_of(work, trainee.stages) >= select.end

    def once() -> float:
        synchronize(device)
        start = clock.now()
        step(stream.next(*work), select.end if late else 0.0)
        synchronize(device)
        return clock.now() - start

    once()  # warms up: memory is taken, kernels are chosen
    if late or not isinstance(step, SelectiveStep):
        return once()
    seconds = []
    for learns in (True, False):
        step.turn(learns)
        seconds.append(once())
    return select.mean_seconds(*seconds)


def _time_view(trainee: Trainee, clock: Clock, step_seconds: float) -> float:
    """Seconds of one view of all scored images, from training images in their place. step_seconds: at their size."""
    count, images = trainee.machine.scored_count, trainee.machine.train_images
    if images.is_cuda:
        return _rehearse(trainee, clock, images[:count]) * count / min(count, len(images))
    evaluator, least = trainee.evaluator(images), trainee.batch_size
    left = trainee.world.lead(clock.remaining())[0]
    affordable = int(SHARE * left / (2 * step_seconds / 3) * least)  # a step is about three forward passes
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
