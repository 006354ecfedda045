"""What a training step would take on 1 to 64 devices, from what it takes here and from what joins the devices.

    python -m benchmarks.scaling_model [--seconds 10,60,600] [--bandwidth 1.25e9 --latency 5e-5] [--overlap 0] [--dry]

For each budget the planner's net is measured in processes of their own: alone with one thread and with all, and, of
one thread each, two together by gloo. The model is made of the first and of the link, and checked against the last.
Its table is of devices like the first; bandwidth (bytes a second) and latency (seconds a message) are those between
them, and measured between the two processes where they are not given. overlap: what share of the backward pass can hide
messages; none where the processor that computes sends them too, nearly all of it where a GPU does.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

from speedrun.errors import SpeedrunError
from speedrun.summary import aligned

DEVICES = (1, 2, 4, 8, 16, 32, 64)
GAIN = 0.1  # what twice the devices must bring to be worth it
BACKWARD = 2 / 3  # of the passes' time
BUCKET_BYTES = 2 * 2**20  # as speedrun.methods.parallel has them
LIMIT_SECONDS = 200.0


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
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    command = [sys.executable, *launcher, "-m", "benchmarks.scaling_worker", json.dumps(asked)]
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    try:
        ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        return json.loads(ended.stdout.strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise SpeedrunError(f"measuring {count} process(es) failed: {type(error).__name__}") from error


def values(budget: float, given: Link | None, overlap: float) -> dict[str, Any]:
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
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The values for a person."""
    costs, measured, one = found["costs"], found["measured"], found["predicted"]["1"]
    rows = [("devices", "ms", "images/s", "of as many alone")]
    for devices, seconds in found["predicted"].items():
        share = one / seconds / int(devices)
        rows.append((devices, f"{1e3 * seconds:.3g}", f"{costs['batch'] / seconds:,.0f}", f"{share:.0%}"))
    widths = "/".join(map(str, found["dials"]["model.widths"]))
    link = found["link"]
    return [
        f"{found['budget']:g} s: {widths}, batch {costs['batch']}, "
        f"{costs['gradient_bytes'] / 1e6:.3g} MB of gradients, "
        f"{link['bandwidth'] / 1e9:.3g} GB/s and {1e6 * link['latency']:.3g} µs a message",
        *(f"  {line}" for line in aligned(rows)),
        f"  two processes: {1e3 * found['check']:.3g} ms predicted, {1e3 * measured['2']:.3g} measured, "
        f"{found['of_one_process']:.2f} of the throughput of one process with as many threads",
        f"  worth it up to {found['worthwhile']} devices",
    ]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", default="10,60,600", help="budgets whose nets are measured")
    parser.add_argument("--bandwidth", type=float, help="bytes a second between two devices")
    parser.add_argument("--latency", type=float, default=5e-5, help="seconds a message, with --bandwidth")
    parser.add_argument("--overlap", type=float, default=0.0, help="share of the backward pass that hides messages")
    parser.add_argument("--dry", action="store_true", help="append no record")
    options = parser.parse_args(argv)
    given = None if options.bandwidth is None else Link(options.bandwidth, options.latency, options.overlap)
    for text in options.seconds.split(","):
        found = values(float(text), given, options.overlap)
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
