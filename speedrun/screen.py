"""What a person sees: live on a terminal or in a notebook cell, plain lines elsewhere. Standard library only.

`make` picks the screen. The caller says what happens and never how it looks; where a screen has to compute or fetch a
number to be shown, ask `due` first: between two drawings it costs under a microsecond. There is no thread: a screen
draws when it is called, and so rarely that drawing takes less than a hundredth of the time.
"""

import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat, TextIO

from speedrun.summary import minutes, percent, runs_rows, summary_rows

MODES = ("auto", "quiet", "json", "silent")
WIDTH = 80
_LABEL = 10  # columns of a label


@dataclass(frozen=True)
class Progress:
    """Where a training stands. `loss` and `accuracy` are of the running batch and may still lie on the device.

    step: steps taken. progress: 0 to 1 of the schedule. accuracy: fraction of 1. Seconds on the run's clock.
    """

    step: int = 0
    total_steps: int | None = None
    progress: float = 0.0
    epoch: float = 0.0
    loss: SupportsFloat | None = None
    accuracy: SupportsFloat | None = None
    learning_rate: float | None = None
    images_per_second: float | None = None
    elapsed_seconds: float = 0.0
    remaining_seconds: float | None = None


class Screen:
    """The quiet screen, and the interface of the others: shows warnings and banners, both on stderr, and no more."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.total_seconds: float | None = None
        self.total_steps: int | None = None
        self.current_phase = "start"
        self._origin = now()

    def note(self, text: str) -> None:
        """One line on what was chosen and why: a label, two spaces, the text."""

    def warn(self, text: str) -> None:
        """One line on what went wrong and is dealt with."""
        _print(sys.stderr, f"warning: {text}")

    def banner(self, title: str, text: str) -> None:
        """What nobody may miss, in every mode: a box on stderr."""
        colours = ("\x1b[1;33m", "\x1b[0m") if is_terminal(sys.stderr) else ("", "")
        _print(sys.stderr, "".join((colours[0], _box(title, text), colours[1])))

    def phase(self, name: str) -> None:
        """A phase of the ledger begins."""
        self.current_phase = name

    def begin(self, total_seconds: float | None, total_steps: int | None, elapsed_seconds: float = 0.0) -> None:
        """A run's budget is known: seconds, or steps where there is no deadline; `elapsed_seconds` are used up."""
        self.total_seconds, self.total_steps = total_seconds, total_steps
        self._origin = self.now() - elapsed_seconds

    def due(self) -> bool:
        """Whether `progress` would draw now. Only then is it worth waiting for the device's numbers."""
        return False

    def progress(self, progress: Progress) -> None:
        """Where the training stands. Call it as often as you like."""

    def summary(self, record: Mapping[str, Any], files: Path | None) -> None:
        """The end of a run: its record and the folder that holds its files (None if they could not be saved)."""

    def runs_summary(self, accuracies: Sequence[float]) -> None:
        """The end of several runs: the accuracy of each, as fractions of 1."""

    def report(self, title: str, lines: Sequence[str]) -> None:
        """The end of a job: what came of it, in lines as they are to be seen."""

    def close(self) -> None:
        """Give the terminal back. A second call does nothing."""

    def elapsed(self) -> float:
        """Seconds on the run's clock."""
        return self.now() - self._origin

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Silent(Screen):
    """Shows nothing at all: another process tells everything."""

    def warn(self, text: str) -> None:
        pass

    def banner(self, title: str, text: str) -> None:
        pass


