"""What a record says: the fields of every kind, as tables. Standard library only.

Every field of a table that is not marked `required=False` is present in every record. Seconds are wall seconds,
accuracies fractions of 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from speedrun.clock import PHASES as LEDGER
from speedrun.provenance import SHA, SOFTWARE

SCHEMA_VERSION = 1
STATUSES = ("complete", "interrupted", "timeout", "missed", "failed")
FINISHED = ("complete", "missed")  # trained and scored to the end
PHASES = (*LEDGER, "idle")  # idle: what no phase of the ledger accounts for


@dataclass(frozen=True)
class Field:
    """One field: its JSON type, what it means, and the values it may take.

    `null` says when null may stand in its place: never, in a record whose `status` is not complete (a run that was cut
    short does not know everything), or always. `fields` is the table of a nested object, `each` the rule for every
    value of an object with free names and for every item of a list.
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


def _optional(table: Table) -> Table:
    return {name: replace(field, required=False) for name, field in table.items()}


_TEXT = Field(str, "free text")
_SECONDS = Field(float, "seconds", low=0)
_RATE = Field(float, "a second, or of what is possible", low=0)
_VERSION = Field(str, "version, or null if it is not installed", null="always")

DEVICE: Table = {
    "name": Field(str, "as its maker calls it; a processor whose name has no number, with family and model"),
    "kind": Field(str, "torch's device type", choices=("cpu", "cuda", "mps", "xpu")),
    "memory": Field(int, "bytes of its memory", null="always", low=0),
    "capability": Field(str, "CUDA compute capability, such as 9.0", null="always"),
    "driver": Field(str, "driver version", null="always"),
    "cores": Field(int, "processor cores this process may use", low=1),
    "multiprocessors": Field(int, "of a CUDA device", null="always", required=False, low=1),
    "cpu": Field(str, "the processor that feeds it; null if it is the device", null="always", required=False),
}
VERSIONS: Table = {name: _VERSION for name in SOFTWARE}
GIT: Table = {
    "sha": Field(str, "commit that last changed the code of the checkout", pattern=SHA),
    "dirty": Field(bool, "whether its code differs from that commit"),
}

