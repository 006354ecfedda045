"""A net with what training it takes: its beginning comes from the seed, and nothing tried out before stays."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import TINY_NET

from speedrun import compiler, config, data, device, probe
from speedrun.calibrate import calibrate
from speedrun.clock import Clock
from speedrun.config import Config, ModelConfig
from speedrun.distributed import World
from speedrun.errors import UsageError
from speedrun.machine import Machine, open_machine
from speedrun.selection import Work
from speedrun.trainee import Trainee, build

SETTINGS = dict(word.removeprefix("--set=").split("=", 1) for word in TINY_NET if word.startswith("--set="))


@pytest.fixture(scope="module")
def machine(tiny_data: Path) -> Machine:
    return open_machine(device.choose("cpu", "float32"), data.load(str(tiny_data)), holdout=False)


def trainee(machine: Machine, **changes: object) -> Trainee:
    base = config.override(Config(compile="default"), {**SETTINGS, "augment.cutout": "4"})
    return build(replace(base, **changes), machine)


def state(made: Trainee) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in made.net.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_batch_of_fewer_images_than_ranks_is_refused(machine: Machine):
    with pytest.raises(UsageError, match="batch_size 3 leaves some of 4 ranks without an image"):
        build(replace(config.override(Config(), SETTINGS), batch_size=3), machine, world=World(size=4))


def test_R1_R2_the_initial_weights_come_from_the_seed(machine: Machine):
    widening = ModelConfig(widths=(8, 12, 16), depth=2)  # filters beyond the inputs' number are random, not Dirac
    first, again, other = (state(trainee(machine, seed=seed, model=widening)) for seed in (1, 1, 2))
    assert same(first, again)
    for name in ("head.weight", "groups.1.convs.0.weight", "groups.2.convs.0.weight"):
        assert not torch.equal(first[name], other[name]), name


def test_pixels_of_the_config_are_those_of_the_images_whatever_their_side(machine: Machine):
    for side in (16, 40):
        images = torch.zeros((100, side, side, 3), dtype=torch.uint8)
        images[0] = 255  # so that what is erased differs from what is not
        large = replace(machine, train_images=images, train_labels=torch.zeros(100, dtype=torch.int64))
        stream = trainee(large).stream()
        assert stream.size == side
        pictures = stream.next(side).images
        assert [int((picture == 0).all(0).sum()) for picture in pictures] == [4 * 4] * len(pictures)


def test_the_probe_disturbs_no_stream_of_random_numbers():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    speed = probe.training_flops_per_second(torch.device("cpu"), torch.float32)
    assert torch.equal(torch.rand(3), expected)
    assert 1e8 < speed < 1e15


def test_calibration_leaves_nothing_behind(machine: Machine):
    made = trainee(machine)
    before = state(made)
    costs = calibrate(made, Clock(60.0))
    assert same(before, state(made))
    assert all(parameter.grad is None for parameter in made.net.parameters())
    assert set(costs.step) == {Work(12), Work(16)}
    assert all(0 < seconds < 5 for seconds in (*costs.step.values(), costs.view))


class Ticking:
    """A clock that moves by `tick` seconds each time it is read."""

    def __init__(self, tick: float) -> None:
        self.tick, self.time = tick, 0.0

    def __call__(self) -> float:
        self.time += self.tick
        return self.time


def test_calibration_that_takes_too_long_goes_by_the_area_of_the_images(machine: Machine):
    made = trainee(machine)
    slow = calibrate(made, Clock(100.0, start=0.0, now=Ticking(1.0)))  # steps of 1 s where calibrating may take 2 s
    assert slow.step == {Work(12): 1.0, Work(16): pytest.approx((16 / 12) ** 2)}
    # Two passes over 77 images are what 1.8 s allow if a step is three of 50 images: 1 s for them, 2.6 s for all 200.
    assert slow.view == pytest.approx(200 / 77)
    quick = calibrate(made, Clock(100.0, start=0.0, now=Ticking(0.01)))
    assert quick.step == {Work(12): pytest.approx(0.01), Work(16): pytest.approx(0.01)}
    # 500 images were timed, for the 200 that are scored.
    assert quick.view == pytest.approx(0.01 * 200 / 500)


def test_without_a_deadline_nothing_is_timed(machine: Machine):
    costs = calibrate(trainee(machine), Clock(None, start=0.0, now=Ticking(1.0)))
    assert (costs.step, costs.view) == ({Work(12): 144.0, Work(16): 256.0}, 0.0)


@pytest.mark.parametrize("works", [True, False])
def test_compiling_takes_every_shape_and_leaves_nothing_behind(
    works: bool, machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    made, sizes = trainee(machine), []

    def compile_net(net, mode, warm_up, limit_seconds):
        assert (mode, limit_seconds) == ("default", 9.0)

        def compiled(images: torch.Tensor) -> torch.Tensor:
            sizes.append(images.shape[-1])
            return net(images)

        warm_up(compiled)
        return (compiled, False, "") if works else (net, None, "it failed")

    monkeypatch.setattr(compiler, "compile_net", compile_net)
    before = state(made)
    assert made.compile(9.0) == ((False, "") if works else (None, "it failed"))
    assert sizes == [12, 16]
    assert same(before, state(made))
    assert (made.forward is made.net) == (not works)


def test_whitening_sees_the_training_images_unaugmented(machine: Machine):
    made, again = trainee(machine, seed=1), trainee(machine, seed=2)
    made.whiten()
    again.whiten()
    filters = state(made)["whiten.weight"]
    assert filters.any()
    assert torch.equal(filters, state(again)["whiten.weight"])
