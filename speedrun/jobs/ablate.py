"""`python -m speedrun ablate`: what each part of a recipe is worth, one change a row, on images held out of training.

All rows share one plan, one budget and one set of seeds, so that a row differs from the first by its change alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from speedrun import config as configs
from speedrun import planner, scores, seeds, space, stats, trials
from speedrun.arguments import Parser, take_config
from speedrun.config import Config
from speedrun.errors import UsageError
from speedrun.summary import aligned, percent
from speedrun.trial import Trial

UNCHANGED = "as it is"
# Scorings of a training: enough for three in its last tenth.
SCORINGS = 20
# Of the first row's accuracy: the default of the accuracy that rows are timed to.
TARGET_SHARE = 0.9


@dataclass(frozen=True)
class Row:
    """A change by its name, the fields it sets, and the config it makes."""

    change: str
    changes: dict[str, Any]
    config: Config


class Ablation(trials.Job):
    """changes: fields and values by what a change is called; None for those of any recipe."""

    kind = "ablation"

    def __init__(self, config: Config, changes: dict[str, dict[str, Any]] | None) -> None:
        counted = replace(config.validation, count=config.validation.count or SCORINGS)
        super().__init__(trials.compared(replace(config, target=None, validation=counted)))
        self.target = config.target
        self.changes = changes
        self.rows: list[Row] = []

    @property
    def planned(self) -> int:
        # Before the plan is made the number of changes that are none is not known.
        changes = standard(self.config) if self.changes is None else self.changes
        return self.config.runs * (len(self.rows) or 1 + len(changes))

    def work(self) -> None:
        self.score_only(self.world.decide(self.affordable_scores))
        self.rows = self.world.decide(self._make_rows)
        self.deal(self.planned, self._train_one)

    def _train_one(self, done: int) -> bool:
        """The training that comes after `done` others: all rows once, then again from another seed."""
        run, number = divmod(done, len(self.rows))
        row = self.rows[number]
        config = replace(row.config, seed=seeds.derive(self.config.seed, "run", run))
        share = self.share(self.planned - done, dealt=done)
        trial = self.train(_name(number, run), config, seconds=share, changes=row.changes, keep=False)
        if done == 0 and trial.least_seconds is not None:
            raise self.refuse(trial.least_seconds, self.planned)
        return True

    def results(self) -> dict[str, Any]:
        tried = [self._tried(number) for number in range(len(self.rows))]
        target = self.target
        if target is None and tried and (own := _accuracies(tried[0])):
            target = TARGET_SHARE * stats.describe(own).mean
        rows = [
            {"change": row.change, "changes": row.changes, **self._measured(found, target)}
            for row, found in zip(self.rows, tried, strict=True)
        ]
        return {"target_accuracy": target, "rows": rows}

    def lines(self) -> list[str]:
        results = self.results()
        target = results["target_accuracy"]
        to_target = "to target" if target is None else f"to {percent(target, 1)}"
        head = ("change", "held out", "between runs", "training", "steps", to_target, "stability")
        return aligned([head, *(_cells(row) for row in results["rows"])])

    def _make_rows(self) -> list[Row]:
        """The rows, all by the plan of the unchanged config. Raises UsageError for a change that cannot be trained."""
        plan = planner.choose(self.config, self.machine.situation(), self.share(self.planned))
        base = plan.apply(self.config)
        base = replace(base, dtype=str(self.machine.choice.dtype).removeprefix("torch."))
        rows = [Row(UNCHANGED, {}, base)]
        for change, changes in (standard(base) if self.changes is None else self.changes).items():
            changed = configs.override(base, changes)
            if changed == base:
                continue
            if refusal := self.refusal(changed):
                raise UsageError(f"{change}: {refusal}")
            rows.append(Row(change, changes, changed))
        return rows

    def _tried(self, number: int) -> list[Trial]:
        names = {_name(number, run) for run in range(self.config.runs)}
        return [trial for trial in self.trials if trial.name in names]

    def _measured(self, tried: list[Trial], target: float | None) -> dict[str, Any]:
        """The numbers of a row."""
        finished = [trial for trial in tried if trial.finished]
        own = _accuracies(tried)
        sample = stats.describe(own) if own else None
        curves = [scores.read(self.folder / trial.name) for trial in finished]
        reached = [] if target is None else [scores.first_at(curve, target) for curve in curves]
        hits = [score for score in reached if score is not None]
        all_hit = bool(hits) and len(hits) == len(reached)
        return {
            "runs": len(finished),
            "accuracy": sample.mean if sample else None,
            "deviation": sample.deviation if sample and sample.n > 1 else None,
            "train_seconds": _mean([trial.train_seconds or 0.0 for trial in finished]),
            "steps": _mean([trial.steps for trial in finished]),
            "target_steps": _mean([score.step for score in hits]) if all_hit else None,
            "target_epochs": _mean([score.epoch for score in hits]) if all_hit else None,
            "target_seconds": _mean([score.seconds for score in hits]) if all_hit else None,
            "stability": _mean([value for curve in curves if (value := scores.stability(curve)) is not None]),
        }


def standard(base: Config) -> dict[str, dict[str, Any]]:
    """The changes for any recipe: normalisation, crop and flip, batch size, schedule, precision."""
    batch = 2 * (base.batch_size or 1)
    return {
        "without normalisation": {"normalise": False},
        "without crop and flip": {"augment.flip": "none", "augment.translate": 0},
        f"batch {batch}, rate to match": {"batch_size": batch, "optim.lr": base.optim.lr_for(2)},
        "fixed rate": {"optim.schedule": "fixed", "optim.warmup": 0.0},
        "float32": {"dtype": "float32"},
    }


def vary(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A change for each value in `FIELD=A,B`. Raises UsageError."""
    changes: dict[str, dict[str, Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"--vary takes FIELD=A,B, not {word!r}")
        trials.check_own(name)
        for value in space.values(name, text):
            changes[f"{name}={configs.as_text(value)}"] = {name: value}
    return changes


def _name(number: int, run: int) -> str:
    return f"row-{number}-run-{run + 1}"


def _accuracies(tried: list[Trial]) -> list[float]:
    return [trial.accuracy for trial in tried if trial.finished and trial.accuracy is not None]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def shown(name: str, text: str) -> str:
        return "-" if row[name] is None else text.format(row[name])

    times = (("target_steps", "{:,.0f} steps"), ("target_epochs", "{:.1f} epochs"), ("target_seconds", "{:.1f} s"))
    target = ", ".join(shown(name, text) for name, text in times)
    return (
        row["change"],
        shown("accuracy", "{:.2%}"),
        shown("deviation", "{:.2%}"),
        shown("train_seconds", "{:.1f} s"),
        shown("steps", "{:,.0f}"),
        "never" if row["target_steps"] is None else target,
        shown("stability", "{:.2%}"),
    )


def main(argv: list[str], start: float) -> int:
    """Ablate; returns the exit code. Raises UsageError and SpeedrunError."""
    parser = Parser("python -m speedrun ablate", "Measure what each part of a recipe is worth, on held-out images.")
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="FIELD=A,B",
        help="a row for each value (default: five changes)",
    )
    parser.add_config()
    given = vars(parser.parse_args(argv))
    words = given.pop("vary")
    config = take_config(given)
    return trials.run(Ablation(config, vary(words) if words else None), start)
