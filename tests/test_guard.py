"""Batches whose numbers are not finite, and steps that run out of memory: what reaches the net, what is said."""

import math
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_record, tiny
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import speedrun
from speedrun import memory
from speedrun.config import Config, ModelConfig, OptimConfig
from speedrun.divergence import GIVEN_UP, Divergence
from speedrun.errors import DivergedError, SpeedrunError
from speedrun.evaluate import Evaluator
from speedrun.methods.plain import PlainStep
from speedrun.models import build
from speedrun.stream import Batch, Normalization, Stream

CPU = torch.device("cpu")


def a_step(device: torch.device = CPU, dtype: torch.dtype = torch.float32, **optim: Any) -> tuple[PlainStep, Batch]:
    torch.manual_seed(0)
    net = build(ModelConfig(widths=(8, 8, 8), depth=2), 3).to(device)
    images = torch.randn(16, 3, 16, 16, device=device).to(dtype)
    labels = torch.arange(16, device=device) % 3
    step = PlainStep(net, net, OptimConfig(lr=0.05, bias_lr=0.01, head_lr=0.05, **optim), 16, dtype)
    return step, Batch(images, labels, labels)


def poisoned(batch: Batch) -> Batch:
    images = batch.images.clone()
    images[3, 1, 5, 5] = math.nan
    return replace(batch, images=images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("filters", ["muon", "sgd"])
def test_N1_a_batch_that_is_not_finite_counts_as_a_gradient_of_zero(dtype: torch.dtype, filters: str):
    step, batch = a_step(dtype=dtype, filters=filters, ema=0.5)
    good = step(batch, 0.0)
    statistics = {name: value.clone() for name, value in step.net.named_buffers() if value.is_floating_point()}
    numbers = step(poisoned(batch), 0.1)
    assert math.isnan(numbers[0])
    assert math.isfinite(good[0])
    for net in (step.net, step.evaluated):
        assert all(value.isfinite().all() for value in net.state_dict().values())
    for name, value in step.net.named_buffers():
        assert name not in statistics or torch.equal(value, statistics[name])
    assert step(batch, 0.2)[0] < good[0]  # it goes on learning


def test_N1_the_first_batch_moves_nothing_if_it_is_not_finite():
    step, batch = a_step(momentum=0.0, sgd_momentum=0.0, weight_decay=0.0, filters="sgd")
    before = {name: value.clone() for name, value in step.net.named_parameters()}
    step(poisoned(batch), 0.0)
    assert all(torch.equal(value, before[name]) for name, value in step.net.named_parameters())


def test_N1_a_guarded_step_is_the_plain_step_where_all_is_finite():
    step, batch = a_step()
    for progress in (0.0, 0.1, 0.2):
        step(batch, progress)
    bare, _ = a_step()
    bare.guard.before = bare.guard.after = lambda: None  # type: ignore[method-assign]
    for progress in (0.0, 0.1, 0.2):
        bare(batch, progress)
    theirs = bare.net.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in step.net.state_dict().items())