class LineScreen(Screen):
    """Plain lines: one a phase, and while training one each twentieth of the budget, at least 5 s and at most 60 s."""

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(now)
        self._stream = stream
        self._next = self.now()

    def note(self, text: str) -> None:
        label, rest = split_note(text)
        _print(self._stream, f"{label:<{_LABEL}} {rest}" if label else rest)

    def warn(self, text: str) -> None:
        _print(self._stream, f"warning: {text}")

    def begin(self, total_seconds: float | None, total_steps: int | None, elapsed_seconds: float = 0.0) -> None:
        super().begin(total_seconds, total_steps, elapsed_seconds)
        if total_seconds is not None:
            self.note(f"budget  {total_seconds:g} s, {elapsed_seconds:.1f} s of it used")
        elif total_steps:
            self.note(f"budget  {total_steps:,} steps")

    def phase(self, name: str) -> None:
        super().phase(name)
        self._wait(None)
        _print(self._stream, f"{self.elapsed():7.1f} s  {name}")

    def due(self) -> bool:
        return self.now() >= self._next

    def progress(self, progress: Progress) -> None:
        if not self.due():
            return
        self._wait(progress.remaining_seconds)
        shown = [f"{label} {value}" for label, value in numbers(progress)]
        if self.total_seconds is None and progress.total_steps:
            shown.insert(0, f"step {progress.step:,}/{progress.total_steps:,}")
        if progress.remaining_seconds is not None:
            shown.append(f"{minutes(progress.remaining_seconds)} left")
        _print(self._stream, "  ".join([f"{progress.elapsed_seconds:7.1f} s", self.current_phase, *shown]))

    def summary(self, record: Mapping[str, Any], files: Path | None) -> None:
        self._rows(f"speedrun, {record['status']}", summary_rows(record, files))

    def runs_summary(self, accuracies: Sequence[float]) -> None:
        self._rows("all runs", runs_rows(accuracies))

    def report(self, title: str, lines: Sequence[str]) -> None:
        _print(self._stream, "\n".join(["", title, *(f"  {line}" for line in lines)]))

    def _wait(self, remaining_seconds: float | None) -> None:
        total = self.total_seconds or (self.elapsed() + (remaining_seconds or 0.0))
        self._next = self.now() + min(max(total / 20, 5.0), 60.0)

    def _rows(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        lines = ["", title]
        for label, text in rows:
            head = f"  {label:<{_LABEL}} "
            wrapped = textwrap.wrap(text, WIDTH - len(head), break_long_words=False, break_on_hyphens=False) or [""]
            lines += [head + wrapped[0], *(" " * len(head) + line for line in wrapped[1:])]
        _print(self._stream, "\n".join(lines))


def make(mode: str) -> Screen:
    """The screen for a mode: auto (on stdout), json (all of it on stderr), quiet, or silent: another process tells.

    auto and json draw live on a terminal and in a notebook, and write plain lines elsewhere.
    """
    if mode not in MODES:
        raise ValueError(f"no screen {mode!r}; there are {', '.join(MODES)}")
    if mode in ("quiet", "silent"):
        return Screen() if mode == "quiet" else Silent()
    stream = sys.stderr if mode == "json" else sys.stdout
    notebook = mode == "auto" and in_notebook()
    if not notebook and not is_terminal(stream):
        return LineScreen(stream)
    from speedrun import live  # rich takes 50 ms to import, which lines and quiet need not pay

    return live.LiveScreen(live.NotebookCanvas() if notebook else live.TerminalCanvas(stream))


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream can be drawn on: a terminal that knows how to move its cursor and speaks UTF-8."""
    try:
        usable = stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    except ValueError:  # closed
        return False
    return usable and (stream.encoding or "").lower().replace("-", "") == "utf8"


def in_notebook() -> bool:
    """Whether the code runs in a notebook's cell (Jupyter, Colab and their kin)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def split_note(text: str) -> tuple[str, str]:
    """The label of a note, empty if it has none, and the rest."""
    label, separator, rest = text.partition("  ")
    return (label, rest.strip()) if separator else ("", text)


def numbers(progress: Progress) -> list[tuple[str, str]]:
    """The numbers of a running training that are known, with their labels. Waits for the device's."""
    shown = (
        ("loss", progress.loss, lambda value: f"{value:.3f}"),
        ("acc", progress.accuracy, lambda value: percent(value, 1)),
        ("img/s", progress.images_per_second, lambda value: f"{value:,.0f}"),
        ("lr", progress.learning_rate, lambda value: f"{value:.3g}"),
    )
    return [(label, text(float(value))) for label, value, text in shown if value is not None]


def _box(title: str, text: str) -> str:
    inner = WIDTH - 8
    lines = [title.center(inner), "", *textwrap.wrap(text, inner)]
    edge = "#" * WIDTH
    return "\n".join([edge, *(f"##  {line:<{inner}}  ##" for line in lines), edge])


def _print(stream: TextIO, text: str) -> None:
    """Write lines at once. A reader that went away (`| head`) or a closed stream must not end a training."""
    try:
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except (OSError, ValueError):
        pass
