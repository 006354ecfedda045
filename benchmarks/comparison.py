"""Machines held against each other: rows of records, joined where what was measured is equal; and all that is not.

Nothing is left out silently: what has no partner, and what was passed over, stands in `unmatched` and `passed`.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import check, results
from benchmarks.results import CHANGED
from benchmarks.rows import PARTS, Incomparable, Part, Row, apart, host, rows
from speedrun import stats
from speedrun.errors import DataError

Key = tuple[str, ...]
Sound = tuple[Path, dict[str, Any], list[Row]]  # a record that can be compared: its file, itself, its rows
MISSED = "its runs missed it on their mean, so that their time is no time to it"
LEGEND = (
    "A ratio above 1 is slower. Intervals are of 95 %: of the mean over runs, or over sessions; where there is one "
    "session alone, over its parts, which says nothing about other days."
)
RATES = {"images/s", "TFLOP/s", "share of peak", "GB/s", "share of copy bandwidth"}  # what goes as one over the time
OLDER = "of an older commit, or of another torch, than the newest that was measured on its machine"


@dataclass(frozen=True)
class Cell:
    """What one machine reached. drawn: what its values are: runs, sessions (medians of records), or the medians of the
    parts of one session. value: their mean, of one session its median. half_width: of the values' 95 % interval, NaN
    for a single value. extras: rates among them are those at `value`.
    """

    drawn: str
    values: tuple[float, ...]
    value: float
    half_width: float
    extras: dict[str, float | str]
    breakdown: dict[str, float]
    places: tuple[str, ...]


@dataclass(frozen=True)
class Versus:
    """A machine against the reference: the difference in accuracy, or the ratio of times, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass
class Group:
    """One measured thing and what each machine reached at it."""

    part: Part
    key: Key
    cells: dict[str, Cell]

    @property
    def title(self) -> str:
        """The key for a person."""
        return ", ".join(f"{name} {value}" for name, value in zip(self.part.fields, self.key, strict=True))

    @property
    def values(self) -> str:
        """The same without the names, for a column that has them at its head."""
        return ", ".join(self.key)

    def missed(self, machine: str) -> bool:
        """Whether a machine's runs fell short of their target, on their mean: their time is no time to it then."""
        return self.part.name == "target" and float(self.cells[machine].extras["accuracy"]) < _target(self.key)

    def versus(self, machine: str, reference: str) -> Versus | None:
        """None for the reference itself, where one of the two lacks the row, and where one of them missed a target."""
        cell, other = self.cells.get(machine), self.cells.get(reference)
        if machine == reference or cell is None or other is None or self.missed(machine) or self.missed(reference):
            return None
        if self.part.percent:
            test = stats.welch(cell.values, other.values)
            return Versus(test.difference, test.difference - test.half_width, test.difference + test.half_width)
        ratio = stats.ratio(cell.values, other.values)
        shift = cell.value / other.value / ratio.value  # the interval lies about the ratio of what is shown
        return Versus(*(shift * each for each in ratio))


