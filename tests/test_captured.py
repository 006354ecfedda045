"""The step that a CUDA graph holds: it never waits, it reads what changes from the device, it trains as the plain one.

On a CPU a tape stands for the graph (tests/tape.py).
"""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import tiny
from tape import Tape
from torch import Tensor

import speedrun
from benchmarks import breakdown
from speedrun import config as configs
from speedrun import data, device, recipes, run, screen
from speedrun.config import Config, SelectConfig
from speedrun.machine import Machine, open_machine
from speedrun.methods import captured
from speedrun.methods.captured import CapturedStep, CapturedStream
from speedrun.sgd import SGD, move
from speedrun.trainee import Trainee, build

TIERS = ("speednet-94", "speednet-95", "speednet-96", "speednet-97")
STEPS = 20


@pytest.fixture(scope="module")
def machine(tiny_data: Path) -> Machine:
    return open_machine(device.choose("cpu", "float32"), data.load(str(tiny_data)), holdout=False)


def trainee(machine: Machine, recipe: str = "speednet-94", **settings: Any) -> Trainee:
    """A recipe's net at an eighth of its width or less, its batches and images small."""
    base = recipes.get(recipe)
    widths = tuple(width // (64 if recipe == "speednet-97" else 16) for width in base.model.widths or ())
    sizes = {"model.widths": widths, "batch_size": 80, "resolutions": (12, 16), "compile": "captured"}
    # The rates of wide nets are too high for narrow ones, and would make every difference a large one.
    rates = {"optim.lr": 0.02, "optim.bias_lr": 0.01, "optim.head_lr": 0.05}
    return build(configs.override(replace(base, seed=3), {**sizes, **rates, **settings}), machine)


def captured_step(made: Trainee) -> CapturedStep:
    """Its captured step, that has no graph yet."""
    stream = made._stream(CapturedStream)
    dtype = made.machine.choice.dtype
    return CapturedStep(stream, made.net, made.forward, made.config.optim, made.batch_size, dtype, made.config.seed)


def progresses(sizes: tuple[int, ...]) -> list[tuple[float, int]]:
    return [(step / STEPS, sizes[step * len(sizes) // STEPS]) for step in range(STEPS)]


def eager(made: Trainee) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses of 20 steps (600 images: the third epoch begins within them) and the weights that they lead to."""
    step, stream = made.step(), made.stream()
    assert not isinstance(step, CapturedStep)
    losses = [step(stream.next(size), progress) for progress, size in progresses(made.resolutions)]
    return torch.stack(losses), step.evaluated.state_dict()


def compare(made: Trainee, twin: Trainee, losses: list[Tensor], step: CapturedStep) -> None:
    expected, weights = eager(twin)
    found = torch.stack(losses)[:, 0]  # beside the losses stand accuracies, where a tie may fall either way
    torch.testing.assert_close(found, expected[:, 0], atol=2e-4, rtol=2e-3)
    assert expected[0, 0] > 1.1 * expected[-1, 0]  # it has learned
    for name, tensor in step.evaluated.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], atol=2e-3, rtol=2e-2, msg=name)


@pytest.mark.parametrize("recipe", TIERS)
def test_every_tiers_step_gives_the_eager_losses(recipe: str, machine: Machine):
    made, twin = trainee(machine, recipe), trainee(machine, recipe)
    step = captured_step(made)
    losses = [step(step.stream.next(size), progress) for progress, size in progresses(made.resolutions)]
    compare(made, twin, losses, step)


class Taped(CapturedStep):
    """A captured step whose graphs are tapes, begun after one run without, as a capture: it makes the momenta."""

    tapes: dict[tuple[int, bool], tuple[Tape, Tensor]]
    warm: bool

    def whole(self, size: int) -> Tensor:
        key = size, self.optimizers.frozen
        if not self.warm:
            self.warm = True
            return super().whole(size)
        if key in self.tapes:
            tape, numbers = self.tapes[key]
            tape.replay()
            return numbers
        with Tape() as tape:
            numbers = super().whole(size)
        self.tapes[key] = tape, numbers
        return numbers


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("speednet-94", {"optim.whiten_bias": 0.3}),
        ("speednet-96", {"optim.ema": 0.9}),
        ("speednet-96", {"optim.lookahead": 5}),
        ("speednet-97", {"optim.sam": 0.05, "optim.whiten_bias": 0.3, "augment.policy": "none"}),
        ("speednet-95", {"optim.sam": 0.5, "optim.sam_adaptive": True}),
        ("speednet-94", {"optim.whiten_bias": 0.3, "model.fp8": 16}),
        ("speednet-95", {"optim.filters": "sgd", "optim.lr": 0.1, "optim.clip": 1.0, "optim.momentum": 0.9}),
    ],
)
def test_a_step_that_is_only_repeated_gives_the_eager_losses(recipe: str, settings: dict[str, Any], machine: Machine):
    # To mirror some of a batch torch's twin of the kernel asks which they are, and so waits; the kernel does not.
    settings = {**settings, "augment.flip": "none"}
    made, twin = trainee(machine, recipe, **settings), trainee(machine, recipe, **settings)
    step = captured_step(made)
    step.__class__ = Taped
    step.tapes, step.warm = {}, False  # type: ignore[attr-defined]
    losses = [step(step.stream.next(size), progress).clone() for progress, size in progresses(made.resolutions)]
    assert set(step.tapes) == {(12, False), (12, True), (16, True)}  # type: ignore[attr-defined]
    compare(made, twin, losses, step)


def test_the_operations_of_a_captured_step_are_told_apart(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    made = trainee(machine)
    made.captured = captured_step(made)

    def replayed(*_: object) -> Tensor:
        raise AssertionError("in a graph no operation has a name")

    monkeypatch.setattr(CapturedStep, "__call__", replayed)
    seconds = breakdown.profiled(breakdown.marked(made, 12), torch.device("cpu"), steps=1).seconds
    assert min(seconds[kind] for kind in ("convolutions, forward", "convolutions, backward", "augmentation")) > 0
    assert isinstance(made.captured, CapturedStep)


def test_a_tape_tells_what_waits_and_repeats_what_it_was_given():
    x, number = torch.zeros(3), torch.tensor(1.0)
    with Tape() as tape:
        y = x.add_(number) * 2 + 1.0
    number.fill_(5.0)
    tape.replay()
    assert (x.tolist(), y.tolist()) == ([6.0] * 3, [13.0] * 3)
    with pytest.raises(AssertionError, match="waits for the device"), Tape():
        x.sum().item()


def test_a_step_that_was_reset_begins_anew(machine: Machine):
    made = trainee(machine, "speednet-96", **{"optim.ema": 0.9, "optim.whiten_bias": 0.3})
    made.captured = captured_step(made)
    runs = []
    for _ in range(2):
        step, stream = made.step(), made.stream()
        assert step is made.captured
        runs.append([step(stream.next(size), progress) for progress, size in progresses(made.resolutions)])
        assert step.optimizers.frozen
        made.reset()
    assert torch.equal(torch.stack(runs[0]), torch.stack(runs[1]))


def test_a_step_goes_on_from_a_checkpoint_in_the_tensors_that_a_graph_knows(machine: Machine):
    first, again = (trainee(machine, "speednet-96", **{"optim.ema": 0.9}) for _ in range(2))
    for made in (first, again):
        made.captured = captured_step(made)
    steps = progresses(first.resolutions)
    step, stream = first.step(), first.stream()
    for progress, size in steps[:8]:
        step(stream.next(size), progress)
    saved, weights = step.state(), first.net.state_dict()
    assert again.captured is not None
    again.captured(again.captured.stream.next(12), 0.0)
    state, rates = again.captured.optimizers.members[1].state, [g["lr"] for g in again.captured.optimizers.groups()]
    places = {tensor.data_ptr() for kept in state.values() for tensor in kept.values()}
    again.net.load_state_dict(weights)
    other, source = again.step(), again.stream()
    other.restore(saved)
    source.batches = stream.batches
    for progress, size in steps[8:]:
        expected = step(stream.next(size), progress).clone()
        assert torch.equal(other(source.next(size), progress), expected)
    kept_now = again.captured.optimizers.members[1].state
    assert {tensor.data_ptr() for kept in kept_now.values() for tensor in kept.values()} == places
    assert all(group["lr"] is rate for group, rate in zip(again.captured.optimizers.groups(), rates, strict=True))


def test_a_trainee_serves_another_seed_and_nothing_else(machine: Machine):
    made = trainee(machine, "speednet-96")
    other = replace(made.config, seed=9)
    assert not made.serves(other)  # nothing was compiled
    made.captured = captured_step(made)
    step, stream = made.step(), made.stream()
    for progress, size in progresses(made.resolutions):
        step(stream.next(size), progress)
    assert build(other, machine, made) is made
    assert made.compile(9.0) == (None, "")
    step, stream = made.step(), made.stream()
    fresh = build(other, machine)
    expected = captured_step(fresh)
    for progress, size in progresses(made.resolutions):
        wanted = expected(expected.stream.next(size), progress)
        assert torch.equal(step(stream.next(size), progress), wanted)
    assert build(replace(other, batch_size=40), machine, made) is not made


def test_runs_of_one_process_share_what_the_first_has_captured(tiny_data: Path, tmp_path: Path, monkeypatch):
    captures = []

    def capture(self: Trainee) -> str:
        captures.append(self)
        self.captured = captured_step(self)
        return ""

    monkeypatch.setattr(Trainee, "_capture", capture)
    config = tiny(tiny_data, tmp_path / "both", compile="captured", runs=2)
    with screen.make("quiet") as view:
        results = run.run_all(config, start=time.monotonic(), screen=view)
    assert len(captures) == 1
    for result in results:
        seed = result.record["seed"]
        alone = speedrun.train(replace(config, runs=1, seed=seed, out=tmp_path / f"alone-{seed}"))
        assert torch.equal(alone.logits, result.logits)
    eager = speedrun.train(replace(config, runs=1, compile="off", out=tmp_path / "eager"))
    assert results[0].accuracy == pytest.approx(eager.accuracy, abs=0.05)
    assert min(result.accuracy or 0.0 for result in results) > 0.8
    assert not torch.equal(results[0].logits, results[1].logits)


def test_what_cannot_be_captured_says_so_and_runs(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    made = trainee(machine)
    assert made.compile(9.0) == (None, "a step is captured on CUDA alone: going on in eager mode")
    on_cuda = replace(machine, choice=SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32))
    dropping = replace(made, machine=on_cuda, config=replace(made.config, model=recipes.get("mynet").model))
    assert dropping._capture() == "a step with dropout, AdamW or selection is not captured: going on in eager mode"
    assert replace(dropping, config=replace(dropping.config, compile="default"))._capture() == ""

    def fails(self: CapturedStep, sizes: tuple[int, ...]) -> None:
        self.optimizers.freeze_faded(1.0)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(CapturedStep, "capture", fails)
    step, problem = captured.make(
        made.config, made._stream(CapturedStream), made.net, made.net, made.machine.choice.dtype
    )
    assert step is None
    assert problem == (
        "the step could not be captured (RuntimeError: operation not permitted when stream is capturing): "
        "going on without"
    )
    assert made.net.get_parameter("whiten.bias").requires_grad


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_steps_like_torchs_own_whether_its_rate_is_a_number_or_a_tensor(momentum: float):
    def parameters() -> list[torch.nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        return [torch.nn.Parameter(torch.randn(4, 3, generator=generator)) for _ in range(2)]

    options: dict[str, Any] = {"momentum": momentum, "weight_decay": 0.01}
    twins = [parameters() for _ in range(3)]
    reference = torch.optim.SGD(twins[0], 0.1, nesterov=momentum > 0, **options)
    ours, on_device = SGD(twins[1], 0.1, **options), SGD(twins[2], 0.1, **options)
    on_device.param_groups[0]["lr"] = torch.tensor(0.1)
    for step in range(4):
        for index, gradient in enumerate(torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(step))):
            for twin in twins:
                twin[index].grad = gradient.clone()
        for optimizer in (reference, ours, on_device):
            optimizer.step()
    for expected, mine, other in zip(*twins, strict=True):
        assert torch.equal(mine, expected)
        torch.testing.assert_close(other, expected, atol=1e-6, rtol=1e-6)


def test_a_rate_in_a_tensor_keeps_its_digits_beside_a_direction_of_low_precision():
    parameter = torch.nn.Parameter(torch.zeros(1))
    with torch.no_grad():
        move([parameter], [torch.ones(1, dtype=torch.bfloat16)], torch.tensor(0.12345))
    assert parameter.item() == pytest.approx(-0.12345, rel=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optim.ema": 0.9},
        {"optim.lookahead": 5},
        {"optim.sam": 0.05},
        {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "model.fused": "norm,conv,whiten", "optim.fused": True},
        {"dtype": "bfloat16", "model.fp8": 16},
    ],
)
def test_graphs_give_the_eager_losses(settings: dict[str, Any], tiny_data: Path):
    settings = dict(settings)
    dtype = settings.pop("dtype", "float32")
    here = open_machine(device.choose("cuda", dtype), data.load(str(tiny_data)), holdout=False)
    whiten = {"optim.whiten_bias": 0.3}
    plain = {name: value for name, value in settings.items() if not name.endswith(".fused")}
    made, twin = (trainee(here, "speednet-96", **whiten, **each) for each in (settings, plain))
    assert made.compile(60.0) == (None, "")
    step, stream = made.step(), made.stream()
    assert isinstance(step, CapturedStep)
    assert set(step._graphs) == {(size, frozen) for size in (12, 16) for frozen in (False, True)}
    losses = [step(stream.next(size), progress).clone() for progress, size in progresses(made.resolutions)]
    tolerance = 1e-2 if dtype == "float32" else 1e-1
    expected = eager(twin)[0][:, 0]
    torch.testing.assert_close(torch.stack(losses)[:, 0], expected, atol=tolerance, rtol=tolerance)


def test_the_tiers_need_nothing_that_cannot_be_captured():
    from speedrun import compilation

    assert all(compilation.capturable(recipes.get(name)) for name in (*TIERS, "speednet"))
    assert not compilation.capturable(Config(model=recipes.get("mynet").model))
    assert not compilation.capturable(Config(select=SelectConfig(share=0.5)))
