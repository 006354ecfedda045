"""One training, from plan to record: the phases in their order. `speedrun.run` starts it with a clock and a screen."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from speedrun import checkpoint, compilation, compiler, memory, metrics, models, planner, scores
from speedrun.calibrate import Costs, calibrate
from speedrun.clock import Clock, Ledger
from speedrun.config import Config, to_dict
from speedrun.distributed import World
from speedrun.errors import BudgetError, SpeedrunError, UsageError
from speedrun.evaluate import accuracy, views
from speedrun.files import sealed, write_json
from speedrun.governor import Governor
from speedrun.machine import Machine
from speedrun.outcome import Outcome
from speedrun.pacer import Pacer
from speedrun.pressure import Pressure
from speedrun.screen import Screen
from speedrun.signals import Interrupted, Signals
from speedrun.snapshot import Snapshot
from speedrun.summary import percent
from speedrun.trainee import Trainee, build
from speedrun.training import Training
from speedrun.validation import Validator
from speedrun.watchdog import MARGIN

# Seconds between the last file and the deadline: the process must also be gone by then, before its watchdog acts.
END_MARGIN = MARGIN + 0.35
SAVE_SECONDS = 0.15
# Evaluation was timed on one batch; what it takes varies by a few percent. Beside other processes it may vary by far
# more: further views give way then, and where there are none, this much of one more is kept.
EVALUATION_MARGIN = 1.1
LEAST_VIEWS = 1.3
COMPILE_SHARE = 0.25


@dataclass
class Session:
    """One run: `choose_plan`, `prepare`, `train`, `save_model`, `evaluate`, `save_checkpoint`, `finish`, `save_record`,
    once each.

    may_settle_threads: whether the CPU's thread count may follow what other processes leave.
    write_seconds: what a small file took to reach the disk. picture_seconds: kept for drawing one. keeps: whether
    checkpoints are written. resumed: the one to go on from, if any.
    earlier: the trainee of the run before, whose compiled code may serve again.
    world: the ranks that train together; the first decides and writes. folder: None on the others, which write nothing.
    charge(phase): bring a phase up to what the first run of this process spent on it.
    logits: of the scored images, once they are.
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
    write_seconds: float = 0.0
    picture_seconds: float = 0.0
    keeps: bool = True
    resumed: Snapshot | None = None
    earlier: Trainee | None = None
    world: World = field(default_factory=World)

    plan: planner.Plan = field(init=False)
    trainee: Trainee = field(init=False)
    costs: Costs = field(init=False)
    pacer: Pacer = field(init=False)
    training: Training = field(init=False)
    validator: Validator | None = field(init=False, default=None)
    logits: Tensor | None = field(init=False, default=None)
    pressure: Pressure = field(init=False, default_factory=Pressure)

    def choose_plan(self) -> planner.Plan:
        """Fill in what the config leaves open, from the seconds that are left. UsageError where they cannot suffice."""
        self.plan = self.world.decide(self._choose_plan)
        self.config = self.plan.apply(self.config)
        self.outcome.plan, self.outcome.expected_accuracy = self.plan, self.plan.expected_accuracy
        return self.plan

    def _choose_plan(self) -> planner.Plan:
        machine, after = self.machine, SAVE_SECONDS + END_MARGIN
        situation = machine.situation()
        least = planner.least_seconds(self.config, situation) + after
        if self.clock.remaining() < least:
            self._refuse(least)
        trained = self.ledger.snapshot()["train"]  # by the run that is resumed
        seconds = self.clock.remaining() - after + trained
        if self.config.target is not None and self.resumed is None:
            seconds = self._seconds_for_target(self.config.target, situation, seconds)
        return planner.choose(self.config, situation, None if math.isinf(seconds) else seconds)

    def _seconds_for_target(self, target: float, situation: planner.Situation, seconds: float) -> float:
        """Seconds after which `target` is expected. UsageError where that is never, or later than in `seconds`."""
        needed = planner.seconds_for(self.config, situation, target + planner.TARGET_MARGIN)
        around = self.clock.elapsed() + SAVE_SECONDS + END_MARGIN
        if needed is None:
            highest, most = planner.reach(self.config, situation)
            raise UsageError(
                f"no net that the planner knows reaches {percent(target)}: "
                f"the highest is {percent(highest - planner.TARGET_MARGIN)}, in about {math.ceil(around + most):,} s"
            )
        if needed > seconds:
            total, given = math.ceil(around + needed), self.clock.seconds
            raise UsageError(f"{percent(target)} takes about {total:,} s here, more than {given:g} s")
        self.screen.note(f"target  {percent(target)}, expected in about {math.ceil(around + needed):,} s")
        return needed

    def prepare(self) -> None:
        """Build the net, compile it where that pays, and calibrate. Raises UsageError where the budget is too small."""
        self.enter("build")
        self.trainee = build(self.config, self.machine, self.earlier, self.world)
        self.earlier = None  # what does not serve gives its memory back before anything is captured
        if self.resumed is not None and self.resumed.state["data"] != self.trainee.images_seen():
            raise SpeedrunError("the run that is resumed was trained on other images: name them by --dataset")
        self._fit_memory()
        self.outcome.threads = torch.get_num_threads()
        self.outcome.parameters = models.parameters(self.trainee.net)
        if self.config.compile != "off":
            self.enter("compile")
            self.outcome.compile_warm, problem = self.trainee.compile(COMPILE_SHARE * self.clock.remaining())
            for line in self.world.heard([problem] if problem else []):
                self.screen.warn(line)
            if self.outcome.compile_warm is not None and self.world.leads:
                name = compilation.code_name(self.config.model, self.plan.dials, self.config.compile)
                compiler.remember(self.machine.description["name"], name)
            self.charge("compile")
        self.enter("calibrate")
        self.costs = memory.retry(lambda: calibrate(self.trainee, self.clock), self._take_smaller_batch)
        self.charge("calibrate")
        self.pacer = Pacer(self.trainee.stages, self.costs.step, max_steps=self._max_steps())
        if self.world.leads:
            self._check_budget()

    def _max_steps(self) -> int | None:
        """The steps that the config allows: by number, by epochs, or by what its target is expected to take."""
        limits = [] if self.config.steps is None else [self.config.steps]
        planned = None if self.config.target is None else self.plan.epochs  # however fast the machine turns out to be
        for epochs in (self.config.epochs, planned):
            if epochs is not None:
                batches = epochs * self.trainee.stream().batches_per_epoch
                limits.append(max(1, round(batches / self.config.select.mean_batches)))
        return min(limits, default=None)

    def reserve(self) -> float:
        """Seconds to keep for evaluating and saving, on a machine as slow as it is now."""
        seen = max(LEAST_VIEWS, 1 + self.plan.uncertain_share * (views(self.plan.tta) - 1))
        validation = self.validator.seconds_left if self.validator else 0.0
        evaluation = EVALUATION_MARGIN * (seen * self.costs.view + validation) * max(1.0, self.pacer.slowdown)
        after = self._save_seconds() + self.picture_seconds + END_MARGIN
        return evaluation + after + self.pressure.exit_seconds()

    def _save_seconds(self) -> float:
        """Seconds that writing the weights and the record may take, on a disk of 200 MB/s, or as slow as it has shown.

        Claiming the folder wrote one small file; weights, config and record are three.
        """
        return SAVE_SECONDS + 4 * (self.outcome.parameters or 0) / 200e6 + 3 * self.write_seconds

    def _check_budget(self) -> None:
        first_step = self.costs.step[self.trainee.stages[0].work]
        if self.clock.remaining() - self.reserve() < first_step:
            self._refuse(self.reserve() + 2 * first_step)

    def _refuse(self, more_seconds: float) -> NoReturn:
        before = 0.0 if self.resumed is None else self.resumed.state["clock"]["elapsed"]
        least = planner.LEAST_MARGIN * (self.clock.elapsed() - before + more_seconds)
        given = f"{self.clock.seconds:g} s are too few here"
        if self.resumed is not None:
            given = f"{max(0.0, self.clock.remaining()):.1f} s are left, too few to go on"
        raise BudgetError(f"{given}: --seconds {math.ceil(least)} is the least that works", least)

    def train(self) -> None:
        """Train to the end of the schedule or to a signal. The comparable clock starts here."""
        self.enter("train")
        self.world.watch(self.config.distributed.stall_seconds)
        self.validator = self._validator()
        self.training = self._training()
        if self.resumed is None:
            self.trainee.whiten()
        else:
            self.training.restore(self.resumed.model, self.resumed.state)
            # From here the folder holds a run that goes on.
            if self.folder is not None:
                metrics.rewind(self.folder / "metrics.jsonl", self.pacer.steps)
                (self.folder / "result.json").unlink(missing_ok=True)
        self._renew_expectation()
        self.signals.gentle = True
        began = self.clock.now(), self.outcome.images, self.world.waited
        with metrics.MetricsWriter(None if self.folder is None else self.folder / "metrics.jsonl") as writer:
            finished = memory.retry(lambda: self.training.run(writer), self._take_smaller_batch)
        if writer.problem:
            self.screen.warn(writer.problem)
        self._rate(*began)
        self.outcome.status = "complete" if finished and not self._signalled() else "interrupted"
        self.training.step.settle()

    def _renew_expectation(self) -> None:
        """Expect what the steps reach that fit by their calibrated seconds, and tell it where it reads otherwise than
        the plan. The probe, by which the net was chosen, was of another net; the plan stays as it was made."""
        timed = self.world.decide(self._timed_plan)
        self.outcome.expected_accuracy = timed.expected_accuracy
        if timed.promise != self.plan.promise:
            self.screen.note(f"timed  {timed.promise}")

    def _timed_plan(self) -> planner.Plan:
        if self.clock.deadline is None:  # nothing was timed
            return self.plan
        steps = 0 if self.pacer.done else self.pacer.fitting(self.clock.remaining() - self.reserve())
        batches = self.training.stream.batches_per_epoch
        return self.plan.timed(self.outcome.epochs + steps / batches, batches * self.trainee.batch_size)

    def _rate(self, began: float, images: int, waited: float) -> None:
        """Tell each rank's speed while it did not wait for the others, from how things stood when training began."""
        seconds = self.clock.now() - began - (self.world.waited - waited)
        if self.world.size == 1 or self.outcome.images == images or seconds <= 0:
            return
        own = self.world.part(self.trainee.batch_size)
        share = (own.stop - own.start) / self.trainee.batch_size
        self.outcome.rank_images_per_second = self.world.gather(share * (self.outcome.images - images) / seconds)

    def _signalled(self) -> bool:
        """Whether a signal has come; one to any rank is one to all."""
        number = int(self.world.most(self.signals.received or 0)[0])
        self.signals.received = number or None
        return number != 0

    def _training(self) -> Training:
        return Training(
            self.trainee,
            self.pacer,
            self.clock,
            self.ledger,
            self.screen,
            self.signals,
            self.outcome,
            reserve=self.reserve,
            keep=self.folder if self.keeps else None,
            write_seconds=self.write_seconds,
            governor=Governor(torch.get_num_threads()) if self.may_settle_threads else None,
            validator=self.validator,
        )

    def _validator(self) -> Validator | None:
        machine, config = self.machine, self.config.validation
        if not config.times or machine.held_out is None:
            return None
        images, labels = machine.held_out
        # All ranks score the same number of images, by the first one's clock.
        image_seconds, seconds = self.world.lead(
            self.costs.view / machine.scored_count, self.clock.remaining() - self.reserve()
        )
        return Validator(
            config,
            self.trainee.evaluator(images),
            labels,
            image_seconds=image_seconds,
            seconds=seconds,
            path=None if self.folder is None else self.folder / scores.FILE,
        )

    def _fit_memory(self) -> None:
        """Halve the batch as often as it takes for a step to fit into what is free, before anything runs out: a CPU's
        memory does not say so in time. A run that is resumed keeps its batch, so does compiled code, and so do several
        devices, of which each would find another. Without a deadline there is a warning alone: such a run is the same
        on every machine."""
        free, made = self.machine.free_bytes, self.trainee
        if free is None or self.resumed is not None or made.compiled or self.world.size > 1:
            return
        while made.batch_size >= 2 * memory.SMALLEST_BATCH:
            needed = made.step_bytes()
            if needed <= memory.FREE_SHARE * free:
                return
            asked = f"{needed / 2**30:.2f} GiB"
            if self.clock.deadline is None:
                lacking = memory.describe(self.machine.choice.device, asked)
                self.screen.warn(f"little memory ({lacking}): without --seconds the batch stays {made.batch_size}")
                return
            self._take_smaller_batch(asked, "little memory")

    def _take_smaller_batch(self, asked: str, why: str = "out of memory") -> None:
        """Halve the batch, for memory did not suffice. SpeedrunError where it is as small as it may be, and on several
        devices, where the others are in the middle of the step."""
        if self.world.size > 1:
            lacking = memory.describe(self.machine.choice.device, asked)
            raise SpeedrunError(f"{why} ({lacking}): ask for smaller batches, --set batch_size=...")
        before = self.trainee.batch_size
        self.config, line = memory.smaller_batch(self.config, self.machine.choice.device, asked, why)
        self.screen.warn(line)
        self.trainee.resize(self.config)
        if hasattr(self, "training"):
            self.training.take_smaller_batches(before)

    def save_checkpoint(self) -> None:
        """Leave a checkpoint to resume from, if the run is not complete and there is time."""
        self.enter("save")
        if self.folder is None:
            return
        in_time = self.clock.remaining() > 2 * self.training.interval.cost + END_MARGIN
        if self.outcome.status != "complete" and self.keeps and in_time:
            self.training.keep(self.folder)

    def evaluate(self) -> None:
        """Score the final weights, once; nothing after an interruption, and no score where time or a signal forbids."""
        if self._signalled():
            self.outcome.status = "interrupted"
        if self.outcome.status != "complete":
            return
        self.enter("evaluate")
        self.signals.gentle = self.world.size > 1  # one that left would keep the others waiting
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
        evaluator = self.trainee.evaluator(images, self.training.step.evaluated)

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
        self.logits = logits.cpu()
        assert self.outcome.train_seconds is not None
        self.outcome.train_seconds += self.clock.now() - began

    def save_model(self) -> None:
        """Write model and config, before evaluation: whatever happens then, the weights are safe."""
        self.enter("save")
        if self.folder is None:
            return
        normalization = self.trainee.normalization
        checkpoint.save(
            self.folder / "model.pt",
            model=self.training.step.evaluated,
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
        write_json(self.folder / "config.json", sealed({**to_dict(self.config), "out": None}))

    def finish(self) -> dict[str, Any]:
        """Close the books: the final record."""
        if self.outcome.status == "complete":
            self.outcome.status = self._verdict()
        return sealed(self.outcome.record(self.config, self.clock, self.ledger))

    def _verdict(self) -> str:
        """How a run ended that was trained and scored to its end."""
        if self.clock.remaining() < 0:
            return "timeout"
        target, accuracy = self.config.target, self.outcome.accuracy
        return "missed" if target is not None and (accuracy or 0.0) < target else "complete"

    def save_record(self, final: dict[str, Any]) -> None:
        """Write the record, the last file of a run."""
        if self.folder is None:
            return
        write_json(self.folder / "result.json", final)

    def enter(self, phase: str) -> None:
        """Begin a phase, in the ledger and on the screen."""
        self.ledger.enter(phase)
        self.screen.phase(phase)