@dataclass
class Comparison:
    """machines: what is known of each; the first is what the others are held against. passed: places of what was passed
    over, by reason. unmatched: by (part, machine, reason), the titles of what others have and it has not.
    """

    machines: dict[str, str]
    groups: list[Group]
    faults: list[str]
    notes: list[str]
    passed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unmatched: dict[tuple[str, str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def reference(self) -> str:
        return next(iter(self.machines))

    def of(self, part: Part) -> list[Group]:
        return [group for group in self.groups if group.part is part]


def compare(paths: Sequence[Path]) -> Comparison:
    """Read files of records and join their rows. Raises DataError where none of them has any."""
    comparison = Comparison({}, [], [], [])
    sound: list[Sound] = []
    for path in dict.fromkeys(paths):
        numbered, faults = results.read_numbered(path)
        comparison.faults += faults
        comparison.notes += check.data_sets(path, numbered)
        for line, each in numbered:
            try:
                sound.append((path, each, rows(each, f"{path}:{line}")))
            except Incomparable as reason:
                comparison.passed[str(reason)].append(f"{path}:{line}")
    records: dict[tuple[Path, str], list[dict[str, Any]]] = defaultdict(list)
    sound = _told_apart(sound)
    for path, each, found in sound:
        for machine in {row.machine for row in found}:
            records[path, machine].append(each)
    if not records:
        raise DataError(f"{', '.join(map(str, paths))}: no record that could be compared")
    names = _names(list(records))
    comparison.machines = {names[place]: described(each) for place, each in records.items()}
    all_rows = [row._replace(machine=names[path, row.machine]) for path, _, found in sound for row in found]
    comparison.groups = _grouped(all_rows, comparison.passed)
    if len(comparison.machines) > 1:
        _match(comparison)
    return comparison


def _told_apart(sound: Sequence[Sound]) -> list[Sound]:
    """The same, where a file has records of several computers with one kind of device as those of several machines."""
    hosts: dict[tuple[Path, str], list[tuple[str, ...]]] = defaultdict(list)
    for path, each, found in sound:
        for row in found:
            hosts[path, row.machine].append(host(each))
    behind = {place: apart(each) for place, each in hosts.items()}
    return [
        (path, each, [row._replace(machine=row.machine + behind[path, row.machine][host(each)]) for row in found])
        for path, each, found in sound
    ]


def _names(machines: Sequence[tuple[Path, str]]) -> dict[tuple[Path, str], str]:
    """What each machine of each file is called: two files of one kind of machine are two machines."""
    names = {}
    for path, machine in machines:
        files = [other for other, name in machines if name == machine]
        alike = sum(other.stem == path.stem for other in files)  # of two folders: a device's file has one name
        names[path, machine] = machine if len(files) == 1 else f"{machine} ({path if alike > 1 else path.stem})"
    return names


def described(records: Sequence[Mapping[str, Any]]) -> str:
    """A machine in a line, and the software and the commit of its newest record."""
    by_age = sorted(records, key=lambda each: each["started"], reverse=True)
    device, versions, git = (by_age[0][name] for name in ("device", "versions", "git"))
    limits = (each["state"]["before"]["power_limit_watts"] for each in by_age if "state" in each)
    known = {
        "{} multiprocessors": device.get("multiprocessors"),
        "{:.0f} GiB": device["memory"] and device["memory"] / 2**30,
        "{:.0f} W at most": next(filter(None, limits), None),  # which runs do not tell
        "{} cores": device["cores"],
        "fed by {}": device.get("cpu"),
        "driver {}": device["driver"],
        "CUDA {}": versions["cuda"],
        "torch {}": versions["torch"],
        "triton {}": versions["triton"],
        "commit {}": git and git["sha"][:7] + (CHANGED if git["dirty"] else ""),
    }
    return ", ".join(text.format(value) for text, value in known.items() if value is not None)


def _grouped(found: Iterable[Row], passed: dict[str, list[str]]) -> list[Group]:
    """Rows by what they measure, in the order of the parts and of their first appearance."""
    by_key: dict[tuple[str, Key], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in found:
        by_key[row.reading.part.name, row.reading.key][row.machine].append(row)
    order = list(PARTS)
    groups = []
    for (name, key), machines in sorted(by_key.items(), key=lambda item: order.index(item[0][0])):
        part = PARTS[name]
        cells = {machine: _cell(part, key, _newest(each, passed)) for machine, each in machines.items()}
        groups.append(Group(part, key, cells))
    return groups


def _newest(each: list[Row], passed: dict[str, list[str]]) -> list[Row]:
    """The rows of the code that was measured last."""
    code = max(each, key=lambda row: row.started).code
    for row in each:
        if row.code != code and row.place not in passed[OLDER]:
            passed[OLDER].append(row.place)
    return [row for row in each if row.code == code]


def _cell(part: Part, key: Key, each: list[Row]) -> Cell:
    """What the rows of one machine and key come to."""
    readings = [row.reading for row in each]
    newest = max(each, key=lambda row: row.started)
    extras = dict(newest.reading.extras)
    if newest.code.endswith(CHANGED):
        extras["tree"] = "changed"
    for name in {"accuracy", "without views"} & extras.keys():  # of runs, whose mean counts; else the newest is shown
        extras[name] = statistics.mean(float(reading.extras[name]) for reading in readings)
    if part.name == "target":
        reached = [float(reading.extras["accuracy"]) for reading in readings]
        p = stats.exceeds(reached, _target(key)).p
        extras |= {} if math.isnan(p) else {"p of a mean above": p}
    drawn = "run" if part.name in ("accuracy", "target") else "session" if len(each) > 1 else "part"
    values = readings[0].values if drawn == "part" else tuple(reading.median for reading in readings)
    sample = stats.describe(values)
    value = readings[0].median if drawn == "part" else sample.mean
    for name in RATES & extras.keys():
        extras[name] = float(extras[name]) * newest.reading.median / value
    places = tuple(row.place for row in each)
    return Cell(drawn, values, value, sample.half_width, extras, dict(newest.reading.breakdown), places)


def _target(key: Key) -> float:
    return float(key[PARTS["target"].fields.index("target")])


def _match(comparison: Comparison) -> None:
    """Say for every row that a machine lacks what it has instead, or that it was not measured there; who missed."""
    for group in comparison.groups:
        for machine in filter(group.missed, group.cells):
            comparison.unmatched[group.part.title, machine, MISSED].append(group.title)
    for part in PARTS.values():
        groups = comparison.of(part)
        own = [part.fields.index(name) for name in part.own]
        by_own: dict[Key, list[Group]] = defaultdict(list)
        for group in groups:
            by_own[tuple(group.key[index] for index in own)].append(group)
        for alike in by_own.values():
            for machine in comparison.machines:
                theirs = [group.key for group in alike if machine in group.cells]
                for group in alike:
                    if machine not in group.cells:
                        reason = _reason(part, group.key, theirs)
                        comparison.unmatched[part.title, machine, reason].append(group.title)


def _reason(part: Part, key: Key, theirs: Sequence[Key]) -> str:
    """Why a machine has no row of this key: what differs from the nearest that it has."""
    if not theirs:
        return "not measured there"
    nearest = min(theirs, key=lambda other: sum(a != b for a, b in zip(key, other, strict=True)))
    different = zip(part.fields, key, nearest, strict=True)
    return "there only with " + ", ".join(f"{name} {other}" for name, wanted, other in different if other != wanted)
