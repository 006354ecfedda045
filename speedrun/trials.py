"""Jobs made of trainings: one machine, one budget and one folder, in which each training has a share of its own.

A job is a subclass of `Job`; `run` gives it a clock, its watchdog, the data and a folder, and writes its record however
it ends. The ranks of a launcher share the trainings out, each taking the next whole one when it is free. Imports no
torch: data is read in a thread while torch is being imported.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speedrun import config as configs
from speedrun import distributed, files, planner, plots, schema
from speedrun import folder as folders
from speedrun import screen as screens
from speedrun.background import Background
from speedrun.clock import Clock, Ledger
from speedrun.config import Config
from speedrun.dealing import deal
from speedrun.errors import BudgetError, SpeedrunError, UsageError
from speedrun.launch import Launch
from speedrun.outcome import Outcome
from speedrun.signals import Interrupted, Signals
from speedrun.trial import Trial, attempt
from speedrun.trialscreen import TrialScreen
from speedrun.watchdog import MARGIN, Watchdog

if TYPE_CHECKING:
    from speedrun.data import Dataset
    from speedrun.machine import Machine

# Fields that are the same for all trainings of a job.
SHARED = {"seconds", "target", "recipe", "seed", "runs", "device", "data_dir", "dataset"}
SHARED |= {"out", "holdout", "holdout_fold", "quiet", "json", "dry_run", "resume", "validation.count"}
FINISH_SECONDS = 0.5  # to write the job's record, with all its trials
# Largest share of a training's seconds that scoring it on held-out images may take, as long as it has this many: the
# accuracy of 500 images is off by two points at most, in two of three cases.
SCORING_SHARE, LEAST_SCORED = 0.1, 500
PICTURE_SHARE = 0.05  # largest share of the budget that drawing its picture may take


class Job:
    """What a job's trainings share. A subclass says what they are, and what comes of them.

    config: as the command line asked for it. resume: whether to go on in a folder that holds a part of this job.
    trials: every training so far, in order.
    """

    kind: str
    resume = False

    def __init__(self, config: Config) -> None:
        if config.target is not None:
            raise UsageError(f"a target is for a single run, not for the {self.kind} job")
        if config.resume is not None:
            raise UsageError(f"only a single run can be resumed, not the {self.kind} job")
        self.config = config
        self.world = distributed.here()
        self.trials: list[Trial] = []
        self.launch: Launch
        self.machine: Machine
        self.folder: Path
        self._loading: Background[Dataset]
        self._outcome = Outcome(world_size=self.world.size)
        self._threads = 1

    @property
    def finished(self) -> list[Trial]:
        """The trainings that came to an end that counts."""
        return [trial for trial in self.trials if trial.finished]

    @property
    def planned(self) -> int:
        """Trainings that the job was asked for."""
        raise NotImplementedError

    def work(self) -> None:
        """Train, by `train`; may raise SpeedrunError. Interrupted passes through."""
        raise NotImplementedError

    def results(self) -> dict[str, Any]:
        """The fields of the record that are this job's own, as things stand; `trials` are there already."""
        raise NotImplementedError

    def lines(self) -> list[str]:
        """What came of it, for a person."""
        raise NotImplementedError

    def seconds_left(self) -> float | None:
        """Seconds that trainings may still take; None without a deadline."""
        from speedrun.session import END_MARGIN

        left = self.launch.clock.remaining() - END_MARGIN - FINISH_SECONDS
        left -= plots.SECONDS if self.draws else 0.0
        return None if math.isinf(left) else left

    @property
    def draws(self) -> bool:
        """Whether a picture is drawn at the end."""
        return plots.affordable(self.config.budget, PICTURE_SHARE)

    def share(self, *trainings: int, dealt: int = 0) -> float | None:
        """An equal share of the seconds left for each of that many trainings; None without a deadline.

        trainings: by how often the ranks come together in between. dealt: how many have begun before these, since the
        ranks were last together: those that begin in the round that is on have as much as those that began it.
        """
        left, ranks = self.seconds_left(), self.world.size
        first, *later = trainings
        rounds = sum(math.ceil(number / ranks) for number in (first + dealt % ranks, *later))
        return None if left is None else max(left, 0.0) / rounds

    def refuse(self, least_seconds: float, trainings: int) -> BudgetError:
        """The error that says what budget would do for that many trainings of `least_seconds` each."""
        left = self.seconds_left() or 0.0
        assert self.launch.clock.seconds is not None
        rounds = math.ceil(trainings / self.world.size)
        least = math.ceil(self.launch.clock.seconds - left + 1.1 * rounds * least_seconds)
        return BudgetError(
            f"{self.launch.clock.seconds:g} s are too few here for {trainings} training(s) of {least_seconds:.1f} s "
            f"at least: --seconds {least} is the least that works",
            least,
        )

    def affordable_scores(self) -> int:
        """How many of the images held out each training may score, so that most of its time is left for training.

        By the net of the job's own config: all images where that leaves out what makes a net.
        """
        assert self.machine.held_out is not None
        count, share = len(self.machine.held_out[0]), self.share(self.planned)
        if share is None:
            return count
        from speedrun import models

        situation = self.machine.situation()
        try:
            config = planner.choose(self.config, situation, share).apply(self.config)
            flops = models.forward_flops(models.sketch(config.model, self.machine.classes), self.machine.image_size)
        except (UsageError, ValueError, RuntimeError):
            return count
        return min(count, max(int(SCORING_SHARE * share * situation.flops_per_second / flops), LEAST_SCORED))

    def refusal(self, config: Config) -> str:
        """Why a config cannot be trained here, told from shapes alone; empty if it can."""
        import torch

        from speedrun import models

        try:
            config = planner.choose(config, self.machine.situation(), self.share(1)).apply(config)
            net = models.sketch(config.model, self.machine.classes)
            for size in set(config.resolutions or ()):
                net(torch.empty(2, 3, size, size, device="meta"))
        except (UsageError, ValueError, RuntimeError) as error:
            return str(error).partition("\n")[0]
        return ""

    def score_only(self, count: int) -> None:
        """From here trainings score only the first `count` of the images held out."""
        self._outcome.machine = self.machine = self.machine.scoring(count)
        self.launch.screen.note(f"scored  {self.machine.split['scored']}")

    def deal(self, count: int, take: Callable[[int], bool]) -> None:
        """Call `take`, which trains, with the numbers below `count` until it says False; see `speedrun.dealing`."""
        deal(self.world, self.trials, count, take, self._tell)

    def train(
        self, name: str, config: Config, *, seconds: float | None, changes: Mapping[str, Any], keep: bool = True
    ) -> Trial:
        """Train once in the folder `name`, within `seconds`; what it was is added to `trials` and told.

        changes: what is its own about `config`, for the record. keep: its net and its logits, if it comes to its end.
        Errors that a person can mend end in the trial's status; a signal ends the job by Interrupted, once the training
        has been put among the trials.
        """
        import torch

        from speedrun.session import END_MARGIN

        if self.launch.signals.received is not None:  # since the last training
            raise Interrupted(self.launch.signals.received)
        left = self.folder / name / "result.json"
        if self.resume:  # what is done is not trained again, so this is of a training that was stopped
            left.unlink(missing_ok=True)
        elif left.exists():  # of a job that was killed
            raise SpeedrunError(f"{left.parent} holds another run already: choose another --out")
        self.launch.signals.gentle = False
        torch.set_num_threads(self._threads)  # the last training may have left fewer
        # A run ends END_MARGIN before its deadline, for the process to be gone by then; this process goes on.
        clock = Clock(None if seconds is None else seconds + END_MARGIN)
        config = replace(config, seconds=clock.seconds, runs=1, out=self.folder / name)
        launch = Launch(
            config,
            TrialScreen(self.launch.screen, self.launch.clock, notes=not self.trials),
            self.launch.signals,
            None,
            clock,
            Ledger(clock.start),
            machine=self._machine_of(config),
            alone=False,  # a training that is stopped is taken again from its start
        )
        trial = attempt(lambda: launch.run(0, self._loading), name, config, changes, spare_seconds=END_MARGIN)
        if not (keep and trial.finished):  # what does not count must not be taken for a member either
            trial = replace(trial, logits=None)
            (self.folder / name / "model.pt").unlink(missing_ok=True)
        self.add(trial)
        if self.launch.signals.received is not None:
            raise Interrupted(self.launch.signals.received)
        return trial

    def _machine_of(self, config: Config) -> "Machine":
        """The machine, with another dtype where the config asks for one of its own."""
        if config.dtype == self.config.dtype:
            return self.machine
        from speedrun import device

        asked = device.choose(str(self.machine.choice.device), config.dtype)
        return replace(self.machine, choice=asked)

    def add(self, trial: Trial) -> None:
        """Count a training in, tell it, and let the watchdog know what would be left behind now."""
        self.trials.append(trial)
        self._tell(trial)
        if self.launch.watchdog and self.world.leads:
            self.launch.watchdog.leave(self.folder / "result.json", self.record("timeout"), self.launch.clock.start)

    def _tell(self, trial: Trial) -> None:
        self.launch.screen.note(f"{trial.name}  {trial}")

    def record(self, status: str) -> dict[str, Any]:
        """The job's record as it stands."""
        self._outcome.status = status
        whole = self._outcome.record(self.config, self.launch.clock, self.launch.ledger)
        shared = {name: whole[name] for name in (*schema.ENVELOPE, *schema.JOB) if name in whole}
        if self.world.size > 1:
            shared["backend"] = "gloo"  # results lie on hosts
        return {**shared, "kind": self.kind, "trials": [trial.plain() for trial in self.trials], **self.results()}

    def begin(self, launch: Launch, folder: Path, loading: "Background[Dataset]") -> None:
        """Open the machine that all trainings run on."""
        self.launch, self.folder, self._loading = launch, folder, loading
        import torch  # takes seconds: a signal meanwhile finds what its record needs

        self._outcome.machine = self.machine = launch.open(loading)
        self._threads = torch.get_num_threads()
        launch.ledger.enter("train")
        launch.screen.phase("train")
        share = self.share(self.planned)
        launch.screen.note(f"trainings  {self.planned}" + ("" if share is None else f", {share:.1f} s each"))
        launch.screen.begin(launch.clock.seconds, None, launch.clock.elapsed())


