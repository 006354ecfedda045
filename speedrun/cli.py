"""The command line: the main job, and the jobs of `speedrun.jobs` by name. Heavy modules are imported where used."""

import importlib
import json
import sys

from speedrun import distributed, recipes
from speedrun.arguments import Parser, take_config
from speedrun.config import Config
from speedrun.errors import SpeedrunError
from speedrun.signals import Interrupted

# Each is a module of speedrun/jobs with `main(argv, start) -> exit code`.
COMMANDS = {
    "plan": "show what would be trained, without training",
    "fetch": "download the dataset and check it",
    "recipes": "list the recipes",
    "describe": "show the layers of a net",
    "predict": "label images with a trained net",
    "ensemble": "train several nets and average their probabilities",
    "search": "search rates and nets at random",
    "doctor": "say what is here, and what each lack costs",
    "ablate": "measure what each part of a recipe is worth",
    "plot": "draw the picture of a run or a job",
    "export": "write a trained net as safetensors",
    "track": "send runs and jobs to Weights & Biases",
}
# Those that the ranks of a launcher share; the first does the others alone.
SHARED = ("ensemble", "search", "ablate")


def parser() -> Parser:
    """The parser of the main job."""
    commands = "\n".join(f"  {name:10} {help}" for name, help in COMMANDS.items())
    result = Parser(
        prog="python -m speedrun",
        description="Train, from scratch, the most accurate CIFAR-10 classifier that fits the seconds given.",
        epilog=f"other commands (python -m speedrun COMMAND --help):\n{commands}",
        commands=list(COMMANDS),
    )
    result.add_config()
    result.add_fields(["resume"])
    return result


def parse(argv: list[str]) -> Config:
    """The config that the main job's command line asks for. Raises UsageError."""
    return take_config(vars(parser().parse_args(argv)))


def main(argv: list[str], start: float, *, guard_exit: bool = False) -> int:
    """Run a command; returns the exit code. start: when the process started, on `time.monotonic`'s scale.

    guard_exit: leave the watchdog on until the process ends; for a caller that ends it right away.
    """
    try:
        world = distributed.here()
    except SpeedrunError as error:
        sys.stderr.write(f"speedrun: {error}\n")
        return error.exit_code
    if not world.leads and {"-h", "--help"} & set(argv):
        return 0
    try:
        if argv and argv[0] in COMMANDS:
            return _command(argv[0], argv[1:], start)
        config = parse(argv)
        if job := recipes.job(config.recipe):
            return _command(job[0], [*job[1:], *argv], start)
        return _train(config, start, guard_exit)
    except SpeedrunError as error:
        if world.tells(str(error), error.exit_code):
            sys.stderr.write(f"speedrun: {'' if world.leads else f'rank {world.rank}: '}{error}\n")
        return error.exit_code
    except Interrupted as signal:
        world.tells("", signal.exit_code)
        return signal.exit_code
    except KeyboardInterrupt:
        world.tells("", 130)
        return 130
    except BaseException:  # a fault of ours: the others must not wait for this rank
        world.tells("", 1)
        raise
    finally:
        world.leave()


def _command(name: str, argv: list[str], start: float) -> int:
    if name not in SHARED and not distributed.here().leads:
        return 0
    return importlib.import_module(f"speedrun.jobs.{name}").main(argv, start)


def _train(config: Config, start: float, guard_exit: bool) -> int:
    from speedrun.watchdog import Watchdog

    watchdog = None if config.budget is None else Watchdog.for_budget(start, config.budget)
    from speedrun import run, screen

    try:
        leads = distributed.here().leads
        mode = "quiet" if config.quiet else "json" if config.json else "auto"
        with screen.make(mode if leads else "silent") as view:
            results = run.run_all(config, start=start, screen=view, watchdog=watchdog)
        if config.json and leads:
            for result in results:
                print(json.dumps(result.record))
        return results[-1].exit_code
    finally:
        if watchdog and not guard_exit:
            watchdog.stop()
