"""Whole runs under bad conditions, seen from outside; `python -m benchmarks.soak` has more of them."""

import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import stress
from benchmarks.stress import Ended

pytestmark = pytest.mark.clock

SECONDS = 15.0
FAULTS = ("competitor", "disk", "compile", "hang")
SIGNALS = 10
TOGETHER = 2  # processes at a time


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stress.small_data(tmp_path_factory.mktemp("stress") / "data.npz")


@pytest.fixture(scope="module")
def ended(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """A run of 15 s for each fault, by its name."""
    folder = tmp_path_factory.mktemp("deadlines")
    with ThreadPoolExecutor(TOGETHER) as pool:
        runs = pool.map(lambda fault: stress.deadline_run(data, folder / fault, SECONDS, fault), FAULTS)
        return dict(zip(FAULTS, runs, strict=True))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("competitor", id="W3-another-job-takes-the-cores-half-way"),
        pytest.param("disk", id="W2-a-slow-disk"),
        pytest.param("compile", id="W4-a-first-compile"),
        pytest.param("hang", id="W11-a-step-that-hangs"),
    ],
)
def test_W2_W3_W4_W11_the_deadline_holds_from_outside(fault: str, ended: dict[str, Ended]):
    assert ended[fault].problems == ()
    assert ended[fault].seconds < SECONDS


def test_S1_S2_S3_K2_L4_a_signal_at_any_moment_loses_and_tears_nothing(data: Path, tmp_path: Path):
    """Interrupted, ended or killed: what is there is whole, and what was trained can go on."""
    draw = random.Random(0)
    ends = [
        (draw.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL)), draw.uniform(0.3, 9)) for _ in range(SIGNALS)
    ]
    with ThreadPoolExecutor(TOGETHER) as pool:
        runs = pool.map(lambda i: stress.signal_run(data, tmp_path / str(i), *ends[i]), range(SIGNALS))
        assert [(run.what, run.problems) for run in runs if run.problems] == []
