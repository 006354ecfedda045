"""Going on with a run that was interrupted: what its checkpoint says, and what the new process may change about it."""

from dataclasses import fields, replace
from pathlib import Path

from speedrun import snapshot
from speedrun.clock import Clock, Ledger
from speedrun.config import Config, require
from speedrun.distributed import World
from speedrun.snapshot import Snapshot

# What may be another than it was; `seconds` are then those from here on, in place of those that were left.
OF_THE_PROCESS = ("seconds", "device", "data_dir", "dataset", "quiet", "json")


def take_up(asked: Config, clock: Clock, ledger: Ledger, world: World | None = None) -> tuple[Config, Snapshot]:
    """The config of the run that `asked.resume` names and its checkpoint; clock and ledger go on from there.

    world: the ranks that go on together, by what the first one reads: nobody else needs to see the folder.

    Raises UsageError where more than the process is asked to be another, SpeedrunError where there is no checkpoint.
    """
    assert asked.resume is not None
    defaults = Config()
    changed = [spec.name for spec in fields(Config) if getattr(asked, spec.name) != getattr(defaults, spec.name)]
    for name in changed:
        own = name in ("resume", *OF_THE_PROCESS)
        require(own, f"{name} does not go with resume: it is that of the run that is resumed")
    path = asked.resume
    found, out = (world or World()).decide(lambda: (snapshot.read(path), folder(path)))
    past = found.state["clock"]
    clock.go_on(past, asked.seconds)
    for phase, seconds in past["phases"].items():
        ledger.charge(phase, seconds)
    changes = {name: getattr(asked, name) for name in OF_THE_PROCESS if name in changed or name in ("quiet", "json")}
    if asked.seconds is not None:
        changes["seconds"] = clock.seconds  # of the whole run
    return replace(found.config, **changes, out=out), found


def folder(path: Path) -> Path:
    """Where the run lives whose folder, or one of whose checkpoints, is `path`."""
    return path if path.is_dir() else path.parent
