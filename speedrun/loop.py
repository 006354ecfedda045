"""THE loop. It knows time, order and stop, and nothing of any method."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from speedrun.clock import Clock
from speedrun.device import Window
from speedrun.pacer import Pacer
from speedrun.stream import Batch, Stream

Step = Callable[[Batch, float], Tensor]
UNKNOWN = -1.0  # seconds of a step that has not ended


@dataclass(frozen=True)
class Report:
    """What is known after a step. loss and accuracy are those of the newest batch whose numbers have arrived."""

    step: int
    steps_left: int
    progress: float
    epoch: float
    loss: float
    accuracy: float
    images_per_second: float


def train(
    step: Step,
    stream: Stream,
    pacer: Pacer,
    clock: Clock,
    *,
    reserve: Callable[[], float],
    stop: Callable[[], bool],
    report: Callable[[Report], float | None],
    window: Window,
    lead: Callable[..., tuple[float, ...]] = lambda *seconds: seconds,
) -> bool:
    """Take steps until the schedule has ended; False if `stop()` ended it before.

    report: told of each step; may return the seconds it took that are no part of a step's cost.
    reserve: seconds to keep for what comes after training. A schedule that is planned over the time left ends by
    itself; steps that turn slower only make it shorter.
    lead: takes seconds to those that decide, where several devices must take the same steps.
    """
    loss = accuracy = float("nan")
    pacer.plan(*lead(clock.remaining() - reserve()))
    last = clock.now()
    while not pacer.done:
        if stop():
            return False
        batch = stream.next(*pacer.work)
        numbers = window.push(step(batch, pacer.progress))
        now = clock.now()
        if numbers is not None:
            loss, accuracy = numbers
        # Queued steps still take their time. While the queue fills up the host is ahead: its times say nothing.
        queued = window.pending * pacer.step_seconds[pacer.work]
        took, left = lead(now - last if numbers is not None else UNKNOWN, clock.remaining() - reserve() - queued)
        pacer.advance(None if took == UNKNOWN else took, left)
        speed = stream.batch_size / max(now - last, 1e-9)
        done = Report(pacer.steps, pacer.steps_left or 0, pacer.progress, stream.epoch, loss, accuracy, speed)
        last = now + (report(done) or 0.0)
    window.drain()
    return True
