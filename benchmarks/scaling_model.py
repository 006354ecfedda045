"""What a training step would take on 1 to 64 devices, from what it takes here and from what joins the devices.

    python -m benchmarks.scaling_model [--seconds 10,60,600] [--bandwidth 1.25e9 --latency 5e-5] [--overlap 0] [--dry]

For each budget the planner's net is measured in processes of their own: alone with one thread and with all, and, of
one thread each, two together by gloo. The model is made of the first and of the link, and checked against the last.
Its table is of devices like the first; bandwidth (bytes a second) and latency (seconds a message) are those between
them, and measured between the two processes where they are not given. overlap: what share of the backward pass can hide
messages; none where the processor that computes sends them too, nearly all of it where a GPU does.

Of the first budget's net four members of an ensemble are trained too, by one process with all cores and by two with
half of them each, which exchange nothing.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.results import by_newest_commit
from benchmarks.rows import machine
from speedrun import config as configs
from speedrun.errors import SpeedrunError
from speedrun.summary import aligned

DEVICES = (1, 2, 4, 8, 16, 32, 64)
GAIN = 0.1  # what twice the devices must bring to be worth it
BACKWARD = 2 / 3  # of the passes' time
BUCKET_BYTES = 2 * 2**20  # as speedrun.methods.parallel has them
LIMIT_SECONDS = 200.0
MEMBERS, MEMBER_SECONDS = 4, 10.0


@dataclass(frozen=True)
class Costs:
    """A step on one device: seconds whatever its images, seconds an image, seconds to orthogonalise all filters (which
    is part of the first); images of a batch; bytes of all gradients and of all orthogonalised updates."""

    fixed: float
    image: float
    orthogonalise: float
    batch: int
    gradient_bytes: float
    update_bytes: float


@dataclass(frozen=True)
class Link:
    """Between two devices: bytes a second, seconds a message, share of the backward pass that hides messages."""

    bandwidth: float
    latency: float
    overlap: float = 0.0


def predict(costs: Costs, link: Link, devices: int) -> float:
    """Seconds of a step in which so many devices share a batch.

    Gradients go round a ring (bandwidth-optimal: Patarasuk and Yuan, 2009), bucket by bucket; the last bucket comes
    when the backward pass has ended, so nothing hides it.
    """
    passes = costs.image * costs.batch / devices
    compute = costs.fixed - costs.orthogonalise * (1 - 1 / devices) + passes
    if devices == 1:
        return compute
    buckets = math.ceil(costs.gradient_bytes / BUCKET_BYTES)
    share = (devices - 1) / devices
    reduce = 2 * share * costs.gradient_bytes / link.bandwidth + 2 * (devices - 1) * link.latency * buckets
    hidden = min(reduce * (1 - 1 / buckets), link.overlap * BACKWARD * passes)
    gather = share * costs.update_bytes / link.bandwidth + (devices - 1) * link.latency
    agree = 2 * 2 * math.ceil(math.log2(devices)) * link.latency  # what a step shows, and what decides on the next
    return compute + reduce - hidden + gather + agree


def worthwhile(costs: Costs, link: Link) -> int:
    """The most devices, of `DEVICES`, up to which each doubling makes a step faster by `GAIN`."""
    most = 1
    for devices in DEVICES[1:]:
        if predict(costs, link, most) < (1 + GAIN) * predict(costs, link, devices):
            break
        most = devices
    return most


def costs_of(found: dict[str, Any]) -> Costs:
    """The costs that the steps of a whole batch and of half of it come to."""
    image = (found["step"] - found["half_step"]) / (found["batch"] - found["batch"] // 2)
    fixed = max(found["step"] - image * found["batch"], 0.0)
    orthogonalise = min(found["orthogonalise"], fixed)
    return Costs(fixed, image, orthogonalise, found["batch"], found["gradient_bytes"], found["update_bytes"])


def link_of(found: dict[str, Any]) -> Link:
    """The link between two ranks, from an all-reduction of a number, two messages, and one of many bytes."""
    return Link(found["bytes"] / max(found["large"] - found["small"], 1e-9), found["small"] / 2)


def measure(count: int, threads: int, asked: dict[str, Any]) -> dict[str, Any]:
    """What `benchmarks.scaling_worker` finds in so many processes. SpeedrunError where it fails."""
    printed = _run(count, threads, ["benchmarks.scaling_worker", json.dumps(asked)])
    try:
        return json.loads(printed.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise SpeedrunError(f"measuring {count} process(es) failed: {type(error).__name__}") from error


def _run(count: int, threads: int, words: list[str]) -> str:
    """What `python -m WORDS` prints, in so many processes. SpeedrunError where it fails or takes too long."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    command = [sys.executable, *launcher, "-m", *words]
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    try:
        return subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=True
        ).stdout
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise SpeedrunError(f"measuring {count} process(es) failed: {type(error).__name__}") from error


