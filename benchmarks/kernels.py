"""How fast augmentation is, beside the memory's limit and what others have: a table, and a record of it.

    python -m benchmarks.kernels [--quick] [--device cuda] [--no-record]

For each operation and size, with caches flushed and warm: the median, images a second, and the share of the measured
copy bandwidth that the bytes which must move (the image in, the batch out) come to. Beside it, where they are
installed: the torch twin, the twin compiled, airbench's way, kornia and triton-augment. `--quick` takes batches of
512 at 32 pixels and no compilation.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.harness import Timing, copy_bandwidth, measure
from kernels.augment import augment, mix
from kernels.augmentation import Augmentation
from speedrun import device as devices
from speedrun import record
from speedrun.errors import SpeedrunError

RESULTS = Path(__file__).parent / "results"
DATA = 50_000  # images in the data set
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


def ours(data: Data, index: Tensor, augmentation: Augmentation, method: str) -> Callable[[], object]:
    """One batch into memory that is there already, another epoch at every call."""
    size = augmentation.size
    shape = (len(index), 3, size, size)
    out = torch.empty(shape, dtype=data.dtype, device=index.device, memory_format=torch.channels_last)
    common: dict[str, Any] = {"mean": data.mean, "std": data.std, "seed": 0, "dtype": data.dtype, "method": method}
    epoch = iter(range(10**9))
    if augmentation.members == 1:
        return lambda: augment(data.images, index, augmentation, epoch=next(epoch), out=out, **common)
    many = (len(index), augmentation.members)
    labels = torch.empty(many, dtype=torch.int64, device=index.device)
    weights = torch.empty(many, device=index.device)
    triple = (out, labels, weights)
    return lambda: mix(data.images, data.labels, index, augmentation, epoch=next(epoch), out=triple, **common)


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """The call as a CUDA graph: what it costs inside a step that is captured whole."""
    call()  # compiles, and makes the tables of mixing
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def contenders(
    name: str, data: Data, index: Tensor, augmentation: Augmentation, compile_twin: bool
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Whatever can do this operation here: (name, call)."""
    if index.is_cuda:
        fused = ours(data, index, augmentation, "fused")
        yield "fused", fused
        yield "fused, in a graph", captured(fused)
    yield "twin", ours(data, index, augmentation, "torch")
    if compile_twin:
        yield "twin, compiled", torch.compile(ours(data, index, augmentation, "torch"))
    if augmentation.size == 32:
        if name.startswith("flip + translate"):
            yield "airbench's way", peers.airbench(data.images, data.mean, data.std, data.dtype, index, augmentation)
        for peer, make in (("kornia", peers.kornia), ("triton_augment", peers.triton_augment)):
            call = make(data, index, name) if find_spec(peer) else None
            if call is not None:
                yield peer, call


def rows(device: torch.device, quick: bool, bandwidth: float) -> Iterator[dict[str, Any]]:
    """One measurement a row."""
    data = Data.on(device)
    sizes, counts = ((32,), (512,)) if quick else ((24, 28, 32), (512, 1024, 2048, DATA))
    for name, fields in OPERATIONS.items():
        for size in sizes:
            augmentation = Augmentation(**{**fields, "size": size, "cutout": fields.get("cutout", 0) * size // 32})
            for count in counts:
                index = torch.randperm(DATA, generator=torch.Generator().manual_seed(1))[:count].to(device)
                moved = count * (32 * 32 * 3 + size * size * 3 * data.dtype.itemsize)
                for contender, call in contenders(name, data, index, augmentation, not quick and device.type == "cuda"):
                    for cold in (True, False):
                        timing = measure(call, device, cold=cold, seconds=0.2 if quick else 1.0)
                        yield row(name, contender, count, size, cold, timing, moved, bandwidth)


def row(
    name: str, contender: str, count: int, size: int, cold: bool, timing: Timing, moved: int, bandwidth: float
) -> dict[str, Any]:
    return {
        "operation": name,
        "contender": contender,
        "batch": count,
        "size": size,
        "cold": cold,
        **asdict(timing),
        "images_per_second": count / timing.median,
        "bytes": moved,
        "bandwidth_share": moved / timing.median / bandwidth,
    }


def markdown(measured: list[dict[str, Any]]) -> str:
    """The rows as a table, caches flushed and warm side by side."""
    lines = [
        "| operation | by | batch | pixels | median, cold | p20 to p80 | images/s | of copy bandwidth | median, warm |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cold, warm in zip(measured[::2], measured[1::2], strict=True):
        lines.append(
            f"| {cold['operation']} | {cold['contender']} | {cold['batch']:,} | {cold['size']} "
            f"| {duration(cold['median'])} | {duration(cold['p20'])} to {duration(cold['p80'])} "
            f"| {cold['images_per_second']:,.0f} | {100 * cold['bandwidth_share']:.1f} % | {duration(warm['median'])} |"
        )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="batches of 512 at 32 pixels: under two minutes")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    choice = devices.choose(options.device)
    bandwidth = copy_bandwidth(choice.device)
    measured = list(rows(choice.device, options.quick, bandwidth))
    print(f"copy bandwidth {bandwidth / 1e9:.1f} GB/s\n\n{markdown(measured)}")
    if not options.no_record:
        about = devices.describe(choice.device)
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