def compared(config: Config) -> Config:
    """A config for trainings that are compared: scored on images held out, by one view where none are asked for."""
    return replace(config, holdout=True, tta="none" if config.tta == "auto" else config.tta)


def check_own(name: str) -> None:
    """Raise UsageError for a field that cannot differ between the trainings of a job, or that does not exist."""
    configs.field_type(name)
    if name in SHARED:
        raise UsageError(f"{name} is the same for all trainings of a job")


def run(job: Job, start: float) -> int:
    """Run a job to its end or its deadline; returns the exit code. start: of the process, on `time.monotonic`'s scale.

    Raises SpeedrunError where nothing came of it.
    """
    config = job.config
    watchdog = None if config.budget is None else Watchdog.for_budget(start, config.budget)
    try:
        mode = "quiet" if config.quiet else "json" if config.json else "auto"
        world = job.world
        silent = "silent" if not world.leads else mode
        with screens.make(silent) as screen, Signals() as signals, world.in_company(signals):
            clock, ledger = Clock(config.budget, start=start), Ledger(start)
            launch = Launch(config, screen, signals, watchdog, clock, ledger, peers=world)
            world.join()
            if not job.resume:
                world.refuse_restart("a job of many trainings")
            launch.count_from_the_first()
            folder = world.decide(lambda: folders.name(config))
            loading = Background(launch.load)
            again = job.kind if job.resume else ""
            with folders.claimed(None if config.dry_run or not world.leads else folder, config, again=again):
                world.meet()  # nobody writes there before it is claimed
                return _run(job, launch, folder, loading)
    finally:
        if watchdog:
            watchdog.stop()


