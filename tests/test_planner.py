"""The planner on its own table and on made-up ones."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from speedrun import config as configs
from speedrun import models, planner
from speedrun.config import Config, ModelConfig
from speedrun.errors import UsageError
from speedrun.planner import Plan, Point, Rung, choose, table

PROBE = 1e11  # operations a second


def rung(widths: tuple[int, int, int], *points: tuple[float, float], **changes: Any) -> Rung:
    values: dict[str, Any] = {
        "widths": widths,
        "depth": 2,
        "resolutions": (24, 32),
        "batch_size": 500,
        "cutout": 8,
        "lr": 0.2,
        "speed": 1.0,
        "forward_flops": 1e6,
        "measured": True,
        "source": f"measured on {widths[0]}",
    }
    return Rung(**{**values, **changes}, points=tuple(Point(*point) for point in points))


SMALL = rung((8, 8, 8), (1e11, 0.60), (1e12, 0.80))
LARGE = rung((64, 256, 256), (1e12, 0.70), (1e13, 0.94), forward_flops=1e8, lr=0.1)
RUNGS = (SMALL, LARGE)


def plan(seconds: float | None, config: Config | None = None, rungs: Sequence[Rung] | None = RUNGS, **changes: Any):
    machine: dict[str, Any] = {
        "device": "cpu",
        "probe_flops": PROBE,
        "image_size": 32,
        "images": 50_000,
        "scored": 10_000,
    }
    return choose(config or Config(), seconds=seconds, rungs=rungs, **{**machine, **changes})


def expectation(chosen: Plan) -> float:
    assert chosen.expected_accuracy is not None
    return chosen.expected_accuracy


@pytest.mark.parametrize("rungs", [RUNGS, None], ids=["made-up", "package-data"])
@pytest.mark.parametrize("scored", [200, 10_000])
def test_more_seconds_never_lower_the_expectation(rungs: Sequence[Rung] | None, scored: int):
    seconds = [0.1 * 1.1**i for i in range(120)]
    expected = [expectation(plan(s, rungs=rungs, scored=scored)) for s in seconds]
    assert expected == sorted(expected)
    assert expected[-1] > expected[0] + 0.3


@pytest.mark.parametrize("rungs", [RUNGS, None], ids=["made-up", "package-data"])
def test_a_faster_machine_never_lowers_the_expectation(rungs: Sequence[Rung] | None):
    expected = [expectation(plan(60, rungs=rungs, probe_flops=10 ** (9 + i / 8))) for i in range(56)]
    assert expected == sorted(expected)


def test_the_net_whose_curve_is_highest_is_taken():
    assert plan(5).widths == SMALL.widths
    assert plan(1000).widths == LARGE.widths
    assert plan(5, probe_flops=200 * PROBE).widths == LARGE.widths


def test_the_cost_of_evaluating_counts():
    # 10 s make 1e12 operations; a view of 10,000 images by the large net takes 1e12 of them as well.
    tall = rung((64, 256, 256), (1e11, 0.70), (1e12, 0.99), forward_flops=1e8)
    assert plan(10, rungs=(SMALL, tall), scored=10_000).widths == SMALL.widths
    assert plan(10, rungs=(SMALL, tall), scored=1_000).widths == tall.widths


def test_views_are_dropped_where_they_do_not_fit():
    assert plan(10, rungs=(LARGE,), scored=8_000).tta == "none"
    assert plan(1000, rungs=(LARGE,)).tta == "full"


def test_where_not_even_evaluation_fits_there_is_still_a_plan():
    chosen = plan(0.1)
    assert (expectation(chosen), chosen.widths in (SMALL.widths, LARGE.widths)) == (0.0, True)


def test_a_slow_net_of_the_cpu_is_not_slow_elsewhere():
    slow = rung((64, 256, 256), (1e12, 0.70), (1e13, 0.94), speed=0.1)
    assert plan(60, rungs=(SMALL, slow)).widths == SMALL.widths
    assert plan(60, rungs=(SMALL, slow), device="cuda").widths == slow.widths


def test_without_a_deadline_it_is_the_standard_net_with_all_views():
    chosen = plan(None)
    assert (chosen.widths, chosen.tta, chosen.expected_accuracy) == ((64, 256, 256), "full", None)
    assert plan(None, rungs=None).widths == (64, 256, 256)


SET = {
    "model.widths": "16,32,48",
    "model.depth": "3",
    "resolutions": "20,28",
    "batch_size": "123",
    "augment.cutout": "5",
    "optim.lr": "0.07",
    "tta": "mirror",
    "uncertain_share": "0.5",
    "compile": "default",
}


@pytest.mark.parametrize("seconds", [5, 1000, None])
@pytest.mark.parametrize("name", SET)
def test_what_is_set_is_kept_and_the_rest_is_filled_in(name: str, seconds: float | None):
    asked = configs.override(Config(seed=7), {name: SET[name]})
    filled = plan(seconds, asked).apply(asked)
    kept, wanted = (configs.to_dict(whole) for whole in (filled, asked))
    for word in name.split("."):
        kept, wanted = kept[word], wanted[word]
    assert kept == wanted
    for open_choice in (filled.model.widths, filled.model.depth, filled.resolutions, filled.batch_size):
        assert open_choice is not None
    assert None not in (filled.augment.cutout, filled.optim.lr)
    assert "auto" not in (filled.tta, filled.compile)
    assert filled.seed == 7


def test_all_that_is_set_is_kept_at_once():
    asked = configs.override(Config(), SET)
    assert plan(60, asked).apply(asked) == asked


def test_nothing_is_expected_of_a_net_that_was_never_measured():
    chosen = plan(60, Config(model=ModelConfig(widths=(8, 8, 9))))
    assert (chosen.expected_accuracy, chosen.reason) == (None, "net as asked")


def test_a_repeated_plan_is_the_same_plan():
    first = plan(60)
    again = plan(30, first.apply(Config()))  # on another machine, say
    kept = ("widths", "depth", "resolutions", "batch_size", "cutout", "lr", "tta", "uncertain_share", "compile")
    assert [getattr(again, name) for name in kept] == [getattr(first, name) for name in kept]


def test_further_views_are_for_the_least_certain_unless_views_were_asked_for():
    assert plan(1000).uncertain_share == planner.UNCERTAIN_SHARE
    assert plan(1000, Config(tta="full")).uncertain_share == 1.0


def test_a_batch_is_never_larger_than_the_set():
    assert plan(60, images=300).batch_size == 300
    assert plan(60, Config(batch_size=1000), images=300).batch_size == 300


def test_sizes_follow_the_images():
    chosen = plan(60, image_size=16)
    assert (chosen.resolutions, chosen.cutout) == ((12, 16), 4)
    assert min(plan(60, image_size=9, rungs=None).resolutions) == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolutions": "12,20"}, "resolutions 12,20 are more than the images' 16 pixels"),
        ({"augment.cutout": "17"}, "augment.cutout 17 is more than the images' 16 pixels"),
        ({"augment.translate": "10"}, "augment.translate 10 does not fit images of 10 pixels"),
    ],
)
def test_what_the_images_cannot_give_is_refused(changes: dict[str, str], message: str):
    with pytest.raises(UsageError) as caught:
        plan(60, configs.override(Config(), changes), image_size=10 if "translate" in message else 16)
    assert str(caught.value) == message


def test_compiling_is_for_gpus_with_time():
    assert plan(600, device="cuda").compile != "off"
    assert [plan(60, device="cuda").compile, plan(600, device="cpu").compile] == ["off", "off"]


@pytest.mark.parametrize("one", [SMALL, LARGE])
def test_a_curve_goes_through_its_points_and_rises(one: Rung):
    assert [one.expected(point.flops) for point in one.points] == pytest.approx([p.accuracy for p in one.points])
    curve = [one.expected(10 ** (9 + i / 20)) for i in range(120)]
    assert curve == sorted(curve)
    assert curve[-1] == one.points[-1].accuracy  # nothing is promised beyond what was measured
    middle = math.sqrt(one.points[0].flops * one.points[1].flops)
    errors = [1 - point.accuracy for point in one.points]
    assert 1 - one.expected(middle) == pytest.approx(math.sqrt(errors[0] * errors[1]))


def test_a_single_point_promises_less_below_it():
    single = rung((8, 8, 8), (1e12, 0.8))
    assert [single.expected(flops) for flops in (2e12, 1e12, 5e11)] == [0.8, 0.8, 0.4]


def test_a_plan_says_what_and_why():
    what, why = plan(60).lines()
    assert what.startswith("plan  widths 64/256/256, depth 2, batch 500, 24,32 pixels, cutout 8; about ")
    assert why.startswith("why  ")
    assert "measured on 64" in why


def test_the_table_of_the_package_is_sound():
    rungs = table()
    assert any(one.widths == (64, 256, 256) for one in rungs)
    for one in rungs:
        accuracies = [point.accuracy for point in one.points]
        assert accuracies == sorted(accuracies)
        assert all(0.1 < accuracy < 1 for accuracy in accuracies)
        assert all(low.flops < high.flops for low, high in zip(one.points, one.points[1:], strict=False))
        assert one.speed > 0
        assert one.source
        net = models.build(ModelConfig(widths=one.widths, depth=one.depth), classes=10)
        assert models.forward_flops(net, one.resolutions[-1]) == one.forward_flops
