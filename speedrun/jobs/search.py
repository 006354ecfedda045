"""`python -m speedrun search`: random search for rates and nets, by accuracy on images held out of training.

After each round the ranges of numbers close in on the best quarter of what was tried. With `--halving` instead all
configurations are trained briefly, the better half of them for twice as long, and so on. A training is scored once, at
its end: the validation that is asked for is the winner's. The test set is not read.
"""

import json
import random
import shlex
from collections import Counter
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from speedrun import config as configs
from speedrun import files, recipes, seeds, space, trials
from speedrun.arguments import Parser, take_config
from speedrun.config import Config, ValidationConfig, require
from speedrun.errors import SpeedrunError, UsageError
from speedrun.lines import append_lines
from speedrun.schema import TRIAL
from speedrun.summary import aligned, percent
from speedrun.trial import Trial

ROUNDS = 2  # where none are asked for
# Configurations drawn for one trial before the limits count as met by none.
DRAWS = 200
# The share of the trials, and the least number, around which a range closes in.
BEST_SHARE, LEAST_BEST = 0.25, 2
SHOWN = 10
# What a search that goes on reads: what was asked, and a line a trial.
SETTINGS, LOG = "search.json", "trials.jsonl"
# Fields that are about the search and not about the winner, and those that may be others when it goes on.
_OWN = ("recipe", "seed", "seconds", "steps", "epochs", "out", "holdout", "quiet", "json", "dry_run")
_FREE = ("seconds", "out", "quiet", "json", "data_dir")


