"""One training, from plan to record: the phases in their order. `speedrun.run` starts it with a clock and a screen."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from speedrun import checkpoint, models, planner
from speedrun.calibrate import Costs, calibrate
from speedrun.clock import Clock, Ledger
from speedrun.config import Config, to_dict
from speedrun.device import Window
from speedrun.errors import UsageError
from speedrun.evaluate import accuracy, views
from speedrun.files import write_json
from speedrun.governor import Governor
from speedrun.loop import Report, train
from speedrun.machine import Machine
from speedrun.methods.plain import PlainStep
from speedrun.metrics import MetricsWriter
from speedrun.outcome import Outcome
from speedrun.pacer import Pacer
from speedrun.schedule import one_cycle
from speedrun.screen import Progress, Screen
from speedrun.signals import Interrupted, Signals
from speedrun.stream import Stream
from speedrun.trainee import Trainee, build
from speedrun.watchdog import MARGIN

# Seconds between the last file and the deadline: the process must also be gone by then, before its watchdog acts.
END_MARGIN = MARGIN + 0.35
SAVE_SECONDS = 0.15
# Evaluation was timed on one batch; what it takes varies by a few percent.
EVALUATION_MARGIN = 1.1
COMPILE_SHARE = 0.25


@dataclass
class Session:
    """One run: `choose_plan`, `prepare`, `train`, `save_model`, `evaluate`, `finish`, `save_record`, once each.

    may_settle_threads: whether the CPU's thread count may follow what other processes leave.
    charge(phase): bring a phase up to what the first run of this process spent on it.
    """

    config: Config
    machine: Machine
    clock: Clock
    ledger: Ledger
    screen: Screen
    signals: Signals
    outcome: Outcome
    folder: Path | None
    may_settle_threads: bool
    charge: Callable[[str], None]

    plan: planner.Plan = field(init=False)
    trainee: Trainee = field(init=False)
    costs: Costs = field(init=False)
    pacer: Pacer = field(init=False)
    step: PlainStep = field(init=False)
    stream: Stream = field(init=False)

    def choose_plan(self) -> planner.Plan:
        """Fill in what the config leaves open, from the seconds that are left. UsageError where they cannot suffice."""
        machine, seconds = self.machine, self.clock.remaining()
        device, speed, after = machine.choice.device.type, machine.flops_per_second, SAVE_SECONDS + END_MARGIN
        least = planner.least_seconds(device, speed, machine.scored_count) + after
        if seconds < least:
            self._refuse(least)
        self.plan = planner.choose(
            self.config,
            device=device,
            seconds=None if math.isinf(seconds) else seconds - after,
            probe_flops=speed,
            image_size=machine.image_size,
            images=len(machine.train_images),
            scored=machine.scored_count,
            known=machine.dataset.name == "cifar10",
        )
        self.config = self.plan.apply(self.config)
        self.outcome.plan = self.plan
        return self.plan

    def prepare(self) -> None:
        """Build the net, compile it where that pays, and calibrate. Raises UsageError where the budget is too small."""
        self.enter("build")
        self.trainee = build(self.config, self.machine)
        self.outcome.threads = torch.get_num_threads()
        self.outcome.parameters = models.parameters(self.trainee.net)
        if self.config.compile != "off":
            self.enter("compile")
            self.outcome.compile_warm, problem = self.trainee.compile(COMPILE_SHARE * self.clock.remaining())
            if problem:
                self.screen.warn(problem)
            self.charge("compile")
        self.enter("calibrate")
        self.costs = calibrate(self.trainee, self.clock)
        self.charge("calibrate")
        self.pacer = Pacer(self.trainee.resolutions, self.costs.step, max_steps=self.config.steps)
        self._check_budget()

    def reserve(self) -> float:
        """Seconds to keep for evaluating and saving, on a machine as slow as it is now."""
        seen = 1 + self.plan.uncertain_share * (views(self.plan.tta) - 1)
        evaluation = EVALUATION_MARGIN * seen * self.costs.view * max(1.0, self.pacer.slowdown)
        return evaluation + self._save_seconds() + END_MARGIN

    def _save_seconds(self) -> float:
        """Seconds that writing the weights and the record may take, on a disk of 200 MB/s."""
        return SAVE_SECONDS + 4 * (self.outcome.parameters or 0) / 200e6

    def _check_budget(self) -> None:
        first_step = self.costs.step[self.trainee.resolutions[0]]
        if self.clock.remaining() - self.reserve() < first_step:
            self._refuse(self.reserve() + 2 * first_step)

    def _refuse(self, more_seconds: float) -> NoReturn:
        least = math.ceil(1.1 * (self.clock.elapsed() + more_seconds))
        raise UsageError(f"{self.clock.seconds:g} s are too few here: --seconds {least} is the least that works")

    def train(self) -> None:
        """Train to the end of the schedule or to a signal. The comparable clock starts here."""
        self.enter("train")
        began = self.clock.now()
        governor = Governor(torch.get_num_threads()) if self.may_settle_threads else None
        self.trainee.whiten()
        self.step, self.stream = self.trainee.step(), self.trainee.stream()
        total = self.pacer.plan(self.clock.remaining() - self.reserve())
        self.screen.begin(self.clock.seconds, total, self.clock.elapsed())
        self.signals.gentle = True
        assert self.folder is not None
        with MetricsWriter(self.folder / "metrics.jsonl") as metrics:
            finished = train(
                self.step,
                self.stream,
                self.pacer,
                self.clock,
                reserve=self.reserve,
                stop=lambda: self.signals.received is not None,
                report=lambda report: self._after_step(report, metrics, governor),
                window=Window(self.machine.choice.device),
            )
        if metrics.problem:
            self.screen.warn(metrics.problem)
        self.outcome.train_seconds = self.clock.now() - began
        self.outcome.status = "complete" if finished and self.signals.received is None else "interrupted"

    def _after_step(self, report: Report, metrics: MetricsWriter, governor: Governor | None) -> None:
        if governor is not None:
            seconds = self.stream.batch_size / report.images_per_second
            torch.set_num_threads(governor.observe(seconds / self.costs.step[self.pacer.resolution]))
        self._show(report, metrics)

    def _show(self, report: Report, metrics: MetricsWriter) -> None:
        optim, elapsed = self.config.optim, self.clock.elapsed()
        self.outcome.steps, self.outcome.epochs = report.step, report.epoch
        self.outcome.images = report.step * self.stream.batch_size
        shared: dict[str, Any] = {
            "step": report.step,
            "progress": report.progress,
            "epoch": report.epoch,
            "loss": report.loss,
            "accuracy": report.accuracy,
            "learning_rate": optim.filter_lr * one_cycle(report.progress, optim.warmup, optim.start_lr),
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

    def evaluate(self) -> None:
        """Score the final weights, once; nothing after an interruption, and no score where time or a signal forbids."""
        if self.signals.received is not None:
            self.outcome.status = "interrupted"
        if self.outcome.status != "complete":
            return
        self.enter("evaluate")
        self.signals.gentle = False
        try:
            self._score()
        except Interrupted:
            self.outcome.status = "interrupted"
        except TimeoutError:  # the machine has become far slower than it was when the time was set aside
            self.outcome.status = "timeout"
            self.screen.warn("no time was left to evaluate: the weights are saved, their accuracy is unknown")
        self.signals.gentle = True

    def _score(self) -> None:
        began = self.clock.now()
        images, labels = self.machine.scored()
        evaluator = self.trainee.evaluator(images, self.step.evaluated)

        def time_left() -> float:
            return self.clock.remaining() - SAVE_SECONDS - END_MARGIN

        # The plain view may use up all but the time to leave: without it there is no result.
        plain = evaluator.plain(lambda: self.clock.remaining() - SAVE_SECONDS - MARGIN)
        self.outcome.accuracy_plain = accuracy(plain, labels)
        logits = evaluator.with_views(
            plain,
            self.plan.tta,
            self.plan.uncertain_share,
            time_left=time_left,
            view_seconds=max(self.costs.view, self.clock.now() - began),
        )
        self.outcome.accuracy = accuracy(logits, labels)
        assert self.outcome.train_seconds is not None
        self.outcome.train_seconds += self.clock.now() - began

    def save_model(self) -> None:
        """Write model and config, before evaluation: whatever happens then, the weights are safe."""
        self.enter("save")
        assert self.folder is not None
        normalization = self.trainee.normalization
        checkpoint.save(
            self.folder / "model.pt",
            model=self.step.evaluated,
            config=to_dict(self.config),
            extra={
                "mean": normalization.mean.tolist(),
                "std": normalization.std.tolist(),
                "classes": list(self.machine.dataset.classes),
                "dataset": self.machine.dataset.name,
                "size": self.trainee.resolutions[-1],
                "image_size": self.machine.image_size,
            },
        )
        # A repetition goes to a folder of its own.
        write_json(self.folder / "config.json", {**to_dict(self.config), "out": None})

    def finish(self) -> dict[str, Any]:
        """Close the books: the final record."""
        self.enter("save")
        if self.outcome.status == "complete" and self.clock.remaining() < 0:
            self.outcome.status = "timeout"
        return self.outcome.record(self.config, self.clock, self.ledger)

    def save_record(self, final: dict[str, Any]) -> None:
        """Write the record, the last file of a run."""
        assert self.folder is not None
        write_json(self.folder / "result.json", final)

    def enter(self, phase: str) -> None:
        """Begin a phase, in the ledger and on the screen."""
        self.ledger.enter(phase)
        self.screen.phase(phase)
