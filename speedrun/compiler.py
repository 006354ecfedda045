"""torch.compile within its share of the budget; eager where it fails or takes too long."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from speedrun.lines import append_lines

# After which a limit that has passed is told anew.
AGAIN_SECONDS = 0.5


class CompileTimeout(BaseException):
    """Compilation took longer than its share of the budget. Not an Exception: compilers swallow those."""


def use_cache(folder: Path) -> None:
    """Keep compiled code in `folder`, unless the environment names another place. Before torch compiles anything."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))


def compiled_before(device: str) -> frozenset[str]:
    """Names of what this torch has compiled on this device, by its name, into the cache in use."""
    try:
        lines = _list().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return frozenset()
    ours = _prefix(device)
    return frozenset(line.removeprefix(ours) for line in lines if line.startswith(ours))


def remember(device: str, name: str) -> None:
    """Note that the cache holds `name`, for `compiled_before`. A folder that cannot be written forgets it."""
    if name not in compiled_before(device):
        with suppress(OSError):
            append_lines(_list(), f"{_prefix(device)}{name}\n")


def _list() -> Path:
    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")) / "compiled.txt"


def _prefix(device: str) -> str:
    return f"torch {torch.__version__}, {device}: "


Forward = Callable[[Tensor], Tensor]


def compile_net(
    net: nn.Module, mode: str, warm_up: Callable[[Forward], None], limit_seconds: float
) -> tuple[Forward, bool | None, str]:
    """Compile `net` and run `warm_up` on it, which must take every shape that training will.

    Returns what to call (the compiled net, or `net` itself where compilation failed), whether the cache was warm
    (None if nothing was compiled), and the problem in one line, empty if there was none.
    """
    torch._dynamo.reset()
    compiled = torch.compile(net, mode=None if mode == "default" else "max-autotune-no-cudagraphs", dynamic=False)
    before = _cache_misses()
    try:
        with warnings.catch_warnings(), _time_limit(limit_seconds):
            # Where the time is up in a backward pass that is being compiled, torch would tell the whole way there.
            warnings.filterwarnings("ignore", message="Error detected in")
            warm_up(compiled)
    except CompileTimeout:
        return net, None, f"compilation did not end within {limit_seconds:.0f} s: going on in eager mode"
    except Exception as error:
        # Compilers fail in their own ways (no C++ compiler, no driver headers). Eager always works, and a fault of the
        # net itself shows there again.
        first = str(error).strip().splitlines()
        return (
            net,
            None,
            f"compilation failed ({type(error).__name__}: {first[0] if first else ''}): going on in eager mode",
        )
    with suppress(Exception):  # idle workers hold our stdout open, and a reader would wait for them
        from torch._inductor.async_compile import shutdown_compile_workers

        shutdown_compile_workers()
    return compiled, _cache_misses() == before, ""


def _cache_misses() -> int:
    from torch._dynamo.utils import counters

    return counters["inductor"]["fxgraph_cache_miss"]


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise CompileTimeout in the body after `seconds`; without effect outside the main thread and without SIGALRM."""
    if seconds == float("inf") or threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield
        return

    def expire(number: int, frame: FrameType | None) -> None:
        raise CompileTimeout

    def lost(unraisable: "sys.UnraisableHookArgs") -> None:
        if not isinstance(unraisable.exc_value, CompileTimeout):
            told(unraisable)

    previous, told = signal.signal(signal.SIGALRM, expire), sys.unraisablehook
    sys.unraisablehook = lost
    # What is raised in the callback of a weak reference, of which compilers have many, is lost: so again and again.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01), AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        sys.unraisablehook = told
