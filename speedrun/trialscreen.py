"""The screen of one training among many: its progress on the job's clock, its plan once. Standard library only."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isinf
from pathlib import Path
from typing import Any

from speedrun.clock import Clock
from speedrun.screen import Progress, Screen


class TrialScreen(Screen):
    """Passes on what concerns the job. notes: whether plan and reasons are shown, which are alike for all of a job."""

    def __init__(self, inner: Screen, clock: Clock, *, notes: bool) -> None:
        super().__init__(inner.now)
        self._inner = inner
        self._clock = clock
        self._notes = notes

    def note(self, text: str) -> None:
        if self._notes:
            self._inner.note(text)

    def warn(self, text: str) -> None:
        self._inner.warn(text)

    def banner(self, title: str, text: str) -> None:
        self._inner.banner(title, text)

    def due(self) -> bool:
        return self._inner.due()

    def progress(self, progress: Progress) -> None:
        left = self._clock.remaining()
        elapsed, remaining = self._clock.elapsed(), None if isinf(left) else left
        self._inner.progress(replace(progress, elapsed_seconds=elapsed, remaining_seconds=remaining))

    def summary(self, record: Mapping[str, Any], files: Path | None) -> None:
        """The job tells it in a line of its own."""

    def runs_summary(self, accuracies: Sequence[float]) -> None:
        """A training is one run."""
