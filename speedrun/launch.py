"""Starts sessions: reads the data, opens the device, claims folders, and ends every run with a record.

Imports no torch: data is read in a thread while torch is being imported.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speedrun import data, distributed, files, launcher, plots
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


def _left_in(folder: Path) -> "Snapshot | None":
    """The checkpoint that a run of ranks which the launcher has started anew left, if it came that far."""
    (folder / "result.json").unlink(missing_ok=True)
    if not any((folder / name).exists() for name in folders.CHECKPOINTS):
        return None
    from speedrun import snapshot

    return snapshot.read(folder)


@dataclass
class Launch:
    """Starts sessions: what they share, and what each later one is charged.

    world: the ranks that train together. peers: all ranks of the job, those that train something else too.
    """

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
    peers: World = field(default_factory=World)
    dataset: data.Dataset | None = None
    started: bool = False  # whether there has been a run

    def __post_init__(self) -> None:
        # Whether there is so little time that the run can only be refused.
        self.scant = self.clock.remaining() < HOPELESS_SECONDS

    def count_from_the_first(self) -> None:
        """Count from when the first of all ranks was started."""
        earlier = distributed.agree_on_start(self.peers, self.clock.start)
        self.clock.charge(earlier)
        self.ledger.charge("start", earlier)
        if earlier:
            self._guard()

    def take_up(self) -> None:
        """Where a run is to be resumed, read its checkpoint: the config is in it, and the time that is left."""
        left = self.world.decide(lambda: self.world.remembered("folder"))
        fetched = self.world.decide(lambda: self.world.remembered("fetched"))
        if self.config.resume is None:
            self.clock.extend(float(fetched or 0.0))
            if left is not None:
                self._take_up_again(Path(left))
            return
        from speedrun import resume

        self.config, self.resumed = resume.take_up(self.config, self.clock, self.ledger, self.world)
        if self.resumed.note:
            self.screen.warn(self.resumed.note)
        self.scant = self.clock.remaining() < HOPELESS_SECONDS
        self._guard()

    def _take_up_again(self, folder: Path) -> None:
        """Go on with what the ranks were at when the launcher started them anew, in the time that is left of it."""
        self.out = folder
        self.resumed = self.world.decide(lambda: _left_in(folder))
        if self.resumed is None:
            return
        self.config = replace(self.resumed.config, out=folder, quiet=self.config.quiet, json=self.config.json)
        # The clock has counted all along; what it counted before is of other phases than of the start.
        past = self.resumed.state["clock"]["phases"]
        for phase, seconds in past.items():
            self.ledger.charge(phase, seconds)
        self.ledger.charge("start", -sum(past.values()))

    def load(self) -> data.Dataset:
        """Read the data, fetching it if need be."""
        from speedrun import fetch

        with fetch.progress_bar() as show:

            def on_fetch(progress: "fetch.Progress") -> None:
                # Network transfer is not counted, and fetching gives up by itself: keep the watchdog away meanwhile.
                if progress.seconds >= self.transferred + 1.0 or not self.transferred:
                    self.peers.post("data", str(progress.seconds))  # of the ranks that wait for this one too
                self.transferred = progress.seconds
                self._guard(progress.seconds + FETCH_PATIENCE_SECONDS)
                # The error at the end names what never answered.
                if progress.received and not self.config.quiet and self.peers.leads:
                    show(progress)

            return data.load(self.config.dataset, data_dir=self.config.data_dir, on_fetch=on_fetch)

    def receive(self, loading: Background[data.Dataset]) -> data.Dataset:
        """The data, once all ranks have it; the seconds of the longest transfer are nobody's.

        SpeedrunError where another rank has other images than the first.
        """
        self.ledger.enter("data")
        self.dataset = dataset = loading.result()
        self.peers.await_all("data", self._wait_for_transfer)
        fetched = max(self.transferred, dataset.fetch_seconds)  # a transfer that failed took time as well
        (self.transferred,) = self.peers.most(fetched)
        self.clock.extend(self.transferred)
        self._guard()
        self.peers.remember("fetched", str(self.clock.fetch_seconds))
        if self.peers.size > 1 and (rank := self.peers.first_apart(dataset.fingerprint())) is not None:
            raise SpeedrunError(f"rank {rank} has other training images than rank 0: name them by --dataset")
        for note in self.peers.heard(dataset.notes):
            self.screen.warn(note)
        return dataset

    def _wait_for_transfer(self, seconds: str | None) -> None:
        """Keep the watchdog away while another rank fetches, which has taken so many seconds."""
        if seconds is not None:
            self._guard(float(seconds) + FETCH_PATIENCE_SECONDS)

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
            self.world.stop(self.signals.exit_code)
            return Result({}, None, self.signals.exit_code)

    def _attempt(
        self, config: Config, outcome: Outcome, folder: Path | None, loading: Background[data.Dataset]
    ) -> Result:
        """A run in its claimed folder, which gets a record however the run ends."""
        steps, outcome.world_size = outcome.steps, self.world.size
        self.peers.on_end(lambda code: self._ended(code, config, outcome, folder))
        try:
            self._leave_if_stopped(folder, config, outcome)
            return self._run(config, outcome, folder, loading)
        except Interrupted:
            self.world.stop(self.signals.exit_code)
            record = self._unfinished("interrupted", config, outcome, folder)
            return Result(record, folder, self.signals.exit_code)
        except SpeedrunError:
            if outcome.steps > steps:  # before the first step there is nothing to keep
                self._unfinished("failed", config, outcome, folder)
            raise
        except Exception:  # a fault of ours or of the machine: its evidence stays
            self.signals.gentle = True
            self._unfinished("failed", config, outcome, folder)
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
        return timed and not launcher.threads_given()

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

    def outlast(self, first: Clock, rounds: int) -> None:
        """Have the watchdog wait for so many runs in a row, of which `first` was the first one's clock: when this rank
        is done, others may be in the last."""
        if self.watchdog and first.seconds is not None:
            self.watchdog.extend(first.start + rounds * first.seconds + self.transferred)

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
        ranks = self.peers
        choice = device.choose(device.of_rank(self.config.device, ranks), self.config.dtype)
        device.prepare(choice.device, ranks.local_size)
        dataset = self.dataset or self.receive(loading)
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
