"""Dataclasses whose fields are options: documented, checked, and set from text and JSON by dotted name.

A field may be a group of further ones, a dataclass of the same sort. Standard library only.
"""

import types
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from speedrun.errors import UsageError

T = TypeVar("T")


def option(
    default: Any, help: str, *, flag: bool = False, choices: tuple[str, ...] = (), metavar: str | None = None
) -> Any:
    """A dataclass field with its one line of documentation; `flag` gives it a flag of its own on the command line."""
    return field(default=default, metadata={"help": help, "flag": flag, "choices": choices, "metavar": metavar})


class Checked:
    """Checks each field against its declared choices, then calls `check` for what one field alone cannot say."""

    def __post_init__(self) -> None:
        for spec in fields(self):  # type: ignore[arg-type]
            choices = spec.metadata.get("choices", ())
            value = getattr(self, spec.name)
            for each in (value if isinstance(value, tuple) else [value]) if choices else ():
                if each not in choices:
                    raise UsageError(f"{spec.name} must be one of {', '.join(choices)}, not {each!r}")
        self.check()

    def check(self) -> None:
        """Raise UsageError where the values do not fit together."""


def require(condition: bool, message: str) -> None:
    """Raise UsageError with `message` unless `condition` holds."""
    if not condition:
        raise UsageError(message)


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values; `from_dict` is its inverse."""
    plain: dict[str, Any] = {}
    for spec in fields(config):
        value = getattr(config, spec.name)
        if is_dataclass(value):
            value = to_dict(value)
        elif isinstance(value, Path):
            value = str(value)
        elif isinstance(value, tuple):
            value = list(value)
        plain[spec.name] = value
    return plain


def from_dict(kind: type[T], plain: Any, prefix: str = "") -> T:
    """Build a config from plain JSON values. Raises UsageError that names the dotted field."""
    require(isinstance(plain, dict), f"{prefix.removesuffix('.') or 'a config'} must be an object, not {plain!r}")
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in plain.items():
        if name not in hints:
            raise UsageError(f"unknown field {prefix}{name}{_suggest(name, hints)}")
        if is_dataclass(hints[name]):
            values[name] = from_dict(hints[name], value, f"{prefix}{name}.")
        else:
            values[name] = _convert(hints[name], value, prefix + name)
    return kind(**values)


def override(config: T, assignments: Mapping[str, Any]) -> T:
    """Set fields by dotted name, text or value: {"seconds": "60", "model.widths": "32,128,256"}.

    They are checked together, so fields that must fit each other may change at once. Raises UsageError.
    """
    return _replaced(config, {name: convert(type(config), name, value) for name, value in assignments.items()})


def get(config: Any, name: str) -> Any:
    """The value of a field by its dotted name."""
    for word in name.split("."):
        config = getattr(config, word)
    return config


def field_type(kind: Any, name: str) -> Any:
    """The type of a field by its dotted name, the first of several. Raises UsageError for an unknown field."""
    hint = _hint(kind, name)
    return typing.get_args(hint)[0] if isinstance(hint, types.UnionType) else hint


def convert(kind: Any, name: str, value: Any) -> Any:
    """A text or a JSON value as the value of a field. Raises UsageError."""
    return _convert(_hint(kind, name), value, name)


def differences(base: T, config: T) -> dict[str, str]:
    """What `--set` would have to say to make `config` of `base`: texts by dotted name."""
    names = leaf_names(type(base))
    return {name: as_text(get(config, name)) for name in names if get(config, name) != get(base, name)}


def as_text(value: Any, separator: str = ",") -> str:
    """A field's value as the command line takes it; with another `separator` as people read it: 64/256/256."""
    return separator.join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def leaf_names(kind: Any, prefix: str = "") -> list[str]:
    """Dotted names of all fields."""
    names = []
    for name, hint in typing.get_type_hints(kind).items():
        names += leaf_names(hint, f"{prefix}{name}.") if is_dataclass(hint) else [prefix + name]
    return names


def _replaced(config: T, values: Mapping[str, Any]) -> T:
    """`config` with values by dotted name, every group of them checked once all of its own are set."""
    changes: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        if dot:
            groups.setdefault(head, {})[rest] = value
        else:
            changes[head] = value
    changes |= {head: _replaced(getattr(config, head), inner) for head, inner in groups.items()}
    return replace(config, **changes)  # type: ignore[type-var]


def _hint(root: Any, name: str) -> Any:
    """The declared type of a field by its dotted name. Raises UsageError where there is none."""
    kind = root
    for word in name.split("."):
        require(is_dataclass(kind), f"{name} is not a field")
        hints = typing.get_type_hints(kind)
        if word not in hints:
            raise UsageError(f"unknown field {name}{_suggest(name, leaf_names(root))}")
        kind = hints[word]
    require(not is_dataclass(kind), f"{name} is a group of fields")
    return kind


def _suggest(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _convert(hint: Any, value: Any, name: str) -> Any:
    """`value` (text from the command line, or a JSON value) as the type that the field declares."""
    kinds = list(typing.get_args(hint)) if isinstance(hint, types.UnionType) else [hint]
    if type(None) in kinds:
        if value is None or (isinstance(value, str) and value.lower() in ("none", "auto")):
            return None
        kinds.remove(type(None))
    for kind in kinds:
        with suppress(ValueError, TypeError):
            return _CONVERTERS[kind](value)
    raise UsageError(f"{name} takes {' or '.join(_DESCRIPTIONS[kind] for kind in kinds)}, not {value!r}")


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if str(value).lower() not in words:
        raise ValueError
    return words[str(value).lower()]


def _int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _float(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or number != number or number in (float("inf"), float("-inf")):
        raise ValueError
    return number


def _ints(value: Any) -> tuple[int, ...]:
    return tuple(_int(part) for part in (value.split(",") if isinstance(value, str) else value))


def _names(value: Any) -> tuple[str, ...]:
    """Each once; none of an empty text, and of "none"."""
    names = ([] if value == "none" else value.split(",")) if isinstance(value, str) else value
    return tuple(dict.fromkeys(_str(name).strip() for name in names if name))


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


_CONVERTERS: dict[Any, Any] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    Path: Path,
    tuple[int, ...]: _ints,
    tuple[str, ...]: _names,
}
_DESCRIPTIONS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    tuple[int, ...]: "whole numbers separated by commas",
    tuple[str, ...]: "names separated by commas",
}
