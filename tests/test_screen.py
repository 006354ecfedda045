"""What a person sees: lines, the live frame on a terminal and in a notebook, and what never disturbs a training."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from test_record import a_run

from speedrun import live, screen
from speedrun.screen import LineScreen, Progress
from speedrun.summary import rounded, summary_rows

ROOT = Path(__file__).parent.parent
BIG = Progress(
    step=123_456,
    total_steps=1_000_000,
    progress=0.5,
    epoch=123.45,
    loss=12.3456,
    accuracy=1.0,
    learning_rate=0.000123456,
    images_per_second=1_234_567.8,
    elapsed_seconds=9_999.9,
    remaining_seconds=35_999,
)


class FakeTime:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeCanvas:
    """Keeps what is drawn as text of 80 columns."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.frames: list[str] = []

    def text(self, content: RenderableType) -> str:
        console = Console(width=80, file=io.StringIO(), record=True, force_jupyter=False)
        console.print(content)
        return console.export_text()

    def put(self, content: RenderableType) -> None:
        self.lines.append(self.text(content))

    def draw(self, frame: RenderableType) -> None:
        self.frames.append(self.text(frame))

    def finish(self, *, keep_frame: bool) -> None:
        pass


def train(shown: screen.Screen, now: FakeTime, seconds: float, rate: float = 20.0) -> int:
    """Drive a screen through a run of `seconds`, `rate` steps a second; gives the times it was due."""
    shown.begin(seconds, None, 0.0)
    shown.phase("train")
    times = 0
    for step in range(int(seconds * rate)):
        now.now = step / rate
        times += shown.due()
        left = seconds - now.now
        shown.progress(Progress(step=step + 1, loss=1.5, elapsed_seconds=now.now, remaining_seconds=left))
    return times


@pytest.mark.parametrize(("seconds", "fewest", "most"), [(10, 1, 2), (60, 10, 12), (600, 18, 20), (7200, 110, 120)])
def test_plain_lines_come_rarely(seconds: float, fewest: int, most: int):
    now, stream = FakeTime(), io.StringIO()
    times = train(LineScreen(stream, now), now, seconds, rate=2)
    lines = [line for line in stream.getvalue().splitlines() if "loss 1.500" in line]
    assert fewest <= len(lines) <= most
    assert len(lines) == times


def test_plain_lines_say_what_there_is():
    stream = io.StringIO()
    with LineScreen(stream, FakeTime()) as shown:
        shown.begin(None, 980, 1.5)
        shown.note("device  cpu: no CUDA device found")
        shown.phase("train")
        shown.now.now = 60.0  # type: ignore[attr-defined]
        shown.progress(Progress(12, 980, 0.01, 0.1, 2.25, 0.125, 0.05, 1234.5, 61.5, 3600))
    assert stream.getvalue().splitlines() == [
        "budget     980 steps",
        "device     cpu: no CUDA device found",
        "    1.5 s  train",
        "   61.5 s  train  step 12/980  loss 2.250  acc 12.5 %  img/s 1,234  lr 0.05  1:00:00 left",
    ]


def test_a_full_line_fits_80_columns():
    now, stream = FakeTime(), io.StringIO()
    shown = LineScreen(stream, now)
    shown.begin(600.0, None, 0.0)
    shown.phase("train")
    now.now = 100.0
    shown.progress(Progress(612, 1180, 0.5, 6.2, 0.912, 0.873, 0.0412, 12_345.6, 312.0, 288.0))
    assert max(map(len, stream.getvalue().splitlines())) <= 80


def test_the_live_screen_draws_at_most_four_times_a_second():
    now, canvas = FakeTime(), FakeCanvas()
    shown = live.LiveScreen(canvas, now)
    train(shown, now, 30, rate=100)
    assert 15 <= len(canvas.frames) <= 4 * 30 + 3
    assert "1.500" in canvas.frames[-1]


@pytest.mark.clock
def test_a_call_that_draws_nothing_costs_nothing_and_leaves_the_device_alone():
    class OnDevice:
        def __float__(self) -> float:
            raise AssertionError("read although nothing is drawn")

    for shown in (screen.Screen(), LineScreen(io.StringIO()), live.LiveScreen(FakeCanvas(), FakeTime())):
        shown.begin(600.0, None, 0.0)
        shown.phase("train")
        begun = time.perf_counter()
        for _ in range(1_000):
            shown.progress(Progress(step=1, loss=OnDevice(), accuracy=OnDevice()))
        assert (time.perf_counter() - begun) / 1_000 < 50e-6


