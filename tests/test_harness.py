"""The shared timing of benchmarks, the state of the machine beside it, and how records of it are made and found."""

import os
import sys
import time
import timeit
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from machines import a_kernel, a_step, an_evaluation, gpu

from benchmarks import harness, results, sensors
from benchmarks.harness import Session, Timing, config_hash, disagreement, in_turn
from speedrun import record

CPU = torch.device("cpu")
EMPTY: dict[str, Any] = {"threads": 2, "copy_bytes_per_second": 1e10, "rows": []}


def test_a_timing_is_the_quantiles_and_the_drift():
    timing = Timing.of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (timing.median, timing.p20, timing.p80, timing.calls) == (3.5, 2.0, 5.0, 6)
    assert timing.drift == pytest.approx(5 / 2 - 1)
    assert timing.parts == (1.0, 2.0, 3.0, 4.0, 5.5)
    assert Timing.of([2.0, 9.0, 2.0]).drift == 0
    assert Timing.of([2.0, 9.0, 2.0]).parts == (2.0, 9.0, 2.0)


def test_calls_are_measured_in_turn_and_every_other_time_in_reverse(monkeypatch):
    monkeypatch.setattr(harness, "_WARM", 0.0)
    called: list[str] = []
    times = in_turn({name: lambda name=name: called.append(name) for name in "ab"}, CPU, cold=False, seconds=0.0)
    assert "".join(called) == "aabb" + "ab" + "ba" + "ab"
    assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3}


@pytest.mark.clock
def test_two_measurements_of_one_thing_agree():
    work = torch.ones(200_000)
    once, again = (in_turn({"sum": work.exp}, CPU, cold=False, seconds=0.05)["sum"] for _ in range(2))
    assert abs(disagreement({"sum": min(once)}, {"sum": min(again)})) < 0.5  # cores are shared where tests run


@pytest.mark.clock
def test_what_the_harness_itself_costs():
    """Beside the empty calls under 1 % of 50 launches at 5 microseconds each, which is what a launch costs at least."""
    empty = in_turn({"": lambda: None}, CPU, cold=False, seconds=0.05, together=50)[""]
    calls = min(timeit.repeat("call()", globals={"call": lambda: None}, number=50, repeat=2_000))
    assert min(empty) * 50 - calls < 0.01 * 50 * 5e-6


def test_disagreement_is_the_median_ratio_of_what_both_have():
    before = {"a": 1.0, "b": 2.0, "c": 1.0, "gone": 5.0}
    assert disagreement({"a": 1.1, "b": 2.2, "c": 9.0, "new": 1.0}, before) == pytest.approx(0.1)
    assert disagreement({"new": 1.0}, before) is None


def of_a_kernel(seconds: float, started: str, device: str = "X") -> dict:
    return a_kernel(gpu(device), seconds, started=started)


def of_a_step(seconds: float, started: str, device: str = "X") -> dict:
    return a_step(gpu(device), (seconds,), started=started)


def of_an_evaluation(seconds: float, started: str, device: str = "X") -> dict:
    return {**an_evaluation(gpu(device), seconds, 1000), "started": started}


@pytest.mark.parametrize("line", [of_a_kernel, of_a_step, of_an_evaluation])
def test_a_record_of_timings_is_held_against_the_newest_of_its_kind(line):
    records = [line(1.0, "2026-03"), line(5.0, "2026-01"), line(5.0, "2026-04", "Y"), {"kind": "run"}]
    assert harness.changed(line(1.04, "2026-05"), records) == ""
    assert harness.changed(line(1.2, "2026-05"), records).startswith("+20.0% against the record of 2026-03")
    assert harness.changed(line(1.2, "2026-05"), []) == ""


def test_what_speaks_against_a_record_is_said_and_it_is_kept_where_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    line, still = a_step(gpu("X"), (1.0,)), a_step(gpu("X"), (1.2,))
    line["seconds"]["drift"] = -0.2
    harness.report(line, keep=True)
    assert capsys.readouterr().err == "the machine was not quiet: 1 of 1 timings drifted, one by -20%\n"
    harness.report(still, keep=False)
    assert capsys.readouterr().err.startswith("+20.0% against the record of ")
    assert results.recorded() == [line]
    kernel = a_kernel(gpu("X"), 1e-5)
    assert harness.drifted(kernel) == ""
    kernel["values"]["rows"][0]["drift"] = 0.07
    assert harness.drifted(kernel) == "the machine was not quiet: 1 of 1 timings drifted, one by +7%"


def test_the_state_before_is_that_of_the_moment_when_measuring_begins(monkeypatch):
    states = iter({"stolen_seconds": None, "load": float(number), "utilization_percent": None} for number in range(9))
    monkeypatch.setattr(sensors, "state", lambda _: next(states))
    monkeypatch.setattr(sensors, "warning", lambda *_: "")
    session = Session(CPU)
    session.begin()
    state = session.line("kernel", {})["state"]
    assert (state["before"]["load"], state["after"]["load"]) == (1.0, 2.0)


def test_a_call_is_warmed_up_until_clocks_have_risen_and_a_slow_one_twice():
    called: list[str] = []
    harness._warm_up(lambda: called.append("quick"), CPU)
    assert len(called) > 10
    called.clear()
    assert harness._warm_up(lambda: called.append(str(time.sleep(0.06))), CPU) >= 0.06
    assert len(called) == 2


