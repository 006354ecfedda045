"""The share of the processor that a process gets, and how much earlier it must end for it."""

from pathlib import Path

import pytest

from speedrun import pressure
from speedrun.pressure import Pressure


@pytest.fixture
def counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the place of the kernel's counts, on a clock that goes two seconds with every look."""
    path, now = tmp_path / "schedstat", iter(range(0, 1000, 2))
    path.write_text("0 0 0\n")
    monkeypatch.setattr(pressure.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(pressure, "open", lambda name, **options: path.open(**options), raising=False)
    return path


@pytest.mark.parametrize(
    ("ran", "waited", "seconds"),
    [(2.0, 0.0, 0.0), (1.0, 1.0, 0.0), (0.2, 1.8, 0.15), (0.1, 1.9, 0.65), (0.001, 1.999, pressure.LONGEST), (0, 0, 0)],
)
def test_W3_what_gets_little_of_the_processor_ends_earlier(ran: float, waited: float, seconds: float, counts: Path):
    found = Pressure()
    counts.write_text(f"{int(ran * 1e9)} {int(waited * 1e9)} 7\n")
    assert found.exit_seconds() == pytest.approx(seconds)


def test_what_sleeps_keeps_the_share_it_had(counts: Path):
    found = Pressure()
    counts.write_text("100000000 1900000000 7\n")
    assert found.exit_seconds() == pytest.approx(0.65)
    counts.write_text("100000001 1900000001 8\n")
    assert found.exit_seconds() == pytest.approx(0.65)


def test_elsewhere_nothing_is_added(tmp_path: Path):
    assert Pressure("no such process").exit_seconds() == 0.0
