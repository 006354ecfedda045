"""A batch is one launch: nothing else is asked of the device, nothing waits for it, nothing is allocated."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_kernels import COLOURED, DEVICE, GEOMETRY, MEAN, POLICY, STD, WARPED, changes, images
from test_kernels_mixing import MIXES
from test_kernels_stream import EVERYTHING
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import augment as module
from kernels import backend, fused
from kernels.augment import mix
from kernels.augmentation import Augmentation
from speedrun.stream import Normalization, Stream

MIXED = [replace(mixed, mix_per=per) for mixed in MIXES for per in ("sample", "batch")]
ALL = [*GEOMETRY, *WARPED, *COLOURED, *POLICY, EVERYTHING, *MIXED]
GRAPHS = [EVERYTHING, MIXES[4], replace(MIXES[4], mix_per="batch")]
needs_triton = pytest.mark.skipif(not backend.ENABLED, reason="no Triton that runs here")


class Kernel:
    """Stands for the kernel, and counts its launches."""

    def __init__(self) -> None:
        self.launches = 0

    def __getitem__(self, grid: object) -> "Kernel":
        return self

    def __call__(self, *_: object, **__: object) -> None:
        self.launches += 1


class Asked(TorchDispatchMode):
    """The operations that torch is asked for meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def kernel(monkeypatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(fused, "_kernel", made)
    return made


def arguments(augmentation: Augmentation, count: int = 6) -> dict[str, Any]:
    """Of `mix`, with everything that it writes into."""
    size, members = augmentation.size, augmentation.members
    batch = torch.empty((count, 3, size, size), device=DEVICE).to(memory_format=torch.channels_last)
    labels = torch.empty((count, members), dtype=torch.int64, device=DEVICE)
    return {
        "images": images(20).to(DEVICE),
        "labels": torch.arange(20, device=DEVICE),
        "index": torch.arange(count, device=DEVICE),
        "augmentation": augmentation,
        "mean": torch.tensor(MEAN, device=DEVICE),
        "std": torch.tensor(STD, device=DEVICE),
        "dtype": torch.float32,
        "out": (batch, labels, torch.empty((count, members), device=DEVICE)),
        "method": "fused",
    }


@needs_triton
@pytest.mark.parametrize("augmentation", ALL, ids=changes)
def test_a_batch_is_one_launch_and_no_other_operation(augmentation, kernel):
    given = arguments(augmentation)
    mix(**given, seed=1, epoch=0, step=0)  # makes the table of mixes
    with Asked() as asked:
        mix(**given, seed=2**40, epoch=1, step=1)
    assert kernel.launches == 2
    assert asked.operations == []


@needs_triton
@pytest.mark.parametrize("augmentation", [Augmentation(), EVERYTHING, *MIXED], ids=changes)
def test_a_batch_of_the_stream_is_one_launch_labels_included(augmentation, kernel, monkeypatch):
    monkeypatch.setattr(module, "_on_device", lambda _: True)  # as on CUDA, where the kernel is taken unasked
    monkeypatch.setattr(module, "_launches", {})
    data = images(20)
    normalization = Normalization.of(data)
    stream = Stream(
        data,
        torch.arange(20),
        batch_size=5,
        augmentation=augmentation,
        normalization=normalization,
        dtype=torch.float32,
        seed=0,
    )
    stream.next()  # makes the order of the epoch, and the table
    with Asked() as asked:
        stream.next()
    assert kernel.launches == 2
    assert set(asked.operations) <= {"empty", "slice", "select"}  # memory, and other names for it: no launch


@contextmanager
def never_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU")
@pytest.mark.parametrize("augmentation", GRAPHS, ids=changes)
def test_a_call_neither_waits_nor_allocates(augmentation):
    given = arguments(augmentation)
    mix(**given, seed=1, epoch=0, step=0)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    with never_waiting():
        for number in range(1, 5):
            mix(**given, seed=number, epoch=number, step=number)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU")
@pytest.mark.parametrize("augmentation", GRAPHS, ids=changes)
def test_a_graph_of_any_combination_reads_its_keys_anew(augmentation):
    given, direct = arguments(augmentation), arguments(augmentation)
    keys = {name: torch.tensor(0, device=DEVICE) for name in ("seed", "epoch", "step")}
    mix(**given, **keys)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mix(**given, **keys)
    for number in (0, 1, 2**31, 2**40 + 3):
        for key in keys.values():
            key.fill_(number)
        graph.replay()
        mix(**direct, **dict.fromkeys(keys, number))
        assert all(torch.equal(one, other) for one, other in zip(given["out"], direct["out"], strict=True))
