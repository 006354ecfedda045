"""Trainings dealt out: one after the other in one process, and to several ranks each the next one when it is free."""

from collections.abc import Callable

from speedrun.distributed import World
from speedrun.errors import SpeedrunError
from speedrun.signals import Interrupted
from speedrun.trial import Trial


def deal(
    world: World, trials: list[Trial], count: int, take: Callable[[int], bool], tell: Callable[[Trial], None]
) -> None:
    """Call `take` with the numbers below `count`, in order, until it says False: that it is enough.

    trials: what it adds to; at the end those of all ranks are there, in the order of their numbers. tell: called with
    each of another rank's. An error or a signal that ends it on one rank is raised on all, once they have come
    together.
    """
    before, ending = len(trials), None
    numbers: list[int] = []  # of each training since
    for number in world.queue(count):
        try:
            go_on = take(number)
        except (SpeedrunError, Interrupted) as error:
            if world.size == 1:
                raise
            go_on, ending = False, error
        numbers += [number] * (len(trials) - before - len(numbers))
        if not go_on:
            world.close_queue()
            break
    if world.size == 1:
        return
    found = world.gather((list(zip(numbers, trials[before:], strict=True)), ending))
    for rank, (trained, _) in enumerate(found):
        for _, trial in trained if rank != world.rank else ():
            tell(trial)
    pairs = sorted((pair for trained, _ in found for pair in trained), key=lambda pair: pair[0])
    trials[before:] = [trial for _, trial in pairs]
    for _, reason in found:
        if reason is not None:
            raise reason
