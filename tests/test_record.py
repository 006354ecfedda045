"""The record's schema and its check, the growing files of records, and where a record says it comes from."""

import copy
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from speedrun import provenance, record
from speedrun.errors import SpeedrunError
from speedrun.metrics import MetricsWriter

ROOT = Path(__file__).parent.parent
DEVICE = {"name": "Test CPU", "kind": "cpu", "memory": 2**34, "capability": None, "driver": None, "cores": 2}


def a_run(**changes: Any) -> dict[str, Any]:
    """A sound record of a complete run, with some top-level fields changed."""
    return {
        **record.envelope("run", DEVICE),
        "status": "complete",
        "dataset": "cifar10",
        "split": {"train": "train[0:50000]", "scored": "test"},
        "recipe": "default",
        "config": {"width": 1.0, "widths": [64, 256], "note": None},
        "seed": 0,
        "budget_seconds": 60,
        "wall_seconds": 58.5,
        "fetch_seconds": 0.0,
        "train_seconds": 50.25,
        "phases": {"start": 2.0, "data": 0.5, "train": 54.0, "evaluate": 1.5, "idle": 0.25},
        "warm": {"data": True, "compile": None},
        "accuracy": 0.94,
        "accuracy_plain": 0.93,
        "expected_accuracy": None,
        "epochs": 7.6,
        "steps": 200,
        "parameters": 1_970_000,
        "images_per_second": 12_345.6,
        "dtype": "bfloat16",
        "dtype_reason": "the processor has it",
        "plan": {"steps": 200},
        "world_size": 1,
        **changes,
    }


def test_B5_a_sound_record_has_no_problems():
    assert record.check(a_run()) == []
    assert record.check({**record.envelope("system", DEVICE), "values": {"op": "crop", "microseconds": [1.5, 2]}}) == []


@pytest.mark.parametrize("name", list(a_run()))
def test_B5_every_field_must_be_there(name: str):
    broken = a_run()
    del broken[name]
    assert any(problem.startswith(f"{name}:") for problem in record.check(broken))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schema": 2}, "schema"),
        ({"schema": True}, "schema"),
        ({"kind": "cake"}, "kind"),
        ({"kind": ["run"]}, "kind"),
        ({"status": "done"}, "status"),
        ({"started": "yesterday"}, "started"),
        ({"accuracy": 94.0}, "accuracy"),
        ({"accuracy": float("nan")}, "accuracy"),
        ({"accuracy": None}, "accuracy"),
        ({"accuracy": "0.94"}, "accuracy"),
        ({"steps": 200.0}, "steps"),
        ({"steps": True}, "steps"),
        ({"wall_seconds": -1}, "wall_seconds"),
        ({"split": {"train": "all"}}, "split.scored"),
        ({"warm": {"data": None, "compile": None}}, "warm.data"),
        ({"device": {**DEVICE, "memory": "big"}}, "device.memory"),
        ({"device": {**DEVICE, "colour": "red"}}, "device.colour"),
        ({"git": {"sha": "main", "dirty": False}}, "git.sha"),
        ({"versions": {}}, "versions.torch"),
        ({"config": {"a": [1, {"b": float("inf")}]}}, "config.a[1].b"),
        ({"config": {"path": Path("x")}}, "config.path"),
        ({"plan": {3: 4}}, "plan"),
        ({"phases": {"lunch": 58.5}}, "phases.lunch"),
        ({"phases": {"train": None}}, "phases.train"),
        ({"accuraccy": 0.94}, "accuraccy"),
    ],
)
def test_B5_a_wrong_value_is_named(changes: dict[str, Any], named: str):
    assert any(problem.startswith(f"{named}:") for problem in record.check(a_run(**changes)))


def test_of_a_version_from_elsewhere_nothing_else_is_said():
    (problem,) = record.check({"schema": 9, "kind": "teleport", "accuracy": "high"})
    assert problem == "schema: version 9 is not known here, only 1; another speedrun wrote it"


def test_lines_that_are_no_json_at_all_cost_only_themselves(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"\xff\xfe\x00\n" + b"[" * 100_000 + b"\n" + record.dumps(a_run()).encode() + b"\n")
    records, problems = record.read(path)
    assert len(records) == 1
    assert [problem.split(": ")[:2] for problem in problems] == [[f"{path}:{line}", "not JSON"] for line in (1, 2)]


@pytest.mark.parametrize("whatever", [None, [], "run", 1.0])
def test_a_record_is_an_object(whatever: object):
    assert len(record.check(whatever)) == 1


