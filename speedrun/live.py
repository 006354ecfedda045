"""The live screen: what is shown on a terminal or in a notebook cell. The only module that imports rich for a run."""

import atexit
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from speedrun.clock import PHASES
from speedrun.screen import WIDTH, Progress, Screen, numbers, split_note
from speedrun.summary import minutes, runs_rows, summary_rows

INTERVAL = 0.25  # seconds between two drawings, at least
_LONGEST = 2.0  # and at most: a busy machine must not make the screen look dead
_SHARE = 100  # a drawing of t seconds is followed by _SHARE * t seconds without one: under 1 % of the time


class Canvas(Protocol):
    """A place to draw on: lines that stay, and one frame below them that each drawing replaces."""

    def put(self, content: RenderableType) -> None:
        """Add something that stays."""

    def draw(self, frame: RenderableType) -> None:
        """Replace the frame."""

    def finish(self, *, keep_frame: bool) -> None:
        """Stop drawing and give the place back."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Fall silent. rich would end the process, and the training with it."""
        self.quiet = True


class TerminalCanvas:
    """A terminal. The frame is drawn in place by rich's Live; other output, torch's warnings too, goes above it."""

    def __init__(self, stream: TextIO) -> None:
        self._console = _Console(file=stream, force_jupyter=False, highlight=False)
        self._live: Live | None = None
        # What others print goes above the frame where it would meet it, and stays in its own stream elsewhere.
        self._takes_stdout = stream is sys.stdout
        self._takes_stderr = sys.stderr.isatty()

    def put(self, content: RenderableType) -> None:
        self._console.print(content)

    def draw(self, frame: RenderableType) -> None:
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                redirect_stdout=self._takes_stdout,
                redirect_stderr=self._takes_stderr,
            )
            self._live.start()
            # rich hides the cursor; after a SIGKILL or a segfault nobody could bring it back, so it stays visible.
            self._console.show_cursor(True)
            atexit.register(self.finish)
        self._live.update(frame, refresh=True)

    def finish(self, *, keep_frame: bool = True) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            atexit.unregister(self.finish)
            live.transient = not keep_frame
            live.stop()


class NotebookCanvas:
    """A notebook's cell. The frame is one HTML output, updated in place; that needs IPython alone and no widgets."""

    def __init__(self) -> None:
        self._ipython = import_module("IPython.display")
        self._handle: Any = None

    def put(self, content: RenderableType) -> None:
        self._ipython.display(self._html(content))

    def draw(self, frame: RenderableType) -> None:
        if self._handle is None:
            self._handle = self._ipython.display(self._html(frame), display_id=True)
        else:
            self._handle.update(self._html(frame))

    def finish(self, *, keep_frame: bool = True) -> None:
        if self._handle is not None and not keep_frame:
            self._handle.update(self._ipython.HTML(""))
        self._handle = None

    def _html(self, content: RenderableType) -> Any:
        console = Console(record=True, file=io.StringIO(), width=WIDTH, force_terminal=True, force_jupyter=False)
        console.print(content)
        style = "margin:0;line-height:1.35;font-family:Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre"
        code = console.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')
        return self._ipython.HTML(code)