class Search(trials.Job):
    """ranges: texts of `speedrun.space` by field. count: configurations to try. rounds: parts, each narrower."""

    kind = "search"

    def __init__(
        self, config: Config, ranges: dict[str, str], *, count: int, rounds: int = 1, resume: bool = False
    ) -> None:
        # A patience counts scorings of a whole training; in one of a few epochs it would end it within the first.
        super().__init__(trials.compared(replace(config, validation=ValidationConfig())))
        if config.runs > 1:
            raise UsageError("a search takes --trials, not --runs")
        if resume and config.out is None:
            raise UsageError("--resume goes on with the search in --out: name that folder")
        if not 1 <= rounds <= count:
            raise UsageError(f"a search takes one round or more of one trial or more, not {rounds} of {count} trials")
        for name in ranges:
            trials.check_own(name)
        self.asked, self.settings = config, dict[str, Any]()
        self.ranges, self.space = ranges, space.parse(ranges)
        self.count, self.round_size, self.resume = count, -(-count // rounds), resume
        self._left = count

    @property
    def planned(self) -> int:
        return self.count

    def work(self) -> None:
        self.take_up()
        done = {_number(trial) for trial in self.trials}
        waiting = [number for number in range(self.count) if number not in done]
        self._left = len(waiting)
        for _, numbers in groupby(waiting, lambda number: number // self.round_size):
            self._search(list(numbers), waiting)
        self.refuse_if_short(1)

    def _search(self, numbers: list[int], waiting: list[int]) -> None:
        """Try the configurations of a round, of all those that were waiting."""

        def take(position: int) -> bool:
            number = numbers[position]
            left = min(self._left, len(waiting) - waiting.index(number))
            if left == 0 or self.share(1) == 0.0:
                return False
            here = min(left, len(numbers) - position)
            later = [min(self.round_size, left - begin) for begin in range(here, left, self.round_size)]
            share = self.share(here, *later, dealt=position)
            trial = self.attempt(f"trial-{number + 1:03}", number, self.draw(number), share)
            # Where the time did not suffice, half as many get twice as much; another net may need less of it.
            self._left = left - 1 if trial.least_seconds is None else max(1, left // 2)
            return True

        self.deal(len(numbers), take)

    def refuse_if_short(self, trainings: int) -> None:
        """Raise BudgetError where nothing came of the search and time was what it lacked."""
        least = [trial.least_seconds for trial in self.trials if trial.least_seconds is not None]
        if least and not self.finished:
            raise self.refuse(min(least), trainings)

    def add(self, trial: Trial) -> None:
        super().add(trial)
        if trial.status not in ("interrupted", "refused"):  # a search that goes on tries these again
            self.launch.saved(lambda: self._log(trial))

    def results(self) -> dict[str, Any]:
        ranking = self.ranking()
        best = ranking[0].changes if ranking else None
        return {
            "space": self.ranges,
            "ranking": [trial.name for trial in ranking],
            "best": best,
            "command": None if best is None else self._command(best),
        }

    def lines(self) -> list[str]:
        ranking = self.ranking()
        rows = [
            (str(place), trial.name, percent(trial.accuracy or 0.0), f"{trial.parameters:,}", _told(trial.changes))
            for place, trial in enumerate(ranking[:SHOWN], 1)
        ]
        others = Counter(trial.status for trial in self.trials if not trial.finished)
        lines = aligned([("", "trial", "held out", "parameters", "fields"), *rows])
        lines += [f"{number} {status}, not ranked" for status, number in others.items()]
        return lines + ([f"train the best: {self._command(ranking[0].changes)}"] if ranking else [])

    def ranking(self) -> list[Trial]:
        """The trials that may be compared, best first."""
        return _ranked(self.trials)

    def attempt(self, name: str, number: int, changes: dict[str, Any], seconds: float | None) -> Trial:
        """Train a configuration, the one of that number."""
        seed = seeds.derive(self.config.seed, "trial", number)
        config = configs.override(self.config, {**changes, "seed": seed})
        return self.train(name, config, seconds=seconds, changes=changes, keep=False)

    def draw(self, number: int) -> dict[str, Any]:
        """The configuration of that number: a function of the seed, the number and what earlier rounds found.

        Raises UsageError where none can be built.
        """
        ranges: space.Space = self.space
        for end in range(self.round_size, number + 1, self.round_size):
            if best := self._best([trial for trial in self.trials if _number(trial) < end]):
                ranges = space.narrow(ranges, best)
        source = random.Random(seeds.derive(self.config.seed, "draw", number))
        refusals: dict[str, str] = {}
        for _ in range(DRAWS):
            changes = space.draw(ranges, source)
            if _told(changes) in refusals:
                continue
            refusal = refusals[_told(changes)] = self._refusal(changes)
            if not refusal:
                return changes
        raise UsageError(f"none of {len(refusals)} configurations drawn can be trained; of the last, {refusal}")

    def take_up(self) -> None:
        """Go on where a search in the same folder was left, or begin one. Raises SpeedrunError, UsageError."""
        self.settings, tried = self.world.decide(self._taken_up)
        self.trials += tried
        self.score_only(self.settings["scored"])

    def _taken_up(self) -> tuple[dict[str, Any], list[Trial]]:
        """What the search is, and its trials so far."""
        path = self.folder / SETTINGS
        saved = files.read_sealed(path) if path.exists() else None
        # The same images for all trials, however much time there is now.
        scored = self.affordable_scores() if saved is None else saved.get("scored")
        settings = {**self._settings(), "scored": scored}
        if saved is None:
            return settings, []
        if not self.resume:
            raise SpeedrunError(f"{self.folder} holds a search already: --resume goes on with it")
        if saved != settings:
            raise UsageError(f"{path} is of a search with other settings: choose another --out")
        return settings, logged(self.folder / LOG)

    def _settings(self) -> dict[str, Any]:
        """What makes a search this one, as JSON values."""
        fields = configs.differences(recipes.get(self.asked.recipe), self.asked)
        return {
            **{name: getattr(self, name) for name in ("ranges", "count", "round_size")},
            "kind": type(self).__name__,
            "recipe": self.asked.recipe,
            "fields": {name: text for name, text in fields.items() if name not in _FREE},
        }

    def _log(self, trial: Trial) -> None:
        """Keep a trial for a search that goes on and, with the first, what was asked. OSError where that fails."""
        if not (self.folder / LOG).exists():
            files.write_json(self.folder / SETTINGS, files.sealed(self.settings))
        log(self.folder / LOG, trial)

    def _best(self, tried: list[Trial]) -> list[dict[str, Any]]:
        """The best quarter of what was tried; none where that says nothing yet."""
        ranked = _ranked(tried)
        count = max(LEAST_BEST, round(BEST_SHARE * len(ranked)))
        return [trial.changes for trial in ranked[:count]] if len(ranked) > LEAST_BEST else []

    def _refusal(self, changes: dict[str, Any]) -> str:
        """Why a configuration cannot be trained; empty if it can."""
        try:
            return self.refusal(configs.override(self.config, changes))
        except UsageError as error:
            return str(error)

    def _command(self, best: dict[str, Any]) -> str:
        """The command line that trains the winner on all training images."""
        base, winner = recipes.get(self.asked.recipe), configs.override(self.asked, best)
        words = ["python", "-m", "speedrun", f"--recipe={winner.recipe}"]
        words += [] if winner.budget is None else [f"--seconds={winner.budget:g}"]
        changes = configs.differences(base, winner).items()
        return shlex.join([*words, *(f"--set={name}={text}" for name, text in changes if name not in _OWN)])


class Halving(Search):
    """Successive halving (Jamieson and Talwalkar, arXiv:1502.07943): every rung takes an equal share of the seconds.

    A configuration starts anew on each rung, for its schedule has the length of its training.
    """

    @property
    def rungs(self) -> list[int]:
        """Configurations on each rung."""
        return [self.count >> rung for rung in range(self.count.bit_length())]

    @property
    def planned(self) -> int:
        return sum(self.rungs)

    def work(self) -> None:
        self.take_up()
        done = {trial.name for trial in self.trials}
        drawn = self.world.decide(lambda: [self.draw(number) for number in range(self.count)])
        names: dict[str, int] = {}
        for rung, size in enumerate(self.rungs, 1):
            survivors = [_number(trial) for trial in _ranked(self.trials) if trial.name in names]
            chosen = survivors[:size] if rung > 1 else range(self.count)
            names = {f"rung-{rung}-trial-{number + 1:03}": number for number in chosen}
            waiting = [name for name in names if name not in done]
            # In trainings of this rung: the rungs to come, each as long as this.
            self._halve(waiting, names, drawn, [size] * (len(self.rungs) - rung))
        self.refuse_if_short(self.planned)

    def _halve(self, waiting: list[str], names: dict[str, int], drawn: list[dict[str, Any]], ahead: list[int]) -> None:
        """Train what waits on a rung; `ahead`: trainings of this length on each rung to come."""

        def take(position: int) -> bool:
            if self.share(1) == 0.0:
                return False
            name = waiting[position]
            share = self.share(len(waiting) - position, *ahead, dealt=position)
            self.attempt(name, names[name], drawn[names[name]], share)
            return True

        self.deal(len(waiting), take)

    def ranking(self) -> list[Trial]:
        """Each configuration once, by the last rung that it reached and its accuracy there."""
        ranked = sorted(_ranked(self.trials), key=lambda trial: int(trial.name.split("-")[1]), reverse=True)
        first: dict[int, Trial] = {}
        for trial in ranked:
            first.setdefault(_number(trial), trial)
        return list(first.values())


def log(path: Path, trial: Trial) -> None:
    """Add a trial, for `logged`. OSError where that fails."""
    append_lines(path, json.dumps(files.sealed(trial.plain())) + "\n")


def logged(path: Path) -> list[Trial]:
    """The trials of an earlier part, none where there is no such file. SpeedrunError that names a damaged one."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found = [files.unsealed(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line]
    if any(trial.keys() != TRIAL.keys() for trial in found):
        raise SpeedrunError(f"{path}: damaged, it holds more than trials")
    return [Trial(**trial) for trial in found]


def _ranked(tried: list[Trial]) -> list[Trial]:
    return sorted((trial for trial in tried if trial.finished), key=lambda trial: trial.accuracy or 0.0, reverse=True)


def _number(trial: Trial) -> int:
    """Which of the configurations drawn it is of."""
    return int(trial.name.rpartition("-")[2]) - 1


def _told(changes: dict[str, Any]) -> str:
    return " ".join(f"{name.rpartition('.')[2]}={configs.as_text(value)}" for name, value in changes.items())


def main(argv: list[str], start: float) -> int:
    """Search; returns the exit code. Raises UsageError and SpeedrunError."""
    parser = Parser("python -m speedrun search", "Search rates and nets at random, scored on held-out images.")
    ranges = "range of a field, such as optim.lr=log:0.01..1, or a JSON file of them (default: the recipe's own)"
    parser.add_argument("--space", action="append", default=[], metavar="FILE|FIELD=RANGE", help=ranges)
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="configurations to try (default 20)")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds, each narrower (default {ROUNDS})")
    parser.add_argument("--halving", action="store_true", help="train all briefly, the better half longer, and so on")
    parser.add_argument("--resume", action="store_true", help="go on with the search in --out")
    parser.add_config()
    given = vars(parser.parse_args(argv))
    words, count, rounds = given.pop("space"), given.pop("trials"), given.pop("rounds")
    halving, resume = given.pop("halving"), given.pop("resume")
    config = take_config(given)
    wanted = space.read(words) or recipes.space(config.recipe)
    if halving:
        require(rounds is None, "--halving keeps the ranges as they are: leave out --rounds")
        return trials.run(Halving(config, wanted, count=count, resume=resume), start)
    rounds = min(ROUNDS, count) if rounds is None else rounds
    return trials.run(Search(config, wanted, count=count, rounds=rounds, resume=resume), start)
