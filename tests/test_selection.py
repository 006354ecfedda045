"""The stages of a run: every point of it has its size, and whether images are picked there."""

import pytest

from speedrun.selection import SelectConfig, Stage, Work, stages


def test_sizes_alone_have_equal_shares():
    assert stages((24, 32)) == (Stage(0.5, Work(24)), Stage(1.0, Work(32)))
    assert stages((24, 32), SelectConfig()) == stages((24, 32))


def test_images_are_picked_from_begin_to_end_at_any_size():
    found = stages((24, 28, 32), SelectConfig(share=0.5))
    assert [stage.work for stage in found] == [
        Work(24),
        Work(24, 2),
        Work(28, 2),
        Work(32, 2),
        Work(32),
    ]
    assert [stage.until for stage in found] == pytest.approx([0.2, 1 / 3, 2 / 3, 0.8, 1.0])


def test_a_run_may_pick_to_the_end_and_an_edge_may_fall_on_that_of_a_size():
    select = SelectConfig(share=0.25, begin=0.5, end=1.0)
    assert stages((24, 32), select) == (Stage(0.5, Work(24)), Stage(1.0, Work(32, 4)))
    whole = SelectConfig(share=0.33, begin=0.0, end=1.0)
    assert stages((32,), whole) == (Stage(1.0, Work(32, 3)),)
    assert whole.mean_batches == 3


def test_the_images_that_a_run_draws_are_counted():
    assert SelectConfig().mean_batches == 1
    assert SelectConfig(share=0.5, begin=0.2, end=0.8).mean_batches == pytest.approx(1.6)