class LiveScreen(Screen):
    """A frame of three rows, phases, budget bar and numbers, that follows the run; above it what was chosen and why."""

    def __init__(self, canvas: Canvas, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(now)
        self._canvas = canvas
        self._latest = Progress()
        self._next = now()

    def note(self, text: str) -> None:
        label, rest = split_note(text)
        self._put(rows_table([(label, rest)]) if label else Text(rest))

    def warn(self, text: str) -> None:
        self._put(Text.assemble(("warning: ", "yellow"), text))

    def phase(self, name: str) -> None:
        super().phase(name)
        self._draw()

    def begin(self, total_seconds: float | None, total_steps: int | None, elapsed_seconds: float = 0.0) -> None:
        super().begin(total_seconds, total_steps, elapsed_seconds)
        self._latest = Progress()
        self._draw()

    def due(self) -> bool:
        return self.now() >= self._next

    def progress(self, progress: Progress) -> None:
        if self.due():
            self._latest = progress
            self._draw()

    def summary(self, record: Mapping[str, Any], files: Path | None) -> None:
        self._finish(keep_frame=False)
        complete = record["status"] == "complete"
        self._panel(f"speedrun: {record['status']}", summary_rows(record, files), "green" if complete else "yellow")

    def runs_summary(self, accuracies: Sequence[float]) -> None:
        self._finish(keep_frame=False)
        self._panel("all runs", runs_rows(accuracies), "green")

    def report(self, title: str, lines: Sequence[str]) -> None:
        self._finish(keep_frame=False)
        self._put(Panel(Text("\n".join(lines)), title=title, title_align="left", border_style="green"))

    def close(self) -> None:
        self._finish(keep_frame=True)

    def _draw(self) -> None:
        begun = time.perf_counter()
        with suppress(OSError, ValueError):  # a terminal that went away must not end a training
            self._canvas.draw(self._frame())
        self._next = self.now() + min(max(INTERVAL, _SHARE * (time.perf_counter() - begun)), _LONGEST)

    def _frame(self) -> RenderableType:
        return Group(
            "",
            phases_line(self.current_phase),
            budget_bar(
                self.elapsed(), self.total_seconds, self._latest.step, self.total_steps or self._latest.total_steps
            ),
            numbers_table(self._latest),
        )

    def _panel(self, title: str, rows: Sequence[tuple[str, str]], colour: str) -> None:
        self._put(Panel(rows_table(rows), title=title, title_align="left", border_style=colour, width=WIDTH))

    def _put(self, content: RenderableType) -> None:
        with suppress(OSError, ValueError):
            self._canvas.put(content)

    def _finish(self, *, keep_frame: bool) -> None:
        with suppress(OSError, ValueError):
            self._canvas.finish(keep_frame=keep_frame)


def phases_line(current: str) -> RenderableType:
    """The phases of a run in order: those behind, the one that runs, those to come."""
    line = Text()
    position = PHASES.index(current) if current in PHASES else -1
    for index, name in enumerate(PHASES):
        style = "bold cyan" if index == position else "" if index < position else "dim"
        line.append(name, style).append("  ")
    return line


def budget_bar(elapsed: float, total_seconds: float | None, step: int, total_steps: int | None) -> RenderableType:
    """The share of the budget that is used: seconds, or steps where there is no deadline."""
    if total_seconds is not None:
        used, total, text = elapsed, total_seconds, f"{elapsed:.0f} of {total_seconds:g} s"
    elif total_steps:
        used, total, text = float(step), float(total_steps), f"{step:,} of {total_steps:,} steps"
    else:
        return Text(f"{elapsed:.0f} s")
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(ProgressBar(total=total, completed=used, complete_style="cyan", finished_style="cyan"), text)
    return grid


def numbers_table(progress: Progress) -> RenderableType:
    """Loss, accuracy, speed and rate of the running batch, and where the run stands, each under its name."""
    cells = dict(numbers(progress))
    cells["step"] = f"{progress.step:,}"
    cells["epoch"] = f"{progress.epoch:.2f}"
    if progress.remaining_seconds is not None:
        cells["left"] = minutes(progress.remaining_seconds)
    grid = Table.grid(expand=True)
    names = ("loss", "acc", "img/s", "lr", "step", "epoch", "left")
    headings = ("loss", "accuracy", "images/s", "rate", "step", "epoch", "left")
    for _ in names:
        grid.add_column(ratio=1, no_wrap=True)
    grid.add_row(*headings, style="dim")
    grid.add_row(*(cells.get(name, "-") if progress.step else "-" for name in names))
    return grid


def rows_table(rows: Sequence[tuple[str, str]]) -> RenderableType:
    """Labels and texts in two columns; long texts wrap in theirs."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True, min_width=10)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(Text(label), Text(text, "bold" if label in ("accuracy", "mean") else ""))
    return grid