def poison_the_stream(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    take = Stream.next

    def poisoning(self: Stream, *work: int) -> Batch:
        batch = take(self, *work)
        return poisoned(batch) if self.batches in steps else batch

    monkeypatch.setattr(Stream, "next", poisoning)


def test_N1_the_run_says_what_was_left_out(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    poison_the_stream(monkeypatch, {5, 9})
    result = speedrun.train(tiny(tiny_data, tmp_path / "out"))
    assert result.accuracy is not None
    assert result.accuracy > 0.9
    assert "2 batches were left out: their gradients were not finite" in capsys.readouterr().err


@pytest.mark.parametrize(("dtype", "advice"), [("float32", "lower --set optim.lr"), ("float16", "--dtype float32")])
def test_N3_what_does_not_recover_ends_with_advice(
    dtype: str, advice: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    poison_the_stream(monkeypatch, set(range(3, 99)))
    with pytest.raises(DivergedError, match=advice):
        speedrun.train(tiny(tiny_data, tmp_path / "out", dtype=dtype))
    found = read_record(tmp_path / "out")
    assert (found["status"], found["steps"]) == ("failed", 2 + GIVEN_UP)


def test_N3_a_scale_that_is_too_high_comes_down_and_training_goes_on():
    step, batch = a_step(dtype=torch.float16)
    step.guard.scale.fill_(2.0**40)
    losses = [step(batch, 0.0)[0].item() for _ in range(60)]
    assert math.isnan(losses[0])
    assert math.isfinite(losses[-1])
    assert losses[-1] < 1.0
    assert step.guard.scale < 2.0**40


def test_N3_only_batches_in_a_row_are_given_up():
    divergence = Divergence("bfloat16")
    for _ in range(8):
        divergence.observe(math.nan, math.nan)  # nothing has arrived yet
    for _ in range(5):
        for _ in range(GIVEN_UP - 1):
            divergence.observe(math.nan, 0.1)
        divergence.observe(1.0, 0.5)
    assert divergence.left_out == 5 * (GIVEN_UP - 1)


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for a number of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_local_scalar_dense" in str(func) or "is_nonzero" in str(func):
            self.waits.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_N4_a_step_reads_no_number_of_the_device(dtype: torch.dtype):
    step, batch = a_step(dtype=dtype)
    step(batch, 0.0)
    with Reads() as reads:
        step(batch, 0.1)
    assert reads.waits == []
    with Reads() as reads:  # it would have been seen
        bool(torch.ones(()) > 0)
    assert reads.waits


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_N4_a_step_on_a_gpu_does_not_wait(dtype: torch.dtype):
    step, batch = a_step(torch.device("cuda"), dtype)
    for _ in range(3):
        step(batch, 0.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(poisoned(batch), 0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.isfinite().all() for value in step.net.state_dict().values())


class Activations:
    """Stands for the memory that a step holds on to."""


def lack_memory(monkeypatch: pytest.MonkeyPatch, largest: int, error: type[Exception] = torch.OutOfMemoryError) -> list:
    """Let every step with more than `largest` images fail; returns the batches that were tried, with what was alive."""
    call, tried, held = PlainStep.__call__, [], []

    def limited(self: PlainStep, batch: Batch, progress: float) -> Tensor:
        tried.append((len(batch.labels), sum(ref() is not None for ref in held)))
        if len(batch.labels) > largest:
            activations = Activations()
            held.append(weakref.ref(activations))
            raise error("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 8 GiB")
        return call(self, batch, progress)

    monkeypatch.setattr(PlainStep, "__call__", limited)
    monkeypatch.setattr("speedrun.probe.training_flops_per_second", lambda *_: 1e11)  # the probe's steps are not meant
    return tried


@pytest.mark.parametrize("timed", [False, True], ids=["in-training", "while-calibrating"])
def test_M1_a_smaller_batch_is_taken_outside_the_handler(
    timed: bool, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    tried = lack_memory(monkeypatch, largest=25)
    config = tiny(tiny_data, tmp_path / "out", batch_size=100, steps=60, seconds=20.0 if timed else None)
    result = speedrun.train(config)
    assert [batch for batch, _ in tried[:3]] == [100, 50, 25]
    assert all(alive == 0 for _, alive in tried)  # the failed step's tensors were gone when the next began
    said = capsys.readouterr().err
    assert "batch 100 -> 50, optim.lr 0.05 -> 0.0354 by the square-root rule" in said
    assert "batch 50 -> 25, optim.lr 0.0354 -> 0.025" in said
    assert "2.50 GiB needed" in said
    assert result.record["config"]["batch_size"] == 25
    assert (result.record["status"], result.record["steps"]) == ("complete", 60)
    assert result.accuracy is not None
    assert result.accuracy > 0.9


def test_M1_the_textbooks_rate_follows_the_batch():
    config = Config(batch_size=128, optim=OptimConfig(filters="sgd", lr=0.1))
    smaller, line = memory.smaller_batch(config, torch.device("cpu"), "2.50 GiB")
    assert (smaller.batch_size, smaller.optim.lr) == (64, 0.05)
    assert "batch 128 -> 64, optim.lr 0.1 -> 0.05 by the linear rule" in line


def test_M1_in_the_middle_of_a_run_what_was_learned_stays(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    call, losses = PlainStep.__call__, []

    def failing_once(self: PlainStep, batch: Batch, progress: float) -> Tensor:
        if len(losses) == 30 and len(batch.labels) == 50:
            raise torch.OutOfMemoryError
        numbers = call(self, batch, progress)
        losses.append(numbers[0].item())
        return numbers

    monkeypatch.setattr(PlainStep, "__call__", failing_once)
    monkeypatch.setattr("speedrun.probe.training_flops_per_second", lambda *_: 1e11)
    record = speedrun.train(tiny(tiny_data, tmp_path / "out")).record
    assert (record["steps"], len(losses), record["config"]["batch_size"]) == (40, 40, 25)
    assert record["epochs"] == pytest.approx(31 / 12 + 10 / 24)  # the batch that failed is not taken again
    assert losses[31] < losses[5]


def test_M1_at_the_floor_it_is_a_clear_error(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lack_memory(monkeypatch, largest=0)
    with pytest.raises(SpeedrunError, match=r"^out of memory with batches of \d+ images: 2.50 GiB needed, .*GiB free"):
        speedrun.train(tiny(tiny_data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError])
def test_M2_other_errors_pass_through(
    error: type[Exception], tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tried = lack_memory(monkeypatch, largest=0, error=error)
    with pytest.raises(error, match=r"2\.50 GiB"):
        speedrun.train(tiny(tiny_data, tmp_path / "out"))
    assert len(tried) == 1


def test_M2_the_systems_own_words_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert memory.ran_out(caught.value)
    assert memory.wanted(caught.value) != "more"
    assert memory.ran_out(MemoryError())
    assert not memory.ran_out(RuntimeError("shapes do not fit"))


class Hungry(nn.Module):
    """A net that takes so many images at a time."""

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest, self.taken = largest, []
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.largest:
            raise torch.OutOfMemoryError
        self.taken.append(len(images))
        return self.net(images)


def test_M3_test_views_are_split_and_give_the_same_logits():
    images = torch.randint(0, 256, (50, 16, 16, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    net = Hungry(largest=50)
    shared: dict[str, Any] = {"normalization": Normalization.of(images), "dtype": torch.float32, "size": 16}
    whole = Evaluator(net, images, batch_size=20, **shared)
    expected = whole.with_views(whole.plain(), "full", 1.0, lambda: math.inf, 0.0)
    net.largest, net.taken = 6, []
    split = Evaluator(net, images, batch_size=20, **shared)
    found = split.with_views(split.plain(), "full", 1.0, lambda: math.inf, 0.0)
    torch.testing.assert_close(found, expected)
    assert max(net.taken) == split.batch_size == 5
    net.largest = 0
    with pytest.raises(torch.OutOfMemoryError):
        split.plain()


def test_G4_a_device_that_is_full_names_what_is_free_and_what_is_needed(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 150.00 MiB. GPU 0 ...")

    monkeypatch.setattr("speedrun.machine.open_machine", full)
    with pytest.raises(SpeedrunError, match=r"no room for the training images on cpu: 150.00 MiB needed, .* GiB free"):
        speedrun.train(Config(dataset=str(tiny_data), steps=3, device="cpu", quiet=True, out=tmp_path / "out"))
