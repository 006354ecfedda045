"""What a run expects of itself once its own steps were timed."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from planning import LARGE, expectation, plan

from speedrun.calibrate import Costs
from speedrun.clock import Clock, Ledger
from speedrun.config import Config
from speedrun.outcome import Outcome
from speedrun.pacer import Pacer
from speedrun.planner import VIEWS_GAIN, Plan
from speedrun.selection import Stage, Work
from speedrun.session import EVALUATION_MARGIN, Session

IMAGES = 50_000


@pytest.mark.parametrize("tta", ["full", "none", "mirror"])
def test_a_timed_plan_expects_what_as_many_epochs_reach(tta: str):
    chosen = plan(100, Config(tta=tta), rungs=(LARGE,))
    assert chosen.epochs is not None
    for epochs in (0.3, chosen.epochs, 5.0):
        timed = chosen.timed(epochs, IMAGES)
        assert timed == replace(chosen, epochs=epochs, expected_accuracy=timed.expected_accuracy)
        known = plan(10_000, Config(epochs=epochs, tta=tta), rungs=(LARGE,))
        assert expectation(timed) == pytest.approx(expectation(known))


def test_a_timed_plan_of_a_share_of_the_views_expects_less():
    whole, half = (plan(100, Config(tta="full", uncertain_share=share), rungs=(LARGE,)) for share in (0.25, 0.125))
    lost = expectation(whole.timed(2.0, IMAGES)) - expectation(half.timed(2.0, IMAGES))
    assert lost == pytest.approx(VIEWS_GAIN / 2)


def test_a_timed_plan_never_expects_less_than_nothing():
    """A net of one point is expected to learn next to nothing at first, and its views are left out."""
    guess = replace(LARGE, points=LARGE.points[-1:])
    chosen = plan(100, Config(tta="none"), rungs=(guess,))
    assert expectation(chosen.timed(0.001, IMAGES)) == 0.0


def test_a_plan_too_slow_to_promise_anything_promises_what_its_steps_do_once_timed():
    chosen = plan(10, Config(tta="full"), rungs=(LARGE,))
    assert (chosen.epochs, expectation(chosen)) == (0.0, 0.0)
    fit = plan(10_000, Config(epochs=0.3), rungs=(LARGE,))
    assert expectation(chosen.timed(0.3, IMAGES)) == pytest.approx(expectation(fit))


def test_of_other_images_a_timed_plan_knows_the_epochs_alone():
    chosen = plan(100, known=False)
    assert chosen.timed(3.0, IMAGES) == replace(chosen, epochs=3.0)
    assert chosen.timed(3.0, IMAGES).promise == "about 3 epochs"


def test_without_a_deadline_there_is_nothing_to_expect():
    chosen = plan(None)
    assert chosen.timed(3.0, IMAGES) == chosen
    assert chosen.promise == ""


def renewed(
    made: Plan,
    *,
    train_seconds: float | None = 100.5,
    step_seconds: float = 1.0,
    batches: int = 500,
    batch_size: int | None = None,
    max_steps: int | None = None,
    validation_seconds: float = 0.0,
    gone: tuple[float, int] = (0.0, 0),
) -> tuple[float | None, list[str]]:
    """What a run of `made` expects, and what it tells of that.

    train_seconds: what training may take, validation included; None without a deadline. batches: of an epoch.
    batch_size: what fills them, if not given. gone: progress and steps of the run that is resumed.
    """
    told: list[str] = []
    clock, work = Clock(None, start=0.0, now=lambda: 0.0), Work(32)
    session = Session(
        Config(),
        cast(Any, None),
        clock,
        Ledger(clock.start),
        cast(Any, SimpleNamespace(note=told.append)),
        signals=cast(Any, None),
        outcome=Outcome(epochs=gone[1] / batches),
        folder=None,
        may_settle_threads=False,
        charge=lambda _: None,
    )
    session.plan, session.costs = made, Costs({work: step_seconds}, 0.0)
    session.pacer = Pacer([Stage(1.0, work)], session.costs.step, max_steps=max_steps)
    session.pacer.go_on(*gone, max_steps)
    session.trainee = cast(Any, SimpleNamespace(batch_size=batch_size or IMAGES // batches))
    session.training = cast(Any, SimpleNamespace(stream=SimpleNamespace(batches_per_epoch=batches)))
    if train_seconds is not None:
        clock.seconds = train_seconds + session.reserve()
    session.validator = cast(Any, SimpleNamespace(seconds_left=validation_seconds))
    session._renew_expectation()
    assert session.plan == made
    return session.outcome.expected_accuracy, told


MADE = plan(100, rungs=(LARGE,))


def after(epochs: float) -> tuple[Any, list[str]]:
    timed = MADE.timed(epochs, IMAGES)
    return pytest.approx(expectation(timed), abs=1e-9), [f"timed  {timed.promise}"]


def test_what_fits_by_the_steps_is_expected_and_told():
    assert renewed(MADE) == after(100 / 500)
    assert renewed(MADE, step_seconds=4.0) == after(25 / 500)


def test_what_reads_as_the_plan_did_is_not_told():
    assert MADE.epochs is not None
    expected, told = renewed(MADE, train_seconds=50 * MADE.epochs, step_seconds=0.01, batches=5000)
    assert (expected, told) == (pytest.approx(expectation(MADE), abs=1e-3), [])


def test_a_limit_that_the_plan_thought_out_of_reach_is_expected():
    assert MADE.epochs is not None
    assert MADE.epochs < 400 / 500
    assert renewed(MADE, step_seconds=0.01, max_steps=400) == after(400 / 500)


def test_epochs_are_of_the_batch_that_is_trained():
    assert renewed(MADE, batches=1000) == after(100 / 1000)


def test_an_epoch_leaves_out_what_does_not_fill_a_batch():
    told = MADE.timed(100 / 48, 48 * 1024).promise
    assert renewed(MADE, batches=48, batch_size=1024)[1] == [f"timed  {told}"]
    assert renewed(MADE, step_seconds=10.0, batches=48, batch_size=1024)[0] == pytest.approx(
        LARGE.expected(10 * 1024 * 3 * LARGE.forward_flops * (24**2 + 32**2) / (2 * 32**2))
    )


def test_the_seconds_of_validation_train_nothing():
    assert renewed(MADE, validation_seconds=50 / EVALUATION_MARGIN) == after(50 / 500)


def test_a_resumed_run_expects_what_it_has_trained_too():
    assert renewed(MADE, gone=(0.5, 150)) == after(150 / 500 + 100 / 500)
    assert renewed(MADE, gone=(0.5, 150), max_steps=200) == after(200 / 500)
    assert renewed(MADE, gone=(1.0, 150)) == after(150 / 500)


def test_without_a_deadline_a_run_expects_what_its_target_did():
    assert renewed(replace(MADE, expected_accuracy=0.8), train_seconds=None) == (0.8, [])
