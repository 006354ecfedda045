"""Runs of a tiny net under bad conditions, in processes of their own, and what must hold of what they leave behind.

`deadline_run` gives a run a budget and a fault; `signal_run` ends one at some moment. `python -m benchmarks.soak` and
the tests call them.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speedrun import checkpoint, files, metrics, record, snapshot
from speedrun import config as configs
from speedrun.device import cores
from speedrun.errors import SpeedrunError
from speedrun.folder import CHECKPOINTS, NEWEST

ROOT = Path(__file__).resolve().parent.parent
NET = (
    "--device=cpu",
    "--set=model.widths=8,8,8",
    "--set=model.depth=2",
    "--set=batch_size=50",
    "--set=resolutions=12,16",
    "--set=optim.lr=0.05",
)
RUN = "import time\nfrom speedrun import __main__, clock\nbegan, seconds = clock.process_start(), {seconds}\n"
END = "__main__.main()"
# What is put before the run, by fault. Competitors are processes of their own, one a core; beside them a run takes as
# many threads as it likes, for it is threads that stall.
FAULTS = {
    "none": "",
    "competitor": "",
    "compile": "",
    "disk": "import os\nsync = os.fsync\nos.fsync = lambda file: (time.sleep(0.3), sync(file))[1]\n",
    "hang": (
        "from speedrun.methods.plain import PlainStep\ncall = PlainStep.__call__\n"
        "def hang(*arguments):\n"
        "    while time.monotonic() - began > 0.6 * seconds: time.sleep(1)\n"
        "    return call(*arguments)\n"
        "PlainStep.__call__ = hang\n"
    ),
}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
OWN_FILES = {"config.json", "metrics.jsonl", "model.pt", "result.json", *CHECKPOINTS}


@dataclass(frozen=True)
class Ended:
    """A run that has ended. seconds: from before its start to after its end. problems: what should not have been.

    overrun: longer than it was given. scant: stopped by its watchdog, though it did not hang, or refused: there was too
    little of the processor.
    """

    what: str
    code: int
    seconds: float
    problems: tuple[str, ...] = ()
    overrun: bool = False
    scant: bool = False


def small_data(path: Path) -> Path:
    """Write a set of 600 and 200 images of noise, of three classes told apart by their brightest channel."""
    draw = np.random.default_rng(0)
    labels = np.arange(800) % 3
    images = draw.integers(0, 110, (800, 16, 16, 3))
    images[np.arange(800), :, :, labels] += 100
    pictures = images.astype(np.uint8)
    np.savez(path, images=pictures[:600], labels=labels[:600], test_images=pictures[600:], test_labels=labels[600:])
    return path


def deadline_run(data: Path, out: Path, seconds: float, fault: str) -> Ended:
    """A run of `seconds` with a fault, measured from outside. It must end in time and leave what belongs to its end."""
    arguments = [f"--seconds={seconds}", f"--dataset={data}", f"--out={out}", "--quiet", *NET]
    environment = dict(ONE_THREAD)
    if fault == "competitor":
        environment = {}
    if fault == "compile":
        arguments.append("--compile=default")
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(out.parent / f"{out.name}-cache")
    began = time.monotonic()
    process = _start(RUN.format(seconds=seconds) + FAULTS[fault] + END, arguments, environment)
    competitors: list[subprocess.Popen[bytes]] = []
    try:
        if fault == "competitor":
            time.sleep(seconds / 2)
            competitors += [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores())]
        end, stderr = _end(process, seconds + 30)
    finally:
        for competitor in competitors:
            competitor.kill()
            competitor.wait()
    stopped = process.returncode == -signal.SIGKILL  # by its watchdog, where there was too little of the processor
    problems = _left(out, killed=stopped) + _said(stderr)
    refused = process.returncode == 2 and not out.exists()
    # Beside a job that takes the cores there may be no time left to score; the weights are saved then, and it is told.
    unscored = fault == "competitor" and process.returncode == 1 and (out / "model.pt").exists()
    expected = ("timeout", "complete", None) if stopped else ("timeout",) if unscored else ("complete",)
    if _status(out) not in expected and not refused:
        problems.append(f"ended as {_status(out)}: {stderr.strip()}")
    if fault == "hang" and not (stopped or refused):
        problems.append("it did not hang")
    scant = refused or unscored or (stopped and fault != "hang")
    what = f"{seconds:g} s with fault {fault}"
    return Ended(what, process.returncode, end - began, tuple(problems), end - began > seconds, scant)


def signal_run(data: Path, out: Path, number: int, moment: float) -> Ended:
    """A run that gets a signal `moment` seconds after its start; SIGKILL is one. It must lose and tear nothing."""
    arguments = ["--seconds=90", f"--dataset={data}", f"--out={out}", "--quiet", *NET]
    began = time.monotonic()
    process = _start(RUN.format(seconds=90) + END, arguments, ONE_THREAD)
    time.sleep(moment)
    sent = time.monotonic()
    process.send_signal(number)
    end, stderr = _end(process, 60)
    killed = number == signal.SIGKILL
    problems = _left(out, killed=killed)
    if process.returncode not in (128 + number, -number):  # before its handlers are there it ends as any other
        problems.append(f"ended with code {process.returncode}: {stderr.strip()}")
    if process.returncode == 128 + number:
        problems += _said(stderr)
    if end - sent > 10:
        problems.append(f"took {end - sent:.1f} s to end")
    if not killed and out.exists():
        if _status(out) != "interrupted":
            problems.append(f"ended as {_status(out)}")
        if _steps(out) > 0 and not ((out / "model.pt").exists() and (out / NEWEST).exists()):
            problems.append("what was trained is lost")
    what = f"{signal.Signals(number).name} after {moment:.2f} s"
    return Ended(what, process.returncode, end - began, tuple(problems))


def resume_run(out: Path, seconds: float) -> Ended | None:
    """Go on with what a run left, and to the end; None if it left no checkpoint."""
    if not any((out / name).exists() for name in CHECKPOINTS):
        return None
    began = time.monotonic()
    arguments = [f"--resume={out}", f"--seconds={seconds}", "--quiet"]
    process = _start(RUN.format(seconds=seconds) + END, arguments, ONE_THREAD)
    end, stderr = _end(process, seconds + 30)
    stopped, refused = process.returncode == -signal.SIGKILL, process.returncode == 2
    problems = _left(out, killed=stopped) + _said(stderr)
    if stopped or refused:  # there was too little of the processor; it can go on another time
        if not any((out / name).exists() for name in (*CHECKPOINTS, "model.pt")):
            problems.append("what was trained is lost")
    elif _status(out) != "complete":
        problems.append(f"resumed, it ended as {_status(out)}: {stderr.strip()}")
    what = f"resumed for {seconds:g} s"
    return Ended(what, process.returncode, end - began, tuple(problems), end - began > seconds, stopped or refused)


def _start(code: str, arguments: list[str], variables: Mapping[str, str]) -> "subprocess.Popen[str]":
    inherited = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", *ONE_THREAD)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**inherited, "PYTHONPATH": str(ROOT), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _end(process: "subprocess.Popen[str]", seconds: float) -> tuple[float, str]:
    """The moment at which a process has ended, and its stderr; it is killed where that takes more than `seconds`."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    end = time.monotonic()
    return end, process.communicate()[1]


