"""What a record says that can be held against other machines: rows, each one measured thing of one machine."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.results import code
from benchmarks.standings import OURS
from speedrun.config import as_text
from speedrun.schema import FINISHED


@dataclass(frozen=True)
class Part:
    """A kind of rows.

    fields: what must be equal for two rows to be compared. own: those of them that say what is measured; the others,
    how. A value is a fraction of 1, more is better, where `percent`; else seconds, less is better. extras: what is
    shown beside the value.
    """

    name: str
    title: str
    fields: tuple[str, ...]
    own: tuple[str, ...]
    percent: bool = False
    extras: tuple[str, ...] = ()


PARTS = {
    part.name: part
    for part in (
        Part(
            "accuracy",
            "Accuracy at N seconds",
            ("data set", "scored", "seconds", "clock"),
            ("seconds",),
            percent=True,
            extras=("without views", "recipe"),
        ),
        Part(
            "target",
            "Time to a target",
            ("data set", "scored", "target", "clock"),
            ("target", "clock"),
            extras=("accuracy", "p of a mean above", "recipe"),
        ),
        Part(
            "step",
            "One training step",
            ("recipe", "net", "pixels", "batch", "dtype", "compile"),
            ("recipe", "net"),
            extras=("images/s", "TFLOP/s", "share of peak", "MiB"),
        ),
        Part(
            "kernel",
            "Augmentation",
            ("operation", "by", "batch", "pixels", "dtype", "caches"),
            ("operation", "by"),
            extras=("images/s", "GB/s", "share of copy bandwidth"),
        ),
        Part(
            "training_kernel",
            "Kernels of training",
            ("operation", "by", "batch", "pixels", "dtype", "caches"),
            ("operation", "by"),
            extras=("GB/s", "share of copy bandwidth"),
        ),
        Part(
            "evaluation",
            "Evaluation",
            ("recipe", "net", "pixels", "views", "images", "batch", "dtype"),
            ("recipe", "net", "views"),
            extras=("images/s",),
        ),
        Part("startup", "Start-up and compilation", ("what", "caches"), ("what",)),
    )
}


class Incomparable(Exception):
    """A record has nothing to compare. The message says why."""


class Reading(NamedTuple):
    """One measured thing: its part, the values of that part's fields in their order, what was measured and is shown.

    values: measurements from which an interval can be had. median: the value itself. breakdown: shares of a step by
    kind of operation.
    """

    part: Part
    key: tuple[str, ...]
    values: tuple[float, ...]
    median: float
    extras: Mapping[str, float | str]
    breakdown: Mapping[str, float]


class Row(NamedTuple):
    """A reading and where it comes from: machine, `file:line`, and code, as `results.code` has it."""

    reading: Reading
    machine: str
    place: str
    code: str
    started: str


def rows(record: Mapping[str, Any], place: str) -> list[Row]:
    """The rows of a sound record. Raises Incomparable where it has none."""
    kind = record["kind"]
    if kind == "suite":  # it only says that a part was run
        return []
    if kind not in _READERS:
        raise Incomparable(f"a record of kind {kind} has nothing that is compared")
    if record["device"] is None:
        raise Incomparable("the device is not known")
    try:
        readings = list(_READERS[kind](record))
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:  # objects that the schema leaves free
        raise Incomparable(f"its values are not what this version writes: {type(error).__name__}, {error}") from None
    if any(not min(reading.values) > 0 for reading in readings):
        raise Incomparable("a value is not above 0")
    return [Row(reading, machine(record), place, code(record), record["started"]) for reading in readings]


def machine(record: Mapping[str, Any]) -> str:
    """What tells machines apart: the device's name and, of a processor, how many threads were used."""
    device = record["device"]
    if device["kind"] != "cpu":
        return device["name"]
    homes = (record, record.get("values", {}), record.get("settings", {}))
    threads = next((home["threads"] for home in homes if home.get("threads")), device["cores"])
    return f"{device['name']}, {threads} thread{'s' if threads > 1 else ''}"


