"""How fast the kernels of training are, beside torch's own operations: a table, and a record of it.

    python -m benchmarks.training_kernels [--quick] [--device cuda] [--only NAME] [--no-record]

Each kernel at the shapes of a 64/256/256 net, forward and backward where it has both, with caches flushed and warm:
the median, and the share of the measured copy bandwidth that the bytes come to which must move. Its twin is what a net
or an optimiser does while `model.fused`, `model.fp8` and `optim.fused` are off. In a graph is how a captured step pays
for them; compiled is what torch.compile makes of the twin. For Newton-Schulz, batch and pixels stand for the filters
and for the rows of the largest. What is made for CPUs is measured on those that it pays on, beside torch's, its twin.
`--quick` takes a fifth of the images, and no compilation.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import launches
from benchmarks.harness import Call, Session, copy_bandwidth, report
from benchmarks.launches import Contender
from kernels import conv_cpu, norm_cpu, winograd
from kernels.conv_fp8 import conv_fp8
from kernels.conv_pool import conv_pool_norm
from kernels.newton_schulz import orthogonalize_all
from kernels.pool_norm import pool_norm
from kernels.whiten import whiten
from speedrun import device as devices
from speedrun.errors import SpeedrunError

IMAGES = 2000  # a step
# Sides of the filters as matrices, of a net of 64/256/256 at depth 2.
FILTERS = ((64, 216), (64, 576), (256, 576), *((256, 2304),) * 3)


class Case(NamedTuple):
    """One measured thing. moved: bytes that must at least go in and out. make: a call, by the method that it takes."""

    batch: int
    size: int
    moved: int
    make: Callable[[str], Call]


def newton_schulz(device: torch.device, dtype: torch.dtype, quick: bool) -> Case:
    matrices = [torch.randn(shape, device=device) for shape in FILTERS]
    count = sum(matrix.numel() for matrix in matrices)
    moved = count * (4 + dtype.itemsize)
    return Case(len(FILTERS), 256, moved, lambda method: lambda: orthogonalize_all(matrices, 3, dtype, method))


def noise(channels: int, side: int, device: torch.device, dtype: torch.dtype, quick: bool) -> Tensor:
    """Maps of as many images as are asked for: (N, channels, side, side), channels-last."""
    count = IMAGES // 5 if quick else IMAGES
    return torch.randn(count, channels, side, side, device=device).to(dtype, memory_format=torch.channels_last)


def pooled_norm(
    channels: int, side: int, pool: int, device: torch.device, dtype: torch.dtype, quick: bool, *, cpu: bool = False
) -> Case:
    x = noise(channels, side, device, dtype, quick)
    weight, bias = torch.ones(channels, device=device), torch.zeros(channels, device=device)
    running = torch.zeros(channels, device=device), torch.ones(channels, device=device)
    x.requires_grad_()
    bias.requires_grad_()
    grad = torch.ones_like(x[:, :, : side // pool, : side // pool])

    def make(method: str) -> Call:
        def call() -> object:
            options: dict[str, Any] = {"momentum": 0.4, "eps": 1e-12, "activation": "gelu", "pool": pool}
            made = norm_cpu.norm_cpu if cpu and method == "fused" else partial(pool_norm, method=method)
            return torch.autograd.grad(made(x, weight, bias, *running, **options), (x, bias), grad)

        return call

    # In and its gradient out, whole; the result out and its gradient in.
    return Case(len(x), side, 2 * (x.numel() + grad.numel()) * dtype.itemsize, make)


def first_stage(narrow: int, wide: int, side: int, device: torch.device, dtype: torch.dtype, quick: bool) -> Case:
    """The input wants no gradient, as in a run once the whitening's bias is frozen."""
    x = noise(narrow, side, device, dtype, quick)
    filters = torch.randn(wide, narrow, 3, 3, device=device).requires_grad_()
    weight, bias = torch.ones(wide, device=device), torch.zeros(wide, device=device, requires_grad=True)
    running = torch.zeros(wide, device=device), torch.ones(wide, device=device)
    grad = noise(wide, side // 2, device, dtype, quick)

    def make(method: str) -> Call:
        def call() -> object:
            options: dict[str, Any] = {"momentum": 0.4, "eps": 1e-12, "activation": "gelu", "method": method}
            out = conv_pool_norm(x, filters, weight, bias, *running, **options)
            return torch.autograd.grad(out, (filters, bias), grad)

        return call

    # In, both ways; the result out and its gradient in.
    return Case(len(x), side, 2 * (x.numel() + grad.numel()) * dtype.itemsize, make)


def whitening(device: torch.device, dtype: torch.dtype, quick: bool) -> Case:
    x = noise(3, 32, device, dtype, quick)
    filters, bias = torch.randn(24, 3, 2, 2, device=device), torch.zeros(24, device=device)
    moved = (x.numel() + len(x) * 24 * 31 * 31) * dtype.itemsize
    return Case(len(x), 32, moved, lambda method: lambda: whiten(x, filters, bias, "gelu", method))


def eight_bits(narrow: int, wide: int, side: int, device: torch.device, dtype: torch.dtype, quick: bool) -> Case:
    """Beside a convolution that is not of 8 bits, rather than the twin, whose only use is to show what it computes."""
    x = noise(narrow, side, device, dtype, quick).requires_grad_()
    filters, grad = torch.randn(wide, narrow, 3, 3, device=device), noise(wide, side, device, dtype, quick)
    filters.requires_grad_()

    def make(method: str) -> Call:
        def call() -> object:
            plain = method == "torch"
            out = F.conv2d(x, filters.to(dtype), padding=1) if plain else conv_fp8(x, filters, method)
            return torch.autograd.grad(out, (x, filters), grad)

        return call

    # In, both ways, and its gradient out; the result out and its gradient in, for both gradients.
    return Case(len(x), side, 3 * (x.numel() + grad.numel()) * dtype.itemsize, make)


def for_cpu(
    convolved: Callable[[Tensor, Tensor], Tensor], narrow: int, wide: int, side: int,
    device: torch.device, dtype: torch.dtype, quick: bool,
) -> Case:  # fmt: skip
    """A convolution and its gradients, beside oneDNN's."""
    x = noise(narrow, side, device, dtype, quick).requires_grad_()
    filters, grad = torch.randn(wide, narrow, 3, 3, device=device), noise(wide, side, device, dtype, quick)
    filters = filters.to(dtype, memory_format=torch.channels_last).requires_grad_()

    def make(method: str) -> Call:
        chosen = convolved if method == "fused" else partial(F.conv2d, padding=1)
        return lambda: torch.autograd.grad(chosen(x, filters), (x, filters), grad)

    return Case(len(x), side, 3 * (x.numel() + grad.numel()) * dtype.itemsize, make)


CASES: dict[str, Callable[[torch.device, torch.dtype, bool], Case]] = {
    "newton-schulz": newton_schulz,
    "pool, norm, gelu: 64 channels": partial(pooled_norm, 64, 31, 2),
    "pool, norm, gelu: 256 channels": partial(pooled_norm, 256, 15, 2),
    "norm, gelu: 64 channels": partial(pooled_norm, 64, 15, 1),
    "convolution, pool, norm, gelu: 24 to 64 channels": partial(first_stage, 24, 64, 31),
    "whitening, gelu": whitening,
    "convolution in 8 bits: 64 to 256 channels": partial(eight_bits, 64, 256, 15),
    "convolution in 8 bits: 256 to 256 channels": partial(eight_bits, 256, 256, 7),
    "convolution in 8 bits: 768 to 1,024 channels": partial(eight_bits, 768, 1024, 7),
}
# What is for CPUs: channels in and out of a convolution, and the side of the map; channels, side and pool of others.
CONVOLVED = {
    "convolution on a CPU: 24 to 64 channels": (24, 64, 31),
    "convolution on a CPU: 64 to 256 channels": (64, 256, 11),
    "convolution on a CPU: 256 to 256 channels": (256, 256, 7),
    "convolution on a CPU: 256 to 256 channels, small": (256, 256, 3),
}
NORMALISED = {
    "pool, norm, gelu on a CPU: 64 channels": (64, 31, 2),
    "norm, gelu on a CPU: 64 channels": (64, 15, 1),
}
FOR_CPU = (*CONVOLVED, *NORMALISED)


def cases(device: torch.device) -> dict[str, Callable[[torch.device, torch.dtype, bool], Case]]:
    """What is measured on a device, by name."""
    here: dict[str, Callable[[torch.device, torch.dtype, bool], Case]] = {}
    for name, (narrow, wide, side) in CONVOLVED.items():
        x, filters = (
            torch.empty(1, narrow, side, side, device=device, dtype=torch.bfloat16),
            torch.empty(wide, narrow, 3, 3),
        )
        if winograd.pays(x, filters):
            here[name] = partial(for_cpu, winograd.winograd, narrow, wide, side)
        elif conv_cpu.pays(x, filters):
            here[name] = partial(for_cpu, conv_cpu.conv_cpu, narrow, wide, side)
    for name, (channels, side, pool) in NORMALISED.items():
        if norm_cpu.pays(torch.empty(1, channels, side, side, device=device, dtype=torch.bfloat16), "gelu"):
            here[name] = partial(pooled_norm, channels, side, pool, cpu=True)
    return CASES | here


def captured(call: Call) -> Call:
    """The call as a CUDA graph."""
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def contenders(case: Case, device: torch.device, quick: bool, everywhere: bool = False) -> Iterator[Contender]:
    """Whatever may do it here. everywhere: whether that is the kernel itself on any device, not on CUDA alone."""
    cuda = device.type == "cuda"
    if cuda or everywhere:
        yield "fused", partial(case.make, "fused")
    if cuda:
        yield "fused, in a graph", lambda: captured(case.make("fused"))
    yield "twin", partial(case.make, "torch")
    if cuda:
        yield "twin, in a graph", lambda: captured(case.make("torch"))
        if not quick:
            yield "twin, compiled", lambda: torch.compile(case.make("torch"))


def rows(
    name: str, device: torch.device, dtype: torch.dtype, quick: bool, bandwidth: float
) -> Iterator[dict[str, Any]]:
    """One measurement a row, see `launches.rows`."""
    case, seconds = cases(device)[name](device, dtype, quick), 0.2 if quick else 0.5
    about = {"operation": name, "batch": case.batch, "size": case.size}
    every = contenders(case, device, quick, everywhere=name in FOR_CPU)
    return launches.rows(about, every, device, seconds=seconds, moved=case.moved, bandwidth=bandwidth)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the images, no compilation")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--only", action="append", choices=[*CASES, *FOR_CPU], metavar="NAME", help="a kernel; repeatable"
    )
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    choice = devices.choose(options.device)
    device, dtype = choice.device, choice.dtype
    known = cases(device)
    if unknown := [name for name in options.only or () if name not in known]:
        raise SpeedrunError(f"{unknown[0]}: pays on a CPU alone, with AMX, or with AVX512-BF16 and small maps")
    session, bandwidth = Session(device), copy_bandwidth(device)
    print(f"copy bandwidth {bandwidth / 1e9:.1f} GB/s", flush=True)
    for name in options.only or known:
        session.begin()
        measured = list(rows(name, device, dtype, options.quick, bandwidth))
        print(f"\n{launches.markdown(measured)}", flush=True)
        values = {"threads": torch.get_num_threads(), "copy_bytes_per_second": bandwidth, "rows": measured}
        settings = {"operation": name, "dtype": str(dtype).removeprefix("torch."), "quick": options.quick}
        report(session.line("training_kernel", settings, values=values), keep=not options.no_record)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpeedrunError as error:
        print(f"training_kernels: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
