"""The loop, with a fake step on a fake clock."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from kernels.augment import Augmentation
from speedrun.clock import Clock
from speedrun.device import Window
from speedrun.loop import Report, train
from speedrun.pacer import Pacer
from speedrun.selection import Work, stages
from speedrun.stream import Batch, Normalization, Stream

IMAGES = torch.randint(0, 256, (40, 16, 16, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@dataclass
class Bench:
    """A loop whose steps take `step_seconds(share of the time gone)` on a clock that only they move."""

    step_seconds: Callable[[float], float]
    seconds: float | None = 30.0
    max_steps: int | None = None
    reserve: float = 2.0
    stop_after: float = math.inf
    now: float = 0.0
    sizes: list[int] = field(default_factory=list)
    marks: list[float] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    def step(self, batch: Batch, progress: float) -> torch.Tensor:
        self.sizes.append(batch.images.shape[-1])
        self.marks.append(progress)
        self.now += self.step_seconds(self.now / (self.seconds or math.inf))
        return torch.tensor([3.0 - progress, progress])

    def run(self) -> bool:
        stream = Stream(
            IMAGES,
            torch.arange(40) % 10,
            batch_size=8,
            augmentation=Augmentation(),
            normalization=Normalization.of(IMAGES),
            dtype=torch.float32,
            seed=0,
        )
        self.pacer = Pacer(stages((12, 16)), {Work(12): 0.1, Work(16): 0.2}, max_steps=self.max_steps)
        return train(
            self.step,
            stream,
            self.pacer,
            Clock(self.seconds, start=0.0, now=lambda: self.now),
            reserve=lambda: self.reserve,
            stop=lambda: self.now >= self.stop_after,
            report=self.reports.append,
            window=Window(torch.device("cpu")),
        )


def steady(_: float) -> float:
    return 0.15


def test_it_takes_steps_until_the_reserve_begins():
    bench = Bench(steady)
    assert bench.run()
    assert 0.97 * 28 <= bench.now <= 28
    assert bench.pacer.progress == 1.0


def test_W3_steps_that_turn_slower_make_the_schedule_shorter_and_not_longer():
    bench = Bench(lambda share: 0.15 if share < 0.5 else 0.3)
    assert bench.run()
    assert 0.96 * 28 <= bench.now <= 28 + 0.15
    assert bench.pacer.progress == 1.0
    assert bench.marks[-1] > 0.98  # the rate fell to its floor step by step, the schedule was not cut off
    assert len(bench.marks) < len_of(Bench(steady))


def len_of(bench: Bench) -> int:
    bench.run()
    return len(bench.marks)


def test_a_reserve_that_grows_is_kept_too():
    class Growing(Bench):
        def step(self, batch: Batch, progress: float) -> torch.Tensor:
            self.reserve = 2.0 + 8.0 * progress
            return super().step(batch, progress)

    bench = Growing(steady)
    assert bench.run()
    assert 18 <= bench.now <= 20.3


@pytest.mark.parametrize("steps", [1, 2, 17])
def test_without_a_deadline_it_takes_the_steps_asked_for(steps: int):
    bench = Bench(steady, seconds=None, max_steps=steps)
    assert bench.run()
    assert bench.marks == pytest.approx([i / steps for i in range(steps)])
    assert bench.sizes == [12 if i < steps / 2 else 16 for i in range(steps)]


def test_it_stops_between_steps_when_it_is_told_to():
    bench = Bench(steady, stop_after=3.0)
    assert not bench.run()
    assert 3.0 <= bench.now < 3.2
    assert 0 < bench.pacer.progress < 1


def test_a_stop_before_the_first_step_takes_none():
    bench = Bench(steady, stop_after=0.0)
    assert not bench.run()
    assert (bench.marks, bench.reports) == ([], [])


def test_each_step_is_reported_with_its_numbers():
    bench = Bench(steady, seconds=None, max_steps=10)
    bench.run()
    assert [report.step for report in bench.reports] == list(range(1, 11))
    assert [report.steps_left for report in bench.reports] == list(range(9, -1, -1))
    assert [report.progress for report in bench.reports] == pytest.approx([i / 10 for i in range(1, 11)])
    assert [report.epoch for report in bench.reports] == pytest.approx([i / 5 for i in range(1, 11)])
    assert [report.loss for report in bench.reports] == pytest.approx([3 - mark for mark in bench.marks])
    assert [report.accuracy for report in bench.reports] == pytest.approx(bench.marks)
    assert [report.images_per_second for report in bench.reports] == pytest.approx([8 / 0.15] * 10)


class Late(Window):
    """Hands out numbers two steps late, as a device with a queue does."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.queue: list[list[float]] = []
        self.drained = False

    def push(self, numbers: torch.Tensor) -> list[float] | None:
        self.queue.append(numbers.tolist())
        return self.queue.pop(0) if len(self.queue) > 2 else None

    def drain(self) -> list[float] | None:
        self.drained = True
        return self.queue[-1]


def test_numbers_that_come_late_are_those_of_the_newest_step_that_is_known(monkeypatch: pytest.MonkeyPatch):
    window = Late()
    monkeypatch.setattr("test_loop.Window", lambda _: window)
    bench = Bench(steady, seconds=None, max_steps=6)
    bench.run()
    assert [math.isnan(report.loss) for report in bench.reports] == [True, True, False, False, False, False]
    assert [report.loss for report in bench.reports[2:]] == pytest.approx([3 - i / 6 for i in range(4)])
    assert window.drained
    assert bench.pacer.step_seconds[Work(12)] != 0.1  # calibrated; the last steps were measured


def test_W8_steps_that_are_queued_are_paid_for_before_the_deadline(monkeypatch: pytest.MonkeyPatch):
    """A device whose steps end eight behind the host: the time to finish them is kept free."""
    depth, step_seconds = 8, 0.1
    bench = Bench(lambda share: 0.0, seconds=10.0, reserve=1.0)

    class Late:
        """Queueing costs nothing until the queue is full; then the host waits for the oldest step."""

        def __init__(self, device: torch.device) -> None:
            self.pending = 0

        def push(self, numbers: torch.Tensor) -> list[float] | None:
            self.pending += 1
            if self.pending <= depth:
                return None
            self.pending -= 1
            bench.now += step_seconds
            return numbers.tolist()

        def drain(self) -> None:
            bench.now += self.pending * step_seconds

    monkeypatch.setattr("test_loop.Window", Late)
    assert bench.run()
    assert 8.5 < bench.now <= 9.0 + step_seconds / 2
