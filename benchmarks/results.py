"""The records of all devices, `benchmarks/results/<device-slug>.jsonl`: reading, choosing and adding them."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from speedrun import record

Records = list[dict[str, Any]]

RESULTS = Path(__file__).parent / "results"


def recorded() -> Records:
    """All sound records of all devices; problems go to stderr."""
    records: Records = []
    for path in sorted(RESULTS.glob("*.jsonl")):
        sound, problems = record.read(path)
        records += sound
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


def by_newest_commit(records: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], Any]) -> dict[Any, Records]:
    """Records by `key`, in its order: of each only those of the program, commit and changes, that was measured last."""
    groups: dict[Any, Records] = defaultdict(list)
    for each in sorted(records, key=lambda each: each["started"]):
        groups[key(each)].append(each)
    return {name: [each for each in groups[name] if each["git"] == groups[name][-1]["git"]] for name in sorted(groups)}
