"""One rank of a measurement of `benchmarks.scaling_model`, which starts it; the first prints what was found.

    python -m torch.distributed.run --nproc-per-node=2 -m benchmarks.scaling_worker JSON

JSON: the dials of a net by dotted name, or {"seconds": N}, those that the planner would take for so many.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.step import noise
from speedrun import config as configs
from speedrun import device as devices
from speedrun import distributed, planner
from speedrun.config import Config
from speedrun.device import synchronize
from speedrun.distributed import World
from speedrun.machine import Machine, open_machine
from speedrun.optim import Muon
from speedrun.trainee import Trainee, build

SECONDS, LEAST = 2.0, 5  # for each measurement, and calls of it


def main(asked: dict[str, Any]) -> None:
    world = distributed.here()
    world.join()
    choice = devices.choose(devices.of_rank("auto", world))
    devices.prepare(choice.device, world.local_size)
    machine = open_machine(choice, noise(4000), holdout=False)
    dials = world.decide(lambda: _dials(machine, asked))
    base = configs.override(Config(compile="off"), dials)
    trained = build(planner.choose(base, machine.situation(), None).apply(base), machine, world=world)
    found: dict[str, Any] = {"dials": dials, "step": _step(trained, trained.batch_size)}
    if world.size == 1:
        found |= _apart(trained)
    else:
        found |= _link(world, trained)
    if world.leads:
        print(json.dumps(found), flush=True)
    world.leave()


def _dials(machine: Machine, asked: dict[str, Any]) -> dict[str, Any]:
    """What makes the net and its batch."""
    if "seconds" not in asked:
        return asked
    plan = planner.choose(Config(), machine.situation(), asked["seconds"])
    kept = ("model.widths", "model.depth", "batch_size", "resolutions", "augment.cutout")
    return {name: plan.dials[name] for name in kept if name in plan.dials}


def _step(trained: Trainee, batch_size: int) -> float:
    """Seconds of a step at the last resolution, of the whole batch."""
    if batch_size != trained.batch_size:
        trained.resize(replace(trained.config, batch_size=batch_size))
    step, stream, size = trained.step(), trained.stream(), trained.resolutions[-1]
    return _seconds(trained, lambda: step(stream.next(size), 0.0))


def _seconds(trained: Trainee, call: Callable[[], object]) -> float:
    """The median of a call's seconds, the first rank deciding how often it is measured."""
    device, world = trained.machine.choice.device, trained.world
    times: list[float] = []
    call()
    while len(times) < LEAST or world.lead(sum(times))[0] < SECONDS:
        synchronize(device)
        began = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _apart(trained: Trainee) -> dict[str, Any]:
    """What one device tells: a step of half the batch, and what of a step is to orthogonalise filters."""
    muon = next(one for one in trained.step().optimizers.members if isinstance(one, Muon))
    filters = [parameter for group in muon.param_groups for parameter in group["params"]]
    matrices = [torch.randn_like(each).reshape(len(each), -1) for each in filters]
    width = (muon.compute_dtype or torch.float32).itemsize
    return {
        "batch": trained.batch_size,
        "gradient_bytes": sum(4 * each.numel() for each in trained.net.parameters() if each.requires_grad),
        "update_bytes": sum(width * matrix.numel() for matrix in matrices),
        "orthogonalise": _seconds(trained, lambda: muon.orthogonalized(matrices, 3)),
        "half_step": _step(trained, trained.batch_size // 2),
    }


def _link(world: World, trained: Trainee) -> dict[str, Any]:
    """What several ranks tell: all-reductions of a number and of all gradients."""
    device = trained.machine.choice.device
    small = torch.zeros(1, device=device)
    large = torch.zeros(sum(each.numel() for each in trained.net.parameters()), device=device)
    return {
        "small": _seconds(trained, lambda: world.sum_(small)),
        "large": _seconds(trained, lambda: world.sum_(large)),
        "bytes": 4 * large.numel(),
    }


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
