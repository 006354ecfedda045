"""The planner on its own table and on made-up ones."""

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from planning import GUESS, LARGE, PROBE, RUNGS, SMALL, expectation, plan, rung, situation, widths
from processes import one_line, run

from speedrun import compilation, models, planner, recipes
from speedrun import config as configs
from speedrun.clock import Clock, Ledger
from speedrun.config import Config, ModelConfig, SelectConfig
from speedrun.errors import UsageError
from speedrun.outcome import Outcome
from speedrun.planner import Situation, seconds_for
from speedrun.rungs import Rung, choices, table
from speedrun.session import Session


@pytest.mark.parametrize("rungs", [RUNGS, None], ids=["made-up", "package-data"])
@pytest.mark.parametrize("scored", [200, 10_000])
def test_more_seconds_never_lower_the_expectation(rungs: Sequence[Rung] | None, scored: int):
    seconds = [0.1 * 1.1**i for i in range(120)]
    expected = [expectation(plan(s, rungs=rungs, scored=scored)) for s in seconds]
    assert expected == sorted(expected)
    assert expected[-1] > expected[0] + 0.3


@pytest.mark.parametrize("rungs", [RUNGS, None], ids=["made-up", "package-data"])
def test_a_faster_machine_never_lowers_the_expectation(rungs: Sequence[Rung] | None):
    expected = [expectation(plan(60, rungs=rungs, flops_per_second=10 ** (9 + i / 8))) for i in range(56)]
    assert expected == sorted(expected)


def test_the_net_whose_curve_is_highest_is_taken():
    assert widths(plan(5)) == (8, 8, 8)
    assert widths(plan(1000)) == (64, 256, 256)
    assert widths(plan(5, flops_per_second=200 * PROBE)) == (64, 256, 256)


def test_the_cost_of_evaluating_counts():
    # 10 s make 1e12 operations; a view of 10,000 images by the large net takes 1e12 of them as well.
    tall = rung((64, 256, 256), (1e11, 0.70), (1e12, 0.99), forward_flops=1e8)
    assert widths(plan(10, rungs=(SMALL, tall), scored=10_000)) == (8, 8, 8)
    assert widths(plan(10, rungs=(SMALL, tall), scored=1_000)) == (64, 256, 256)


def test_views_are_dropped_where_they_do_not_fit():
    assert plan(10, rungs=(LARGE,), scored=8_000).tta == "none"
    assert plan(1000, rungs=(LARGE,)).tta == "full"


def test_where_not_even_evaluation_fits_there_is_still_a_plan():
    chosen = plan(0.1)
    assert expectation(chosen) == 0.0


def test_a_slow_net_of_the_cpu_is_not_slow_elsewhere():
    slow = rung((64, 256, 256), (1e12, 0.70), (1e13, 0.94), speed=0.1)
    assert widths(plan(60, rungs=(SMALL, slow))) == (8, 8, 8)
    assert widths(plan(60, rungs=(SMALL, slow), device="cuda")) == (64, 256, 256)


def test_without_a_deadline_it_is_the_widest_measured_net_with_all_views():
    chosen = plan(None)
    assert (widths(chosen), chosen.tta, chosen.expected_accuracy, chosen.epochs) == ((64, 256, 256), "full", None, None)
    chosen = plan(None, rungs=None)
    assert (widths(chosen), chosen.dials["model.depth"]) == ((64, 256, 256), 2)  # of two as wide, the cheaper
    assert widths(plan(None, rungs=(*RUNGS, GUESS))) == (64, 256, 256)


def test_without_a_deadline_a_net_for_gpus_is_not_the_default_though_it_was_measured():
    large = replace(GUESS, measured=True)
    assert widths(plan(None, rungs=(*RUNGS, large))) == (64, 256, 256)
    chosen = plan(None, Config(model=ModelConfig(widths=(256, 512, 512))), rungs=(*RUNGS, large))
    assert chosen.reason.startswith("no deadline: the widest net; ")


