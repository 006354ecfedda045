"""The soak counts what it tried and what went wrong; runs and readers are imitated."""

import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks import damage, readme, results, soak, stress
from benchmarks.stress import Ended
from speedrun import record


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """What the soak asks for, in order. The second run with a deadline is late, the third signal loses something, what
    was killed cannot be resumed, and the seventh damaged file goes unnoticed."""
    asked: list[tuple[Any, ...]] = []

    def deadline_run(data: Path, out: Path, seconds: float, fault: str) -> Ended:
        asked.append((out.name, seconds, fault))
        late = out.name == "deadline-1"
        return Ended(fault, 0, seconds + late, overrun=late, scant=fault == "competitor")

    def signal_run(data: Path, out: Path, number: int, moment: float) -> Ended:
        asked.append((out.name, number, moment))
        out.mkdir()
        (out / "end").write_text(str(number))
        return Ended("signal", 0, moment, ("what was trained is lost",) if out.name == "signal-2" else ())

    def resume_run(out: Path, seconds: float) -> Ended | None:
        killed = (out / "end").read_text() == str(int(signal.SIGKILL))
        return None if killed else Ended("resumed", 0, seconds)

    monkeypatch.setattr(stress, "deadline_run", deadline_run)
    monkeypatch.setattr(stress, "signal_run", signal_run)
    monkeypatch.setattr(stress, "resume_run", resume_run)
    monkeypatch.setattr(damage, "cases", lambda folder: [damage.Case("npz", folder, len, 0)])
    monkeypatch.setattr(damage, "trial", lambda case, seed: asked.append((seed,)) or "used" * (seed == 6))
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    return asked


def test_a_round_tries_and_counts_everything(tried: list[tuple[Any, ...]], tmp_path: Path, capsys):
    found = soak.Soak(tmp_path, seed=0)
    for _ in range(8):
        found.round(1)
    deadlines = [each[1:] for each in tried if str(each[0]).startswith("deadline")]
    signals = [each for each in tried if str(each[0]).startswith("signal")]
    assert len(set(deadlines)) == len(soak.BUDGETS) * len(stress.FAULTS) == 15  # every fault at every budget
    assert {each[1] for each in signals} == set(soak.ENDS)
    assert all(0.3 <= each[2] <= soak.LATEST for each in signals)
    assert sorted(each[0] for each in tried if len(each) == 1) == list(range(800))
    resumed = sum(each[1] != signal.SIGKILL for each in signals)
    expected = {"deadlines": 16, "signals": 40, "resumed": resumed, "overruns": 1, "losses": 1}
    expected |= {"scant": sum(fault == "competitor" for _, fault in deadlines), "damages": 800, "undetected": 1}
    assert found.counts == expected
    said = capsys.readouterr().out
    assert [said.count(text) for text in ("took too long", "what was trained is lost", "damage 6: used")] == [1, 1, 1]
    assert f"{56 + resumed} runs (16 with a deadline" in str(found)


def test_the_record_has_the_counts_and_the_exit_code_tells_of_problems(tried: list[tuple[Any, ...]], tmp_path: Path):
    assert soak.main(["--minutes=1e-9", "--jobs=1"]) == 1
    (path,) = tmp_path.glob("*.jsonl")
    (line,), problems = record.read(path)
    assert problems == []
    assert (line["values"]["deadlines"], line["values"]["overruns"], line["settings"]["minutes"]) == (2, 1, 1e-9)
    assert soak.main(["--minutes=1e-9", "--jobs=1", "--dry"]) == 1
    assert len(path.read_text().splitlines()) == 1


def test_the_readme_has_the_newest_soak_of_each_machine(tried: list[tuple[Any, ...]], tmp_path: Path):
    for minutes in ("1e-9", "2e-9"):
        soak.main([f"--minutes={minutes}", "--jobs=1"])
    rows = readme.soak(results.recorded()).splitlines()
    assert len(rows) == 3
    assert rows[2].split(" | ")[1:] == ["2e-09", "2", "5", "4", "1", "1", "1", "100", "1 |"]
    assert readme.soak([]) == ""
