"""Recipes: a net and a method, each a file of this folder with `SUMMARY` and `CONFIG`. Adding one = adding a file."""

import importlib
import pkgutil
from difflib import get_close_matches
from types import ModuleType

from speedrun.config import Config
from speedrun.errors import UsageError


def names() -> list[str]:
    """Names of all recipes, as the command line takes them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def _module(name: str) -> ModuleType:
    if name not in names():
        close = get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names())}"
        raise UsageError(f"unknown recipe {name!r}; {hint}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def get(name: str) -> Config:
    """The config of a recipe. Raises UsageError for an unknown name."""
    return _module(name).CONFIG


def summary(name: str) -> str:
    """One line about a recipe."""
    return _module(name).SUMMARY
