"""The command line, made from the fields of the config. Heavy modules are imported where they are used."""

import argparse
import json
import sys
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from speedrun import config as configs
from speedrun.config import Config
from speedrun.errors import SpeedrunError, UsageError
from speedrun.signals import Interrupted

COMMANDS = {
    "fetch": "download the dataset and check it",
    "recipes": "list the recipes",
}


class Parser(argparse.ArgumentParser):
    """Raises UsageError with one line where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0]
            close = get_close_matches(word, [*self._option_string_actions, *COMMANDS], n=1)
            message = f"unknown argument {word}" + (f"; did you mean {close[0]}?" if close else "")
        raise UsageError(message)


def parser() -> Parser:
    """The parser of the main job; a value is text here and is checked by the config."""
    commands = "\n".join(f"  {name:10} {help}" for name, help in COMMANDS.items())
    result = Parser(
        prog="python -m speedrun",
        description="Train, from scratch, the most accurate CIFAR-10 classifier that fits the seconds given.",
        epilog=f"other commands (python -m speedrun COMMAND --help):\n{commands}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for spec in fields(Config):
        if not spec.metadata.get("flag"):
            continue
        flag = f"--{spec.name.replace('_', '-')}"
        help = spec.metadata["help"]
        if spec.type is bool:
            result.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=help)
            continue
        choices = spec.metadata["choices"]
        metavar = spec.metadata["metavar"] or ("|".join(choices) if choices else spec.name.upper())
        if spec.default is not None:
            help += f" (default {spec.default})"
        result.add_argument(flag, metavar=metavar, default=argparse.SUPPRESS, help=help.replace("%", "%%"))
    result.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="set any field of the config")
    result.add_argument("--config", type=Path, metavar="FILE", help="repeat a saved run; flags still change it")
    return result


def parse(argv: list[str]) -> Config:
    """The config that a command line asks for: the recipe or the saved config, then flags, then --set."""
    from speedrun import recipes

    given = vars(parser().parse_args(argv))
    assignments: list[str] = given.pop("set")
    saved: Path | None = given.pop("config")
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set takes FIELD=VALUE, not {assignment!r}")
        given[name] = value
    if saved is None:
        return configs.override(recipes.get(given.get("recipe", Config().recipe)), given)
    base = configs.load(saved)
    recipes.get(base.recipe)  # refuses an unknown name
    if given.get("recipe", base.recipe) != base.recipe:
        raise UsageError(f"{saved} is a run of recipe {base.recipe}: leave out --config to run another")
    return configs.override(base, given)


def main(argv: list[str], start: float, *, guard_exit: bool = False) -> int:
    """Run a command; returns the exit code. start: when the process started, on `time.monotonic`'s scale.

    guard_exit: leave the watchdog on until the process ends; for a caller that ends it right away.
    """
    try:
        if argv and argv[0] == "recipes":
            return _recipes(argv[1:])
        if argv and argv[0] == "fetch":
            return _fetch(argv[1:])
        return _train(parse(argv), start, guard_exit)
    except SpeedrunError as error:
        sys.stderr.write(f"speedrun: {error}\n")
        return error.exit_code
    except (KeyboardInterrupt, Interrupted):
        return 130


def _train(config: Config, start: float, guard_exit: bool) -> int:
    from speedrun.watchdog import Watchdog

    watchdog = None if config.budget is None else Watchdog.for_budget(start, config.budget)
    from speedrun import run, screen

    try:
        with screen.make("quiet" if config.quiet else "json" if config.json else "auto") as view:
            results = run.run_all(config, start=start, screen=view, watchdog=watchdog)
        if config.json:
            for result in results:
                print(json.dumps(result.record))
        return results[-1].exit_code
    finally:
        if watchdog and not guard_exit:
            watchdog.stop()


def _recipes(argv: list[str]) -> int:
    from speedrun import recipes

    Parser(prog="python -m speedrun recipes", description="List the recipes.").parse_args(argv)
    for name in recipes.names():
        print(f"{name:20} {recipes.summary(name)}")
    return 0


def _fetch(argv: list[str]) -> int:
    from speedrun import data, fetch

    options = Parser(prog="python -m speedrun fetch", description="Download a dataset into the cache and check it.")
    options.add_argument("--dataset", default="cifar10", help="cifar10 or cifar100")
    options.add_argument("--data-dir", type=Path, metavar="DIR", help="folder to put it in (default: the user's cache)")
    given: dict[str, Any] = vars(options.parse_args(argv))
    with fetch.progress_bar() as progress:
        result = fetch.fetch(given["dataset"], given["data_dir"] or data.default_cache_dir(), progress=progress)
    print(f"{result.path}: {result.bytes:,} bytes fetched in {result.seconds:.1f} s, MD5 as published")
    return 0
