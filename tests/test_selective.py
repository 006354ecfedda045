"""Training on what a proxy finds hardest: which images that are, when the proxy learns, what a run makes of it."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_record, tiny
from tape import Tape
from test_guard import poisoned
from test_resume import interrupt_at
from test_trainee import Ticking
from torch import Tensor

import speedrun
from speedrun import checkpoint, data, device
from speedrun.calibrate import calibrate
from speedrun.clock import Clock
from speedrun.config import Config
from speedrun.losses import cross_entropy
from speedrun.machine import Machine, open_machine
from speedrun.methods.plain import PlainStep
from speedrun.methods.selective import Proxy, SelectiveStep
from speedrun.selection import Work
from speedrun.stream import Batch
from speedrun.trainee import Trainee, build

SELECT = {"select.share": "0.5", "select.begin": "0.2", "select.end": "0.8"}
MIDDLE = 0.5
SIZE = 12


@pytest.fixture(scope="module")
def machine(tiny_data: Path) -> Machine:
    return open_machine(device.choose("cpu", "float32"), data.load(str(tiny_data)), holdout=False)


def trainee(machine: Machine, **settings: str) -> Trainee:
    asked = tiny(Path("none"), Path("none"), {**SELECT, "augment.cutout": "0", "batch_size": "40", **settings})
    made = build(asked, machine)
    made.whiten()
    return made


def parts(made: Trainee) -> tuple[SelectiveStep, list[Tensor]]:
    """The step of a trainee and its list of the batches, by their rows of the set, that its net learned from."""
    step = made.step()
    assert isinstance(step, SelectiveStep)
    learned: list[Tensor] = []
    learn = step.learn

    def noting(batch: Batch) -> tuple[Tensor, Tensor]:
        learned.append(batch.index)
        return learn(batch)

    step.learn = noting  # type: ignore[method-assign]
    return step, learned


def weights(net: torch.nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in net.state_dict().values()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("settings", [{}, {"augment.mixup": "1"}, {"select.share": "0.25"}, {"optim.sam": "0.05"}])
def test_the_net_learns_from_the_hardest_of_what_is_drawn(settings: dict[str, str], machine: Machine):
    made = trainee(machine, **settings)
    step, learned = parts(made)
    stream, draws = made.stream(), made.config.select.batches
    for _ in range(3):  # the proxy learns in the first
        twin = copy.deepcopy(step.proxy.net).train()
        batch = stream.next(SIZE, draws)
        assert len(batch.index) == draws * 40
        numbers = step(batch, MIDDLE)
        logits = twin(batch.images)
        each = [batch.of(torch.tensor([row])) for row in range(len(batch.index))]
        losses = [
            cross_entropy(logits[row : row + 1], one.labels, weights=one.weights).item() for row, one in enumerate(each)
        ]
        hardest = sorted(range(len(losses)), key=lambda row: -losses[row])[:40]
        assert set(learned[-1].tolist()) == set(batch.index[hardest].tolist())
        assert len(learned[-1]) == 40
        assert numbers.isfinite().all()


def test_what_is_picked_keeps_its_layout_labels_and_rows(machine: Machine):
    stream = trainee(machine, **{"augment.cutmix": "1"}).stream()
    batch, rows = stream.next(SIZE, 2), torch.tensor([3, 77, 5])
    few = batch.of(rows)
    assert few.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(few.images, batch.images[rows])
    assert few.weights is not None
    assert batch.weights is not None
    found = zip((few.labels, few.index, few.weights), (batch.labels, batch.index, batch.weights), strict=True)
    assert all(torch.equal(picked, drawn[rows]) for picked, drawn in found)


def test_the_proxy_learns_on_every_fourth_step_until_the_end_and_sees_all_that_is_drawn(machine: Machine):
    made = trainee(machine)
    step, learned = parts(made)
    stream, sizes, taught = made.stream(), [], []
    for number in range(12):
        progress = number / 10
        before, draws = weights(step.proxy.net), 2 if 0.2 <= progress < 0.8 else 1
        step(stream.next(SIZE, draws), progress)
        sizes.append(len(learned[-1]))
        if not equal(before, weights(step.proxy.net)):
            taught.append(number)
    assert sizes == [40] * 12
    assert taught == [0, 4]  # the eighth is past the end
    assert step.proxy.optimizers.config.label_smoothing == step.config.label_smoothing


def test_outside_of_the_middle_a_step_is_the_plain_one_to_the_bit(machine: Machine):
    picking, plain = trainee(machine), trainee(machine, **{"select.share": "1"})
    ours, theirs = picking.step(), plain.step()
    assert plain.proxy is None
    assert type(theirs) is not SelectiveStep
    first, second = picking.stream(), plain.stream()
    for progress in (0.0, 0.1, 0.9):
        assert torch.equal(ours(first.next(SIZE), progress), theirs(second.next(SIZE), progress))
    assert equal(weights(picking.net), weights(plain.net))


def test_several_batches_as_one_are_those_of_the_order_and_of_one_epoch(machine: Machine):
    made = trainee(machine, batch_size="200")  # three an epoch
    alone, paired = made.stream(), made.stream()
    order = [alone.next(SIZE) for _ in range(6)]
    for first in (0, 3):  # the third of an epoch would stand alone, and is left out
        batch = paired.next(SIZE, 2)
        assert torch.equal(batch.index, torch.cat([order[first].index, order[first + 1].index]))
        assert torch.equal(batch.images, torch.cat([order[first].images, order[first + 1].images]))
        assert paired.batches == first + 2
    with pytest.raises(ValueError, match="4 batches of 200 are more than the set's 600 images"):
        paired.next(SIZE, 4)


def test_picking_never_waits_for_the_device(machine: Machine):
    made = trainee(machine, **{"augment.flip": "none"})
    step, stream = made.step(), made.stream()
    batches = [stream.next(SIZE, 2) for _ in range(2)]
    for batch in batches:  # one that the proxy learns from, and one that it does not
        with Tape():
            step(batch, MIDDLE)


def test_N1_an_image_that_is_not_finite_reaches_neither_net(machine: Machine):
    made = trainee(machine)
    step, _ = parts(made)
    stream = made.stream()
    for number in range(6):
        batch = stream.next(SIZE, 2)
        step(poisoned(batch) if number in (0, 1, 4) else batch, MIDDLE)
        for net in (step.net, step.proxy.net):
            assert all(tensor.isfinite().all() for tensor in net.state_dict().values())
    assert math.isfinite(step(stream.next(SIZE, 2), MIDDLE)[0])


def test_a_smaller_batch_keeps_what_the_proxy_has_learned(machine: Machine):
    made = trainee(machine)
    step, stream = made.step(), made.stream()
    for _ in range(2):
        step(stream.next(SIZE, 2), MIDDLE)
    saved, before = step.state(), weights(step.proxy.net)  # type: ignore[attr-defined]
    made.resize(replace(made.config, batch_size=20))
    smaller, learned = parts(made)
    smaller.restore(saved)
    assert equal(before, weights(smaller.proxy.net))
    smaller(made.stream().next(SIZE, 2), MIDDLE)
    assert len(learned[-1]) == 20


def test_calibration_times_both_costs_and_leaves_no_proxy_behind(machine: Machine):
    made = trainee(machine, resolutions="12,16")
    assert made.proxy is not None
    before = weights(made.proxy)
    fresh = weights(build(made.config, machine).proxy)  # type: ignore[arg-type]
    costs = calibrate(made, Clock(60.0))
    assert set(costs.step) == {Work(12), Work(12, 2), Work(16), Work(16, 2)}
    assert not equal(before, fresh)  # it was whitened
    assert equal(weights(made.proxy), fresh)
    other = build(replace(made.config, seed=4), machine).proxy
    assert other is not None
    assert not equal(weights(other), fresh)


def test_calibration_that_takes_too_long_still_times_picking(machine: Machine):
    made = trainee(machine, resolutions="12,16")
    slow = calibrate(made, Clock(100.0, start=0.0, now=Ticking(1.0))).step  # 1 s between two looks at the clock
    larger = pytest.approx((16 / 12) ** 2)
    assert slow == {Work(12): 1.0, Work(16): larger, Work(12, 2): 1.0, Work(16, 2): larger}


def test_however_rarely_the_proxy_learns_calibration_takes_one_step_of_each_kind(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    made, seconds, taken = trainee(machine, resolutions="12,16", **{"select.every": "1000"}), [0.0], []
    losses, compute = Proxy.losses, PlainStep.compute

    def slow_losses(self: Proxy, batch: Batch, progress: float, *, learns: bool) -> Tensor:
        seconds[0] += 1000 * learns
        return losses(self, batch, progress, learns=learns)

    def slow_compute(self: PlainStep, batch: Batch) -> Tensor:
        seconds[0] += 1
        taken.append(batch)
        return compute(self, batch)

    monkeypatch.setattr(Proxy, "losses", slow_losses)
    monkeypatch.setattr(PlainStep, "compute", slow_compute)
    found = calibrate(made, Clock(1e9, start=0.0, now=lambda: seconds[0])).step
    # Before the end of picking the proxy learns once in 1000 steps, whether images are picked yet or not.
    assert found == {Work(12): 2.0, Work(12, 2): 2.0, Work(16, 2): 2.0, Work(16): 1.0}
    assert len(taken) == 3 * 3 + 2


def test_the_proxy_is_of_the_family_a_quarter_as_wide_or_as_asked(machine: Machine):
    def widths(**settings: str) -> list[int]:
        proxy = trainee(machine, **settings).proxy
        assert proxy is not None
        return [group.convs[0].out_channels for group in proxy.groups]  # type: ignore[union-attr]

    assert widths(**{"model.widths": "16,32,64", "model.depth": "3"}) == [4, 8, 16]
    assert widths(**{"select.widths": "6,8,10"}) == [6, 8, 10]


def final(folder: Path) -> dict[str, Tensor]:
    return checkpoint.load(folder / "model.pt").model


def test_K6_a_run_that_picks_goes_on_where_it_was_interrupted(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = {**SELECT, "optim.lookahead": "5", "optim.ema": "0.9", "optim.sam": "0.02"}
    speedrun.train(tiny(tiny_data, tmp_path / "whole", settings))
    interrupt_at(18, monkeypatch)  # in the middle, and not where the proxy has just learned
    assert speedrun.train(tiny(tiny_data, tmp_path / "out", settings)).exit_code == 130
    speedrun.train(Config(resume=tmp_path / "out", quiet=True))
    expected = final(tmp_path / "whole")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in final(tmp_path / "out").items())


def test_a_run_that_picks_learns_and_its_epochs_count_what_is_drawn(tiny_data: Path, tmp_path: Path):
    asked: dict[str, Any] = {"steps": None, "epochs": 8.0, "compile": "captured"}
    result = speedrun.train(tiny(tiny_data, tmp_path / "out", {**SELECT, "batch_size": "25"}, **asked))
    found = read_record(tmp_path / "out")
    assert found["steps"] == round(8 * 24 / 1.6)
    assert found["epochs"] == pytest.approx(8, abs=0.2)
    assert result.accuracy is not None
    assert result.accuracy > 0.9


@pytest.mark.clock
def test_a_run_that_picks_ends_in_time(tiny_data: Path, tmp_path: Path):
    speedrun.train(tiny(tiny_data, tmp_path / "out", {**SELECT, "batch_size": "40"}, steps=None, seconds=8.0))
    found = read_record(tmp_path / "out")
    assert found["status"] == "complete"