def test_W6_phases_add_up_to_the_wall_clock_within_one_percent():
    assert record.check(a_run(phases={"train": 58.0})) == []
    (problem,) = record.check(a_run(phases={"train": 57.8}))
    assert "57.800" in problem
    assert "58.500" in problem
    assert record.check(a_run(phases={"train": 57.8}, status="interrupted")) == []


def test_W2_a_complete_run_kept_its_deadline():
    late = {"wall_seconds": 61.0, "phases": {"train": 61.0}}
    assert record.check(a_run(**late)) != []
    assert record.check(a_run(**late, fetch_seconds=2.0)) == []
    assert record.check(a_run(**late, status="timeout")) == []
    assert record.check(a_run(**late, budget_seconds=None)) == []


def test_only_an_unfinished_run_may_leave_its_results_open():
    open_fields = {name: None for name in ("accuracy", "accuracy_plain", "device", "parameters", "split", "dtype")}
    for status in record.STATUSES:
        problems = record.check(a_run(**open_fields, status=status))
        assert len(problems) == (len(open_fields) if status in record.FINISHED else 0)


def test_a_record_is_one_line_of_json():
    line = record.dumps(a_run(recipe="two\nlines\u2028three"))
    assert line.splitlines() == [line]
    assert json.loads(line)["recipe"] == "two\nlines\u2028three"
    with pytest.raises(record.RecordError, match="seed: -1"):
        record.dumps(a_run(seed=-1))
    assert issubclass(record.RecordError, SpeedrunError)


def test_a_new_kind_is_a_table_away(monkeypatch: pytest.MonkeyPatch):
    table = {"points": record.Field(int, "how many", high=3)}
    monkeypatch.setitem(record.KINDS, "curve", table)
    assert record.check({**record.envelope("curve", DEVICE), "points": 3}) == []
    assert record.check({**record.envelope("curve", DEVICE), "points": 4}) != []


def test_append_then_read(tmp_path: Path):
    path = tmp_path / "results" / "test-cpu.jsonl"
    first, second = a_run(seed=1), a_run(seed=2)
    record.append(path, first)
    record.append(path, second)
    assert record.read(path) == ([first, second], [])