def test_the_frame_shows_every_number_within_80_columns():
    now, canvas = FakeTime(), FakeCanvas()
    shown = live.LiveScreen(canvas, now)
    shown.begin(100_000.0, None, 9_999.9)
    shown.phase("calibrate")
    now.now = 10.0
    shown.progress(BIG)
    frame = canvas.frames[-1]
    for text in ("calibrate", "10010 of 100000 s", "12.346", "100.0 %", "1,234,568", "0.000123", "123,456", "9:59:59"):
        assert text in frame
    assert max(map(len, frame.splitlines())) <= 80


@pytest.mark.parametrize(
    ("seconds", "steps", "expected"),
    [(60.0, None, "15 of 60 s"), (None, 980, "490 of 980 steps"), (None, None, "15 s")],
)
def test_the_bar_counts_what_the_budget_is_given_in(seconds: float | None, steps: int | None, expected: str):
    assert expected in FakeCanvas().text(live.budget_bar(15.0, seconds, 490, steps))


def test_each_mode_writes_where_it_should(capsys: pytest.CaptureFixture[str]):
    for mode in screen.MODES:
        with screen.make(mode) as shown:
            shown.begin(60.0, None, 0.0)
            shown.banner("SYNTHETIC DATA", "Not CIFAR-10.")
            shown.note("device  cpu")
            shown.warn("something")
            shown.phase("train")
            shown.progress(Progress(step=1))
            shown.summary(a_run(), Path("runs/x"))
            shown.runs_summary([0.94, 0.93])
        out, err = capsys.readouterr()
        if mode == "silent":
            assert (out, err) == ("", "")
            continue
        assert "SYNTHETIC DATA" in err
        assert ("device" in out, "device" in err) == {"auto": (True, False), "json": (False, True)}.get(
            mode, (False, False)
        )
        assert "warning: something" in (out if mode == "auto" else err)
        assert mode == "auto" or out == ""
    with pytest.raises(ValueError, match="loud"):
        screen.make("loud")


def test_the_banner_keeps_its_box():
    lines = screen._box("SYNTHETIC DATA", "word " * 60).splitlines()
    assert {len(line) for line in lines} == {80}


def test_only_a_live_screen_imports_rich():
    program = (
        "import sys; from speedrun import screen; screen.make('quiet'); screen.make('auto').note('a'); "
        "print([name for name in ('rich', 'torch', 'numpy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_summary_says_how_the_run_went():
    canvas, stream = FakeCanvas(), io.StringIO()
    run = a_run(dataset="synthetic", plan={"width": 0.5, "sides": [24, 32], "deep": {"x": 1}}, fetch_seconds=2.0)
    for shown in (live.LiveScreen(canvas), LineScreen(stream)):
        shown.summary(run, Path("runs/some-folder"))
    for text in (stream.getvalue(), canvas.lines[-1]):
        said = ("complete", "94.00 %", "93.00 %", "58.5 of 60 s", "Test CPU", "bfloat16", "1.97 M", "7.6 epochs")
        for words in (*said, "SYNTHETIC", "width 0.5", "sides 24 32", "2.0 s more", "some-folder"):
            assert words in text
        assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("timed", "planned", "row"),
    [
        (0.9, 0.9, "90.00 %"),
        (0.9, 0.91, "90.00 %, 91.00 % before steps were timed"),
        (0.9, None, "90.00 %"),
        (None, None, None),
    ],
)
def test_the_summary_tells_what_was_expected_first_where_that_was_something_else(
    timed: float | None, planned: float | None, row: str | None
):
    run = a_run(expected_accuracy=timed, plan={"batch_size": 500, "expected_accuracy": planned})
    rows = dict(summary_rows(run, None))
    assert rows.get("expected") == row
    assert rows["plan"] == "batch_size 500"


def test_the_summary_of_a_run_cut_short_leaves_out_what_is_not_known():
    unknown = ("accuracy", "accuracy_plain", "device", "dtype", "dtype_reason", "parameters", "plan", "split")
    run = a_run(status="interrupted", images_per_second=None, **dict.fromkeys(unknown))
    stream = io.StringIO()
    LineScreen(stream).summary(run, None)
    assert "interrupted" in stream.getvalue()
    assert "not evaluated" in stream.getvalue()
    assert "could not be saved" in stream.getvalue()
    assert "None" not in stream.getvalue()


