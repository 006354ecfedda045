"""The shared timing of benchmarks, the state of the machine beside it, and how records of it are made and found."""

import os
import time

import pytest
import torch

from benchmarks import harness, kernels, results, sensors
from benchmarks.harness import Session, Timing, config_hash, disagreement, in_turn
from speedrun import record

CPU = torch.device("cpu")


def test_a_timing_is_the_quantiles_and_the_drift():
    timing = Timing.of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (timing.median, timing.p20, timing.p80, timing.calls) == (3.5, 2.0, 5.0, 6)
    assert timing.drift == pytest.approx(5 / 2 - 1)
    assert timing.parts == (1.0, 2.0, 3.0, 4.0, 5.5)
    assert Timing.of([2.0, 9.0, 2.0]).drift == 0
    assert Timing.of([2.0, 9.0, 2.0]).parts == (2.0, 9.0, 2.0)


def test_calls_are_measured_in_turn_and_every_other_time_in_reverse():
    called: list[str] = []
    times = in_turn({name: lambda name=name: called.append(name) for name in "ab"}, CPU, cold=False, seconds=0.0)
    assert "".join(called) == "aabb" + "ab" + "ba" + "ab"
    assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3}


def test_two_measurements_of_one_thing_agree():
    work = torch.ones(200_000)
    once, again = (in_turn({"sum": work.exp}, CPU, cold=False, seconds=0.05)["sum"] for _ in range(2))
    assert abs(disagreement({"sum": min(once)}, {"sum": min(again)})) < 0.5  # cores are shared where tests run


def test_what_the_harness_itself_costs():
    """Under 1 % of a batch of 50 launches at 5 microseconds each, which is what a launch costs at least."""
    empty = in_turn({"": lambda: None}, CPU, cold=False, seconds=0.05, together=50)[""]
    assert min(empty) * 50 < 0.01 * 50 * 5e-6 + 1e-6  # a microsecond for what the empty calls themselves cost


def test_disagreement_is_the_median_ratio_of_what_both_have():
    before = {"a": 1.0, "b": 2.0, "c": 1.0, "gone": 5.0}
    assert disagreement({"a": 1.1, "b": 2.2, "c": 9.0, "new": 1.0}, before) == pytest.approx(0.1)
    assert disagreement({"new": 1.0}, before) is None


def test_a_kernel_record_is_held_against_the_newest_of_its_kind():
    def line(started: str, median: float, **changes: object) -> dict:
        row = {"operation": "flip", "contender": "twin", "batch": 8, "size": 32, "cold": True, "median": median}
        same = {"kind": "kernel", "device": {"name": "X"}, "versions": {}, "config_hash": "0" * 12}
        return {**same, "started": started, "values": {"rows": [row, {"error": "no"}]}, **changes}

    records = [line("2026-03", 1.0), line("2026-01", 5.0), line("2026-04", 5.0, device={"name": "Y"}), {"kind": "run"}]
    assert kernels.changed(line("2026-05", 1.04), records) == ""
    assert kernels.changed(line("2026-05", 1.2), records).startswith("+20.0% against the record of 2026-03")
    assert kernels.changed(line("2026-05", 1.2), []) == ""


def test_the_state_of_this_machine_follows_the_schema():
    session = Session(CPU)
    line = session.line("kernel", {"sizes": (24, 32)}, values={})
    assert record.check(line) == []
    assert line["settings"] == {"sizes": [24, 32], "threads": torch.get_num_threads()}
    assert line["state"]["before"]["load"] == pytest.approx(os.getloadavg()[0], abs=5)


def test_a_machine_is_busy_by_what_runs_now_not_by_what_was_measured_before(tmp_path, monkeypatch):
    told = tmp_path / "loadavg"
    monkeypatch.setattr(sensors, "_LOAD", told)
    monkeypatch.setattr(sensors, "_LOOK_SECONDS", 0)
    assert sensors.warning(2) == ""  # no such file: not Linux
    told.write_text("9.10 9.20 9.30 1/211 999\n")
    assert sensors.warning(2) == ""
    told.write_text("0.00 0.00 0.00 2/211 999\n")
    assert sensors.warning(2) == "the machine is busy: threads of others that want one of its 2 cores: 1"
    assert sensors.warning(16) == ""


def test_a_hash_tells_settings_apart_and_nothing_else():
    assert config_hash({"a": 1, "b": [2]}) == config_hash({"b": [2], "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_nvidia_smi_is_asked_where_its_binding_is_missing(tmp_path, monkeypatch):
    asked = tmp_path / "nvidia-smi"
    asked.write_text('#!/bin/sh\necho "$@" > "$0.log"\necho "1980, 2619, 81.5, 700.00, [N/A]"\n')
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert sensors._by_smi("GPU-7") == [1980, 2619, 81.5, 700, None]
    assert "--id=GPU-7" in asked.with_suffix(".log").read_text()
    asked.write_text("#!/bin/sh\nexit 9\n")
    assert sensors._by_smi("GPU-7") is None


def test_records_are_added_to_their_devices_file_and_faults_do_not_hide_the_rest(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    line = Session(CPU).line("kernel", {}, values={"rows": []})
    line["device"]["name"] = "NVIDIA H200"
    results.add(line)
    path = tmp_path / "nvidia-h200.jsonl"
    path.write_text("{broken\n" + path.read_text())
    assert results.recorded() == [line]
    assert f"{path}:1: not JSON" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_a_call_is_timed_with_and_without_the_host():
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device, dtype=torch.float16)

    def slow_host() -> None:
        time.sleep(0.002)
        torch.mm(matrix, matrix)

    alone, together = (in_turn({"": slow_host}, device, cold=False, seconds=0.1, ahead=ahead)[""] for ahead in (1, 0))
    assert harness.Timing.of(together).median > 0.002
    assert harness.Timing.of(alone).median < 0.002
    assert sensors.state(device)["power_limit_watts"] is not None
