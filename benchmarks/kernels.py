"""How fast augmentation is, beside the memory's limit and what others have: a table, and a record of it.

    python -m benchmarks.kernels [--quick] [--device cuda] [--only NAME] [--batch N] [--size N] [--resume] [--no-record]

For each operation, batch and size, with caches flushed and warm: the median, images a second, and the share of the
measured copy bandwidth that the bytes come to which must move (each image in once, the batch out; of mixes, which read
up to four images for one, the share is a lower bound). Beside it, where they are installed: the torch twin, the twin
compiled, airbench's way, kornia and triton-augment, all in turn.

`--quick` takes 32 pixels, batches of 512, for two operations also of 2,048, on a GPU for one also of 1,024 and 50,000,
and no compilation. Every operation is recorded as it ends, those that most is asked of first, so that a run which is
cut short leaves what it has; `--resume` leaves out what is recorded of this code.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import count as counted
from typing import Any

import torch
from torch import Tensor

from benchmarks import launches, peers, results
from benchmarks.harness import Call, Session, copy_bandwidth, report
from benchmarks.launches import Contender
from kernels.augment import augment, mix, view
from kernels.augmentation import Augmentation
from kernels.philox import Key
from speedrun import device as devices
from speedrun import record
from speedrun.errors import SpeedrunError

DATA = 50_000  # images in the data set
SIZES, BATCHES = (24, 28, 32), (512, 1024, 2048, DATA)
BOTH = ("flip + translate", "dsnet")  # what is measured first, by `--quick` at 2,048 images too
# Images and pixels at which the compiled twin is measured: each place takes 20 s or more to compile, so that all would
# take an hour. On a CPU it is 4 times as slow as the twin there, 160 times at 50,000 images.
COMPILED = {"cpu": (512, 32), "cuda": (2048, 32)}
SETTLED = 10  # calls within which a compiled twin has seen all the shapes that it compiles for
OPERATIONS: dict[str, dict[str, Any]] = {
    "normalise": {},
    "flip + translate": {"flip": "alternating", "translate": 2},
    "flip + translate + cutout": {"flip": "alternating", "translate": 4, "cutout": 12},
    "affine": {"affine": 1.0},
    "brightness + contrast": {"tone": 1.0},
    "hue + saturation + value": {"hue": 1.0},
    "holes": {"holes": 1.0},
    "grayscale": {"grayscale": 1.0},
    "mixup": {"mixup": 1.0},
    "cutmix": {"cutmix": 1.0},
    "ricap": {"ricap": 1.0},
    "trivial augment": {"flip": "random", "translate": 4, "policy": "trivial"},
    "dsnet": {
        "flip": "random",
        "affine": 0.5,
        "tone": 0.5,
        "hue": 0.5,
        "holes": 0.3,
        "mixup": 0.3,
        "cutmix": 0.3,
        "ricap": 0.2,
    },
    "mixes, one a batch": {"mixup": 0.3, "cutmix": 0.3, "ricap": 0.2, "mix_per": "batch"},
    "view: mirror + shift": {"flip": "always"},  # of a test, by `view`
}


@dataclass
class Data:
    """A data set of noise on a device, and what an augmentation needs beside it."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    dtype: torch.dtype

    @classmethod
    def on(cls, device: torch.device) -> "Data":
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (DATA, 32, 32, 3), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 10, (DATA,), generator=generator)
        mean, std = torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.25, 0.24, 0.26])
        dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
        return cls(images.to(device), labels.to(device), mean.to(device), std.to(device), dtype)


def batches(data: Data, index: Tensor, augmentation: Augmentation, method: str) -> Callable[[Key], object]:
    """Makes the batch of an epoch, into memory that is there already."""
    size = augmentation.size
    shape = (len(index), 3, size, size)
    out = torch.empty(shape, dtype=data.dtype, device=index.device, memory_format=torch.channels_last)
    common: dict[str, Any] = {"mean": data.mean, "std": data.std, "dtype": data.dtype, "method": method}
    if augmentation.flip == "always":
        seen: dict[str, Any] = {
            "flip": True,
            "shift": (1, 1),
            "size": size,
            "padding": augmentation.padding,
            "out": out,
        }
        return lambda _: view(data.images, index, **seen, **common)
    common["seed"] = 0
    if augmentation.members == 1:
        return lambda epoch: augment(data.images, index, augmentation, epoch=epoch, out=out, **common)
    many = (len(index), augmentation.members)
    labels = torch.empty(many, dtype=torch.int64, device=index.device)
    weights = torch.empty(many, device=index.device)
    common["out"] = (out, labels, weights)
    return lambda epoch: mix(data.images, data.labels, index, augmentation, epoch=epoch, step=epoch, **common)


def eager(data: Data, index: Tensor, augmentation: Augmentation, method: str) -> Call:
    """Another epoch at every call."""
    make, epochs = batches(data, index, augmentation, method), counted()
    return lambda: make(next(epochs))


def captured(data: Data, index: Tensor, augmentation: Augmentation) -> Call:
    """The kernel as a CUDA graph: what it costs inside a step that is captured whole."""
    make = batches(data, index, augmentation, "fused")
    epoch = torch.zeros((), dtype=torch.int64, device=index.device)
    make(epoch)  # compiles, and makes the tables of mixing
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        make(epoch)
    return graph.replay


