"""Recipes: a net and a method, each a file of this folder. Adding one = adding a file.

A file has `SUMMARY`, one line, and `CONFIG`, whose field `recipe` is its name. One that remakes a published system has
`PUBLISHED` as well, the settings of the original: they run as the recipe NAME-published. One with `TIERS`, configs by
the percent that they aim at, has the recipes NAME-PERCENT too.

A file may also have `SPACE`, what `search` varies (texts of `speedrun.space` by field; without it the rate), and `JOB`,
the words of the command by which the recipe runs, such as `("ensemble", "--members=10")`.
"""

import importlib
import pkgutil
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from types import ModuleType
from typing import Any

from speedrun.config import Config
from speedrun.errors import UsageError

_PUBLISHED = "-published"


def names() -> list[str]:
    """Names of all recipes, as the command line takes them."""
    return sorted(_configs())


def get(name: str) -> Config:
    """The config of a recipe. Raises UsageError for an unknown name."""
    _known(name)
    return _configs()[name]


def summary(name: str) -> str:
    """One line about a recipe. Raises UsageError for an unknown name."""
    _known(name)
    if name.endswith(_PUBLISHED):
        return f"{name.removesuffix(_PUBLISHED)} with its published epochs, batch and rate"
    base, _, percent = name.rpartition("-")
    if base in _modules() and percent in getattr(_modules()[base], "TIERS", {}):
        return f"{base} of a fixed size and length that aims at {percent} %"
    return _modules()[name].SUMMARY


def space(name: str) -> dict[str, str]:
    """The recipe's search space: texts of `speedrun.space` by field."""
    return _extra(name, "SPACE", {"optim.lr": "log:0.01..1"})


def job(name: str) -> tuple[str, ...]:
    """The words of the command by which the recipe runs; none for a single run."""
    return _extra(name, "JOB", ())


def _extra(name: str, what: str, otherwise: Any) -> Any:
    _known(name)
    return getattr(_modules().get(name.removesuffix(_PUBLISHED)), what, otherwise)


def _known(name: str) -> None:
    if name not in _configs():
        close = get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names())}"
        raise UsageError(f"unknown recipe {name!r}; {hint}")


@cache
def _modules() -> dict[str, ModuleType]:
    modules = (
        importlib.import_module(f"{__name__}.{item.name}")
        for item in pkgutil.iter_modules(__path__)
        if item.name[0] != "_"
    )
    return {module.CONFIG.recipe: module for module in modules}


@cache
def _configs() -> dict[str, Config]:
    configs = {name: module.CONFIG for name, module in _modules().items()}
    for name, module in _modules().items():
        if hasattr(module, "PUBLISHED"):
            configs[name + _PUBLISHED] = replace(module.PUBLISHED, recipe=name + _PUBLISHED)
        for percent, config in getattr(module, "TIERS", {}).items():
            configs[f"{name}-{percent}"] = replace(config, recipe=f"{name}-{percent}")
    return configs
