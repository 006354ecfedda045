"""Runs the program as others see it: in a process of its own, measured from outside."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A net that trains in milliseconds on images of 16 pixels. Logits are divided by the width: a narrow net's head moves
# faster than that of the wide nets that the default rates are for.
TINY_NET = (
    "--device=cpu",  # bit equality and the short deadlines are the CPU's
    "--set=model.widths=8,8,8",
    "--set=model.depth=2",
    "--set=batch_size=50",
    "--set=resolutions=12,16",
    "--set=optim.lr=0.05",
    "--set=optim.bias_lr=0.01",
    "--set=optim.head_lr=0.05",
)


@dataclass(frozen=True)
class Ended:
    """A process that has ended. seconds: from before its start to after its end."""

    code: int
    stdout: str
    stderr: str
    seconds: float


def environment(**changes: str | None) -> dict[str, str]:
    """This process's variables with `changes` (None: removed). Triton's interpreter, slow to import, is not for it."""
    merged = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": None, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def start(arguments: list[str], *, cwd: Path = ROOT, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """Start `python ARGUMENTS` with pipes for its output."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=env or environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(arguments: list[str], *, cwd: Path = ROOT, env: dict[str, str] | None = None, limit: float = 120) -> Ended:
    """Run `python ARGUMENTS` to its end."""
    began = time.monotonic()
    process = start(arguments, cwd=cwd, env=env)
    try:
        stdout, stderr = process.communicate(timeout=limit)
    finally:
        process.kill()
    return Ended(process.returncode, stdout, stderr, time.monotonic() - began)


def speedrun(*arguments: object, cwd: Path = ROOT, env: dict[str, str] | None = None, limit: float = 120) -> Ended:
    """Run `python -m speedrun ARGUMENTS` to its end."""
    return run(["-m", "speedrun", *map(str, arguments)], cwd=cwd, env=env, limit=limit)


def one_line(text: str) -> str:
    """`text`, which must be a single line, without its end."""
    lines = text.splitlines()
    assert len(lines) == 1, f"expected one line, got {len(lines)}:\n{text}"
    return lines[0]


def torchrun(
    count: int, arguments: list[str], *, options: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start `torchrun` with so many processes on this machine, one thread each, that run `python ARGUMENTS`."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *options]
    return start([*launcher, *arguments], env={**(env or environment()), "OMP_NUM_THREADS": "1"})


def ranks(count: int, *arguments: object, limit: float = 120) -> Ended:
    """Run `torchrun -m speedrun ARGUMENTS` with so many processes to its end."""
    began = time.monotonic()
    process = torchrun(count, ["-m", "speedrun", *map(str, arguments)])
    return ended(process, began, limit)


def ended(process: "subprocess.Popen[str]", began: float, limit: float = 120) -> Ended:
    """Wait for a process that was started at `began`, monotonic."""
    try:
        stdout, stderr = process.communicate(timeout=limit)
    finally:
        process.kill()
    return Ended(process.returncode, stdout, stderr, time.monotonic() - began)