def test_short_calls_are_timed_together_where_caches_are_warm(monkeypatch):
    monkeypatch.setattr(harness, "_FLUSH", 2**20)
    monkeypatch.setattr(harness, "_WARM", 0.0)
    called: list[int] = []
    for cold, calls in ((False, 2 + 3 * 50), (True, 2 + 3)):
        called.clear()
        in_turn({"": lambda: called.append(0)}, CPU, cold=cold, seconds=0.0, together=None)
        assert len(called) == calls


def test_the_state_of_this_machine_follows_the_schema():
    session = Session(CPU)
    line = session.line("kernel", {"sizes": (24, 32)}, values=EMPTY)
    assert record.check(line) == []
    assert line["settings"] == {"sizes": [24, 32], "threads": torch.get_num_threads()}
    assert line["state"]["before"]["load"] == pytest.approx(os.getloadavg()[0], abs=5)


def test_a_machine_is_busy_by_what_runs_now_not_by_what_was_measured_before(tmp_path, monkeypatch):
    told = tmp_path / "loadavg"
    monkeypatch.setattr(sensors, "_LOAD", told)
    monkeypatch.setattr(sensors, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(sensors, "_STAT", tmp_path / "none")
    assert sensors.warning(CPU, 2) == ""  # no such file: not Linux
    told.write_text("9.10 9.20 9.30 1/211 999\n")
    assert sensors.warning(CPU, 2) == ""
    told.write_text("0.00 0.00 0.00 2/211 999\n")
    assert sensors.warning(CPU, 2) == "the machine is busy: threads of others that want one of its 2 cores: 1"
    assert sensors.warning(CPU, 16) == ""
    monkeypatch.setattr(sensors, "state", lambda _: {"utilization_percent": 80.0, "stolen_seconds": None})
    assert sensors.warning(torch.device("cuda"), 16) == "the GPU is busy: others use it 80 % of the time"


def test_what_the_host_withholds_of_the_cores_is_told(tmp_path, monkeypatch):
    told = tmp_path / "stat"
    monkeypatch.setattr(sensors, "_STAT", told)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert sensors.state(CPU)["stolen_seconds"] is None
    ticks = os.sysconf("SC_CLK_TCK")
    states = []
    for seconds in (100, 101):
        told.write_text(f"cpu  1 2 3 4 5 6 7 {seconds * ticks} 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")
        states.append(sensors.state(CPU))
    assert sensors.stolen(*states, 5.0) == "the host withheld 10% of the cores' time"
    assert sensors.stolen(*states, 20.0) == ""


def test_a_hash_tells_settings_apart_and_nothing_else():
    assert config_hash({"a": 1, "b": [2]}) == config_hash({"b": [2], "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_nvidias_binding_is_asked_for_what_the_device_tells(monkeypatch):
    class NVMLError(Exception):
        pass

    def handle(uuid: str) -> str:
        if uuid != "GPU-7":
            raise NVMLError("not found")
        return uuid

    def unknown(*_: object) -> None:
        raise NVMLError("not supported")

    ended: list[bool] = []
    fake = SimpleNamespace(NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0)
    fake.nvmlInit, fake.nvmlShutdown = lambda: None, lambda: ended.append(True)
    fake.nvmlDeviceGetHandleByUUID = handle
    fake.nvmlDeviceGetClockInfo = lambda _, which: {1: 1980, 2: 2619}[which]
    fake.nvmlDeviceGetPowerUsage, fake.nvmlDeviceGetEnforcedPowerLimit = lambda _: 81_500, lambda _: 700_000
    fake.nvmlDeviceGetTemperature = unknown
    fake.nvmlDeviceGetUtilizationRates = lambda _: SimpleNamespace(gpu=3)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert sensors._by_nvml("GPU-7") == [1980, 2619, 81.5, 700, None, 3]
    assert sensors._by_nvml("GPU-8") is None
    assert ended == [True, True]
    fake.nvmlInit = unknown
    assert sensors._by_nvml("GPU-7") is None


def test_nvidia_smi_is_asked_where_its_binding_is_missing(tmp_path, monkeypatch):
    asked = tmp_path / "nvidia-smi"
    asked.write_text('#!/bin/sh\necho "$@" > "$0.log"\necho "1980, 2619, 81.5, 700.00, [N/A], 3"\n')
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert sensors._by_smi("GPU-7") == [1980, 2619, 81.5, 700, None, 3]
    assert "--id=GPU-7" in asked.with_suffix(".log").read_text()
    asked.write_text("#!/bin/sh\nexit 9\n")
    assert sensors._by_smi("GPU-7") is None


def test_records_are_added_to_their_devices_file_and_faults_do_not_hide_the_rest(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    line = Session(CPU).line("kernel", {}, values=EMPTY)
    line["device"]["name"] = "NVIDIA H200"
    results.add(line)
    path = tmp_path / "nvidia-h200.jsonl"
    path.write_text("{broken\n" + path.read_text())
    assert results.recorded() == [line]
    assert f"{path}:1: not JSON" in capsys.readouterr().err


@pytest.mark.clock
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


@pytest.mark.clock
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_warm_time_of_a_short_call_is_not_that_of_two_events():
    device = torch.device("cuda")
    small = torch.ones(1000, device=device)
    alone, together = (
        Timing.of(in_turn({"": lambda: small.mul_(1.0)}, device, cold=False, seconds=0.1, together=each)[""])
        for each in (1, None)
    )
    assert together.median <= alone.median
    assert together.p80 / together.p20 < 1.2