def test_a_broken_record_is_never_appended(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    with pytest.raises(record.RecordError):
        record.append(path, a_run(accuracy=94))
    assert not path.exists()


def test_reading_names_the_line_of_each_fault(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    lines = [record.dumps(a_run(seed=1)), '{"kind": "ru', "", json.dumps(a_run(seed=-1)), record.dumps(a_run(seed=2))]
    path.write_text("\n".join(lines))
    records, problems = record.read(path)
    assert [each["seed"] for each in records] == [1, 2]
    assert [(line, each["seed"]) for line, each in record.read_numbered(path)[0]] == [(1, 1), (5, 2)]
    assert [problem.split(": ")[0] for problem in problems] == [f"{path}:2", f"{path}:4"]
    assert record.read(tmp_path / "none.jsonl")[1] == [f"{tmp_path / 'none.jsonl'}: No such file or directory"]


def test_L5_a_line_left_open_by_a_dead_writer_spoils_only_itself(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"schema": 1, "ki')
    record.append(path, a_run())
    records, problems = record.read(path)
    assert len(records) == len(problems) == 1


def test_L5_parallel_appends_all_parse(tmp_path: Path):
    """Lines of 40 kB: more than a buffered writer passes on at once."""
    path = tmp_path / "results.jsonl"
    (tmp_path / "record.json").write_text(json.dumps(a_run(config={"padding": "x" * 40_000})))
    program = (
        "import json, sys; from speedrun import record\n"
        "base = json.load(open(sys.argv[1]))\n"
        "for i in range(25): record.append(sys.argv[2], {**base, 'seed': 25 * int(sys.argv[3]) + i})"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "record.json"), str(path)]
    writers = [subprocess.Popen([*command, str(number)], cwd=ROOT) for number in range(4)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0, 0]
    records, problems = record.read(path)
    assert problems == []
    assert sorted(each["seed"] for each in records) == list(range(100))


@contextmanager
def small_disk() -> Iterator[None]:
    """Files of this process end at 4,000 bytes: a write past that is cut short, as on a full disk.

    Around as little as possible: the log that the test runner writes to is a file of this process too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_F1_a_full_disk_leaves_the_records_whole(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    before = a_run()
    record.append(path, before)
    with small_disk(), pytest.raises(OSError, match="the disk is full"):
        record.append(path, a_run(config={"padding": "x" * 4_000}))
    assert record.read(path) == ([before], [])


def metrics_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_are_written_at_intervals_and_at_the_end(tmp_path: Path):
    now, path = [0.0], tmp_path / "metrics.jsonl"
    with MetricsWriter(path, interval_seconds=2.0, clock=lambda: now[0]) as writer:
        for step in range(5):
            now[0] = step
            writer.write(step=step, loss=1.5)
            on_disk = path.read_text() if path.exists() else ""
            assert on_disk.count("\n") == (0, 0, 3, 3, 5)[step]
        writer.write(step=5, loss=float("nan"))
    lines = metrics_of(path)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert lines[5]["loss"] is None
    assert all(tuple(line) == MetricsWriter.FIELDS for line in lines)
    assert writer.problem is None


def test_metrics_take_only_the_fields_there_are(tmp_path: Path):
    with pytest.raises(TypeError, match="lr"):
        MetricsWriter(tmp_path / "metrics.jsonl").write(lr=0.1)


def test_S3_a_killed_run_leaves_whole_lines_of_metrics(tmp_path: Path):
    """The writer does nothing but write, of many pages each time, so that most kills meet it in the middle of one."""
    program = (
        "import sys; from speedrun.metrics import MetricsWriter\n"
        "writer = MetricsWriter(sys.argv[1], interval_seconds=1e9)\n"
        "for step in range(5_000): writer.write(step=step)\n"
        "lines = list(writer._lines)\n"
        "while True: writer.flush(); writer._lines = list(lines)"
    )
    for attempt in range(3):
        path = tmp_path / f"metrics{attempt}.jsonl"
        with subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT) as run:
            deadline = time.monotonic() + 30
            while not (path.exists() and path.stat().st_size > 3_000_000) and time.monotonic() < deadline:
                time.sleep(0.001)
            run.kill()
        steps = [line["step"] for line in metrics_of(path)]
        assert path.read_bytes().endswith(b"\n")
        assert steps == [index % 5_000 for index in range(len(steps))]


def test_the_longest_line_of_metrics_keeps_its_length(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(**dict.fromkeys(MetricsWriter.FIELDS, -1.23456789123e-300))
    assert path.stat().st_size == 256


def test_F1_a_full_disk_does_not_stop_the_metrics(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path, interval_seconds=0)
    with small_disk():
        for step in range(100):
            writer.write(step=step)
    assert writer.problem is not None
    assert "disk is full" in writer.problem or "too large" in writer.problem
    assert [line["step"] for line in metrics_of(path)] == list(range(len(metrics_of(path))))


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA H200", "nvidia-h200"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "intel-xeon-cpu-2-20ghz"),
        ("../../etc", "etc"),
        ("", "unknown"),
        ("x" * 200, "x" * 64),
    ],
)
def test_device_slug_is_a_file_name(name: str, slug: str):
    assert record.device_slug(name) == slug


def git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout in which the package believes to lie."""
    for file in ("speedrun/provenance.py", "benchmarks/results/cpu.jsonl"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("first\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "speedrun" / "provenance.py"))
    return tmp_path


def test_B5_a_dirty_tree_is_marked(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    clean = record.git_state()
    monkeypatch.delenv("GIT_DIR")
    assert clean == {"sha": git(checkout, "rev-parse", "HEAD"), "dirty": False}
    (checkout / "benchmarks/results/cpu.jsonl").write_text("first\nsecond\n")
    (checkout / "notes.txt").write_text("mine")
    assert record.git_state() == clean
    git(checkout, "commit", "-qam", "results")  # the code is what it was
    assert record.git_state() == clean
    (checkout / "speedrun/new.py").touch()
    assert record.git_state() == {**clean, "dirty": True}
    (checkout / "speedrun/new.py").unlink()
    (checkout / "speedrun/provenance.py").write_text("second\n")
    assert record.git_state() == {**clean, "dirty": True}


def test_git_state_is_none_in_somebody_elses_repository(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    installed = checkout / "venv" / "site-packages" / "speedrun" / "provenance.py"
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert record.git_state() is None


def test_git_state_never_fails(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    assert record.git_state() is None


def test_versions_import_nothing():
    program = (
        "import sys; from speedrun import record; v = record.versions(); print(v['torch'], 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    version, loaded = run.stdout.split()
    assert re.match(r"\d+\.\d+", version)
    assert loaded == "False"
    assert record.check(a_run(versions={**copy.deepcopy(record.versions()), "triton": None})) == []


def test_started_is_when_it_began():
    now, before = (record.envelope("run", DEVICE, age_seconds=age)["started"] for age in (0, 3600))
    moments = [datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ") for text in (before, now)]
    assert 3595 <= (moments[1] - moments[0]).total_seconds() <= 3600
