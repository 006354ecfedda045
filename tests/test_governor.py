"""The governor of threads: when it halves them and when it tries all again."""

from itertools import pairwise

from speedrun.governor import FIRST_PATIENCE, Governor


def threads_while(governor: Governor, busy: range, steps: int) -> list[int]:
    """Threads step by step, while another process holds a core during `busy`: all threads stall, half take double."""
    used = []
    threads = governor.all
    for step in range(steps):
        used.append(threads)
        slowdown = (50.0 if threads == governor.all else 2.0) if step in busy else governor.all / threads
        threads = governor.observe(slowdown)
    return used


def test_alone_it_keeps_all_threads():
    assert threads_while(Governor(2), range(0), 50) == [2] * 50


def test_W3_a_stalled_step_halves_them_at_once_and_they_come_back_when_the_core_is_free():
    used = threads_while(Governor(2), range(10, 15), 60)
    assert used[:11] == [2] * 11
    assert used[11 : 11 + FIRST_PATIENCE] == [1] * FIRST_PATIENCE
    assert used[11 + FIRST_PATIENCE :] == [2] * (60 - 11 - FIRST_PATIENCE)


def test_it_tries_less_and_less_often_while_the_other_process_stays():
    used = threads_while(Governor(4), range(0, 10_000), 2000)
    tries = [step for step, threads in enumerate(used) if threads == 4]
    assert len(tries) < 10
    waits = [later - earlier for earlier, later in pairwise(tries)]
    assert all(later >= 1.9 * earlier for earlier, later in pairwise(waits))


def test_one_hiccup_costs_a_few_steps_with_half():
    used = threads_while(Governor(2), range(20, 21), 100)
    assert used.count(1) == FIRST_PATIENCE
    assert used[-1] == 2


def test_a_single_thread_stays_one():
    assert threads_while(Governor(1), range(0, 50), 50) == [1] * 50
