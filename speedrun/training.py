"""The phase in which steps are taken, around the loop: threads, metrics, the screen, checkpoints, resuming."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speedrun import checkpoint, snapshot
from speedrun.clock import Clock, Ledger
from speedrun.device import Window
from speedrun.divergence import Divergence
from speedrun.errors import SpeedrunError
from speedrun.governor import Governor
from speedrun.loop import Report, train
from speedrun.metrics import MetricsWriter
from speedrun.outcome import Outcome
from speedrun.pacer import Pacer
from speedrun.schedule import rate_share
from speedrun.screen import Progress, Screen
from speedrun.signals import Signals
from speedrun.snapshot import Interval
from speedrun.trainee import Trainee
from speedrun.validation import Validator


class Training:
    """Steps of a trainee to the end of its schedule.

    reserve(): seconds to keep for what comes after. keep: the folder for checkpoints, or None for none. write_seconds:
    what a small file takes to reach its disk.
    governor: follows what other processes leave of the CPU, or None. validator: scores held-out images, or None.
    """

    def __init__(
        self,
        trainee: Trainee,
        pacer: Pacer,
        clock: Clock,
        ledger: Ledger,
        screen: Screen,
        signals: Signals,
        outcome: Outcome,
        *,
        reserve: Callable[[], float],
        keep: Path | None,
        write_seconds: float,
        governor: Governor | None,
        validator: Validator | None,
    ) -> None:
        self.trainee, self.pacer, self.clock, self.ledger = trainee, pacer, clock, ledger
        self.screen, self.signals, self.outcome = screen, signals, outcome
        self.reserve, self.governor = reserve, governor
        self.validator = validator
        self.world, self._signal = trainee.world, 0.0
        self.window = Window(trainee.machine.choice.device)
        self._prepare()
        # A checkpoint holds weights, momenta and perhaps averages.
        copies = 2 + (trainee.config.optim.ema > 0) + (trainee.config.optim.lookahead > 0)
        self.interval = Interval(4 * copies * (outcome.parameters or 0), write_seconds, clock.elapsed())
        self._folder, self._failed = keep, False
        self._began = clock.now() - (outcome.train_seconds or 0.0)
        self._divergence = Divergence(str(trainee.machine.choice.dtype).removeprefix("torch."))

    def _prepare(self) -> None:
        """A step and a stream for the trainee as it is now."""
        self.step, self.stream = self.trainee.step(), self.trainee.stream()
        if self.validator:
            self.validator.evaluator.net = self.step.evaluated

    def state(self) -> dict[str, Any]:
        """Where the training is, for a checkpoint beside the net's."""
        return {
            "progress": self.pacer.progress,
            "steps": self.pacer.steps,
            "max_steps": self.pacer.max_steps,
            "batches": self.stream.batches,
            "step": self.step.state(),
            "validation": None if self.validator is None else self.validator.state(),
        }

    def restore(self, model: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from a `state` and the net that belongs to it. SpeedrunError where they do not fit the config."""
        try:
            checkpoint.load_into(self.trainee.net, model)
            self.step.restore(state["step"])
        except (ValueError, KeyError, RuntimeError) as error:
            raise SpeedrunError(f"the checkpoint does not fit its own config: {error}") from error
        self.stream.batches = state["batches"]
        if self.validator:
            self.validator.go_on(state["validation"])
        self.pacer.go_on(state["progress"], state["steps"], state["max_steps"])

    def keep(self, folder: Path) -> None:
        """Write a checkpoint from which the run can be resumed. OSError where that fails."""
        state = {
            **self.state(),
            "clock": {**self.clock.state(), "phases": self.ledger.snapshot()},
            "outcome": self.outcome.state(),
            "data": self.trainee.images_seen(),
        }
        snapshot.write(folder, self.trainee.net, self.trainee.config, state)

    def run(self, metrics: MetricsWriter) -> bool:
        """Take steps; False if a signal ended it before the end of the schedule."""
        total = self.pacer.plan(*self._lead(self.clock.remaining() - self.reserve()))
        self.screen.begin(self.clock.seconds, self.pacer.steps + total, self.clock.elapsed())
        finished = train(
            self.step,
            self.stream,
            self.pacer,
            self.clock,
            reserve=self.reserve,
            stop=lambda: self._signalled or (self.validator is not None and self.validator.stop),
            report=lambda report: self._after_step(report, metrics),
            window=self.window,
            lead=self._lead,
        )
        if self.validator:
            self.validator.restore()
            finished = finished or self.validator.stop
        self._count_seconds()
        if summary := self._divergence.summary():
            self.screen.warn(summary)
        return finished

    def _lead(self, *seconds: float) -> tuple[float, ...]:
        """The first rank's seconds decide; a signal to any rank is one to all, from this step on."""
        if self.world.size == 1:
            return seconds
        mine = seconds if self.world.leads else [-math.inf] * len(seconds)
        *led, self._signal = self.world.most(*mine, self.signals.received or 0)
        return tuple(led)

    @property
    def _signalled(self) -> bool:
        """Whether a signal ends the training, on all ranks before the same step."""
        return self.signals.received is not None if self.world.size == 1 else self._signal > 0

    def take_smaller_batches(self, before: int) -> None:
        """Go on after the trainee's batch was made smaller than `before`: state stays, the place in the epoch too."""
        state, epoch = self.step.state(), self.stream.epoch
        self._prepare()
        self.step.restore(state)
        self.stream.batches = math.ceil(epoch * self.stream.batches_per_epoch)
        self.pacer.scale(self.stream.batch_size / before)
        limit, steps = self.pacer.max_steps, self.pacer.steps
        if limit is not None and self.trainee.config.steps is None:  # what is left of its epochs is more steps now
            self.pacer.max_steps = steps + round((limit - steps) * before / self.stream.batch_size)

    def _validate(self, report: Report) -> None:
        """Score the images held out, if it is time to."""
        if not (self.validator and self.validator.due(report.progress)):
            return
        self.window.drain()  # what is queued is training's
        self.step.settle()
        assert self.outcome.train_seconds is not None
        try:
            self.validator.score(report.step, report.progress, report.epoch, self.outcome.train_seconds)
        except OSError as error:
            self.screen.warn(f"not saved: {error}")

    def _keep(self, metrics: MetricsWriter) -> None:
        """Write a checkpoint if one is due."""
        began = self.clock.elapsed()
        # A checkpoint that could only be of use when the run is over would shorten it.
        worth = self.clock.remaining() - self.reserve() > 10 * self.interval.cost
        if self._folder is None or not (worth and self.interval.due(began)):
            return
        metrics.flush()  # a run that is killed goes on from here, with all its lines
        try:
            self.keep(self._folder)
        except OSError as error:
            if not self._failed:
                self.screen.warn(f"a checkpoint was not written, training goes on: {error}")
            self._failed = True
        now = self.clock.elapsed()
        self.interval.took(now - began, now)

    def _after_step(self, report: Report, metrics: MetricsWriter) -> float:
        """Follow up a step; returns the seconds of what does not come with every step."""
        self.outcome.steps, self.outcome.epochs = report.step, report.epoch
        self.outcome.images += self.stream.batch_size
        self._count_seconds()
        if self.governor is not None:
            seconds = self.stream.batch_size / report.images_per_second
            torch.set_num_threads(self.governor.observe(seconds / self.pacer.calibrated))
        self._show(report, metrics)
        self._divergence.observe(report.loss, report.accuracy)
        began = self.clock.now()
        self._validate(report)
        self._keep(metrics)
        return self.clock.now() - began

    def _count_seconds(self) -> None:
        self.outcome.train_seconds = self.clock.now() - self._began

    def _show(self, report: Report, metrics: MetricsWriter) -> None:
        optim, elapsed = self.trainee.config.optim, self.clock.elapsed()
        share = rate_share(optim.schedule, report.progress, optim.warmup, optim.start_lr)
        shared: dict[str, Any] = {
            "step": report.step,
            "progress": report.progress,
            "epoch": report.epoch,
            "loss": report.loss,
            "accuracy": report.accuracy,
            "learning_rate": optim.filter_lr * share,
            "images_per_second": report.images_per_second,
        }
        metrics.write(**shared, seconds=elapsed)
        if self.screen.due():
            remaining = self.clock.remaining()
            self.screen.progress(
                Progress(
                    **shared,
                    total_steps=report.step + report.steps_left,
                    elapsed_seconds=elapsed,
                    remaining_seconds=None if math.isinf(remaining) else remaining,
                )
            )
