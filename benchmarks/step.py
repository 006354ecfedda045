"""What one training step takes, whole as a run makes it: batch, forward, backward, update; a record a net and size.

    python -m benchmarks.step [--quick] [--recipe NAME | all] [--widths 64,256,256] [--set FIELD=VALUE] [--size N]
                              [--batch N] [--no-record]

Nets are the recipe's own or, where it leaves that to the planner, those of the planner's table; sizes those of its
resolutions; `--set model.fused=norm,conv` and the like change any field but select.share, for how long a step takes
that picks images depends on the point of the run. A recipe that does not fit the machine is told and stops no other. In
turn with the step the device's peak is measured, in the same dtype: the fastest of torch's matrix products of 1,024,
2,048 and 4,096 cubed and of a 3x3 convolution of 256 to 256 channels; and the planner's probe, by which
`benchmarks.scaling --fit` knows how fast each net of its table is. Operations are those of three forward passes, of
six with optim.sam, whose gradient is taken twice. Images are noise, on which the time does not depend.
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import breakdown
from benchmarks.harness import Call, Session, Timing, in_turn, report
from benchmarks.rows import step_name
from speedrun import config as configs
from speedrun import device as devices
from speedrun import memory, models, planner, probe, recipes, rungs, trainee
from speedrun.arguments import assigned
from speedrun.config import Config, require
from speedrun.data import Dataset
from speedrun.errors import SpeedrunError, UsageError
from speedrun.machine import Machine, open_machine
from speedrun.trainee import Trainee

IMAGES = 50_000
SQUARES = (1024, 2048, 4096)
CHANNELS, CONVOLVED = 256, (256, 16)  # of the convolution: channels, and images by pixels a side
TOGETHER = {"cuda": 10}  # steps to a measurement, so that host and device overlap as they do in a run
ONE_NET = (64, 256, 256)  # of those that the planner chooses from, where one must do
COMPILE_SECONDS = 600.0


def noise(count: int, side: int = 32, classes: int = 10) -> Dataset:
    """A data set of the shape of CIFAR-10 whose images are noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    labels = rng.integers(0, classes, count)
    names = tuple(map(str, range(classes)))
    return Dataset("noise", images, labels, images[:1], labels[:1], names, "benchmarks.step")


def cases(base: Config, machine: Machine, widths: Sequence[tuple[int, ...]]) -> Iterator[Config]:
    """The configs to measure, nothing left open: of each of the `widths`, or as the module's docstring says."""
    if widths:
        chosen = [configs.override(base, {"model.widths": each}) for each in widths]
    elif base.model.widths is None:
        known = [rung for rung in rungs.table() if rung.measured or machine.choice.device.type == "cuda"]
        size, count = machine.image_size, len(machine.train_images)
        # Of nets that differ in momentum alone one is timed.
        dials = ({**rung.dials_for(size, count), planner.MOMENTUM: base.optim.momentum} for rung in known)
        chosen = list(dict.fromkeys(configs.override(base, each) for each in dials))
    else:
        chosen = [base]
    for config in chosen:
        yield planner.choose(config, machine.situation(), None).apply(config)


def peaks(device: torch.device, dtype: torch.dtype) -> dict[str, tuple[float, Call]]:
    """Each of the products that the peak is the fastest of: its operations and its call."""

    def product(side: int) -> tuple[float, Call]:
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        out = torch.empty_like(a)
        return 2.0 * side**3, lambda: torch.mm(a, b, out=out)

    count, side = CONVOLVED
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
    images = torch.randn(count, CHANNELS, side, side, device=device).to(dtype, memory_format=torch.channels_last)
    operations = 2.0 * images.numel() * weight[0].numel()
    convolution = lambda: torch.conv2d(images, weight, padding=1)  # noqa: E731
    return {**{f"mm {side}": product(side) for side in SQUARES}, "convolution": (operations, convolution)}


