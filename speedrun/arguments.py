"""Command lines made from the fields of the config: what the main job and every other job have in common."""

import argparse
from collections.abc import Collection, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from speedrun import config as configs
from speedrun.config import Config
from speedrun.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Raises UsageError with one line where argparse would print its usage and exit.

    commands: words that an unknown one may have been meant to be, besides the options.
    """

    def __init__(self, prog: str, description: str, *, epilog: str = "", commands: Sequence[str] = ()) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._commands = commands

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0]
            close = get_close_matches(word, [*self._option_string_actions, *self._commands], n=1)
            message = f"unknown argument {word}" + (f"; did you mean {close[0]}?" if close else "")
        raise UsageError(message)

    def add_config(self) -> None:
        """Add the flags of the config, `--set` and `--config`. A value is text here and is checked by the config."""
        self.add_fields([spec.name for spec in fields(Config) if spec.metadata.get("flag")])
        self.add_saved()

    def add_saved(self) -> None:
        """Add `--set` and `--config`."""
        self.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="set any config field")
        self.add_argument("--config", type=Path, metavar="FILE", help="repeat a saved run; flags still change it")

    def add_fields(self, names: Collection[str]) -> None:
        """Add the flags of some fields of the config."""
        for spec in fields(Config):
            if spec.name not in names:
                continue
            flag = f"--{spec.name.replace('_', '-')}"
            help = spec.metadata["help"]
            if spec.type is bool:
                self.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=help)
                continue
            choices = spec.metadata["choices"]
            metavar = spec.metadata["metavar"] or ("|".join(choices) if choices else spec.name.upper())
            if spec.default is not None:
                help += f" (default {spec.default})"
            self.add_argument(flag, metavar=metavar, default=argparse.SUPPRESS, help=help.replace("%", "%%"))


def assigned(assignments: Sequence[str]) -> dict[str, str]:
    """What several FIELD=VALUE say, the last of a field. Raises UsageError where a text is none."""
    settings = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set takes FIELD=VALUE, not {assignment!r}")
        settings[name] = value
    return settings


def take_config(given: dict[str, Any], recipe: str | None = None) -> Config:
    """The config that parsed arguments ask for: the recipe or the saved config, then flags, then --set.

    given: `vars` of what a parser with `add_config` returned; everything of the config is taken out of it.
    recipe: where none is named, the config's own default if None.
    Raises UsageError.
    """
    from speedrun import recipes

    settings = assigned(given.pop("set"))
    saved: Path | None = given.pop("config")
    flags = {spec.name: given.pop(spec.name) for spec in fields(Config) if spec.name in given}
    flags |= settings
    if saved is None:
        return configs.override(recipes.get(flags.get("recipe", recipe or Config().recipe)), flags)
    base = configs.load(saved)
    recipes.get(base.recipe)  # refuses an unknown name
    if flags.get("recipe", base.recipe) != base.recipe:
        raise UsageError(f"{saved} is a run of recipe {base.recipe}: leave out --config to run another")
    return configs.override(base, flags)
