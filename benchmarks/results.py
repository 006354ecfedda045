"""The records of all devices, `benchmarks/results/<device-slug>.jsonl`: reading, choosing and adding them."""

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from speedrun import record

Records = list[dict[str, Any]]
Numbered = list[tuple[int, dict[str, Any]]]  # each with the number of its line

RESULTS = Path(__file__).parent / "results"
CHANGED = ", changed"  # how the code of a record ends whose checkout had uncommitted changes
SEALED_FROM = "2026-11-20T15:30:00Z"  # the first 68 records were made before there were seals


def read_numbered(path: Path) -> tuple[Numbered, list[str]]:
    """As `record.read_numbered`; in a file of our results every record but the oldest must have a seal."""
    ours = path.resolve().parent == RESULTS.resolve()
    return record.read_numbered(path, sealed_from=SEALED_FROM if ours else None)


def recorded() -> Records:
    """All sound records of all devices; problems go to stderr."""
    records: Records = []
    for path in sorted(RESULTS.glob("*.jsonl")):
        sound, problems = read_numbered(path)
        records += [each for _, each in sound]
        for problem in problems:
            print(problem, file=sys.stderr)
    return records


def add(line: Mapping[str, Any]) -> None:
    """Append a record to its device's file, which it makes. RecordError if it breaks its schema."""
    record.append(RESULTS / f"{record.device_slug(line['device']['name'])}.jsonl", line)


def this_device(name: str = "auto") -> dict[str, Any]:
    """The description of a device of this machine, which takes torch. SpeedrunError where there is no such device."""
    from speedrun import device as devices

    return devices.describe(devices.choose(name).device)


def config_hash(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that two records share where their settings, JSON values, are equal."""
    plain = json.dumps(settings, sort_keys=True, allow_nan=False)
    return hashlib.sha256(plain.encode()).hexdigest()[:12]


def repeatable(git: Mapping[str, Any] | None) -> bool:
    """Whether a state of git tells which code ran, so that what is recorded of it need not be measured again: a changed
    checkout is equal to itself whatever was changed since, and an installation has none."""
    return git is not None and not git["dirty"]


def code(line: Mapping[str, Any]) -> str:
    """What records must share to be of one sample: commit, torch, and whether the checkout was changed."""
    git = line["git"]
    changed = git is None or git["dirty"]
    return f"{git['sha'] if git else ''}, torch {line['versions']['torch']}{CHANGED if changed else ''}"


def by_newest_commit(records: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], Any]) -> dict[Any, Records]:
    """Records by `key`, in its order: of each only those of the `code` that was measured last."""
    groups: dict[Any, Records] = defaultdict(list)
    for each in sorted(records, key=lambda each: each["started"]):
        groups[key(each)].append(each)
    return {name: [each for each in groups[name] if code(each) == code(groups[name][-1])] for name in sorted(groups)}