def test_the_summary_of_runs_gives_mean_deviation_and_interval():
    stream = io.StringIO()
    LineScreen(stream).runs_summary([0.94, 0.93, 0.95])
    for text in ("94.00 %", "1.00 %", "91.52 % to 96.48 %"):
        assert text in stream.getvalue()
    LineScreen(stream := io.StringIO()).runs_summary([0.94])
    assert "interval" not in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (-3, "0:00"), (59.6, "1:00"), (288, "4:48"), (3723, "1:02:03")]
)
def test_minutes(seconds: float, text: str):
    assert screen.minutes(seconds) == text


@pytest.mark.parametrize(
    ("number", "digits", "text"),
    [(0.512, 2, "0.51"), (99.7, 2, "100"), (1234, 2, "1,234"), (305.23, 4, "305.2"), (12345.6, 4, "12,346")],
)
def test_rounded(number: float, digits: int, text: str):
    assert rounded(number, digits) == text


def test_a_reader_that_went_away_ends_nothing():
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    closed = io.StringIO()
    closed.close()
    for stream in (Gone(), closed):
        for shown in (LineScreen(stream), live.LiveScreen(live.TerminalCanvas(stream))):
            shown.note("device  cpu")
            shown.phase("train")
            shown.begin(60.0, None, 0.0)
            shown.summary(a_run(), Path("x"))
            shown.close()


def test_a_stream_that_knows_only_ascii_is_no_error():
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    LineScreen(stream).note("files  runs/größe")
    assert buffer.getvalue() == b"files      runs/gr\\xf6\\xdfe\n"


def test_a_notebook_cell_is_one_output_updated_in_place(monkeypatch: pytest.MonkeyPatch):
    shown: list[str] = []
    updates: list[str] = []
    handle = types.SimpleNamespace(update=updates.append)

    def display(content: str, display_id: bool = False) -> Any:
        shown.append(content)
        return handle if display_id else None

    shell = types.SimpleNamespace(kernel=object())
    fake: Any = types.ModuleType("IPython")
    fake.get_ipython = lambda: shell
    fake.display = types.ModuleType("IPython.display")
    fake.display.display, fake.display.HTML = display, str
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", fake.display)
    with screen.make("auto") as cell:
        assert isinstance(cell, live.LiveScreen)
        cell.note("device  cpu")
        cell.begin(60.0, None, 0.0)
        cell.phase("train")
        cell.summary(a_run(), Path("runs/x"))
    assert len(shown) == 3
    assert [text.startswith("<pre") for text in shown] == [True] * 3
    assert "train" in updates[0]
    assert updates[-1] == ""
    del shell.kernel
    assert isinstance(screen.make("auto"), LineScreen)


@pytest.mark.parametrize("problem", [None, KeyboardInterrupt, RuntimeError])
def test_S5_a_screen_gives_the_terminal_back_however_its_block_ends(problem: type[BaseException] | None):
    closed = []

    class Closing(screen.Screen):
        def close(self) -> None:
            closed.append(True)

    with suppress(KeyboardInterrupt, RuntimeError), Closing():
        if problem is not None:
            raise problem
    assert closed == [True]


CRASH = """
import os, signal, sys, time
from speedrun import screen
shown = screen.make("auto")
shown.begin(60.0, None, 0.0)
shown.phase("train")
shown.progress(screen.Progress(step=1, loss=2.5))
if sys.argv[1] == "raise": raise RuntimeError("boom")
if sys.argv[1] == "kill": os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "leave": os._exit(3)
"""


@pytest.mark.parametrize(("how", "code"), [("raise", 1), ("kill", -signal.SIGKILL), ("leave", 3), ("end", 0)])
def test_S5_the_terminal_is_as_it_was(how: str, code: int):
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", "COLUMNS": "80"}
    command = [sys.executable, "-c", CRASH, how]
    run = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=environment)
    output = b""
    while run.poll() is None or select.select([master], [], [], 0.1)[0]:
        if select.select([master], [], [], 0.1)[0]:
            output += os.read(master, 65536)
    after = termios.tcgetattr(slave)
    os.close(master)
    os.close(slave)
    assert run.returncode == code
    assert b"train" in output
    assert after == before
    assert output.rfind(b"\x1b[?25h") > output.rfind(b"\x1b[?25l")
    assert not re.search(rb"\x1b\[\?1049h", output)
    assert how != "raise" or output.count(b"RuntimeError: boom") == 1
