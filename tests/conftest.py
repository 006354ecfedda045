"""Shared fixtures, and the environment that torch and Triton read when they are imported.

The real CIFAR-10 is found by $SPEEDRUN_DATA alone; without it its tests skip.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

# Before anything imports torch or Triton. The driver's device tells of CUDA without importing torch.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# The nets of the tests are tiny: a second thread only waits, and for very long where other processes use the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from processes import TINY_NET, run

from speedrun import record
from speedrun.config import Config, override

# Seconds in which torch is imported, from outside, on the slowest machine that the tests' deadlines were chosen on.
IMPORTED = 2.0
Paced = Callable[[float], int]
NET_SETTINGS = dict(word.removeprefix("--set=").split("=", 1) for word in TINY_NET if word.startswith("--set="))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds the real CIFAR-10."""
    folder = os.environ.get("SPEEDRUN_DATA")
    if not folder:
        pytest.skip("SPEEDRUN_DATA is not set")
    return Path(folder)


@pytest.fixture
def full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions of float32 in float32: on a GPU torch rounds what goes into them to 11 bits, unless it is told."""
    import torch

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def colour_classes(count: int, seed: int, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Noise in which one channel is brighter; the channel is the class. uint8 (count, size, size, 3) and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 110, (count, size, size, 3))
    images[np.arange(count), :, :, labels] += 100
    return images.astype(np.uint8), labels


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz file of 600 and 200 images, 16 pixels a side, of three classes that are easily told apart."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.npz"
    images, labels = colour_classes(600, seed=0)
    test_images, test_labels = colour_classes(200, seed=1)
    np.savez(path, images=images, labels=labels, test_images=test_images, test_labels=test_labels)
    return path


@pytest.fixture(scope="session")
def paced() -> Paced:
    """Makes `--seconds` of those that suit a quick machine: as many times more as importing torch takes longer here."""
    # The quickest of three: the first reads the disk. Not of the program itself, which is what the deadlines bound.
    pace = max(1.0, min(run(["-c", "import torch"]).seconds for _ in range(3)) / IMPORTED)
    return lambda seconds: math.ceil(seconds * pace)


def tiny(data: Path, out: Path, settings: Mapping[str, str] | None = None, **changes: Any) -> Config:
    """A config of 40 steps of a tiny net in float32; `settings` by dotted names, `changes` by fields of the config."""
    base = override(Config(quiet=True, device="cpu"), {**NET_SETTINGS, **(settings or {})})
    return replace(base, **{"dataset": str(data), "out": out, "steps": 40, "dtype": "float32", "seed": 3, **changes})


def read_record(folder: Path) -> dict[str, Any]:
    """The record in the folder of a run, which follows its schema and is as it was written."""
    found = json.loads((folder / "result.json").read_text())
    assert record.check(found) == []
    return found
