"""How fast augmentation is, beside the memory's limit and what others have: a table, and a record of it.

    python -m benchmarks.kernels [--quick] [--device cuda] [--only NAME] [--batch N] [--size N] [--no-record]

For each operation, batch and size, with caches flushed and warm: the median, images a second, and the share of the
measured copy bandwidth that the bytes come to which must move (each image in once, the batch out; of mixes, which read
up to four images for one, the share is a lower bound). Beside it, where they are installed: the torch twin, the twin
compiled, airbench's way, kornia and triton-augment.

`--quick` takes 32 pixels, batches of 512, for two operations also of 2,048, and no compilation. Every operation is
recorded as it ends, so that a run which is cut short leaves what it has.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import count as counted
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.harness import Timing, copy_bandwidth, measure
from kernels.augment import augment, mix
from kernels.augmentation import Augmentation
from kernels.philox import Key
from speedrun import device as devices
from speedrun import record
from speedrun.errors import SpeedrunError

RESULTS = Path(__file__).parent / "results"
DATA = 50_000  # images in the data set
SIZES, BATCHES = (24, 28, 32), (512, 1024, 2048, DATA)
BOTH = ("flip + translate", "dsnet")  # what `--quick` measures at 2,048 images too
SETTLED = 10  # calls within which a compiled twin has seen all the shapes that it compiles for
Call = Callable[[], object]
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
    common: dict[str, Any] = {"mean": data.mean, "std": data.std, "seed": 0, "dtype": data.dtype, "method": method}
    if augmentation.members == 1:
        return lambda epoch: augment(data.images, index, augmentation, epoch=epoch, out=out, **common)
    many = (len(index), augmentation.members)
    labels = torch.empty(many, dtype=torch.int64, device=index.device)
    weights = torch.empty(many, device=index.device)
    triple = (out, labels, weights)
    return lambda epoch: mix(data.images, data.labels, index, augmentation, epoch=epoch, out=triple, **common)


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


def contenders(
    name: str, data: Data, index: Tensor, augmentation: Augmentation, quick: bool
) -> Iterator[tuple[str, Callable[[], Call | None]]]:
    """Whatever may do this operation here: a name, and what makes its call, or None where it cannot."""
    if index.is_cuda:
        yield "fused", partial(eager, data, index, augmentation, "fused")
        yield "fused, in a graph", partial(captured, data, index, augmentation)
    yield "twin", partial(eager, data, index, augmentation, "torch")
    if not quick:
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
    """One measurement of an operation a row. A contender that raises gives one row that says what."""
    device = data.images.device
    for size in sizes:
        fields = OPERATIONS[name]
        scaled = {key: fields.get(key, full) * size // 32 for key, full in (("cutout", 0), ("hole_size", 8))}
        augmentation = Augmentation(**{**fields, **scaled, "size": size})
        for count in counts:
            index = torch.randperm(DATA, generator=torch.Generator().manual_seed(1))[:count].to(device)
            moved = count * (32 * 32 * 3 + size * size * 3 * data.dtype.itemsize)
            for contender, make in contenders(name, data, index, augmentation, quick):
                about = {"operation": name, "contender": contender, "batch": count, "size": size}
                try:
                    call = make()
                    if call is None:
                        continue
                    together = 50 if contender == "fused, in a graph" else 1
                    for cold in (True, False):
                        timing = measure(call, device, cold=cold, seconds=0.2 if quick else 0.3, together=together)
                        yield {**about, "cold": cold, **result(timing, count, moved, bandwidth)}
                except Exception as error:  # others' code, or a compiler: whatever it raises must not cost the rest
                    yield {**about, "cold": True, "error": f"{type(error).__name__}: {error}".splitlines()[0]}


def result(timing: Timing, count: int, moved: int, bandwidth: float) -> dict[str, Any]:
    return {
        **asdict(timing),
        "images_per_second": count / timing.median,
        "bytes": moved,
        "bandwidth_share": moved / timing.median / bandwidth,
    }


def markdown(measured: Sequence[dict[str, Any]]) -> str:
    """All rows as a table, caches flushed and warm side by side."""
    lines = [
        "| operation | by | batch | pixels | median, cold | p20 to p80 | images/s | of copy bandwidth | median, warm |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    warm = {place(line): line for line in measured if not line["cold"]}
    for line in measured:
        about = f"| {line['operation']} | {line['contender']} | {line['batch']:,} | {line['size']} "
        if "error" in line:
            lines.append(f"{about}| {line['error']} | | | | |")
        elif line["cold"]:
            other = f"{duration(warm[place(line)]['median'])}" if place(line) in warm else ""
            lines.append(
                f"{about}| {duration(line['median'])} | {duration(line['p20'])} to {duration(line['p80'])} "
                f"| {line['images_per_second']:,.0f} | {100 * line['bandwidth_share']:.1f} % | {other} |"
            )
    return "\n".join(lines)


def place(line: dict[str, Any]) -> tuple[str, str, int, int]:
    """What a row measures."""
    return line["operation"], line["contender"], line["batch"], line["size"]


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown for each device: the newest medians, caches flushed, of each operation at 32 pixels."""
    devices_of: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in records:
        if line["kind"] == "kernel":
            threads = f", {line['values']['threads']} threads" if line["device"]["kind"] == "cpu" else ""
            devices_of[line["device"]["name"], threads].append(line)
    parts = []
    for (name, threads), lines in sorted(devices_of.items()):
        lines.sort(key=lambda line: line["started"])
        newest = {place(row): row for line in lines for row in line["values"]["rows"] if row["cold"]}
        copied = f"{lines[-1]['values']['copy_bytes_per_second'] / 1e9:.1f} GB/s"
        about = f"{name}{threads}, torch {lines[-1]['versions']['torch']}, copies {copied}"
        parts.append(f"{about}; milliseconds a batch:\n\n{_medians(newest)}")
    return "\n\n".join(parts)


