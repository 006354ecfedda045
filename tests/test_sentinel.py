"""The judgement of signs of life, on a clock of the test's own."""

from speedrun.sentinel import LOST_SECONDS, Watch


def judged(signs: list[dict[int, str]], stall_seconds: float | None = 4.0) -> list[str]:
    """The verdicts on signs that come a second apart."""
    watch = Watch(0.0)
    return [watch.judge(found, float(now), stall_seconds) for now, found in enumerate(signs)]


def test_ranks_that_go_on_are_let_be():
    assert set(judged([{0: f"{beat} {beat} 0", 1: f"{beat} {beat} 0"} for beat in range(20)])) == {""}


def test_a_rank_without_a_sign_is_lost():
    verdicts = judged([{0: f"{beat} 5 0", 1: f"{min(beat, 3)} 5 0"} for beat in range(12)])
    assert verdicts.index(f"rank 1 is lost: no sign of life for {LOST_SECONDS:g} s") == 3 + LOST_SECONDS


def test_the_rank_that_the_others_wait_for_is_named():
    verdicts = judged([{0: f"{beat} 8 0", 1: f"{beat} {min(beat, 7)} 0", 2: f"{beat} 8 0"} for beat in range(20)])
    assert next(filter(None, verdicts)) == "rank 1 is stalled: the others have waited for 4 s"
    assert verdicts.index("rank 1 is stalled: the others have waited for 4 s") == 11


def test_several_are_named_together():
    signs = [{0: f"{beat} 8 0", 1: f"{beat} 7 0", 2: f"{beat} 7 0"} for beat in range(20)]
    assert "ranks 1, 2 are stalled: the others have waited for 4 s" in judged(signs)


def test_all_that_stand_still_are_told():
    """As where a GPU's collective hangs: no host is behind another."""
    verdicts = judged([{0: f"{beat} {min(beat, 5)} 0", 1: f"{beat} {min(beat, 5)} 0"} for beat in range(12)])
    assert verdicts.index("no rank has moved for 4 s") == 5 + 4


def test_a_rank_that_evaluates_goes_on():
    assert set(judged([{0: f"{beat} 5 {beat}", 1: f"{beat} 5 1"} for beat in range(20)])) == {""}


def test_ranks_that_work_apart_may_be_behind():
    signs = [{0: f"{beat} 8 0", 1: f"{beat} 1 0"} for beat in range(20)]
    assert set(judged(signs, stall_seconds=None)) == {""}


def test_a_rank_that_has_left_is_not_missed():
    assert set(judged([{0: f"{beat} 8 0", 1: "left"} for beat in range(20)])) == {""}


def test_who_was_held_up_himself_judges_nobody():
    """A machine that was asleep: the others' signs are old because nobody listened."""
    watch = Watch(0.0)
    assert watch.judge({1: "4 4 0"}, 0.0, 4.0) == ""
    assert watch.judge({1: "4 4 0"}, 100.0, 4.0) == ""
    assert watch.judge({1: "4 4 0"}, 101.0, 4.0) == ""