def compiled(data: Data, index: Tensor, augmentation: Augmentation) -> Call:
    """The twin through torch.compile, called until nothing is compiled any more."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()  # else what earlier rows compiled counts against its limit
    make = torch.compile(batches(data, index, augmentation, "torch"))
    epoch = torch.zeros((), dtype=torch.int64, device=index.device)

    def call() -> object:
        return make(epoch.add_(1))

    for _ in range(SETTLED):
        before = counters["stats"]["unique_graphs"]
        call()
        if counters["stats"]["unique_graphs"] == before:
            break
    return call


def contenders(name: str, data: Data, index: Tensor, augmentation: Augmentation, quick: bool) -> Iterator[Contender]:
    """Whatever may do this operation here."""
    if index.is_cuda:
        yield "fused", partial(eager, data, index, augmentation, "fused")
        yield "fused, in a graph", partial(captured, data, index, augmentation)
    yield "twin", partial(eager, data, index, augmentation, "torch")
    if not quick and (len(index), augmentation.size) == COMPILED.get(index.device.type):
        yield "twin, compiled", partial(compiled, data, index, augmentation)
    if augmentation.size == 32:
        if name.startswith("flip + translate"):
            images, mean, std, dtype = data.images, data.mean, data.std, data.dtype
            yield "airbench's way", partial(peers.airbench, images, mean, std, dtype, index, augmentation)
        for peer, make in (("kornia", peers.kornia), ("triton_augment", peers.triton_augment)):
            if find_spec(peer):
                yield peer, partial(make, data, index, name)


def rows(
    name: str, data: Data, sizes: Sequence[int], counts: Sequence[int], quick: bool, bandwidth: float
) -> Iterator[dict[str, Any]]:
    """One measurement of an operation a row, see `launches.rows`."""
    device, seconds = data.images.device, 0.2 if quick else 0.3
    for size in sizes:
        fields = OPERATIONS[name]
        scaled = {key: fields.get(key, full) * size // 32 for key, full in (("cutout", 0), ("hole_size", 8))}
        augmentation = Augmentation(**{**fields, **scaled, "size": size})
        for count in counts:
            index = torch.randperm(DATA, generator=torch.Generator().manual_seed(1))[:count].to(device)
            moved = count * (32 * 32 * 3 + size * size * 3 * data.dtype.itemsize)
            about = {"operation": name, "batch": count, "size": size}
            every = contenders(name, data, index, augmentation, quick)
            yield from launches.rows(about, every, device, seconds=seconds, moved=moved, bandwidth=bandwidth)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="32 pixels, small batches: under two minutes")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--only", action="append", choices=OPERATIONS, metavar="NAME", help="an operation; repeatable")
    parser.add_argument("--batch", action="append", type=int, help="images a batch; repeatable")
    parser.add_argument("--size", action="append", type=int, help="pixels a side; repeatable")
    parser.add_argument("--resume", action="store_true", help="leave out what is recorded of this device and code")
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    choice = devices.choose(options.device)
    session, data = Session(choice.device), Data.on(choice.device)
    bandwidth = copy_bandwidth(choice.device)
    print(f"copy bandwidth {bandwidth / 1e9:.1f} GB/s", flush=True)
    for name in options.only or (*BOTH, *(name for name in OPERATIONS if name not in BOTH)):
        counts = options.batch or (quick_counts(name, choice.device) if options.quick else BATCHES)
        sizes = options.size or ((32,) if options.quick else SIZES)
        settings = {"operation": name, "fields": OPERATIONS[name], "dtype": str(data.dtype).removeprefix("torch.")}
        if options.resume and covered(settings, counts, sizes, session.about, results.recorded()):
            print(f"\n{name}: recorded", flush=True)
            continue
        session.begin()
        measured = list(rows(name, data, sizes, counts, options.quick, bandwidth))
        print(f"\n{launches.markdown(measured)}", flush=True)
        values = {"threads": torch.get_num_threads(), "copy_bytes_per_second": bandwidth, "rows": measured}
        report(session.line("kernel", settings, values=values), keep=not options.no_record)
    return 0


def quick_counts(name: str, device: torch.device) -> tuple[int, ...]:
    """Images a batch that `--quick` takes; on a GPU also those at which numbers are promised of an operation."""
    if device.type == "cuda" and name == "flip + translate":
        return BATCHES
    return (512, 2048) if name in BOTH else (512,)


def covered(
    settings: dict[str, Any],
    counts: Sequence[int],
    sizes: Sequence[int],
    about: dict[str, Any],
    records: Sequence[dict[str, Any]],
) -> bool:
    """Whether an operation is recorded at all these batches and sizes, of the device `about` and the code that is here.
    A changed checkout is not told from another change."""
    git = record.git_state()
    if git is None or git["dirty"]:
        return False
    done = {
        (row["batch"], row["size"])
        for each in records
        if each["kind"] == "kernel" and each["device"] == about and each["git"] == git
        if settings.items() <= each.get("settings", {}).items()
        for row in each["values"]["rows"]
    }
    return {(count, size) for count in counts for size in sizes} <= done


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpeedrunError as error:
        print(f"kernels: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
