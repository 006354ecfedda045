"""The record of a run, a job or a benchmark: its check against `speedrun.schema`, and how it is written.

Standard library only. A record is a JSON object. Every kind shares `ENVELOPE`, and `KINDS` adds each kind's own table.
A new kind of benchmark adds its table there (or `VALUES`, one free object of numbers) and nothing else. The record of a
run or a job is its `result.json`; `benchmarks/results/<device-slug>.jsonl` holds one record a line and only ever grows.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speedrun import files
from speedrun.errors import SpeedrunError
from speedrun.lines import append_lines
from speedrun.provenance import device_slug, git_state, utc_now, versions
from speedrun.schema import ENVELOPE, FINISHED, KINDS, PHASES, SCHEMA_VERSION, STATUSES, VALUES, Field, Table

__all__ = [
    "ENVELOPE",
    "FINISHED",
    "KINDS",
    "PHASES",
    "SCHEMA_VERSION",
    "STATUSES",
    "VALUES",
    "Field",
    "RecordError",
    "append",
    "check",
    "device_slug",
    "dumps",
    "envelope",
    "git_state",
    "read",
    "read_numbered",
    "utc_now",
    "versions",
]


class RecordError(SpeedrunError):
    """A record breaks its schema. The message names every field that does."""


def check(record: object) -> list[str]:
    """The problems of a record, one readable line each; none if it follows its schema."""
    if not isinstance(record, dict):
        return [f"a record is an object, not {_json_name(record)}"]
    version = record.get("schema")
    if _is_a(version, int) and version != SCHEMA_VERSION:  # of its fields nothing can be said
        return [f"schema: version {version} is not known here, only {SCHEMA_VERSION}; another speedrun wrote it"]
    kind = record.get("kind")
    own = KINDS.get(kind) if isinstance(kind, str) else None
    if own is None:
        return [f"kind: {kind!r} is none of {', '.join(KINDS)}"]
    unfinished = record.get("status", "complete") not in FINISHED
    problems = list(_check_table(record, {**ENVELOPE, **own}, unfinished, ""))
    if not files.seal_holds(record):
        problems.append(f"{files.SEAL}: the record is not as it was when it was written")
    if "phases" in own and not problems:
        problems += _check_time(record)
    return problems


def _check_table(record: Mapping[str, Any], table: Table, unfinished: bool, prefix: str) -> Iterator[str]:
    for name, field in table.items():
        if name in record:
            yield from _check_field(record[name], field, unfinished, prefix + name)
        elif field.required:
            yield f"{prefix}{name}: missing ({field.meaning})"
    for name in record:
        if name not in table:
            yield f"{prefix}{name}: not in the schema"


def _check_field(value: Any, field: Field, unfinished: bool, where: str) -> Iterator[str]:
    if value is None:
        if not (field.null == "always" or (field.null == "unfinished" and unfinished)):
            yield f"{where}: is null ({field.meaning})"
        return
    if not _is_a(value, field.type):
        yield f"{where}: {_json_name(value)} where {_JSON_NAMES[field.type]} belongs ({field.meaning})"
    elif isinstance(value, dict):
        yield from _check_object(value, field, unfinished, where)
    elif isinstance(value, list) and field.each is not None:
        for index, item in enumerate(value):
            yield from _check_field(item, field.each, unfinished, f"{where}[{index}]")
    elif field.choices and value not in field.choices:
        yield f"{where}: {value!r} is none of {', '.join(map(str, field.choices))}"
    elif isinstance(value, str):
        if field.pattern and not re.fullmatch(field.pattern, value):
            yield f"{where}: {value!r} is not of the right form ({field.meaning})"
    elif not field.low <= value <= field.high:
        yield f"{where}: {value} is not from {field.low:g} to {field.high:g} ({field.meaning})"


def _check_object(value: dict[Any, Any], field: Field, unfinished: bool, where: str) -> Iterator[str]:
    if field.fields is not None:
        yield from _check_table(value, field.fields, unfinished, f"{where}.")
    elif field.each is not None:
        for name, item in value.items():
            yield from _check_field(item, field.each, unfinished, f"{where}.{name}")
    else:
        yield from _check_plain(value, where)


def _check_plain(value: object, where: str) -> Iterator[str]:
    """A free object holds what JSON can hold, and no NaN or infinity, which JSON cannot."""
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(name, str):
                yield from _check_plain(item, f"{where}.{name}")
            else:
                yield f"{where}: the name {name!r} is not text"
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _check_plain(item, f"{where}[{index}]")
    elif value is not None and not any(_is_a(value, kind) for kind in (bool, int, float, str)):
        yield f"{where}: {_json_name(value)} is not a plain value"


def _check_time(record: Mapping[str, Any]) -> Iterator[str]:
    """What must hold between the seconds of a run or a job, and more of one that is complete."""
    phases, wall = record["phases"], record["wall_seconds"]
    for name in phases:
        if name not in PHASES:
            yield f"phases.{name}: none of {', '.join(PHASES)}"
    if record["status"] not in FINISHED:
        return
    total = sum(phases.values())
    if abs(total - wall) > 0.01 * wall:
        yield f"phases: they add up to {total:.3f} s, but wall_seconds is {wall:.3f}"
    budget = record["budget_seconds"]
    if budget is not None and wall > budget + record["fetch_seconds"]:
        yield f"status: complete, but {wall:.3f} s were used of {budget:g}; that is a timeout"


_JSON_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    dict: "an object",
    list: "a list",
}


def _is_a(value: object, kind: type) -> bool:
    """Whether a value has a JSON type. True is no integer, an integer is a number, NaN and infinity are none."""
    if kind is float:
        return type(value) is int or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, kind) and (kind is not int or not isinstance(value, bool))


def _json_name(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    names = (name for kind, name in _JSON_NAMES.items() if _is_a(value, kind))
    return next(names, "null" if value is None else f"a {type(value).__name__}")


def envelope(kind: str, device: Mapping[str, Any] | None, *, age_seconds: float = 0.0) -> dict[str, Any]:
    """The fields that every record shares, for what began `age_seconds` ago on this software and this checkout."""
    return {
        "schema": SCHEMA_VERSION,
        "kind": kind,
        "started": utc_now(-age_seconds),
        "device": None if device is None else dict(device),
        "versions": versions(),
        "git": git_state(),
    }


def dumps(record: Mapping[str, Any]) -> str:
    """A record, checked and sealed, as a line of ASCII JSON without its end. RecordError if it breaks its schema."""
    plain = {name: value for name, value in record.items() if name != files.SEAL}
    problems = check(plain)
    if problems:
        raise RecordError("the record breaks its schema: " + "; ".join(problems))
    return json.dumps(files.sealed(plain), allow_nan=False)


def append(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Add a record, checked, as a line of its own; safe among processes, see `append_lines`.

    RecordError if the record breaks its schema, OSError if the file cannot be written. Nothing is written then.
    """
    append_lines(path, dumps(record) + "\n")


