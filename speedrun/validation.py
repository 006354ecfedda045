"""Accuracy on held-out images while training: when to score, when to stop early, and the best weights."""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speedrun.config import ValidationConfig
from speedrun.evaluate import Evaluator, accuracy
from speedrun.files import write_text
from speedrun.lines import append_lines
from speedrun.scores import Score, as_line

# Largest share of the time left that validation may take; past it, fewer of the held-out images are scored.
SHARE = 0.1
LEAST_IMAGES = 100


class Validator:
    """Scores held-out images several times, spread evenly over the progress of a run.

    evaluator, labels: of the images held out. image_seconds: what one takes to score. seconds: of the training that
    all this may take `SHARE` of, infinite for no bound. path: of the file of scores, None for none. Once `stop` is
    true, accuracy has not risen by `config.delta` for `config.patience` scores. The best weights are kept where there
    is a patience. Where not all images are scored, it is the first of them.
    """

    def __init__(
        self,
        config: ValidationConfig,
        evaluator: Evaluator,
        labels: Tensor,
        *,
        image_seconds: float,
        seconds: float,
        path: Path | None,
    ) -> None:
        affordable = SHARE * seconds / max(config.times * image_seconds, 1e-9)
        count = min(len(labels), max(LEAST_IMAGES, int(min(affordable, 1e9))))
        self.config, self.evaluator, self.path = config, evaluator, path
        self.rows, self.labels = torch.arange(count, device=labels.device), labels[:count]
        self.cost = count * image_seconds
        self.scores: list[Score] = []
        self.best: Score | None = None
        self._best_at = 0
        self._best_weights: dict[str, Tensor] | None = None

    def due(self, progress: float) -> bool:
        """Whether it is time to score again."""
        return progress * self.config.times >= len(self.scores) + 1 - 1e-9

    @property
    def seconds_left(self) -> float:
        """Seconds that the scores still to come will take."""
        return self.cost * max(self.config.times - len(self.scores), 0)

    @property
    def stop(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.best is not None and len(self.scores) - self._best_at >= patience

    def score(self, step: int, progress: float, epoch: float, seconds: float) -> float:
        """Score the net as it is at that step and add a line to the file; OSError where that cannot be written."""
        reached = accuracy(self.evaluator.logits(self.rows), self.labels)
        self.scores.append(Score(step, progress, epoch, seconds, reached))
        if self.best is None or reached > self.best.accuracy + self.config.delta:
            self.best, self._best_at = self.scores[-1], len(self.scores)
            if self.config.patience is not None:
                self._best_weights = copy.deepcopy(self.evaluator.net.state_dict())
        if self.path is not None:
            append_lines(self.path, as_line(self.scores[-1]))
        return reached

    def restore(self) -> None:
        """Give the net the best weights, if they were kept."""
        if self._best_weights is not None:
            self.evaluator.net.load_state_dict(self._best_weights)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        scores = [asdict(score) for score in self.scores]
        return {"scores": scores, "best_at": self._best_at, "best_weights": self._best_weights}

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`; the file has its scores then, and no others."""
        self.scores = [Score(**score) for score in state["scores"]]
        self._best_at, self._best_weights = state["best_at"], state["best_weights"]
        self.best = self.scores[self._best_at - 1] if self._best_at else None
        if self.path is not None:
            write_text(self.path, "".join(map(as_line, self.scores)))
