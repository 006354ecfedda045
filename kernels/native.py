"""C code for processors: compiled at first use, in three seconds, and kept in the user's cache.

It is written for AVX512-BF16. Where the processor has none, or the machine no C compiler, there is no such code, and
whoever asks takes torch's operations.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path(__file__).parent
SECONDS = 15  # to compile, after which there is none
FLAGS = ("-O3", "-march=native", "-mprefer-vector-width=512", "-fopenmp", "-fPIC", "-shared")


@cache
def has(feature: str) -> bool:
    """Whether the processor has `feature`, amx_tile or avx512_bf16; not where this torch has lost the name, a private
    one, by which to ask."""
    ask = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return ask is not None and bool(ask())


def compiler() -> str | None:
    """The path of the C compiler that $CC names, or of the first that is here."""
    return next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)


@cache
def library(name: str, **constants: str) -> ctypes.CDLL | None:
    """`kernels/NAME.c` with macros of these values; None where it cannot be had."""
    found = compiler()
    if found is None or sys.platform != "linux" or not has("avx512_bf16"):
        return None
    try:
        return _load(name, found, constants)
    except (OSError, RuntimeError, subprocess.SubprocessError):  # RuntimeError: a user without a home
        return None


def _load(name: str, path_of_compiler: str, constants: Mapping[str, str]) -> ctypes.CDLL:
    """The compiled code, from the cache if it is there. Raises OSError or SubprocessError."""
    folder = _folder()
    options = [path_of_compiler, *FLAGS, *(f"-D{constant}={value}" for constant, value in constants.items())]
    texts = [(FOLDER / file).read_text(encoding="utf-8") for file in ("vectors.h", f"{name}.c")]
    key = hashlib.sha256("\0".join([*options, _processor(), *texts]).encode()).hexdigest()[:16]
    path = folder / f"{name}-{key}.so"
    if path.exists():
        with suppress(OSError):  # damaged: made anew
            return ctypes.CDLL(str(path))
    with tempfile.TemporaryDirectory(dir=folder if os.access(folder, os.W_OK) else None) as scratch:
        made = Path(scratch) / path.name
        command = [*options, str(FOLDER / f"{name}.c"), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS)
        loaded = ctypes.CDLL(str(made))
        with suppress(OSError):  # a cache that cannot be written
            made.replace(path)
        return loaded


def _folder() -> Path:
    """The user's cache, as `speedrun.data` has it, made if that is possible. Raises RuntimeError without a home."""
    cache = os.environ.get("SPEEDRUN_CACHE")
    base = Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "speedrun"
    with suppress(OSError):
        (base / "kernels").mkdir(parents=True, exist_ok=True)
    return base / "kernels"


def _processor() -> str:
    """What -march=native depends on, for a cache that several machines share."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next((line for line in lines if line.startswith("flags")), "")
    return ""


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's numbers lie, for as long as it is held; null for None. Raises RuntimeError if it has none."""
    if tensor is None:
        return ctypes.c_void_p(None)
    if tensor.numel() and not tensor.data_ptr():
        raise RuntimeError(f"{type(tensor).__name__} has no memory for C code to read")
    return ctypes.c_void_p(tensor.data_ptr())