def read(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The sound records of a .jsonl file, in order, unsealed; a `file:line: problem` for each fault of the others."""
    numbered, problems = read_numbered(path)
    return [record for _, record in numbered], problems


def read_numbered(
    path: str | os.PathLike[str], *, sealed_from: str | None = None
) -> tuple[list[tuple[int, dict[str, Any]]], list[str]]:
    """As `read`, each record with the number of its line, from 1. A record that stands there twice counts once.

    sealed_from: what was `started` then or later must have a seal, without which nobody can tell whether it was edited.
    """
    records: list[tuple[int, dict[str, Any]]] = []
    problems: list[str] = []
    first: dict[str, int] = {}  # line by digest
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        return [], [f"{path}: {error.strerror}"]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}:{number}: not JSON: {error}")
            continue
        found = check(record)
        if not found and files.SEAL not in record and sealed_from is not None and record["started"] >= sealed_from:
            found = [f"{files.SEAL}: missing, so that an edit would not show"]
        if not found and (before := first.setdefault(files.sealed(record)[files.SEAL], number)) != number:
            found = [f"the same record as line {before}"]
        problems += [f"{path}:{number}: {problem}" for problem in found]
        if not found:
            records.append((number, {name: value for name, value in record.items() if name != files.SEAL}))
    return records, problems
