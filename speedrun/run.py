"""Runs, from a config to files on disk. Imports no torch: data is read in a thread while torch is being imported."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speedrun import data, distributed, files, plots, recipes
from speedrun import folder as folders
from speedrun import screen as screens
from speedrun.background import Background
from speedrun.clock import Clock, Ledger
from speedrun.config import Config
from speedrun.distributed import World
from speedrun.errors import SpeedrunError
from speedrun.outcome import Outcome
from speedrun.signals import Interrupted, Signals
from speedrun.watchdog import HOPELESS_SECONDS, MARGIN, REFUSAL_SECONDS, Watchdog

if TYPE_CHECKING:
    from torch import Tensor

    from speedrun.machine import Machine
    from speedrun.snapshot import Snapshot
    from speedrun.trainee import Trainee

# A silent connection is given up after 30 s; until then nothing is reported.
FETCH_PATIENCE_SECONDS = 60.0
# Largest share of a run's budget that drawing its curve on held-out images may take.
PICTURE_SHARE = 0.005


@dataclass(frozen=True)
class Result:
    """How a run ended. record: the object in result.json. folder: what it left, None after a dry run.

    logits: of the scored images, float32 (N, classes) on the CPU; None if they were not scored.
    """

    record: dict[str, Any]
    folder: Path | None
    exit_code: int = 0
    logits: "Tensor | None" = field(default=None, compare=False, repr=False)

    @property
    def accuracy(self) -> float | None:
        """Fraction of the scored images that are right, with test views; None if it was interrupted before."""
        return self.record.get("accuracy")


def train(config: Config | None = None) -> Result:
    """Train by a config and return the result; the seconds count from this call.

    Raises UsageError or another SpeedrunError with one readable line. With `runs` above 1 the last result is returned.
    Sets torch's thread count and cuDNN's benchmark mode for the process. No watchdog guards the caller's process.
    """
    config = config or recipes.get("speednet")
    recipes.get(config.recipe)  # refuses an unknown name
    mode = "quiet" if config.quiet or config.json else "auto"
    with screens.make(mode if distributed.here().leads else "silent") as screen:
        return run_all(config, start=time.monotonic(), screen=screen)[-1]


def run_all(config: Config, *, start: float, screen: screens.Screen, watchdog: Watchdog | None = None) -> list[Result]:
    """All runs of a config, each with its own seed, seconds and folder; the first counts from `start`.

    A later run is charged what the first spent on starting, on reading the data and on compiling. The ranks of a
    launcher take one run together, or of several runs whole ones, each the next when it is free.
    """
    world = distributed.here()
    together, apart = (world, World()) if config.runs == 1 else (World(), world)
    with Signals() as signals:
        clock, ledger = Clock(config.budget, start=start), Ledger(start)
        try:
            world.join()
            launch = Launch(config, screen, signals, watchdog, clock, ledger, world=together)
            launch.count_from_the_first(world)
            launch.take_up()
        except Interrupted:  # there is as much to resume as before
            return [Result({}, None, signals.exit_code)]
        config = launch.config
        if apart.size > 1:
            launch.out = apart.decide(lambda: folders.name(config))
        loading = Background(launch.load)
        results = _results(launch, apart, loading)
    accuracies = [result.accuracy for result in results if result.accuracy is not None]
    if config.runs > 1 and accuracies:
        screen.runs_summary(accuracies)
    return results


def _results(launch: "Launch", apart: World, loading: Background[data.Dataset]) -> list[Result]:
    """The results of all runs, in order; an error that ended them is raised where there is none."""
    own: dict[int, Result] = {}
    problem: SpeedrunError | None = None
    for number in apart.queue(launch.config.runs):
        try:
            own[number] = launch.run(number, loading)
        except SpeedrunError as error:
            problem = error
        if problem or own[number].exit_code:
            apart.close_queue()
            break
    found = {number: result for part in apart.gather(own) for number, result in part.items()}
    results = [found[number] for number in sorted(found)]
    problem = next(filter(None, apart.gather(problem)), None)
    if problem is not None:
        if not results:
            raise problem
        launch.screen.warn(str(problem))  # what is finished is still told
        results[-1] = replace(results[-1], exit_code=problem.exit_code)
    return results


@dataclass
class Launch:
    """Starts sessions: what they share, and what each later one is charged. world: the ranks that train together."""

    config: Config
    screen: screens.Screen
    signals: Signals
    watchdog: Watchdog | None
    clock: Clock
    ledger: Ledger
    machine: "Machine | None" = None
    first_phases: dict[str, float] | None = None
    out: Path | None = None
    write_seconds: float = 0.0
    alone: bool = True  # no training of a job: it keeps checkpoints and draws its curve
    transferred: float = 0.0
    resumed: "Snapshot | None" = None
    trainee: "Trainee | None" = None  # of the newest run
    world: World = field(default_factory=World)
    started: bool = False  # whether there has been a run

    def __post_init__(self) -> None:
        # Whether there is so little time that the run can only be refused.
        self.scant = self.clock.remaining() < HOPELESS_SECONDS

    def count_from_the_first(self, world: World) -> None:
        """Count from when the first of all ranks was started."""
        earlier = distributed.agree_on_start(world, self.clock.start)
        self.clock.charge(earlier)
        self.ledger.charge("start", earlier)
        if earlier:
            self._guard()

    def take_up(self) -> None:
        """Where a run is to be resumed, read its checkpoint: the config is in it, and the time that is left."""
        left = self.world.decide(lambda: self.world.remembered("folder"))
        if self.config.resume is None:
            if left is not None:
                self._take_up_again(Path(left))
            return
        from speedrun import resume

        self.config, self.resumed = resume.take_up(self.config, self.clock, self.ledger)
        if self.resumed.note:
            self.screen.warn(self.resumed.note)
        self.scant = self.clock.remaining() < HOPELESS_SECONDS
        self._guard()

    def _take_up_again(self, folder: Path) -> None:
        """Go on with what the ranks were at when the launcher started them anew, in the time that is left of it."""
        self.out = folder
        if self.world.leads:
            (folder / "result.json").unlink(missing_ok=True)
        if not any((folder / name).exists() for name in folders.CHECKPOINTS):
            return
        from speedrun import snapshot

        self.resumed = snapshot.read(folder)
        self.config = replace(self.resumed.config, out=folder, quiet=self.config.quiet, json=self.config.json)

    def load(self) -> data.Dataset:
        """Read the data, fetching it if need be."""
        from speedrun import fetch

        with fetch.progress_bar() as show:

            def on_fetch(progress: "fetch.Progress") -> None:
                # Network transfer is not counted, and fetching gives up by itself: keep the watchdog away meanwhile.
                self.transferred = progress.seconds
                self._guard(progress.seconds + FETCH_PATIENCE_SECONDS)
                if (
                    progress.received and not self.config.quiet and distributed.here().leads
                ):  # the error at the end names what never answered
                    show(progress)

            return data.load(self.config.dataset, data_dir=self.config.data_dir, on_fetch=on_fetch)

    def run(self, number: int, loading: Background[data.Dataset]) -> Result:
        config = replace(self.config, seed=self.config.seed + number, runs=1)  # what is saved repeats this run alone
        if self.started:
            self._restart()
        self.started = True
        folder = None if config.dry_run or not self.world.leads else self._folder(config)
        outcome = Outcome()
        if self.resumed is not None:
            outcome.go_on(self.resumed.state["outcome"])
        try:
            with folders.claimed(folder, config, resuming=self.resumed is not None) as self.write_seconds:
                if folder is not None:
                    self.world.remember("folder", str(folder.resolve()))
                return self._attempt(config, outcome, folder, loading)
        except Interrupted:  # in the moment of claiming: nothing is there to be kept
            self.world.tells("", self.signals.exit_code)
            return Result({}, None, self.signals.exit_code)

    def _attempt(
        self, config: Config, outcome: Outcome, folder: Path | None, loading: Background[data.Dataset]
    ) -> Result:
        """A run in its claimed folder, which gets a record however the run ends."""
        steps, outcome.world_size = outcome.steps, self.world.size
        self.world.on_end(lambda code: self._ended(code, config, outcome, folder))
        try:
            self._leave_if_stopped(folder, config, outcome)
            return self._run(config, outcome, folder, loading)
        except Interrupted:
            self.world.tells("", self.signals.exit_code)
            record = self._unfinished("interrupted", config, outcome, folder)
            return Result(record, folder, self.signals.exit_code)
        except SpeedrunError:
            if outcome.steps > steps:  # before the first step there is nothing to keep
                self._unfinished("failed", config, outcome, folder)
            raise
        except Exception as error:  # a fault of ours or of the machine: its evidence stays
            self.signals.gentle = True  # the launcher asks all to end when one is gone
            self.world.await_verdict(error)
            self._unfinished("failed", config, outcome, folder)
            self.world.tells("", 1)
            raise

    def _ended(self, code: int, config: Config, outcome: Outcome, folder: Path | None) -> None:
        """Leave a record of a run that is ended because of another rank."""
        self._unfinished("interrupted" if code > 128 else "failed", config, outcome, folder)

    def _unfinished(self, status: str, config: Config, outcome: Outcome, folder: Path | None) -> dict[str, Any]:
        outcome.status = status
        record = files.sealed(outcome.record(config, self.clock, self.ledger))
        if folder:
            self.saved(lambda: files.write_json(folder / "result.json", record))
        return record

    def _run(self, config: Config, outcome: Outcome, folder: Path | None, loading: Background[data.Dataset]) -> Result:
        outcome.machine = machine = self.machine or self.open(loading)
        from speedrun.session import Session

        draws = self.alone and config.validation.times > 0 and plots.affordable(config.budget, PICTURE_SHARE)
        session = Session(
            config=config,
            machine=machine,
            clock=self.clock,
            ledger=self.ledger,
            screen=self.screen,
            signals=self.signals,
            outcome=outcome,
            folder=folder,
            may_settle_threads=self._may_settle_threads() and machine.choice.device.type == "cpu",
            charge=self._charge,
            write_seconds=self.write_seconds,
            keeps=self.alone,
            picture_seconds=plots.SECONDS if draws else 0.0,
            resumed=self.resumed,
            earlier=self.trainee,
            world=self.world,
        )
        self.trainee = None
        for line in session.choose_plan().lines():
            self.screen.note(line)
        if config.dry_run:
            return Result({"plan": session.plan.plain()}, None)
        session.prepare()
        self.trainee = session.trainee
        self.first_phases = self.first_phases or self.ledger.snapshot()
        self._guard()
        self._leave_if_stopped(folder, session.config, outcome)
        session.train()
        self._leave_if_stopped(folder, session.config, outcome)
        saved = self.saved(session.save_model)
        session.evaluate()
        saved &= self.saved(session.save_checkpoint)
        record = session.finish()
        self.world.leave()
        saved &= self.saved(lambda: session.save_record(record))
        if folder is None:
            return Result(record, None, self._exit_code(outcome.status), session.logits)
        if saved and outcome.status in folders.FINISHED:  # and not before: a kill must find what it can go on from
            folders.remove_checkpoints(folder)
        self.screen.summary(record, folder if saved else None)
        if outcome.status not in folders.FINISHED and (folder / folders.NEWEST).exists():
            self.screen.note(f"go on  python -m speedrun --resume {folder}")
        elif draws and saved and self.signals.received is None:
            plots.draw_within(folder, self.clock.remaining() - 2 * MARGIN, self.screen.warn)
        return Result(record, folder, self._exit_code(outcome.status) or (0 if saved else 1), session.logits)

    def _exit_code(self, status: str) -> int:
        return {"interrupted": self.signals.exit_code, "timeout": 1}.get(status, 0)

    def _may_settle_threads(self) -> bool:
        """Without a deadline a run must repeat to the bit, so nothing measured may decide on the threads."""
        timed = self.clock.deadline is not None or self.config.target is not None
        return timed and "OMP_NUM_THREADS" not in os.environ

    def saved(self, save: Callable[[], None]) -> bool:
        """Whether saving went well. A full disk must not cost the result: it still goes to the screen and to stdout."""
        try:
            save()
        except OSError as error:
            self.screen.warn(f"not saved: {error}")
            return False
        return True

    def _folder(self, config: Config) -> Path:
        """The folder of a run. Several runs share a parent, named once, and are told apart by their seeds."""
        if self.out is None:
            self.out = folders.name(config)
        return self.out / f"seed-{config.seed}" if self.config.runs > 1 else self.out

    def _leave_if_stopped(self, folder: Path | None, config: Config, outcome: Outcome) -> None:
        """Tell the watchdog which record to leave behind if it has to end the process."""
        if self.watchdog and folder:
            record = {**outcome.record(config, self.clock, self.ledger), "status": "timeout"}
            self.watchdog.leave(folder / "result.json", record, self.clock.start)

    def _guard(self, patience: float = 0.0) -> None:
        """Tell the watchdog the deadline, `patience` seconds later than the clock's."""
        if self.machine is None and self.scant:
            patience += REFUSAL_SECONDS  # it will be refused, which takes longer than the budget itself
        if self.watchdog and self.clock.deadline is not None:
            self.watchdog.extend(self.clock.deadline + patience)
        elif self.watchdog:  # what was resumed has no deadline
            self.watchdog.stop()

    def _restart(self) -> None:
        """A clock and a ledger of its own for the next run, with the first one's start-up already on them."""
        self.clock = Clock(self.config.budget)
        self.ledger = Ledger(self.clock.start)
        self.signals.gentle = False
        for phase in ("start", "data"):
            self._charge(phase)
        self._guard()

    def _charge(self, phase: str) -> None:
        """Bring a phase up to what the first run spent on it."""
        first = (self.first_phases or {}).get(phase, 0.0)
        if phase == "data":
            first -= self.transferred  # the network's seconds are nobody's
        missing = first - self.ledger.snapshot()[phase]
        if missing > 0:
            self.clock.charge(missing)
            self.ledger.charge(phase, missing)

    def open(self, loading: Background[data.Dataset]) -> "Machine":
        """Choose the device and put the data on it."""
        from speedrun import compiler, device, memory
        from speedrun.machine import open_machine

        device.check_kernels()
        compiler.use_cache(data.default_cache_dir())
        ranks = distributed.here()
        choice = device.choose(device.of_rank(self.config.device, ranks), self.config.dtype)
        device.prepare(choice.device, ranks.local_size)
        self.ledger.enter("data")
        dataset = loading.result()
        fetched = max(self.transferred, dataset.fetch_seconds)  # a transfer that failed took time as well
        (self.transferred,) = self.world.most(fetched)
        self.clock.extend(self.transferred)
        self._guard()
        for note in dataset.notes:
            self.screen.warn(note)
        if dataset.name == "synthetic":
            why = f"{dataset.reason}. " if dataset.reason else ""
            self.screen.banner("SYNTHETIC data", f"{why}Accuracies say nothing about CIFAR-10.")
        threads = self._may_settle_threads()
        config = self.config
        with memory.room_for("the training images", choice.device):
            self.machine = open_machine(
                choice,
                dataset,
                holdout=config.holdout,
                fold=config.holdout_fold,
                validates=config.validation.times > 0,
                settle_threads=threads,
            )
        self.machine.devices = self.world.size
        (slowest,) = self.world.most(-self.machine.flops_per_second)
        self.machine.flops_per_second = -slowest
        for line in self.machine.lines():
            self.screen.note(line)
        return self.machine
