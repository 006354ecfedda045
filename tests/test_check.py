"""The validator of records: faults by file and line, data sets told apart, records in their device's file."""

import json

import pytest
from test_record import a_run

from benchmarks import check, results
from speedrun.files import sealed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(check, "RESULTS", tmp_path)
    return tmp_path


def write(path, *lines: object) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(sealed(line))) + "\n" for line in lines))
    return str(path)


def test_sound_files_pass(folder, capsys):
    write(folder / "test-cpu.jsonl", a_run(), a_run(seed=1))
    assert check.main([]) == 0
    assert capsys.readouterr().out == f"{folder / 'test-cpu.jsonl'}: 2 run\nno faults\n"


def test_every_fault_is_told_with_its_line_and_the_rest_goes_on(folder, capsys):
    path = write(folder / "test-cpu.jsonl", a_run(), '{"schema":', a_run(schema=7), a_run(seed=-1), a_run(seed=1))
    assert check.main([path]) == 1
    out, err = capsys.readouterr()
    assert [line.split(": ")[0] for line in err.splitlines()] == [f"{path}:{line}" for line in (2, 3, 4)]
    assert "version 7" in err
    assert out == f"{path}: 2 run\n3 faults\n"


def test_several_data_sets_are_told_but_no_fault(folder, capsys):
    path = write(folder / "test-cpu.jsonl", a_run(), a_run(dataset="cifar100"), a_run(dataset="synthetic"))
    assert check.main([path]) == 0
    assert "several data sets" in (out := capsys.readouterr().out)
    assert "cifar10 from line 1, cifar100 from line 2, synthetic from line 3" in out


def test_a_record_lies_in_its_devices_file(folder, capsys):
    write(folder / "nvidia-h200.jsonl", a_run())
    assert check.main([]) == 1
    assert (
        "nvidia-h200.jsonl:1: device.name: a record of test-cpu belongs into test-cpu.jsonl" in capsys.readouterr().err
    )
    (folder / "elsewhere").mkdir()
    assert check.main([write(folder / "elsewhere" / "mine.jsonl", a_run())]) == 0
    assert check.main([str(folder / "none.jsonl")]) == 1


def test_a_record_that_stands_there_twice_is_a_fault_and_counts_once(folder, capsys):
    again, without_seal = a_run(), json.dumps(a_run(started="2026-11-20T15:22:40Z"))
    path = write(folder / "test-cpu.jsonl", again, a_run(seed=1), again, without_seal, without_seal)
    assert check.main([path]) == 1
    out, err = capsys.readouterr()
    assert err == f"{path}:3: the same record as line 1\n{path}:5: the same record as line 4\n"
    assert out == f"{path}: 3 run\n2 faults\n"
    assert len(results.recorded()) == 3


def test_of_our_results_only_the_oldest_lack_a_seal(folder, capsys):
    edited = json.dumps(a_run(accuracy=0.99, started="2026-11-25T00:00:00Z"))
    path = write(folder / "test-cpu.jsonl", json.dumps(a_run(started="2026-11-20T15:22:40Z")), edited)
    assert check.main([path]) == 1
    assert capsys.readouterr().err == f"{path}:2: sha256: missing, so that an edit would not show\n"
    (folder / "elsewhere").mkdir()
    assert check.main([write(folder / "elsewhere" / "mine.jsonl", edited)]) == 0


def test_the_committed_records_are_sound():
    assert check.main([]) == 0