def _medians(newest: dict[tuple[str, str, int, int], dict[str, Any]]) -> str:
    """A row an operation and batch of 512 or 2,048, a column a contender."""
    shown = {
        key: row
        for key, row in newest.items()
        if key[0] in OPERATIONS and key[2] in (512, 2048) and key[3] == 32 and "error" not in row
    }
    columns = list(dict.fromkeys(key[1] for key in shown))
    lines = [f"| operation | batch | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    order = list(OPERATIONS)
    for name, batch in sorted({(key[0], key[2]) for key in shown}, key=lambda pair: (order.index(pair[0]), pair[1])):
        cells = [shown.get((name, column, batch, 32)) for column in columns]
        medians = [f"{cell['median'] * 1e3:.3g}" if cell else "" for cell in cells]
        lines.append(f"| {name} | {batch:,} | {' | '.join(medians)} |")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="32 pixels, small batches: under two minutes")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--only", action="append", choices=OPERATIONS, metavar="NAME", help="an operation; repeatable")
    parser.add_argument("--batch", action="append", type=int, help="images a batch; repeatable")
    parser.add_argument("--size", action="append", type=int, help="pixels a side; repeatable")
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    choice = devices.choose(options.device)
    about, data = devices.describe(choice.device), Data.on(choice.device)
    bandwidth = copy_bandwidth(choice.device)
    print(f"copy bandwidth {bandwidth / 1e9:.1f} GB/s", flush=True)
    for name in options.only or OPERATIONS:
        small = (512, 2048) if name in BOTH else (512,)
        counts = options.batch or (small if options.quick else BATCHES)
        sizes = options.size or ((32,) if options.quick else SIZES)
        measured = list(rows(name, data, sizes, counts, options.quick, bandwidth))
        print(f"\n{markdown(measured)}", flush=True)
        if not options.no_record:
            values = {"threads": torch.get_num_threads(), "copy_bytes_per_second": bandwidth, "rows": measured}
            # Through JSON, so that the record holds plain values only.
            line = {**record.envelope("kernel", about), "values": json.loads(json.dumps(values))}
            record.append(RESULTS / f"{record.device_slug(about['name'])}.jsonl", line)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpeedrunError as error:
        print(f"kernels: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