def measure(trained: Trainee, size: int, seconds: float) -> dict[str, Any]:
    """The fields of a record: of a step at `size` pixels, and of the peak and the probe in turn with it."""
    device, dtype = trained.machine.choice.device, trained.machine.choice.dtype
    stream, step = trained.stream(), trained.step()
    together = TOGETHER.get(device.type, 1)
    products = peaks(device, dtype)
    probe_flops, probed = probe.training_step(device, dtype)
    calls: dict[str, Call] = {"step": lambda: step(stream.next(size), breakdown.PROGRESS), "probe": probed}
    calls.update({name: call for name, (_, call) in products.items()})
    times = in_turn(calls, device, cold=False, seconds=seconds, together=together, ahead=False)
    timing = Timing.of(times["step"])
    reached = {name: operations / statistics.median(times[name]) for name, (operations, _) in products.items()}
    peak = max(reached.values())
    passes = 3 * (2 if trained.config.optim.sam else 1)
    flops = passes * models.forward_flops(trained.net, size) * trained.batch_size
    profile = breakdown.profiled(breakdown.marked(trained, size), device)
    return {
        "size": size,
        "seconds": dataclasses.asdict(timing),
        "runs": times["step"],
        "images_per_second": trained.batch_size / timing.median,
        "flops": flops,
        "flops_per_second": flops / timing.median,
        "peak_flops_per_second": peak,
        "peaks": reached,
        "peak_share": flops / timing.median / peak,
        "probe_flops_per_second": probe_flops / statistics.median(times["probe"]),
        "memory": profile.memory,
        "breakdown": profile.shares(),
    }


def prepared(config: Config, machine: Machine) -> Trainee:
    """The trainee of a config on whitened images, compiled if it asks for that; eager, as a run, where that fails."""
    trained = trainee.build(config, machine)
    if config.compile != "off":
        _, problem = trained.compile(COMPILE_SECONDS)
        if problem:
            print(problem, file=sys.stderr)
            trained.config = dataclasses.replace(config, compile="off")
    trained.whiten()
    return trained


def about(config: Config, machine: Machine, changed: Sequence[str] = ()) -> dict[str, Any]:
    """What a step is of: the fields of its record that say so. changed: each FIELD=VALUE that was set by hand."""
    plain = configs.to_dict(config)
    cpu = machine.choice.device.type == "cpu"
    return {
        "recipe": config.recipe,
        "model": plain["model"],
        "changed": list(changed),
        "batch": config.batch_size,
        "dtype": str(machine.choice.dtype).removeprefix("torch."),
        "compile": config.compile,
        "threads": torch.get_num_threads() if cpu else None,
    }


def title(fields: dict[str, Any], size: int) -> str:
    """What was measured, for a person."""
    net = f"{fields['recipe']} {step_name(fields)}"
    return f"{net}, {size} pixels, batch {fields['batch']}, {fields['dtype']}, compile {fields['compile']}"


def line(fields: dict[str, Any]) -> str:
    """A record's numbers for a person."""
    timing, shares = fields["seconds"], sorted(fields["breakdown"].items(), key=lambda pair: -pair[1])
    parts = ", ".join(f"{kind} {share:.0%}" for kind, share in shares if share >= 0.01)
    times = f"{1e3 * timing['median']:.3g} ms ({1e3 * timing['p20']:.3g} to {1e3 * timing['p80']:.3g})"
    return (
        f"{title(fields, fields['size'])}: {times}, {fields['images_per_second']:,.0f} images/s, "
        f"{fields['flops_per_second'] / 1e12:.3g} TFLOP/s, {fields['peak_share']:.0%} of "
        f"{fields['peak_flops_per_second'] / 1e12:.3g}, probe {fields['probe_flops_per_second'] / 1e12:.3g}, "
        f"{fields['memory'] / 2**20:,.0f} MiB\n  {parts}"
    )


def net_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that say which net is measured, and on what."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--recipe", default="speednet", help="python -m speedrun recipes lists them")
    result.add_argument(
        "--widths", action="append", default=[], help="channels of each stage, as 64,256,256; repeatable"
    )
    result.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="set any config field")
    result.add_argument("--device", default="auto", help="auto, cpu or cuda")
    result.add_argument("--dtype", default="auto", choices=("auto", "float32", "float16", "bfloat16"))
    result.set_defaults(batch=None, compile="off")
    return result