def test_past_the_end_of_a_curve_a_plan_is_of_the_most_training():
    curve = rung((64, 256, 256), (1e12, 0.70), (1e13, 0.94), forward_flops=1e8)
    here = {"device": "cuda", "flops_per_second": 1e14}
    assert plan(60.0, rungs=(curve,), **here).dials["compile"] == "captured"
    # One epoch is over before anything is compiled.
    assert plan(60.0, Config(epochs=1.0), rungs=(curve,), **here).dials["compile"] == "off"


@pytest.mark.parametrize("changes", [{"model.widths": "8,8,9"}, {"optim.momentum": "0.7"}])
def test_without_a_deadline_what_the_table_does_not_know_gets_the_dials_of_a_measured_net(changes: dict[str, str]):
    chosen = plan(None, configs.override(Config(), changes), rungs=(*RUNGS, GUESS))
    assert chosen.dials["optim.lr"] == LARGE.dials["optim.lr"]


def test_without_a_deadline_a_net_that_was_only_guessed_at_can_be_asked_for():
    assert widths(plan(None, Config(model=ModelConfig(widths=(256, 512, 512))), rungs=(*RUNGS, GUESS)))[0] == 256


SET = {
    "model.widths": "16,32,48",
    "model.depth": "3",
    "resolutions": "20,28",
    "batch_size": "123",
    "augment.cutout": "5",
    "optim.lr": "0.07",
    "optim.momentum": "0.7",
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
    assert None not in (filled.augment.cutout, filled.optim.lr, filled.optim.momentum)
    assert "auto" not in (filled.tta, filled.compile)
    assert filled.seed == 7


def test_all_that_is_set_is_kept_at_once():
    asked = configs.override(Config(), SET)
    assert plan(60, asked).apply(asked) == asked


def test_nothing_is_expected_of_a_net_that_was_never_measured():
    chosen = plan(60, Config(model=ModelConfig(widths=(8, 8, 9))))
    assert (chosen.expected_accuracy, chosen.reason) == (None, "dials as asked, of which the table knows nothing")


def test_a_repeated_plan_is_the_same_plan():
    first = plan(60)
    again = plan(30, first.apply(Config()))  # on another machine, say
    assert again.dials == first.dials
    assert expectation(again) < expectation(first)  # the dials are the table's own, so it knows them


def test_further_views_are_for_the_least_certain_unless_views_were_asked_for():
    assert plan(1000).uncertain_share == planner.UNCERTAIN_SHARE
    assert plan(1000, Config(tta="full")).uncertain_share == 1.0


@pytest.mark.parametrize(
    ("tta", "share", "gain"),
    [
        ("full", None, 1.0),
        ("full", 0.25, 1.0),
        ("full", 0.05, 0.2),
        ("full", 0.0, 0.0),
        ("mirror", None, 0.0),  # of it alone nothing was measured
        ("none", None, 0.0),
    ],
)
def test_what_is_expected_counts_the_views_that_were_asked_for(tta: str, share: float | None, gain: float):
    found = expectation(plan(100, Config(tta=tta, uncertain_share=share), rungs=(SMALL,)))
    assert found == pytest.approx(0.8 - (1 - gain) * planner.VIEWS_GAIN)


def test_the_views_that_were_asked_for_take_their_time():
    few, all_of_them = (
        seconds_for(Config(tta="full", uncertain_share=share), situation(), 0.9, rungs=(LARGE,))
        for share in (0.25, 1.0)
    )
    assert few is not None
    assert all_of_them is not None
    view = 10_000 * LARGE.forward_flops / PROBE
    assert all_of_them - few == pytest.approx(5 * 0.75 * view, rel=0.05)


@pytest.mark.parametrize("limit", [{"epochs": "0.5"}, {"steps": "50"}])
def test_what_is_expected_is_of_the_steps_that_are_allowed(limit: dict[str, str]):
    limited = configs.override(Config(), limit)
    chosen = plan(1000, limited, rungs=(LARGE,))
    assert chosen.epochs == 0.5
    flops = 0.5 * 3 * 50_000 * LARGE.forward_flops * (24**2 + 32**2) / (2 * 32**2)
    assert expectation(chosen) == pytest.approx(LARGE.expected(flops))
    assert plan(40, limited, rungs=(LARGE,)) == plan(40, rungs=(LARGE,))
    assert seconds_for(limited, situation(), 0.93, rungs=(LARGE,)) is None


def test_a_batch_is_never_larger_than_the_set():
    assert plan(60, images=300).dials["batch_size"] == 300
    assert plan(60, Config(batch_size=1000), images=300).dials["batch_size"] == 300
    assert (
        "batch_size 1000 cut to 300, as many as 300 images give a step"
        in plan(60, Config(batch_size=1000), images=300).reason
    )
    assert "cut" not in plan(60, images=300).reason + plan(60, Config(batch_size=300), images=300).reason
    picking = Config(batch_size=1000, select=SelectConfig(share=0.33))
    assert plan(60, picking, images=300).dials["batch_size"] == 100


def test_sizes_follow_the_images():
    chosen = plan(60, image_size=16)
    assert (chosen.dials["resolutions"], chosen.dials["augment.cutout"]) == ((12, 16), 4)
    assert min(plan(60, image_size=9, rungs=None).dials["resolutions"]) == 9
    large = plan(None, image_size=320)
    assert large.apply(Config()).augment.cutout == large.dials["augment.cutout"] == 32  # no more can be asked for


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


def compile_mode(seconds: float, **changes: Any) -> str:
    rising = rung((64, 256, 256), (1e10, 0.1), (1e16, 0.98))  # what more operations would always improve
    return plan(seconds, rungs=(rising,), **changes).dials["compile"]


MODES = ["captured", "default", "max-autotune"]


def test_compiling_is_for_gpus_with_time():
    assert [compile_mode(seconds, device="cuda") for seconds in (60, 600, 9000)] == MODES
    assert compile_mode(5, device="cuda") == "off"
    assert {compile_mode(seconds) for seconds in (60, 600, 9000)} == {"off"}
    assert compile_mode(600, device="mps") == "off"


def test_what_cannot_be_captured_is_not_offered_so():
    found = compilation.modes("cuda", Config())
    assert found == ["off", "captured", "default", "max-autotune"]
    for name in ("mynet", "resnet4.9m"):  # dropout, AdamW
        assert compilation.modes("cuda", recipes.get(f"{name}-published")) == ["off", "default", "max-autotune"]
    assert compilation.modes("cuda", Config(compile="captured")) == ["captured"]


def test_compiled_code_in_the_cache_makes_compiling_pay_sooner():
    dials = plan(60, rungs=(LARGE,)).dials
    held, other = (compilation.code_name(model, dials, "default") for model in (ModelConfig(), ModelConfig("mynet")))
    assert compile_mode(120, device="cuda") == "captured"
    assert compile_mode(120, device="cuda", compiled=frozenset({held})) == "default"
    assert compile_mode(120, device="cuda", compiled=frozenset({held.replace("500", "501")})) == "captured"
    assert compile_mode(120, device="cuda", compiled=frozenset({other})) == "captured"


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
    assert what.startswith("plan  widths 64/256/256, depth 2, batch 500, 24,32 pixels, cutout 8, momentum 0.5, about ")
    assert what.endswith(" % expected")
    assert "about 170 epochs" in plan(2e4).lines()[0]
    assert ", depth 2/2/3, batch" in plan(60, configs.override(Config(), {"model.depth": "2,2,3"})).lines()[0]
    assert why.startswith("why  ")
    assert "measured on 64" in why


def test_the_table_of_the_package_is_sound():
    rungs = table()
    assert any(one.dials["model.widths"] == (64, 256, 256) for one in rungs)
    for one in rungs:
        accuracies = [point.accuracy for point in one.points]
        assert accuracies == sorted(accuracies)
        assert all(0.1 < accuracy < 1 for accuracy in accuracies)
        assert all(low.flops < high.flops for low, high in zip(one.points, one.points[1:], strict=False))
        assert one.speed > 0
        assert one.source
        filled = configs.override(Config(), dict(one.dials))
        assert all(configs.get(Config(), name) is None for name in one.dials)  # nobody's choice is overruled
        net = models.build(filled.model, classes=10)
        assert models.forward_flops(net, one.dials["resolutions"][-1]) == one.forward_flops


def test_what_is_set_narrows_the_choice_to_the_nets_that_agree():
    chosen = plan(5, Config(model=ModelConfig(widths=(64, 256, 256))))
    assert widths(chosen) == (64, 256, 256)
    assert chosen.dials["optim.lr"] == 0.1
    assert expectation(chosen) < expectation(plan(5))


@pytest.mark.parametrize("changes", [{"optim.momentum": "0.7"}, {"optim.lr": "0.3"}, {"batch_size": "123"}])
def test_a_net_that_is_set_has_its_own_dials_though_another_of_them_is_set_too(changes: dict[str, str]):
    large = replace(LARGE, dials={**LARGE.dials, "augment.cutout": 3})
    asked = configs.override(Config(), {"model.widths": "64,256,256", **changes})
    chosen = plan(5, asked, rungs=(SMALL, large))
    assert chosen.dials["augment.cutout"] == 3
    assert (chosen.epochs, chosen.expected_accuracy) == (None, None)


@pytest.mark.parametrize(
    "changes", [{"augment.translate": "4"}, {"normalise": "no"}, {"select.share": "0.5"}, {"validation.patience": "3"}]
)
def test_nothing_is_expected_where_what_is_learned_was_changed(changes: dict[str, str]):
    assert plan(60, configs.override(Config(), changes)).expected_accuracy is None


def test_of_a_resumed_run_what_it_has_trained_is_expected_too():
    def expected(seconds: float, trained: float) -> float:
        clock = Clock(seconds)
        ledger = Ledger(clock.start)
        ledger.charge("train", trained)
        session = Session(
            Config(),
            cast(Any, SimpleNamespace(situation=situation)),
            clock,
            ledger,
            screen=cast(Any, None),
            signals=cast(Any, None),
            outcome=(outcome := Outcome()),
            folder=None,
            may_settle_threads=False,
            charge=lambda _: None,
        )
        assert expectation(session.choose_plan()) == outcome.expected_accuracy
        return expectation(session.plan)

    assert expected(100, 500) == pytest.approx(expected(600, 0), abs=1e-4)
    assert expected(100, 500) > expected(100, 0) + 0.01


@pytest.mark.parametrize("accuracy", [0.7, 0.79, 0.85, 0.93])
@pytest.mark.parametrize("rungs", [RUNGS, None], ids=["made-up", "package-data"])
def test_the_seconds_of_a_target_are_the_fewest_that_promise_it(accuracy: float, rungs: Sequence[Rung] | None):
    seconds = seconds_for(Config(), situation(), accuracy, rungs=rungs)
    assert seconds is not None
    assert expectation(plan(seconds, rungs=rungs)) >= accuracy
    assert expectation(plan(0.99 * seconds, rungs=rungs)) < accuracy


@pytest.mark.parametrize("seconds", [20, 600, None])
def test_a_recipe_keeps_its_own_net_and_nothing_is_promised_of_it(seconds: float | None):
    asked = recipes.get("mynet")
    chosen = plan(seconds, asked, rungs=None, image_size=24)
    assert chosen.apply(asked).model == asked.model
    assert (chosen.expected_accuracy, chosen.epochs) == (None, None)
    assert chosen.dials["resolutions"] == (18, 21, 24)
    assert chosen.dials["augment.cutout"] == 0
    with pytest.raises(UsageError, match="a target needs"):
        seconds_for(asked, situation(), 0.5)


def test_a_recipes_own_net_gets_further_views_where_time_allows():
    asked, flops = recipes.get("mynet"), 8.6e7  # of a forward pass, times 10,000 images: 9 s at the probe's speed
    # A step, two more at the smallest resolution to time it, and all images once.
    least = (3 * 64 * (1 + 2 * (24 / 32) ** 2) + 10_000) * flops / PROBE
    assert planner.least_seconds(asked, situation()) == pytest.approx(least, rel=0.01)
    assert plan(20, asked, rungs=None).tta == "none"
    assert plan(2000, asked, rungs=None).tta == "full"


def test_a_recipes_own_net_gets_the_largest_batch_of_which_enough_steps_fit():
    asked = recipes.get("mynet")
    (own,) = choices(asked)
    for steps_of_128, size in ((399, 64), (401, 128), (799, 128), (801, 256), (10**6, 512)):
        flops = steps_of_128 * 128 * 3 * own.forward_flops
        assert own.dials_for(32, 50_000, flops)["batch_size"] == size
    sizes = [plan(seconds, asked, rungs=None).dials["batch_size"] for seconds in (30, 200, 2000, None)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (64, 512)
    assert plan(30, configs.override(asked, {"batch_size": "99"}), rungs=None).dials["batch_size"] == 99


def test_planning_a_recipe_imports_nothing_slow_and_draws_nothing():
    code = """
import sys, torch
from speedrun import planner, recipes
state = torch.get_rng_state()
planner.choose(recipes.get("mynet"), planner.Situation("cpu", 1e12), 60)
print("sympy" in sys.modules, torch.equal(torch.get_rng_state(), state))
"""
    assert one_line(run(["-c", code]).stdout) == "False True"


def test_a_target_above_the_table_has_no_seconds():
    assert seconds_for(Config(), situation(), 0.95, rungs=RUNGS) is None
    assert seconds_for(Config(), situation(), 0.93, rungs=(SMALL,)) is None
    highest, seconds = planner.reach(Config(), situation(), rungs=(SMALL,))
    assert highest == 0.8
    assert expectation(plan(seconds, rungs=(SMALL,))) == 0.8


def test_the_highest_accuracy_is_of_what_may_be_chosen():
    small = Config(model=ModelConfig(widths=(8, 8, 8)))
    assert planner.reach(small, situation(), rungs=RUNGS)[0] == 0.8
    assert planner.reach(replace(small, tta="none"), situation(), rungs=RUNGS)[0] == pytest.approx(0.792)
    assert seconds_for(small, situation(), 0.85, rungs=RUNGS) is None
    assert planner.reach(Config(), situation(), rungs=RUNGS)[0] == 0.94


def test_rounding_puts_no_target_out_of_reach():
    assert seconds_for(Config(), situation(), 0.94 + 1e-12, rungs=RUNGS) is not None


def test_a_low_target_takes_the_least_seconds_that_work():
    least = planner.least_seconds(Config(), situation(), RUNGS)
    assert seconds_for(Config(), situation(), 0.05, rungs=RUNGS) == least
    assert expectation(plan(least)) > 0


def test_the_least_seconds_are_of_a_net_that_may_be_chosen():
    large = Config(model=ModelConfig(widths=(64, 256, 256)))
    assert planner.least_seconds(large, situation(), RUNGS) == planner.least_seconds(Config(), situation(), (LARGE,))
    assert planner.least_seconds(large, situation(), RUNGS) > planner.least_seconds(Config(), situation(), RUNGS)


@pytest.mark.parametrize("changes", [{"known": False}, {"optim.momentum": "0.9"}, {"model.widths": "8,8,9"}])
def test_a_target_needs_what_the_table_knows(changes: dict[str, Any]):
    known = changes.pop("known", True)
    with pytest.raises(UsageError, match="a target needs CIFAR-10 and dials that the planner knows"):
        seconds_for(configs.override(Config(), changes), situation(known=known), 0.7, rungs=RUNGS)


def test_several_devices_train_more_in_the_same_seconds_and_are_not_captured():
    config = Config(device="cuda")
    one, four = (Situation("cuda", 1e12, devices=devices) for devices in (1, 4))
    rung = table()[0]
    assert four.speed(rung) == pytest.approx(4 * planner.PARALLEL_SHARE * one.speed(rung))
    assert planner.choose(config, four, 60.0).expected_accuracy > planner.choose(config, one, 60.0).expected_accuracy
    assert "captured" in compilation.modes("cuda", config)
    assert "captured" not in compilation.modes("cuda", config, 4)