def _left(out: Path, *, killed: bool = False) -> list[str]:
    """What is wrong with the files of a run. killed: then a lock and temporary files may be among them."""
    if not out.exists():
        return []
    names = {path.name for path in out.iterdir()}
    strange = {name for name in names - OWN_FILES if not (killed and name.startswith("."))}
    problems = [f"{name} was left" for name in sorted(strange)]
    readers = {
        "config.json": configs.load,
        "metrics.jsonl": metrics.read,
        "model.pt": checkpoint.load,
        "result.json": files.read_sealed,
        **dict.fromkeys(CHECKPOINTS, snapshot.read),
    }
    for name in sorted(names & OWN_FILES):
        try:
            found = readers[name](out / name)
        except SpeedrunError as error:
            problems.append(str(error))
            continue
        if name == "result.json":
            problems += [f"result.json: {problem}" for problem in record.check(found)]
    if not killed and names and "result.json" not in names:
        problems.append("there is no record")
    if not killed and _status(out) == "complete" and names & set(CHECKPOINTS):
        problems.append("a complete run left checkpoints")
    return problems


def _said(stderr: str) -> list[str]:
    return [f"a traceback: {stderr.strip()}"] if "Traceback" in stderr else []


def _record(out: Path) -> dict[str, object]:
    try:
        return files.read_sealed(out / "result.json")
    except SpeedrunError:
        return {}


def _status(out: Path) -> object:
    return _record(out).get("status")


def _steps(out: Path) -> int:
    steps = _record(out).get("steps")
    return steps if isinstance(steps, int) else 0