def add_step(parser: argparse.ArgumentParser) -> None:
    """The options that say how a step of it is made."""
    parser.add_argument("--batch", type=int, help="images a step (default: the recipe's)")
    modes = ("auto", "off", "captured", "default", "max-autotune")
    parser.add_argument("--compile", default="auto", choices=modes, help="auto: on CUDA alone, as a long run does")


def open_noise(options: argparse.Namespace) -> Machine:
    """The machine that the command line asks for, with noise on it."""
    choice = devices.choose(options.device, options.dtype)
    devices.prepare(choice.device)
    return open_machine(choice, noise(IMAGES), holdout=False)


def asked(recipe: str, options: argparse.Namespace, machine: Machine) -> Config:
    """The recipe's config with what the command line sets. Raises UsageError, also where steps would pick images: how
    long one takes depends on the point of the run, and this measures at its end."""
    automatic = "default" if machine.choice.device.type == "cuda" else "off"
    changes = {"device": options.device, "dtype": options.dtype}
    changes["compile"] = automatic if options.compile == "auto" else options.compile
    if options.batch is not None:
        changes["batch_size"] = options.batch
    config = configs.override(recipes.get(recipe), {**changes, **assigned(options.set)})
    require(not config.select.picks, "steps that pick images are timed in a run alone: leave select.share at 1")
    return config


def given_widths(options: argparse.Namespace, base: Config, *, one: bool) -> list[tuple[int, ...]]:
    """The widths that the command line names; where it names none and the planner has the choice, those of `one` net.

    Raises UsageError where a text is no list of numbers.
    """
    try:
        widths = [tuple(map(int, each.split(","))) for each in options.widths]
    except ValueError:
        raise UsageError(f"--widths takes numbers separated by commas, not {' '.join(options.widths)}") from None
    return widths or ([ONE_NET] if one and base.model.widths is None else [])


def measure_recipe(recipe: str, options: argparse.Namespace, machine: Machine, session: Session) -> None:
    """Measure and record every net and size of a recipe."""
    base = asked(recipe, options, machine)
    seconds = min(options.seconds, 1.0) if options.quick else options.seconds
    for config in cases(base, machine, given_widths(options, base, one=options.quick)):
        trained = prepared(config, machine)
        sizes = options.size or (trained.resolutions[:1] if options.quick else sorted(set(trained.resolutions)))
        for size in sizes:
            session.begin()
            fields = {**about(trained.config, machine, options.set), **measure(trained, size, seconds)}
            print(line(fields), flush=True)
            settings = {"config": configs.to_dict(trained.config), "size": size, "images": IMAGES}
            report(session.line("step", settings, **fields), keep=not options.no_record)


def main() -> int:
    parser = net_parser(__doc__)
    add_step(parser)
    parser.add_argument("--size", action="append", type=int, help="pixels a side; repeatable")
    parser.add_argument("--seconds", type=float, default=3.0, help="for the step, the probe and each product")
    parser.add_argument("--quick", action="store_true", help="one net at its first resolution, a second each")
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    machine = open_noise(options)
    device, failed = machine.choice.device, 0
    # A published setting has the net of its recipe. The tiers are for GPUs: two cores take minutes for one step.
    every = [name for name in recipes.names() if not name.endswith("-published")]
    every = [name for name in every if device.type == "cuda" or recipes.get(name).epochs is None]
    session = Session(device)
    for recipe in every if options.recipe == "all" else [options.recipe]:
        try:
            with memory.room_for(f"a step of {recipe}", device):
                measure_recipe(recipe, options, machine, session)
        except SpeedrunError as error:  # the other recipes are measured all the same
            print(f"{recipe}: {error}", file=sys.stderr, flush=True)
            failed = error.exit_code
        memory.release()
    return failed


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpeedrunError as error:
        print(f"step: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
