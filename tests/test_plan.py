"""The job that shows plans: its rows, its refusals, its time."""

import json
from pathlib import Path

import pytest
from processes import one_line, speedrun

from speedrun.config import Config, ModelConfig
from speedrun.errors import UsageError
from speedrun.jobs import plan
from speedrun.planner import TARGET_MARGIN, Situation

pytestmark = pytest.mark.clock


def rows(*words: str, cwd: Path) -> list[dict]:
    ended = speedrun("plan", "--json", "--device=cpu", *words, cwd=cwd)
    assert ended.code == 0, ended.stderr
    assert ended.seconds < 15
    return json.loads(one_line(ended.stdout))


def test_more_seconds_plan_for_more(tmp_path: Path):
    found = rows("--seconds=0.1,30,3000", cwd=tmp_path)
    assert [row["seconds"] for row in found] == [0.1, 30, 3000]
    assert found[0]["problem"].startswith("too few here: ")
    short, long = found[1:]
    assert short["expected_accuracy"] < long["expected_accuracy"]
    assert short["epochs"] > 0
    assert (short["model.widths"], short["resolutions"]) != (long["model.widths"], long["resolutions"])
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_a_target_is_shown_with_its_seconds(tmp_path: Path):
    low, high, beyond = rows("--target=0.8,0.9,0.999", cwd=tmp_path)
    assert low["seconds"] < high["seconds"]
    assert high["expected_accuracy"] == pytest.approx(0.901, abs=1e-4)
    assert beyond["problem"].startswith("out of reach: the highest is ")


def test_the_highest_target_is_that_of_what_may_be_chosen():
    small = Config(tta="none", model=ModelConfig(widths=(32, 64, 64)))
    outlook = plan._Outlook(small, Situation("cpu", 1e12), 1.0)
    problem = outlook.target(0.9)["problem"]
    highest = float(problem.removeprefix("out of reach: the highest is ").split()[0]) / 100
    reached = outlook.target(highest)
    assert reached["expected_accuracy"] == pytest.approx(highest + TARGET_MARGIN)
    assert reached["tta"] == "none"
    assert "out of reach" in outlook.target(highest + 1e-4)["problem"]


def test_other_images_have_plans_without_promises(tiny_data: Path, tmp_path: Path):
    budget, target = rows(f"--dataset={tiny_data}", "--seconds=60", "--target=0.9", cwd=tmp_path)
    assert (budget["expected_accuracy"], max(budget["resolutions"])) == (None, 16)
    assert target["problem"].startswith("a target needs CIFAR-10")


def test_what_is_set_is_shown_as_set(tmp_path: Path):
    (row,) = rows("--seconds=60", "--set=model.widths=8,16,16", "--tta=none", cwd=tmp_path)
    assert (row["model.widths"], row["tta"], row["expected_accuracy"]) == ([8, 16, 16], "none", None)


def test_a_person_reads_a_line_a_row(tmp_path: Path):
    ended = speedrun("plan", "--device=cpu", "--seconds=0,60", "--target=0.8", cwd=tmp_path)
    head, refused, planned, aimed = ended.stdout.splitlines()
    assert head.startswith("cpu, ")
    assert "0 s  too few here: " in refused
    assert " 60 s  " in planned
    assert " %  " in planned
    assert aimed.startswith(" 80.00 % ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seconds=soon"], "--seconds takes numbers separated by commas, not 'soon'"),
        (["--seconds="], "--seconds takes numbers separated by commas, not ''"),
        (["--seconds=-1"], "--seconds: -1 cannot be"),
        (["--target=94"], "a target must be in (0, 1), such as 0.94"),
        (["--steps=5"], "unknown argument --steps=5"),
    ],
)
def test_bad_words_are_refused_at_once(words: list[str], message: str):
    with pytest.raises(UsageError) as caught:
        plan.main(words, 0.0)
    assert str(caught.value) == message
