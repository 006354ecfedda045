"""What a run sets aside for its end."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from speedrun import planner
from speedrun.calibrate import Costs
from speedrun.clock import Clock, Ledger
from speedrun.config import Config
from speedrun.outcome import Outcome
from speedrun.session import Session


def reserved(tta: str, share: float, view: float, slowdown: float = 1.0) -> float:
    """Seconds set aside, beside those that no view takes."""
    clock = Clock(60)
    session = Session(
        Config(),
        cast(Any, None),
        clock,
        Ledger(clock.start),
        screen=cast(Any, None),
        signals=cast(Any, None),
        outcome=Outcome(),
        folder=None,
        may_settle_threads=False,
        charge=lambda _: None,
    )
    session.plan = planner.Plan({"tta": tta, "uncertain_share": share}, None, None, "")
    session.pacer = cast(Any, SimpleNamespace(slowdown=slowdown))
    session.costs = Costs({}, view)
    with_views = session.reserve()
    session.costs = Costs({}, 0.0)
    return with_views - session.reserve()


def test_the_views_that_are_planned_are_paid_for():
    assert reserved("full", 1.0, view=2.0) == pytest.approx(1.1 * 6 * 2.0)
    assert reserved("full", 0.25, view=2.0, slowdown=3.0) == pytest.approx(1.1 * 2.25 * 2.0 * 3.0)


@pytest.mark.parametrize(("tta", "share"), [("none", 1.0), ("full", 0.01)])
def test_a_run_without_views_that_could_give_way_keeps_time_for_a_slower_machine(tta: str, share: float):
    assert reserved(tta, share, view=2.0) >= 1.4 * 2.0
