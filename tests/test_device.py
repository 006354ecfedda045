"""Which device and dtype are chosen, and what is said of them; machines that are not here are imitated."""

import ctypes
import os
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from speedrun import device, schema
from speedrun.distributed import World
from speedrun.errors import SpeedrunError, UsageError

CPU = torch.device("cpu")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def imitate_cuda(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], count: int = 1) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: capability)


def imitate_features(monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    monkeypatch.setattr(device, "_cpuinfo", lambda: {"flags": flags, "model name": "A processor"})


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("AMD EPYC", "AMD EPYC (family 25, model 17)"),
        ("Abacus Processor @ 2.50GHz", "Abacus Processor @ 2.50GHz (family 25, model 17)"),
        ("QEMU Virtual CPU version 2.5+", "QEMU Virtual CPU version 2.5+ (family 25, model 17)"),
        ("Abacus E5-2680 v4 @ 2.40GHz", "Abacus E5-2680 v4 @ 2.40GHz"),
    ],
)
def test_a_processor_whose_number_is_hidden_is_told_by_its_family(
    told: str, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(device, "_cpuinfo", lambda: {"model name": told, "cpu family": "25", "model": "17"})
    assert device.describe(CPU)["name"] == name


@pytest.mark.parametrize("info", [{"model name": "Abacus"}, {"model name": "Abacus", "cpu family": "25"}])
def test_a_processor_without_family_and_model_has_its_name_alone(info: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "_cpuinfo", lambda: info)
    assert device.describe(CPU)["name"] == "Abacus"


def test_G1_without_a_gpu_it_is_the_cpu(no_gpu: None):
    choice = device.choose()
    assert (choice.device, choice.device_reason) == (CPU, "no CUDA device here")


def test_cuda_comes_first(monkeypatch: pytest.MonkeyPatch):
    imitate_cuda(monkeypatch, (9, 0))
    assert str(device.choose().device) == "cuda:0"


def test_G7_metal_is_declined_in_one_line_and_taken_when_asked_for(no_gpu: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    declined = device.choose()
    assert (declined.device.type, declined.device_reason.count("Metal")) == ("cpu", 1)
    choice = device.choose("mps")
    assert (choice.device.type, choice.dtype) == ("mps", torch.float32)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_G1_what_is_not_here_is_one_clear_error(name: str, no_gpu: None):
    with pytest.raises(SpeedrunError) as caught:
        device.choose(name)
    assert caught.value.exit_code == 1
    assert name.partition(":")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_second_gpu_that_is_not_here(monkeypatch: pytest.MonkeyPatch):
    imitate_cuda(monkeypatch, (9, 0), count=2)
    assert str(device.choose("cuda:1").device) == "cuda:1"
    with pytest.raises(SpeedrunError, match=r"device cuda:2: only 2 CUDA device\(s\) here"):
        device.choose("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "meta", "xpu"])
def test_an_unknown_name_is_a_usage_error(name: str):
    with pytest.raises(UsageError) as caught:
        device.choose(name)
    assert "auto, cpu, cuda, cuda:N or mps" in str(caught.value)


@pytest.mark.parametrize(
    ("capability", "dtype", "reason"),
    [
        ((9, 0), torch.bfloat16, "cannot overflow"),
        ((8, 0), torch.bfloat16, "cannot overflow"),
        ((7, 5), torch.float16, "capability 7.5 has no bfloat16 units; gradients are scaled"),
        ((6, 1), torch.float32, "capability 6.1 has no half-precision matrix units"),
    ],
)
def test_G3_the_dtype_of_a_gpu_follows_its_capability(
    capability: tuple[int, int], dtype: torch.dtype, reason: str, monkeypatch: pytest.MonkeyPatch
):
    imitate_cuda(monkeypatch, capability)
    choice = device.choose()
    assert choice.dtype is dtype
    assert reason in choice.dtype_reason


@pytest.mark.parametrize(
    ("flags", "dtype", "reason"),
    [
        ("avx2 avx512f", torch.float32, "the processor has no bfloat16 units"),
        ("avx2 avx512_bf16", torch.bfloat16, "the processor has avx512_bf16"),
        ("amx_bf16 avx512_bf16", torch.bfloat16, "the processor has amx_bf16, avx512_bf16"),
    ],
)
def test_the_dtype_of_a_cpu_follows_its_units(
    flags: str, dtype: torch.dtype, reason: str, monkeypatch: pytest.MonkeyPatch
):
    imitate_features(monkeypatch, flags)
    choice = device.choose("cpu")
    assert (choice.device_reason, choice.dtype, choice.dtype_reason) == ("asked for", dtype, reason)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_dtype_that_is_asked_for_is_taken(dtype: str):
    choice = device.choose("cpu", dtype)
    assert (choice.dtype, choice.dtype_reason) == (getattr(torch, dtype), "asked for")


def test_a_cpu_is_described_as_records_want_it():
    described = device.describe(CPU)
    assert set(described) == set(schema.DEVICE)
    assert (described["kind"], described["driver"]) == ("cpu", None)
    assert described["name"]
    assert described["memory"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no processes")
def test_cores_are_those_the_process_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    quotas = {"max 100000": 6, "250000 100000": 2, "50000 100000": 1, "900000 100000": 6, "nonsense": 6}
    for quota, expected in quotas.items():
        monkeypatch.setattr(device, "Path", lambda path, quota=quota: SimpleNamespace(read_text=lambda **_: quota))
        assert device.cores() == expected, quota


def test_without_proc_there_is_a_name_and_no_feature(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(device, "Path", lambda _: tmp_path / "missing")
    assert device.cpu_features() == set()
    assert device.describe(CPU)["name"] == (platform.processor() or platform.machine())
    assert device.choose("cpu").dtype is torch.float32


def test_threads_are_the_cores_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(device, "keep_memory", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    device.prepare(CPU)
    assert asked == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    device.prepare(CPU)
    assert asked == [device.cores()]


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("a C library was opened"))
    device.keep_memory()


def test_on_the_cpu_numbers_come_back_at_once():
    window = device.Window(CPU)
    assert [window.push(torch.tensor([float(i), 0.5])) for i in range(20)] == [[float(i), 0.5] for i in range(20)]
    assert window.drain() is None


class Event:
    """A CUDA event that counts how often the host has waited for one."""

    waits = 0

    def record(self) -> None: ...

    def synchronize(self) -> None:
        Event.waits += 1


def test_W8_the_host_is_never_more_than_the_windows_depth_ahead(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory: torch.zeros(shape, dtype=dtype))
    window = device.Window(torch.device("cuda"), depth=3)
    Event.waits = 0
    came = [window.push(torch.tensor([float(i)])) for i in range(10)]
    assert came == [None, None, None, *([float(i)] for i in range(7))]
    assert Event.waits == 7  # one event each step, three steps back
    assert window.drain() == [9.0]
    assert (Event.waits, window.drain()) == (10, None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_described_as_records_want_it():
    described = device.describe(torch.device("cuda", 0))
    assert set(described) == set(schema.DEVICE)
    assert described["kind"] == "cuda"
    assert described["memory"] > 2**30
    assert described["capability"] == ".".join(map(str, torch.cuda.get_device_capability(0)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_W8_numbers_of_a_gpu_come_in_order_and_late():
    window = device.Window(torch.device("cuda"), depth=4)
    came = [window.push(torch.tensor([float(i)], device="cuda")) for i in range(10)]
    assert came == [None] * 4 + [[float(i)] for i in range(6)]
    assert window.drain() == [9.0]


def test_cuda_without_an_index_is_the_current_device(monkeypatch: pytest.MonkeyPatch):
    imitate_cuda(monkeypatch, (9, 0), count=2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert str(device.choose("cuda").device) == "cuda:1"  # torch.cuda.set_device takes none without an index


def test_ranks_of_one_machine_do_not_share_a_gpu_that_is_named():
    with pytest.raises(UsageError, match="cuda:0 would be shared by 2 ranks"):
        device.of_rank("cuda:0", World(size=2, local_size=2))
    assert device.of_rank("cuda:0", World(size=2)) == "cuda:0"  # one on each of two machines
