"""The curve of a run on held-out images, and what it tells. Standard library only."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from speedrun.errors import SpeedrunError
from speedrun.stats import describe

FILE = "validation.jsonl"
# What counts as the end of training, where its curve should lie still.
TAIL = 0.1


@dataclass(frozen=True)
class Score:
    """A line of `validation.jsonl`. progress: 0 to 1 of the schedule; seconds: of the training; accuracy: of 1."""

    step: int
    progress: float
    epoch: float
    seconds: float
    accuracy: float


def as_line(score: Score) -> str:
    """A line of the file."""
    return json.dumps(asdict(score)) + "\n"


def read(folder: str | os.PathLike[str]) -> list[Score]:
    """The scores that a run left in its folder, oldest first; none if it was not validated.

    SpeedrunError that names the file where it is damaged.
    """
    path = Path(folder) / FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [Score(**json.loads(line)) for line in lines if line.strip()]
    except OSError:
        return []
    except (ValueError, TypeError):
        raise SpeedrunError(f"{path}: damaged, it holds more than scores") from None


def first_at(scores: Sequence[Score], target: float) -> Score | None:
    """The first score at or above an accuracy."""
    return next((score for score in scores if score.accuracy >= target), None)


def stability(scores: Sequence[Score]) -> float | None:
    """Sample deviation of the accuracy over the last tenth of training; None for fewer than two scores there."""
    tail = [score.accuracy for score in scores if score.progress >= 1 - TAIL - 1e-9]
    return describe(tail).deviation if len(tail) > 1 else None