ENVELOPE: Table = {
    "schema": Field(int, "version of this layout", choices=(SCHEMA_VERSION,)),
    "kind": Field(str, "which table describes the rest"),
    "started": Field(str, "when, ISO 8601 in UTC", pattern=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"),
    "device": Field(dict, "what it ran on", null="unfinished", fields=DEVICE),
    "versions": Field(dict, "of the software", fields=VERSIONS),
    "sha256": Field(str, "digest of all other fields, see `files.sealed`", required=False, pattern="[0-9a-f]{64}"),
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
    "expected_accuracy": Field(float, "by the timed steps; before training, the plan's", null="always", low=0, high=1),
    "epochs": Field(float, "passes over the training images", low=0),
    "steps": Field(int, "steps taken", low=0),
    "parameters": Field(int, "of the net", null="unfinished", low=1),
    "images_per_second": Field(float, "trained images a second of the train phase", null="unfinished", low=0),
    "flops_per_second": Field(float, "of the probe: this machine's speed", null="unfinished", required=False, low=0),
    "dtype": Field(str, "of the forward pass", null="unfinished"),
    "dtype_reason": Field(str, "why this dtype", null="unfinished"),
    "plan": Field(dict, "what the planner decided, before a step was timed", null="unfinished"),
    "world_size": Field(int, "processes that trained", low=1),
    "backend": Field(
        str, "by which they exchanged gradients, or a job's results", required=False, choices=("gloo", "nccl")
    ),
    "rank_images_per_second": Field(
        list,
        "images of each process a second in which its host did not wait for others; one with a GPU never seems to",
        null="unfinished",
        required=False,
        each=Field(float, "images a second", low=0),
    ),
    "threads": Field(int, "of torch on the CPU", null="always", required=False, low=1),
    "outside_seconds": Field(float, "start to exit, measured by the parent process", required=False, low=0),
}
# What a job and a run have in common.
_SHARED = ("status", "dataset", "split", "recipe", "config", "seed", "budget_seconds", "wall_seconds", "fetch_seconds")
JOB: Table = {name: RUN[name] for name in (*_SHARED, "phases", "outside_seconds", "backend")}
JOB = {**JOB, **_optional({"world_size": RUN["world_size"]})}  # the oldest records lack it
_MAYBE_ACCURACY = Field(float, "fraction of the scored images", null="always", low=0, high=1)
TRIAL: Table = {
    "name": Field(str, "of its folder"),
    "status": Field(
        str, "how it ended; refused: it cannot end in its time", choices=(*STATUSES, "diverged", "refused")
    ),
    "problem": Field(str, "why it is not complete", null="always"),
    "seed": Field(int, "root seed", low=0),
    "changes": Field(dict, "fields of the config that are its own"),
    "accuracy": _MAYBE_ACCURACY,
    "loss": Field(float, "newest training loss", null="always"),
    "steps": Field(int, "steps taken", low=0),
    "parameters": Field(int, "of the net", null="always", low=1),
    "train_seconds": Field(float, "the comparable clock", null="always", low=0),
    "wall_seconds": Field(float, "all that it took", low=0),
}
TRIALS = Field(list, "each training, in order", each=Field(dict, "a training", fields=TRIAL))
ENSEMBLE: Table = {
    **JOB,
    "members": Field(int, "members asked for", low=1),
    "trials": TRIALS,
    "accuracy": Field(float, "of the members' mean probabilities", null="unfinished", low=0, high=1),
    "mean_accuracy": Field(float, "mean of the members' own accuracies", null="unfinished", low=0, high=1),
    "by_members": Field(list, "accuracy of the first 1, 2, ... members", each=_MAYBE_ACCURACY),
}
SEARCH: Table = {
    **JOB,
    "space": Field(dict, "range of each field at the beginning", each=_TEXT),
    "trials": TRIALS,
    "ranking": Field(list, "names of the trials that rank, best first", each=_TEXT),
    "best": Field(dict, "fields of the winner", null="unfinished"),
    "command": Field(str, "trains the winner", null="unfinished"),
}
_MAYBE_SECONDS = Field(float, "seconds", null="always", low=0)
ROW: Table = {
    "change": Field(str, "what is different"),
    "changes": Field(dict, "fields of the config, as they were set"),
    "runs": Field(int, "that were trained and scored to the end", low=0),
    "accuracy": _MAYBE_ACCURACY,
    "deviation": Field(float, "between runs, fraction of 1; null for a single run", null="always", low=0),
    "train_seconds": _MAYBE_SECONDS,
    "steps": Field(float, "mean of the steps taken", null="always", low=0),
    "target_steps": Field(float, "mean of the steps to the target; null if a run never reached it", null="always"),
    "target_epochs": Field(float, "the same in epochs, which batches of any size share", null="always", low=0),
    "target_seconds": _MAYBE_SECONDS,
    "stability": Field(float, "deviation of the accuracy over the last tenth of training", null="always", low=0),
}
ABLATION: Table = {
    **JOB,
    "target_accuracy": _MAYBE_ACCURACY,
    "rows": Field(list, "one change each, the unchanged one first", each=Field(dict, "a row", fields=ROW)),
    "trials": TRIALS,
}
PREDICTION: Table = {
    "checkpoint": Field(str, "the run or the ensemble that predicted"),
    "members": Field(int, "nets whose probabilities were averaged", low=1),
    "images": Field(str, "test, or where the images were"),
    "count": Field(int, "images", low=1),
    "out": Field(str, "the CSV file"),
    "accuracy": _MAYBE_ACCURACY,
    "wall_seconds": _SECONDS,
}
VALUES: Table = {"values": Field(dict, "what was measured: numbers and the settings they belong to")}

_READING = Field(float, "null where it cannot be read", null="always")
STATE: Table = {
    "clock_mhz": _READING,
    "memory_clock_mhz": _READING,
    "power_watts": _READING,
    "power_limit_watts": _READING,
    "temperature_celsius": _READING,
    "load": _READING,  # processes that wanted a core, mean over the last minute
    "utilization_percent": replace(_READING, required=False),  # of a GPU's time, over about the last second
    "stolen_seconds": replace(_READING, required=False),  # that the host withheld from a virtual machine's cores so far
}
# What every benchmark of operations tells beside its numbers; the oldest records of kernels lack it.
_CIRCUMSTANCES: Table = {
    "settings": Field(dict, "what was measured, and how"),
    "config_hash": Field(str, "of `settings`: equal where they are", pattern=r"[0-9a-f]{12}"),
    "state": Field(
        dict,
        "of the machine",
        fields={name: Field(dict, f"{name} measuring", fields=STATE) for name in ("before", "after")},
    ),
}
# Of the runs of a benchmark, of the newer ones.
_STATE: Table = _optional({name: _CIRCUMSTANCES[name] for name in ("state", "config_hash")})
TIMING: Table = {
    "median": _SECONDS,
    "p20": _SECONDS,
    "p80": _SECONDS,
    "calls": Field(int, "measurements", low=1),
    "drift": Field(float, "median of the later half over that of the earlier, less 1", low=-1),
    "parts": Field(list, "medians of equal parts, in order", each=_SECONDS),
}
_RUNS = Field(list, "seconds of each measurement, in order", each=_SECONDS)
_KERNEL_ROW: Table = {
    "operation": Field(str, "what was done"),
    "contender": Field(str, "by what"),
    "batch": Field(int, "images a call", low=1),
    "size": Field(int, "pixels a side", low=1),
    "cold": Field(bool, "whether the caches were flushed before each call"),
    "error": Field(str, "why it was not measured; nothing else is there then", required=False),
    # The oldest records lack the values of single runs, and some of what comes of them.
    **_optional({**TIMING, "runs": _RUNS, "images_per_second": _RATE, "bandwidth_share": _RATE}),
    "bytes": Field(int, "that must move at least", required=False, low=0),
}
KERNEL: Table = {
    "values": Field(
        dict,
        "what was measured",
        fields={
            "threads": Field(int, "of torch on the CPU", low=1),
            "copy_bytes_per_second": Field(float, "read and written together", low=0),
            "rows": Field(list, "one measurement each", each=Field(dict, "a measurement", fields=_KERNEL_ROW)),
        },
    )
}
_SHARES = Field(dict, "by kind of operation", each=Field(float, "share of the step", low=0, high=1))
STEP: Table = {
    **_CIRCUMSTANCES,
    "recipe": RUN["recipe"],
    "model": Field(dict, "the net's config"),
    "changed": Field(list, "fields that --set gave, as FIELD=VALUE", required=False, each=_TEXT),
    "size": Field(int, "pixels a side", low=1),
    "batch": Field(int, "images a step", low=1),
    "dtype": Field(str, "of the forward pass"),
    "compile": Field(str, "how the net was compiled; off: not at all"),
    "threads": Field(int, "of torch on the CPU; null elsewhere", null="always", low=1),
    "seconds": Field(dict, "of a step", fields=TIMING),
    "runs": Field(list, "seconds of a step in each round, in order", each=_SECONDS),
    "images_per_second": Field(float, "trained images", low=0),
    "flops": Field(int, "of a step: three forward passes of the batch", low=0),
    "flops_per_second": Field(float, "of the step", low=0),
    "peak_flops_per_second": Field(float, "of the fastest matrix product or convolution, same rounds", low=0),
    "peaks": Field(dict, "operations a second of each of them", each=Field(float, "of their medians", low=0)),
    "peak_share": Field(float, "flops_per_second over peak_flops_per_second", low=0),
    "probe_flops_per_second": Field(
        float, "of the planner's probe, same rounds: on a CPU as a run has it", required=False, low=0
    ),
    "memory": Field(int, "bytes a step allocates at once beyond what lay there", null="always", low=0),
    "breakdown": _SHARES,
}
TIMINGS: Table = {
    **_CIRCUMSTANCES,
    "rows": Field(
        list,
        "one measurement each",
        each=Field(
            dict,
            "a measurement",
            fields={
                "about": Field(dict, "what was measured: equal where two rows may be compared"),
                "seconds": Field(dict, "of one call", fields=TIMING),
                "runs": _RUNS,
                "images": Field(int, "images a call", null="always", low=1),
            },
        ),
    ),
}
RECORD: Table = {
    **_CIRCUMSTANCES,
    "contender": Field(str, "speedrun, with the words that change it, or the name of another's script"),
    "target": Field(float, "accuracy to reach", low=0, high=1),
    "dataset": RUN["dataset"],
    "accuracies": Field(list, "of each run, with test views", each=Field(float, "fraction", low=0, high=1)),
    "seconds": Field(list, "of each run, by airbench's clock", each=_SECONDS),
    "p": Field(float, "one-sided, of a mean above the target, of all runs so far", null="always", low=0, high=1),
    "config": Field(dict, "of our first run; null of another's", null="always"),
}
PART: Table = {
    "part": Field(str, "of the suite"),
    "quick": Field(bool, "whether it was the short form"),
    "command": Field(list, "what was run", each=_TEXT),
    "wall_seconds": Field(float, "that it took", low=0),
}

KINDS: dict[str, Table] = {
    "run": {**RUN, **_STATE},
    "ensemble": ENSEMBLE,
    "search": SEARCH,
    "ablation": ABLATION,
    "prediction": PREDICTION,
    "suite": PART,
    "record": RECORD,
    "kernel": {**KERNEL, **_optional(_CIRCUMSTANCES)},
    "training_kernel": {**_CIRCUMSTANCES, **KERNEL},
    "step": STEP,
    "scaling_model": {**_CIRCUMSTANCES, **VALUES},
    "soak": {**_CIRCUMSTANCES, **VALUES},
    "system": {**VALUES, **_STATE},
    "evaluation": TIMINGS,
    "startup": TIMINGS,
}