def _run(job: Job, launch: Launch, folder: Path, loading: "Background[Dataset]") -> int:
    status, code = "complete", 0
    job.world.on_end(lambda code: _leave(job, folder, "interrupted" if code > 128 else "failed"))
    try:
        job.begin(launch, folder, loading)
        if job.config.dry_run:
            return 0
        job.work()
        if not job.finished:
            raise SpeedrunError(f"none of {len(job.trials)} training(s) came to an end that counts")
    except Interrupted as stop:
        job.world.stop(stop.exit_code)
        status, code = "interrupted", stop.exit_code
    except SpeedrunError as error:
        if all(trial.status == "refused" for trial in job.trials):  # nothing was trained: there is nothing to tell
            raise
        status, code = "failed", error.exit_code
        launch.screen.warn(str(error))
    except Exception:  # a fault of ours or of the machine: its evidence stays
        launch.signals.gentle = True
        _leave(job, folder, "failed")
        raise
    launch.signals.gentle = True
    job.world.leave()
    if not job.world.leads:
        return code
    launch.ledger.enter("save")
    record = files.sealed(job.record(status))
    if not launch.saved(lambda: files.write_json(folder / "result.json", record)):
        code = code or 1
    launch.screen.report(f"speedrun {job.kind}, {status}", [*job.lines(), f"files: {folder}"])
    if job.config.json:
        print(json.dumps(record), flush=True)  # while the watchdog is on: nobody may be reading
    if job.draws and launch.signals.received is None:
        plots.draw_within(folder, launch.clock.remaining() - 2 * MARGIN, launch.screen.warn)
    return code


def _leave(job: Job, folder: Path, status: str) -> None:
    """Leave a record of what has been trained, if anything has."""
    if job.trials and job.world.leads:
        files.write_json(folder / "result.json", files.sealed(job.record(status)))
