"""Runs, from a config to files on disk: one, or several one after the other or dealt out to ranks."""

import math
import time
from dataclasses import replace

from speedrun import data, distributed, recipes
from speedrun import folder as folders
from speedrun import screen as screens
from speedrun.background import Background
from speedrun.clock import Clock, Ledger
from speedrun.config import Config
from speedrun.distributed import World
from speedrun.errors import SpeedrunError, UsageError
from speedrun.launch import Launch, Result
from speedrun.signals import Interrupted, Signals
from speedrun.watchdog import Watchdog

__all__ = ["Result", "run_all", "train"]


def train(config: Config | None = None) -> Result:
    """Train by a config and return the result; the seconds count from this call.

    Raises UsageError or another SpeedrunError with one readable line. With `runs` above 1 the last result is returned.
    Sets torch's thread count and cuDNN's benchmark mode for the process. No watchdog guards the caller's process.
    Under torchrun a process trains once.
    """
    config = config or recipes.get("speednet")
    recipes.get(config.recipe)  # refuses an unknown name
    mode, world = "quiet" if config.quiet or config.json else "auto", distributed.here()
    if world.joined:
        raise UsageError("under torchrun a process trains once: start another for the next training")
    try:
        with screens.make(mode if world.leads else "silent") as screen:
            return run_all(config, start=time.monotonic(), screen=screen)[-1]
    except BaseException as error:  # the others must not wait for this rank
        world.tells("", getattr(error, "exit_code", 1))
        raise
    finally:
        world.leave()


def run_all(config: Config, *, start: float, screen: screens.Screen, watchdog: Watchdog | None = None) -> list[Result]:
    """All runs of a config, each with its own seed, seconds and folder; the first counts from `start`.

    A later run is charged what the first spent on starting, on reading the data and on compiling. The ranks of a
    launcher take one run together, or of several runs whole ones, each the next when it is free.
    """
    world = distributed.here()
    together, apart = (world, World()) if config.runs == 1 else (World(), world)
    with Signals() as signals, world.in_company(signals):
        clock, ledger = Clock(config.budget, start=start), Ledger(start)
        try:
            world.join()
            launch = Launch(config, screen, signals, watchdog, clock, ledger, world=together, peers=world)
            launch.count_from_the_first()
            launch.take_up()
        except Interrupted:  # there is as much to resume as before
            world.stop(signals.exit_code)
            return [Result({}, None, signals.exit_code)]
        config = launch.config
        loading = Background(launch.load)
        if apart.size > 1:
            apart.refuse_restart("a job of many runs")
            launch.out = apart.decide(lambda: folders.name(config))
            launch.receive(loading)
        results = _results(launch, apart, loading)
    accuracies = [result.accuracy for result in results if result.accuracy is not None]
    if config.runs > 1 and accuracies:
        screen.runs_summary(accuracies)
    return results


def _results(launch: Launch, apart: World, loading: Background[data.Dataset]) -> list[Result]:
    """The results of all runs, in order; an error that ended them is raised where there is none."""
    own: dict[int, Result] = {}
    problem: SpeedrunError | None = None
    first = launch.clock
    for number in apart.queue(launch.config.runs):
        try:
            own[number] = launch.run(number, loading)
        except SpeedrunError as error:
            problem = error
        if problem or own[number].exit_code:
            apart.close_queue()
            break
    if apart.size > 1:
        launch.outlast(first, math.ceil(launch.config.runs / apart.size))
    found = {number: result for part in apart.gather(own) for number, result in part.items()}
    results = [found[number] for number in sorted(found)]
    problem = next(filter(None, apart.gather(problem)), None)
    if problem is not None:
        if not results:
            raise problem
        launch.screen.warn(str(problem))  # what is finished is still told
        results[-1] = replace(results[-1], exit_code=problem.exit_code)
    return results
