"""The record of a run or of a benchmark: its schema, its check, and how it is written. Standard library only.

A record is a JSON object. Every kind shares `ENVELOPE`, and `KINDS` adds each kind's own table. A new kind of benchmark
adds its table there (or `VALUES`, one free object of numbers) and nothing else. A run's record is its `result.json`;
`benchmarks/results/<device-slug>.jsonl` holds one record a line and only ever grows.

Every field of a table that is not marked `required=False` is present in every record. Seconds are wall seconds,
accuracies fractions of 1.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speedrun.clock import PHASES as LEDGER
from speedrun.errors import SpeedrunError
from speedrun.lines import append_lines
from speedrun.provenance import SHA, SOFTWARE, device_slug, git_state, utc_now, versions

__all__ = [
    "ENVELOPE",
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
    "utc_now",
    "versions",
]

SCHEMA_VERSION = 1
STATUSES = ("complete", "interrupted", "timeout", "missed", "failed")
PHASES = (*LEDGER, "idle")  # idle: what no phase of the ledger accounts for


class RecordError(SpeedrunError):
    """A record breaks its schema. The message names every field that does."""


@dataclass(frozen=True)
class Field:
    """One field: its JSON type, what it means, and the values it may take.

    `null` says when null may stand in its place: never, in a record whose `status` is not complete (a run that was cut
    short does not know everything), or always. `fields` is the table of a nested object, `each` the rule for every
    value of an object with free names.
    """

    type: type
    meaning: str
    null: Literal["never", "unfinished", "always"] = "never"
    required: bool = True
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[object, ...] = ()
    pattern: str = ""
    fields: "Mapping[str, Field] | None" = None
    each: "Field | None" = None


Table = Mapping[str, Field]

_TEXT = Field(str, "free text")
_SECONDS = Field(float, "seconds", low=0)
_VERSION = Field(str, "version, or null if it is not installed", null="always")

DEVICE: Table = {
    "name": Field(str, "as its maker calls it"),
    "kind": Field(str, "torch's device type", choices=("cpu", "cuda", "mps", "xpu")),
    "memory": Field(int, "bytes of its memory", null="always", low=0),
    "capability": Field(str, "CUDA compute capability, such as 9.0", null="always"),
    "driver": Field(str, "driver version", null="always"),
    "cores": Field(int, "processor cores this process may use", low=1),
}
VERSIONS: Table = {name: _VERSION for name in SOFTWARE}
GIT: Table = {
    "sha": Field(str, "commit of the checkout", pattern=SHA),
    "dirty": Field(bool, "whether its code differs from that commit"),
}

ENVELOPE: Table = {
    "schema": Field(int, "version of this layout", choices=(SCHEMA_VERSION,)),
    "kind": Field(str, "which table describes the rest"),
    "started": Field(str, "when, ISO 8601 in UTC", pattern=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"),
    "device": Field(dict, "what it ran on", null="unfinished", fields=DEVICE),
    "versions": Field(dict, "of the software", fields=VERSIONS),
    "git": Field(dict, "null outside a checkout", null="always", fields=GIT),
}

RUN: Table = {
    "status": Field(str, "how it ended; missed: complete, but short of its target", choices=STATUSES),
    "dataset": Field(str, "cifar10, cifar100, synthetic or the file's name", null="unfinished"),
    "split": Field(
        dict,
        "which images trained and which were scored",
        null="unfinished",
        fields={"train": _TEXT, "scored": _TEXT},
    ),
    "recipe": Field(str, "name of the recipe"),
    "config": Field(dict, "the whole config, as it was run"),
    "seed": Field(int, "root seed", low=0),
    "budget_seconds": Field(float, "seconds given; null without a deadline", null="always", low=0),
    "wall_seconds": Field(float, "process start to this record, transfers included", low=0),
    "fetch_seconds": Field(float, "network transfer, which extends the deadline", low=0),
    "train_seconds": Field(float, "the comparable clock: airbench's rule", null="unfinished", low=0),
    "phases": Field(dict, "seconds by phase; they add up to wall_seconds", each=_SECONDS),
    "warm": Field(
        dict,
        "what the cache held",
        fields={
            "data": Field(bool, "decoded images", null="unfinished"),
            "compile": Field(bool, "compiled code; null if nothing was compiled", null="always"),
        },
    ),
    "accuracy": Field(float, "fraction of the scored images, with test views", null="unfinished", low=0, high=1),
    "accuracy_plain": Field(float, "the same without test views", null="unfinished", low=0, high=1),
    "expected_accuracy": Field(float, "what the plan promised, if it did", null="always", low=0, high=1),
    "epochs": Field(float, "passes over the training images", low=0),
    "steps": Field(int, "steps taken", low=0),
    "parameters": Field(int, "of the net", null="unfinished", low=1),
    "images_per_second": Field(float, "trained images a second of the train phase", null="unfinished", low=0),
    "dtype": Field(str, "of the forward pass", null="unfinished"),
    "dtype_reason": Field(str, "why this dtype", null="unfinished"),
    "plan": Field(dict, "what the planner decided", null="unfinished"),
    "world_size": Field(int, "processes that trained", low=1),
    "threads": Field(int, "of torch on the CPU", null="always", required=False, low=1),
    "outside_seconds": Field(float, "start to exit, measured by the parent process", required=False, low=0),
}
VALUES: Table = {"values": Field(dict, "what was measured: numbers and the settings they belong to")}

KINDS: dict[str, Table] = {"run": RUN, "suite": VALUES, "kernel": VALUES, "step": VALUES}


def check(record: object) -> list[str]:
    """The problems of a record, one readable line each; none if it follows its schema."""
    if not isinstance(record, dict):
        return [f"a record is an object, not {_json_name(record)}"]
    kind = record.get("kind")
    own = KINDS.get(kind) if isinstance(kind, str) else None
    if own is None:
        return [f"kind: {kind!r} is none of {', '.join(KINDS)}"]
    unfinished = record.get("status", "complete") != "complete"
    problems = list(_check_table(record, {**ENVELOPE, **own}, unfinished, ""))
    if kind == "run" and not problems:
        problems += _check_run(record)
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


def _check_run(record: Mapping[str, Any]) -> Iterator[str]:
    """What must hold between the fields of a run that is complete."""
    phases, wall = record["phases"], record["wall_seconds"]
    for name in phases:
        if name not in PHASES:
            yield f"phases.{name}: none of {', '.join(PHASES)}"
    if record["status"] != "complete":
        return
    total = sum(phases.values())
    if abs(total - wall) > 0.01 * wall:
        yield f"phases: they add up to {total:.3f} s, but wall_seconds is {wall:.3f}"
    budget = record["budget_seconds"]
    if budget is not None and wall > budget + record["fetch_seconds"]:
        yield f"status: complete, but {wall:.3f} s were used of {budget:g}; that is a timeout"


_JSON_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text", dict: "an object"}


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
    """A record, checked, as one line of ASCII JSON without a line end. RecordError if it breaks its schema."""
    problems = check(record)
    if problems:
        raise RecordError("the record breaks its schema: " + "; ".join(problems))
    return json.dumps(record, allow_nan=False)


def append(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Add a record, checked, as a line of its own; safe among processes, see `append_lines`.

    RecordError if the record breaks its schema, OSError if the file cannot be written. Nothing is written then.
    """
    append_lines(path, dumps(record) + "\n")


def read(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The sound records of a .jsonl file, in order, and a `file:line: problem` for each fault of the others."""
    records: list[dict[str, Any]] = []
    problems: list[str] = []
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        return [], [f"{path}: {error.strerror}"]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            problems.append(f"{path}:{number}: not JSON: {error}")
            continue
        found = check(record)
        problems += [f"{path}:{number}: {problem}" for problem in found]
        if not found:
            records.append(record)
    return records, problems