def host(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells computers apart whose device has one name: words, empty for what the record does not know."""
    device = record["device"]
    memory, feeder = device["memory"], device.get("cpu")
    limit = record["state"]["before"]["power_limit_watts"] if "state" in record else None
    return (
        f"fed by {feeder}" if feeder else "",
        f"{device['cores']} cores",
        f"{memory / 2**30:.0f} GiB" if memory else "",
        f"{limit:.0f} W" if limit else "",
    )


def apart(hosts: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """What goes behind the name of a device for each of its hosts: that in which they differ, nothing for one alone."""
    found = dict.fromkeys(hosts)
    several = [len(set(words) - {""}) > 1 for words in zip(*found, strict=True)]
    return {
        each: "".join(f", {word}" for word, differs in zip(each, several, strict=True) if word and differs)
        for each in found
    }


def net_name(model: Mapping[str, Any]) -> str:
    """A net by its size, from its config as a record has it; which net that is, its recipe says."""
    widths = as_text(model["widths"] or (), "/")
    return widths if model["depth"] in (None, 2) else f"{widths} depth {as_text(model['depth'], '/')}"


def step_name(step: Mapping[str, Any]) -> str:
    """The net of a record of a step, with what was set by hand: steps of other dials are not the same."""
    changed = step.get("changed")
    return net_name(step["model"]) + (f" with {' '.join(sorted(changed))}" if changed else "")


def _run(run: Mapping[str, Any]) -> Iterator[Reading]:
    if run["status"] not in FINISHED:
        raise Incomparable(f"the run ended as {run['status']}")
    target, about = run["config"].get("target"), (run["dataset"], run["split"]["scored"])
    accuracy = run["accuracy"]
    if target is None and run["budget_seconds"] is None:
        raise Incomparable("a run by steps has no seconds to be compared at")
    if run["dataset"] == "cifar10" and run["expected_accuracy"] is None:
        raise Incomparable("its dials were set by hand, not by the planner")
    if target is not None:
        extras = {"accuracy": accuracy, "recipe": run["recipe"]}
        whole = run.get("outside_seconds", run["wall_seconds"]) - run["fetch_seconds"]
        for clock, seconds in (("strict", whole), ("comparable", run["train_seconds"])):
            yield Reading(PARTS["target"], (*about, f"{target:g}", clock), (seconds,), seconds, extras, {})
    else:
        key = (*about, f"{run['budget_seconds']:g}", "strict")
        extras = {"without views": run["accuracy_plain"], "recipe": run["recipe"]}
        yield Reading(PARTS["accuracy"], key, (accuracy,), accuracy, extras, {})


def _contest(record: Mapping[str, Any]) -> Iterator[Reading]:
    if record["contender"] != OURS:
        raise Incomparable("it is of another's script, which stands beside ours in the table of `benchmarks.records`")
    if record["dataset"] != "cifar10":
        raise Incomparable("which images of this data set it scored is not known")
    key = (record["dataset"], "test[10000]", f"{record['target']:g}", "comparable")
    recipe = (record["config"] or {}).get("recipe", "")
    for accuracy, seconds in zip(record["accuracies"], record["seconds"], strict=True):
        yield Reading(PARTS["target"], key, (seconds,), seconds, {"accuracy": accuracy, "recipe": recipe}, {})


def _step(step: Mapping[str, Any]) -> Iterator[Reading]:
    key = (
        step["recipe"],
        step_name(step),
        str(step["size"]),
        str(step["batch"]),
        step["dtype"],
        step["compile"],
    )
    extras = {
        "images/s": step["images_per_second"],
        "TFLOP/s": step["flops_per_second"] / 1e12,
        "share of peak": step["peak_share"],
    }
    if step["memory"] is not None:
        extras["MiB"] = step["memory"] / 2**20
    yield Reading(PARTS["step"], key, *_timed(step["seconds"]), extras, step["breakdown"])


def place(row: Mapping[str, Any]) -> tuple[str, str, int, int]:
    """What a row of a record of kernels measures, whatever the caches held."""
    return row["operation"], row["contender"], row["batch"], row["size"]


def _kernel(kernel: Mapping[str, Any]) -> Iterator[Reading]:
    # The oldest records do not name the dtype, which followed from the device.
    dtype = kernel.get("settings", {}).get("dtype") or ("bfloat16" if kernel["device"]["kind"] == "cpu" else "float16")
    for row in kernel["values"]["rows"]:
        if "error" in row:
            continue
        caches = "flushed" if row["cold"] else "warm"
        key = (*map(str, place(row)), dtype, caches)
        extras = {
            "images/s": row["images_per_second"],
            "GB/s": row["bytes"] / row["median"] / 1e9,
            "share of copy bandwidth": row["bandwidth_share"],
        }
        yield Reading(PARTS[kernel["kind"]], key, *_timed(row), extras, {})


def _timings(record: Mapping[str, Any]) -> Iterator[Reading]:
    part = PARTS[record["kind"]]
    for row in record["rows"]:
        about = {**row["about"], "images": row["images"]}  # a tenth of them takes more than a tenth
        key = tuple(str(about[name]) for name in part.fields)
        values, median = _timed(row["seconds"])
        yield Reading(part, key, values, median, {"images/s": row["images"] / median} if row["images"] else {}, {})


def _timed(timing: Mapping[str, Any]) -> tuple[tuple[float, ...], float]:
    return tuple(timing.get("parts") or (timing["median"],)), timing["median"]


_READERS: dict[str, Callable[[Mapping[str, Any]], Iterator[Reading]]] = {
    "run": _run,
    "record": _contest,
    "step": _step,
    "kernel": _kernel,
    "training_kernel": _kernel,
    "evaluation": _timings,
    "startup": _timings,
}
