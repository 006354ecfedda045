"""Records of machines that do not exist, for the tests that compare machines."""

from pathlib import Path
from typing import Any

from test_record import DEVICE, a_run

from benchmarks import compare
from benchmarks.comparison import Comparison
from speedrun import record

# A name that would do harm wherever it is taken for more than text.
HOSTILE = "</script><script>document.title='owned'</script><b>|[red]"
A_RUN = a_run()
ENVELOPE = {name: A_RUN[name] for name in record.ENVELOPE if name in A_RUN}  # made once: it asks git
SHA = "0" * 39


def envelope(kind: str, device: dict[str, Any]) -> dict[str, Any]:
    return {**ENVELOPE, "kind": kind, "device": device}


def gpu(name: str) -> dict[str, Any]:
    return {**DEVICE, "name": name, "kind": "cuda", "multiprocessors": 132, "memory": 139 * 2**30}


def a_timing(*parts: float) -> dict[str, Any]:
    median = sorted(parts)[len(parts) // 2]
    return {"median": median, "p20": min(parts), "p80": max(parts), "calls": 9, "drift": 0.0, "parts": list(parts)}


def circumstances(**settings: Any) -> dict[str, Any]:
    state = {name: None for name in ("clock_mhz", "memory_clock_mhz", "power_watts", "temperature_celsius", "load")}
    before = {**state, "power_limit_watts": 700.0}
    return {"settings": settings, "config_hash": "0" * 12, "state": {"before": before, "after": before}}


def a_step(device: dict[str, Any], seconds: tuple[float, ...], **changes: Any) -> dict[str, Any]:
    median = sorted(seconds)[len(seconds) // 2]
    return {
        **envelope("step", device),
        **circumstances(),
        "recipe": "speednet",
        "model": {"widths": [64, 256, 256], "depth": 2},
        "size": 24,
        "batch": 1000,
        "dtype": "bfloat16",
        "compile": "default",
        "threads": None,
        "seconds": a_timing(*seconds),
        "runs": list(seconds),
        "images_per_second": 1000 / median,
        "flops": 10**12,
        "flops_per_second": 1e12 / median,
        "peak_flops_per_second": 7e14,
        "peaks": {"mm 4096": 7e14},
        "peak_share": 1e12 / median / 7e14,
        "memory": 2**30,
        "breakdown": {"convolutions, forward": 0.4, "convolutions, backward": 0.6},
        **changes,
    }


def a_kernel(
    device: dict[str, Any], median: float, name: str = "dsnet", dtype: str = "float16", **changes: Any
) -> dict:
    about = {"operation": name, "contender": "fused", "batch": 512, "size": 32, "cold": True}
    seconds = a_timing(median, 1.02 * median, 0.98 * median)
    numbers = {"images_per_second": 512 / median, "bytes": 10**6, "bandwidth_share": 0.5}
    rows = [{**about, **seconds, **numbers}, {**about, "error": "no such thing"}]
    values = {"threads": 2, "copy_bytes_per_second": 3e12, "rows": rows}
    return {**envelope("kernel", device), **circumstances(dtype=dtype), "values": values, **changes}


def an_evaluation(device: dict[str, Any], seconds: float, images: int) -> dict[str, Any]:
    net = {"recipe": "speednet", "net": "64/256/256", "pixels": 32, "views": "one", "batch": 125, "dtype": "bfloat16"}
    row = {"about": net, "seconds": a_timing(seconds), "runs": [seconds], "images": images}
    return {**envelope("evaluation", device), **circumstances(images=images), "rows": [row]}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((each if isinstance(each, str) else record.dumps(each)) + "\n" for each in lines))
    return path


def runs(device: dict[str, Any], *accuracies: float, **changes: Any) -> list[dict[str, Any]]:
    shared = {
        **A_RUN,
        "device": device,
        "expected_accuracy": 0.93,
        "git": {"sha": SHA + "1", "dirty": False},
        **changes,
    }
    return [{**shared, "seed": seed, "accuracy": each} for seed, each in enumerate(accuracies)]


def two(tmp_path: Path, first: list[Any], second: list[Any]) -> Comparison:
    return compare.compare([write(tmp_path / "a.jsonl", *first), write(tmp_path / "b.jsonl", *second)])


def two_that_differ(tmp_path: Path) -> Comparison:
    first = [*runs(gpu("A"), 0.94, 0.942), *runs(gpu("A"), 0.96, budget_seconds=600.0), a_step(gpu("A"), (0.01, 0.02))]
    second = [*runs(gpu(HOSTILE), 0.95, 0.952), a_step(gpu(HOSTILE), (0.005, 0.006)), a_kernel(gpu(HOSTILE), 1e-5)]
    second.append(a_kernel(gpu(HOSTILE), 1e-5, name="norm", kind="training_kernel"))
    target = runs(gpu("A"), 0.95, config={"target": 0.94}, budget_seconds=None)
    return two(tmp_path, [*first, *target, a_kernel(gpu("A"), 2e-5, dtype="bfloat16")], second)


GPU_RECORD = {"contender": "speedrun", "target": 0.94, "dataset": "cifar10", "p": None, "config": None}


def a_record(
    device: dict[str, Any], contender: str, accuracies: list[float], seconds: list[float], **changes: Any
) -> dict[str, Any]:
    runs = {"contender": contender, "accuracies": accuracies, "seconds": seconds}
    return {**envelope("record", device), **circumstances(contender=contender), **GPU_RECORD, **runs, **changes}
