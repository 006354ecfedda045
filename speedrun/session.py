"""One training, from data to record: the phases in their order. `speedrun.run` starts it with a clock and a screen."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kernels.augment import Augmentation
from speedrun import checkpoint, compiler, device, models, planner, probe, record, seeds
from speedrun.clock import Clock, Ledger
from speedrun.config import Config, to_dict
from speedrun.data import Dataset
from speedrun.errors import UsageError
from speedrun.evaluate import Evaluator, accuracy, views
from speedrun.files import write_json
from speedrun.methods.plain import PlainStep
from speedrun.metrics import MetricsWriter
from speedrun.pacer import Pacer
from speedrun.schedule import one_cycle
from speedrun.screen import Progress, Screen
from speedrun.signals import Signals
from speedrun.stream import Normalization, Stream
from speedrun.train import Report, train
from speedrun.watchdog import MARGIN

# Seconds between the last file and the deadline: the process must also be gone by then, before its watchdog acts.
END_MARGIN = MARGIN + 0.35
SAVE_SECONDS = 0.15
# Largest share of the budget that calibration may take; past it, other resolutions are scaled by their area.
CALIBRATION_SHARE = 0.02
COMPILE_SHARE = 0.25
WHITENING_IMAGES = 5000


@dataclass
class Machine:
    """What several runs of one process share: the device, its speed and the data on it."""

    choice: device.Choice
    description: dict[str, Any]
    flops_per_second: float
    dataset: Dataset
    train_images: Tensor  # uint8 (N, H, W, 3)
    train_labels: Tensor  # int64 (N,)
    split: dict[str, str]
    held_out: tuple[Tensor, Tensor] | None

    @property
    def classes(self) -> int:
        return len(self.dataset.classes)

    def scored(self) -> tuple[Tensor, Tensor]:
        """The images that accuracy is reported on: those held out, or the test set, which is read here and only here."""
        if self.held_out is not None:
            return self.held_out
        to = self.choice.device
        return torch.from_numpy(self.dataset.test_images).to(to), torch.from_numpy(self.dataset.test_labels).to(to)


def open_machine(config: Config, choice: device.Choice, dataset: Dataset) -> Machine:
    """Put the data on the device, hold out a tenth if asked, and measure the device's speed."""
    images = torch.from_numpy(dataset.train_images)
    labels = torch.from_numpy(dataset.train_labels)
    total, held_out = len(images), None
    split = {"train": f"train[{total}]", "scored": f"test[{len(dataset.test_images)}]"}
    if config.holdout:
        # The same images for every seed of the run, so that seeds differ in training alone.
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seeds.derive(0, "holdout")))
        kept, out = order[total // 10 :].sort().values, order[: total // 10].sort().values
        held_out = images[out].to(choice.device), labels[out].to(choice.device)
        images, labels = images[kept], labels[kept]
        split = {"train": f"train[{len(kept)} of {total}]", "scored": f"train[{len(out)} of {total}, held out]"}
    return Machine(
        choice=choice,
        description=device.describe(choice.device),
        flops_per_second=probe.training_flops_per_second(choice.device, choice.dtype),
        dataset=dataset,
        train_images=images.contiguous().to(choice.device),
        train_labels=labels.to(choice.device),
        split=split,
        held_out=held_out,
    )


@dataclass
class Session:
    """One run. `prepare`, then `train`, `evaluate` and `save`; `record` at any moment."""

    config: Config
    machine: Machine
    clock: Clock
    ledger: Ledger
    screen: Screen
    signals: Signals
    folder: Path | None
    charge: Callable[[str], None]
    status: str = "failed"
    warm: dict[str, bool | None] = field(default_factory=dict)
    plan: planner.Plan | None = None
    accuracy: float | None = None
    accuracy_plain: float | None = None
    training_seconds: float | None = None
    evaluation_seconds: float = 0.0

    # -- plan ---------------------------------------------------------------------------------------------------------

    def choose_plan(self) -> planner.Plan:
        """Fill in what the config leaves open, from the seconds that are left."""
        seconds = self.clock.remaining()
        self.plan = planner.choose(
            self.config,
            device=self.machine.choice.device.type,
            seconds=None if math.isinf(seconds) else max(seconds - END_MARGIN - SAVE_SECONDS, 0.1),
            probe_flops=self.machine.flops_per_second,
            image_size=self.machine.train_images.shape[1],
            images=len(self.machine.train_images),
        )
        self.config = self.plan.apply(self.config)
        return self.plan

    # -- build, compile, calibrate ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Build the net, compile it where that pays, and calibrate the pacer. Raises UsageError for too small a budget."""
        self.enter("build")
        self._build()
        if self.config.compile != "off":
            self.enter("compile")
            self._compile()
        self.enter("calibrate")
        self._calibrate()
        self._check_budget()

    def _build(self) -> None:
        choice, config, machine = self.machine.choice, self.config, self.machine
        torch.manual_seed(seeds.derive(config.seed, "init"))
        self.net = models.build(config.model, machine.classes)
        self.net = self.net.to(choice.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.initial = copy.deepcopy(self.net.state_dict())
        self.forward: nn.Module = self.net
        self.normalization = Normalization.of(machine.train_images)

    def _stream(self) -> Stream:
        config, augment = self.config, self.config.augment
        assert config.batch_size is not None
        assert augment.cutout is not None
        return Stream(
            self.machine.train_images,
            self.machine.train_labels,
            batch_size=config.batch_size,
            augmentation=Augmentation(
                flip=augment.flip, translate=augment.translate, padding=augment.padding, cutout=augment.cutout
            ),
            normalization=self.normalization,
            dtype=self.machine.choice.dtype,
            seed=config.seed,
        )

    def _step(self) -> PlainStep:
        assert self.config.batch_size is not None
        choice = self.machine.choice
        return PlainStep(self.net, self.forward, self.config.optim, self.config.batch_size, choice.dtype)

    def _reset(self) -> None:
        """Back to the initial weights: nothing learned while calibrating stays."""
        self.net.load_state_dict(self.initial)
        for parameter in self.net.parameters():
            parameter.grad = None

    def _compile(self) -> None:
        sizes = sorted(set(self._resolutions()))
        stream = self._stream()

        def warm_up(forward: nn.Module) -> None:
            self.forward = forward
            step = self._step()
            for size in sizes:
                step(stream.next(size), 0.0)
            forward.eval()
            with torch.no_grad():
                forward(stream.next(sizes[-1]).images)

        limit = COMPILE_SHARE * self.clock.remaining()
        self.forward, self.warm["compile"], problem = compiler.compile_net(
            self.net, self.config.compile, warm_up, limit
        )
        if problem:
            self.screen.warn(problem)
        self.charge("compile")

    def _calibrate(self) -> None:
        stream, step, now = self._stream(), self._step(), self.clock.now
        target = self.machine.choice.device
        began, timed = now(), dict[int, float]()
        for size in sorted(set(self._resolutions())):
            if timed and now() - began > CALIBRATION_SHARE * self.clock.remaining():
                nearest = max(timed)
                timed[size] = timed[nearest] * (size / nearest) ** 2
                continue
            for _ in range(2):  # the first warms up: memory is taken, kernels are chosen
                batch = stream.next(size)
                device.synchronize(target)
                start = now()
                step(batch, 0.0)
                stream.next(size)
                device.synchronize(target)
                timed[size] = now() - start
        self.pacer = Pacer(self._resolutions(), timed, max_steps=self.config.steps)
        self.evaluation_seconds = self._time_evaluation()
        self._reset()

    def _time_evaluation(self) -> float:
        """Seconds that evaluating all scored images with all views will take, from one batch of training images."""
        evaluator = self._evaluator(self.machine.train_images)
        rows = torch.arange(min(evaluator.batch_size, len(evaluator.images)), device=evaluator.images.device)
        evaluator.logits(rows)
        device.synchronize(evaluator.images.device)
        start = self.clock.now()
        evaluator.logits(rows)
        device.synchronize(evaluator.images.device)
        self.view_seconds = (self.clock.now() - start) / len(rows) * self._scored_count()
        assert self.plan is not None
        return self.view_seconds * (1 + self.plan.uncertain_share * (views(self.plan.tta) - 1))

    def _scored_count(self) -> int:
        held_out = self.machine.held_out
        return len(held_out[0]) if held_out is not None else len(self.machine.dataset.test_images)

    def _evaluator(self, images: Tensor, net: nn.Module | None = None) -> Evaluator:
        return Evaluator(
            net or self.net,
            images,
            normalization=self.normalization,
            dtype=self.machine.choice.dtype,
            size=self._resolutions()[-1],
            batch_size=500 if images.device.type == "cpu" else 2000,
        )

    def _resolutions(self) -> tuple[int, ...]:
        assert self.config.resolutions is not None
        return self.config.resolutions

    def reserve(self) -> float:
        """Seconds to keep for evaluating and saving, on a machine as slow as it now is."""
        return 1.1 * self.evaluation_seconds * max(1.0, self.pacer.slowdown) + SAVE_SECONDS + END_MARGIN

    def _check_budget(self) -> None:
        left = self.clock.remaining() - self.reserve()
        first_step = self.pacer.step_seconds[self._resolutions()[0]]
        if left < first_step:
            least = math.ceil(self.clock.elapsed() + self.reserve() + 2 * first_step)
            raise UsageError(
                f"{self.clock.seconds:g} s are too few on this machine: --seconds {least} is the least that works"
            )

    # -- train, evaluate, save ----------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train to the end of the schedule or to a signal. The comparable clock starts here."""
        self.enter("train")
        self.began_training = self.clock.now()
        self.stream, self.step = self._stream(), self._step()
        self.net.initialize(self._whitening_images())  # type: ignore[operator]
        window = device.Window(self.machine.choice.device)
        total = self.pacer.plan(self.clock.remaining() - self.reserve())
        self.screen.begin(self.clock.seconds, total, self.clock.elapsed())
        with self._metrics() as metrics:
            self.signals.gentle = True
            finished = train(
                self.step,
                self.stream,
                self.pacer,
                self.clock,
                reserve=self.reserve,
                stop=lambda: self.signals.received is not None,
                report=lambda report: self._show(report, metrics),
                window=window,
            )
        self.training_seconds = self.clock.now() - self.began_training
        self.status = "complete" if finished else "interrupted"

    def _whitening_images(self) -> Tensor:
        from kernels.augment import augment

        images = self.machine.train_images
        rows = torch.arange(min(WHITENING_IMAGES, len(images)), device=images.device)
        return augment(
            images,
            rows,
            Augmentation(size=images.shape[1]),
            mean=self.normalization.mean,
            std=self.normalization.std,
            seed=0,
            epoch=0,
            dtype=torch.float32,
        )

    def _metrics(self) -> MetricsWriter:
        assert self.folder is not None
        return MetricsWriter(self.folder / "metrics.jsonl")

    def _show(self, report: Report, metrics: MetricsWriter) -> None:
        optim = self.config.optim
        rate = optim.lr * one_cycle(report.progress, optim.warmup, optim.start_lr)
        elapsed = self.clock.elapsed()
        metrics.write(
            step=report.step,
            progress=report.progress,
            epoch=report.epoch,
            loss=report.loss,
            accuracy=report.accuracy,
            learning_rate=rate,
            images_per_second=report.images_per_second,
            seconds=elapsed,
        )
        if self.screen.due():
            remaining = self.clock.remaining()
            self.screen.progress(
                Progress(
                    step=report.step,
                    total_steps=report.step + report.steps_left,
                    progress=report.progress,
                    epoch=report.epoch,
                    loss=report.loss,
                    accuracy=report.accuracy,
                    learning_rate=rate,
                    images_per_second=report.images_per_second,
                    elapsed_seconds=elapsed,
                    remaining_seconds=None if math.isinf(remaining) else remaining,
                )
            )

    def evaluate(self) -> None:
        """Score the final weights, once."""
        self.enter("evaluate")
        assert self.plan is not None
        images, labels = self.machine.scored()
        evaluator = self._evaluator(images, self.step.evaluated)
        began = self.clock.now()
        plain = evaluator.plain()
        self.accuracy_plain = accuracy(plain, labels)
        self.view_seconds = max(self.view_seconds, self.clock.now() - began)

        def time_left() -> float:
            return self.clock.remaining() - SAVE_SECONDS - END_MARGIN

        logits = evaluator.with_views(plain, self.plan.tta, self.plan.uncertain_share, time_left, self.view_seconds)
        self.accuracy = accuracy(logits, labels)
        assert self.training_seconds is not None
        self.training_seconds += self.clock.now() - began

    def save(self) -> dict[str, Any]:
        """Write model, config and record; returns the record."""
        self.enter("save")
        assert self.folder is not None
        checkpoint.save(
            self.folder / "model.pt",
            model=self.step.evaluated,
            config=to_dict(self.config),
            extra={
                "mean": self.normalization.mean.tolist(),
                "std": self.normalization.std.tolist(),
                "classes": list(self.machine.dataset.classes),
                "dataset": self.machine.dataset.name,
                "size": self._resolutions()[-1],
                "image_size": self.machine.train_images.shape[1],
            },
        )
        write_json(self.folder / "config.json", to_dict(self.config))
        finished = self.record()
        write_json(self.folder / "result.json", finished)
        return finished

    def abandon(self) -> dict[str, Any]:
        """Leave the record of a run that a signal ended outside its loop; no weights are worth keeping."""
        self.status = "interrupted"
        assert self.folder is not None
        unfinished = self.record()
        write_json(self.folder / "result.json", unfinished)
        return unfinished

    # -- record -------------------------------------------------------------------------------------------------------

    def enter(self, phase: str) -> None:
        """Begin a phase, in the ledger and on the screen."""
        self.ledger.enter(phase)
        self.screen.phase(phase)

    def record(self, status: str | None = None) -> dict[str, Any]:
        """The record of the run as it stands."""
        machine, plan = self.machine, self.plan
        net = getattr(self, "net", None)
        stream = getattr(self, "stream", None)
        phases = self.ledger.snapshot()
        trained = stream.batches * stream.batch_size if stream else 0
        return {
            **record.envelope("run", machine.description),
            "status": status or self.status,
            "dataset": machine.dataset.name,
            "split": machine.split,
            "recipe": self.config.recipe,
            "config": to_dict(self.config),
            "seed": self.config.seed,
            "budget_seconds": self.clock.seconds,
            "wall_seconds": sum(phases.values()),
            "fetch_seconds": self.clock.fetch_seconds,
            "train_seconds": self.training_seconds,
            "phases": phases,
            "warm": {"data": machine.dataset.warm, "compile": self.warm.get("compile")},
            "accuracy": self.accuracy,
            "accuracy_plain": self.accuracy_plain,
            "expected_accuracy": plan.expected_accuracy if plan else None,
            "epochs": stream.epoch if stream else 0.0,
            "steps": stream.batches if stream else 0,
            "parameters": models.parameters(net) if net else None,
            "images_per_second": trained / phases["train"] if trained else None,
            "dtype": str(machine.choice.dtype).removeprefix("torch."),
            "dtype_reason": machine.choice.dtype_reason,
            "plan": to_dict(plan) if plan else None,
            "world_size": 1,
        }