def measure_members(dials: Mapping[str, Any], step_seconds: float, cores: int) -> dict[str, float]:
    """Seconds from start to exit in which `MEMBERS` nets are trained, by the number of processes that share the cores.

    step_seconds: with all cores; a member takes about `MEMBER_SECONDS` then.
    """
    words = ["speedrun", "ensemble", f"--members={MEMBERS}", "--dataset=synthetic", "--compile=off", "--quiet"]
    words += [f"--steps={max(1, round(MEMBER_SECONDS / step_seconds))}"]
    words += [f"--set={name}={configs.as_text(value)}" for name, value in dials.items()]
    found = {}
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            _run(count, max(1, cores // count), [*words, f"--out={folder}/out"])
            found[str(count)] = time.monotonic() - began
    return found


def values(budget: float, given: Link | None, overlap: float, with_members: bool) -> dict[str, Any]:
    """What is measured and predicted of the planner's net for so many seconds."""
    from speedrun.device import cores

    alone = measure(1, 1, {"seconds": budget})
    dials, costs = alone["dials"], costs_of(alone)
    whole, two = measure(1, cores(), dials), measure(2, 1, dials)
    found = link_of(two)
    link = given or Link(found.bandwidth, found.latency, overlap)
    return {
        "budget": budget,
        "dials": dials,
        "costs": asdict(costs),
        "link": asdict(link),
        "measured": {"1": alone["step"], "2": two["step"], f"1, {cores()} threads": whole["step"]},
        "check": predict(costs, found, 2),
        "of_one_process": whole["step"] / two["step"],
        "predicted": {str(devices): predict(costs, link, devices) for devices in DEVICES},
        "worthwhile": worthwhile(costs, link),
        "members": measure_members(dials, whole["step"], cores()) if with_members else None,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The values for a person."""
    costs, measured, one = found["costs"], found["measured"], found["predicted"]["1"]
    rows = [("devices", "ms", "images/s", "of as many alone")]
    for devices, seconds in found["predicted"].items():
        share = one / seconds / int(devices)
        rows.append((devices, f"{1e3 * seconds:.3g}", f"{costs['batch'] / seconds:,.0f}", f"{share:.0%}"))
    link, members = found["link"], found["members"]
    return [
        f"{found['budget']:g} s: {_net(found)}, batch {costs['batch']}, "
        f"{costs['gradient_bytes'] / 1e6:.3g} MB of gradients, "
        f"{link['bandwidth'] / 1e9:.3g} GB/s and {1e6 * link['latency']:.3g} µs a message",
        *(f"  {line}" for line in aligned(rows)),
        f"  two processes: {1e3 * found['check']:.3g} ms predicted, {1e3 * measured['2']:.3g} measured, "
        f"{found['of_one_process']:.2f} of the throughput of one process with as many threads",
        f"  worth it up to {found['worthwhile']} devices",
        *([] if members is None else [f"  {MEMBERS} members: {members['2']:.1f} s by two, {members['1']:.1f} by one"]),
    ]


def _net(found: Mapping[str, Any]) -> str:
    return configs.as_text(found["dials"]["model.widths"], "/")


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a machine and budget, the newest: what was measured beside what was predicted."""

    def key(each: dict[str, Any]) -> tuple[str, float]:
        return machine(each), each["values"]["budget"]

    groups = by_newest_commit((each for each in records if each["kind"] == "scaling_model"), key)
    if not groups:
        return ""
    rows = [
        "| machine | budget, net | GB/s, µs a message | two processes, ms: predicted, measured "
        f"| of one with as many cores | {MEMBERS} members by two, of one "
        f"| ms on {', '.join(map(str, DEVICES))} devices | worth it up to |",
        "|---" * 8 + "|",
    ]
    for (where, budget), measured in groups.items():
        found = measured[-1]["values"]
        link, members = found["link"], found["members"]
        share = "" if members is None else f"{members['2'] / members['1']:.2f} of its time"
        rows.append(
            f"| {where} | {budget:g} s, {_net(found)} | {link['bandwidth'] / 1e9:.2g}, {1e6 * link['latency']:.0f} "
            f"| {1e3 * found['check']:.3g}, {1e3 * found['measured']['2']:.3g} | {found['of_one_process']:.2f} "
            f"| {share} | {', '.join(f'{1e3 * seconds:.3g}' for seconds in found['predicted'].values())} "
            f"| {found['worthwhile']} |"
        )
    return "\n".join(rows)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", default="10,60,600", help="budgets whose nets are measured")
    parser.add_argument("--bandwidth", type=float, help="bytes a second between two devices")
    parser.add_argument("--latency", type=float, default=5e-5, help="seconds a message, with --bandwidth")
    parser.add_argument("--overlap", type=float, default=0.0, help="share of the backward pass that hides messages")
    parser.add_argument("--dry", action="store_true", help="append no record")
    options = parser.parse_args(argv)
    given = None if options.bandwidth is None else Link(options.bandwidth, options.latency, options.overlap)
    for number, text in enumerate(options.seconds.split(",")):
        found = values(float(text), given, options.overlap, with_members=number == 0)
        print("\n".join(lines(found)), flush=True)
        if not options.dry:
            _record(found)
    return 0


def _record(found: dict[str, Any]) -> None:
    import torch

    from benchmarks import results
    from benchmarks.harness import Session

    settings = {"budget": found["budget"], "dials": found["dials"], "link": found["link"]}
    results.add(Session(torch.device("cpu")).line("scaling_model", settings, values=found))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SpeedrunError as error:
        print(f"scaling_model: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
