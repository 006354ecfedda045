"""The plan of steps on a fake clock: whatever the steps cost, the schedule ends and the time given is used."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from speedrun.pacer import Pacer
from speedrun.selection import SelectConfig, Work, stages

COSTS = {Work(24): 0.05, Work(28): 0.07, Work(32): 0.1}  # seconds of a step
SIZES = (24, 28, 32)

Slowdown = Callable[[float], float]  # share of the time that is gone -> factor on the cost of a step


@dataclass(frozen=True)
class Drive:
    """What came of a simulated training. marks: progress before each step; sizes: its resolution."""

    seconds: float
    marks: list[float]
    sizes: list[int]
    last_step: float


def drive(
    pacer: Pacer, seconds: float, factor: Slowdown, *, costs: Mapping[Work, float] = COSTS, noise: random.Random
) -> Drive:
    """Train as `speedrun.loop` does, with steps that take their calibrated seconds times a factor, within 3 %."""
    now = last = 0.0
    marks: list[float] = []
    sizes: list[int] = []
    pacer.plan(seconds - now)
    while not pacer.done:
        share = now / seconds if math.isfinite(seconds) else 0.0
        last = costs[pacer.work] * factor(share) * noise.uniform(0.97, 1.03)
        marks.append(pacer.progress)
        sizes.append(pacer.work.size)
        now += last
        pacer.advance(last, seconds - now)
        assert len(marks) < 100_000
    return Drive(now, marks, sizes, last)


def steady(_: float) -> float:
    return 1.0


def slower(times: float, since: float) -> Slowdown:
    return lambda share: times if share > since else 1.0


def test_what_fits_is_told_without_being_planned():
    pacer = Pacer(stages((24,)), {Work(24): 0.05}, max_steps=100)
    assert (pacer.fitting(2.0), pacer.fitting(60.0), pacer.fitting(0.0)) == (40, 100, 1)
    assert pacer.steps_left is None


@pytest.mark.parametrize("seconds", [7.5, 30.0, 300.0])
@pytest.mark.parametrize("sizes", [(32,), SIZES, (24, 24, 32, 32)])
def test_steady_steps_use_97_percent_of_the_time_and_never_more(sizes: tuple[int, ...], seconds: float):
    for seed in range(20):
        pacer = Pacer(stages(sizes), COSTS)
        ran = drive(pacer, seconds, steady, noise=random.Random(seed))
        assert pacer.progress == 1.0
        assert pacer.steps == len(ran.marks)
        assert 0.97 * seconds <= ran.seconds <= seconds + 0.1 * ran.last_step


@pytest.mark.parametrize(
    ("factor", "least"),
    [
        pytest.param(slower(2, 0.5), 0.97, id="W3-twice-as-slow-from-the-middle"),
        pytest.param(slower(2, 0.9), 0.97, id="W3-twice-as-slow-near-the-end"),
        pytest.param(slower(5, 0.5), 0.95, id="W3-five-times-as-slow"),
        pytest.param(lambda share: 2.0 if 0.3 < share < 0.5 else 1.0, 0.97, id="slow-for-a-while"),
        pytest.param(slower(0.5, 0.3), 0.97, id="twice-as-fast"),
        pytest.param(slower(1.5, -1), 0.97, id="calibrated-too-fast"),
        pytest.param(slower(0.6, -1), 0.97, id="calibrated-too-slow"),
    ],
)
def test_the_deadline_holds_and_the_schedule_ends_whatever_steps_cost(factor: Slowdown, least: float):
    for seed in range(40):
        noise = random.Random(seed)
        seconds = noise.uniform(25, 100)
        pacer = Pacer(stages(SIZES), COSTS)
        ran = drive(pacer, seconds, factor, noise=noise)
        assert pacer.progress == 1.0
        # What the last step takes too long is paid by the seconds kept for what follows.
        assert least * seconds <= ran.seconds <= seconds + 0.5 * ran.last_step
        assert ran.marks == sorted(ran.marks)
        assert 1 - ran.marks[-1] < 0.06  # W3: one_cycle's share of the peak rate in the last step


def test_a_run_of_a_few_steps_ends_too():
    for steps in range(1, 12):
        pacer = Pacer(stages((32,)), COSTS)
        ran = drive(pacer, 0.1 * steps + 0.05, steady, noise=random.Random(steps))
        assert (pacer.progress, pacer.steps) == (1.0, steps)
        assert ran.marks == pytest.approx([i / steps for i in range(steps)])


def test_no_time_at_all_still_means_one_step():
    pacer = Pacer(stages(SIZES), COSTS)
    assert pacer.plan(-1.0) == 1
    drive(pacer, 1e-6, steady, noise=random.Random(0))
    assert (pacer.steps, pacer.progress) == (1, 1.0)


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_without_a_deadline_the_steps_are_exactly_those_asked_for(steps: int):
    pacer = Pacer(stages(SIZES), COSTS, max_steps=steps)
    ran = drive(pacer, math.inf, slower(3, -1), noise=random.Random(0))
    assert (pacer.steps, pacer.progress) == (steps, 1.0)
    assert ran.marks == pytest.approx([i / steps for i in range(steps)])


def test_without_a_deadline_the_steps_do_not_depend_on_what_they_took():
    runs = [
        drive(Pacer(stages(SIZES), COSTS, max_steps=90), math.inf, steady, noise=random.Random(seed))
        for seed in range(2)
    ]
    assert (runs[0].marks, runs[0].sizes) == (runs[1].marks, runs[1].sizes)
    assert runs[0].seconds != runs[1].seconds


def test_the_fewer_of_steps_and_seconds_decide():
    for seed in range(20):
        few, many = Pacer(stages(SIZES), COSTS, max_steps=50), Pacer(stages(SIZES), COSTS, max_steps=100_000)
        short = drive(few, 60.0, steady, noise=random.Random(seed))
        whole = drive(many, 60.0, steady, noise=random.Random(seed))
        assert (few.steps, few.progress, many.progress) == (50, 1.0, 1.0)
        assert short.seconds < 6
        assert 0.97 * 60 <= whole.seconds <= 60.01


def test_steps_bounded_by_both_still_end_in_time_when_they_turn_slow():
    pacer = Pacer(stages((32,)), COSTS, max_steps=500)
    ran = drive(pacer, 60.0, slower(4, 0.4), noise=random.Random(0))
    assert pacer.progress == 1.0
    assert pacer.steps < 500
    assert 0.97 * 60 <= ran.seconds <= 60.2


def test_each_resolution_gets_an_equal_share_of_the_progress():
    ran = drive(Pacer(stages(SIZES), COSTS), 100.0, steady, noise=random.Random(0))
    assert ran.sizes == sorted(ran.sizes)
    for size, (low, high) in zip(SIZES, [(0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1)], strict=True):
        marks = [mark for mark, at in zip(ran.marks, ran.sizes, strict=True) if at == size]
        assert low <= min(marks) < low + 0.01
        assert high - 0.01 < max(marks) < high


def test_the_plan_knows_that_later_resolutions_cost_more():
    steps = Pacer(stages(SIZES), COSTS).plan(100.0)
    assert steps == int(100 / ((0.05 + 0.07 + 0.1) / 3))


def test_what_one_resolution_shows_is_expected_of_the_others():
    pacer = Pacer(stages(SIZES), COSTS)
    pacer.plan(100.0)
    for _ in range(100):
        pacer.advance(2 * COSTS[Work(24)], 100.0)
    assert pacer.slowdown == pytest.approx(2, rel=0.01)
    assert pacer.step_seconds[Work(32)] == pytest.approx(2 * COSTS[Work(32)], rel=0.01)


def test_steps_of_unknown_cost_change_no_estimate():
    pacer = Pacer(stages(SIZES), COSTS)
    pacer.plan(100.0)
    pacer.advance(None, 100.0)
    assert (pacer.step_seconds, pacer.slowdown, pacer.steps) == (COSTS, 1.0, 1)


def test_a_tremor_of_the_clock_does_not_move_the_plan():
    pacer = Pacer(stages((32,)), COSTS)
    assert pacer.plan(100.0) == 1000
    assert pacer.plan(99.5) == 1000  # half a percent less
    assert pacer.plan(95.0) == 950


def test_one_slow_step_is_a_hiccup_and_two_are_a_slower_machine():
    pacer = Pacer(stages((12, 16)), {Work(12): 0.1, Work(16): 0.2})
    pacer.plan(60.0)
    pacer.advance(0.1, 59.9)
    planned, stride = pacer.steps_left, pacer.progress
    pacer.advance(5.0, 54.9)
    assert pacer.step_seconds == {Work(12): 0.1, Work(16): 0.2}
    assert pacer.slowdown == 1.0
    pacer.advance(0.1, 54.8)
    assert pacer.progress == pytest.approx(3 * stride, rel=0.15)
    assert planned is not None
    assert pacer.steps_left == pytest.approx(planned * 54.8 / 59.9, rel=0.05)
    pacer.advance(5.0, 49.8)
    pacer.advance(5.0, 44.8)
    assert pacer.slowdown > 2


def test_no_step_is_taken_that_would_end_far_past_the_time():
    pacer = Pacer(stages((16,)), {Work(16): 1.0})
    pacer.plan(10.0)
    for left in (9.0, 8.0):
        pacer.advance(1.0, left)
    pacer.advance(7.8, 0.2)
    assert pacer.done
    assert pacer.progress == 1.0


PICKING = SelectConfig(share=0.5, begin=0.2, end=0.8)
PICKING_COSTS = {**COSTS, **{Work(size, 2): 1.5 * COSTS[Work(size)] for size in SIZES}}


@pytest.mark.parametrize("factor", [steady, slower(2, 0.5), slower(0.6, -1)])
def test_W3_steps_that_pick_have_a_cost_of_their_own_and_the_deadline_holds(factor: Slowdown):
    for seed in range(20):
        pacer = Pacer(stages(SIZES, PICKING), PICKING_COSTS)
        ran = drive(pacer, 60.0, factor, costs=PICKING_COSTS, noise=random.Random(seed))
        assert pacer.progress == 1.0
        assert 0.97 * 60 <= ran.seconds <= 60 + 0.5 * ran.last_step
        assert 1 - ran.marks[-1] < 0.06


def test_the_plan_counts_what_picking_costs():
    sizes = (0.05 + 0.07 + 0.1) / 3
    more = 0.5 * (0.05 * (1 / 3 - 0.2) + 0.07 / 3 + 0.1 * (0.8 - 2 / 3))
    assert Pacer(stages(SIZES, PICKING), PICKING_COSTS).plan(100.0) == int(100 / (sizes + more))


def test_the_last_step_of_a_stage_is_held_against_its_own_calibration():
    pacer = Pacer(stages((12, 16)), {Work(12): 1.0, Work(16): 4.0}, max_steps=2)
    pacer.plan(float("inf"))
    pacer.advance(1.0, float("inf"))
    assert pacer.work == Work(16)
    assert pacer.calibrated == 1.0
    pacer.advance(4.0, float("inf"))
    assert pacer.calibrated == 4.0
