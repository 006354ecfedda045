"""`python -m speedrun doctor`: ten lines on what is here and what each lack costs; nothing is trained or fetched."""

import importlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from speedrun import data, files
from speedrun.arguments import Parser, take_config
from speedrun.catalogue import KNOWN
from speedrun.config import Config
from speedrun.errors import DataError, SpeedrunError
from speedrun.provenance import versions

FIELDS = ("device", "dtype", "data_dir", "dataset", "out")
MEMORY = 2 * 2**30  # bytes: the images and a step of the nets for a minute
DISK = 200 * 2**20  # bytes: two checkpoints of the largest net, or the archive


@dataclass(frozen=True)
class Finding:
    """A line. cost: what is lost by what is not here, "" where nothing is. fatal: the main job cannot run."""

    text: str
    cost: str = ""
    fatal: bool = False


def main(argv: list[str], start: float) -> int:
    """Print the findings; returns 1 where the main job could not run, else 0. Raises UsageError."""
    parser = Parser("python -m speedrun doctor", "Say what is here, and what each lack costs.")
    parser.add_fields(FIELDS)
    parser.add_saved()
    config = take_config(vars(parser.parse_args(argv)))
    code, told = 0, set[str]()
    for name, check in CHECKS.items():
        try:
            found = check(config)
        except (SpeedrunError, OSError, ImportError) as error:
            found = Finding(str(error), fatal=True)
        if found.text in told:
            found = Finding("unknown, for the same reason", fatal=True)
        told.add(found.text)
        code = code or int(found.fatal)
        mark = "FAIL" if found.fatal else "lack" if found.cost else "ok"
        print(f"{mark:5} {name:9} {found.text}" + (f"; {found.cost}" if found.cost else ""), flush=True)
    return code


def _software(config: Config) -> Finding:
    found = versions()
    importlib.import_module("torch")
    return Finding(", ".join(f"{name} {version}" for name, version in found.items() if version))


def _device(config: Config) -> Finding:
    from speedrun import device

    choice = device.choose(config.device)
    about = device.describe(choice.device)
    cost = "a GPU would train wider nets in the same time" if choice.device.type == "cpu" else ""
    return Finding(f"{about['name']} ({choice.device}, {about['cores']} cores): {choice.device_reason}", cost)


def _dtype(config: Config) -> Finding:
    from speedrun import device

    choice = device.choose(config.device, config.dtype)
    name = str(choice.dtype).removeprefix("torch.")
    cost = "half precision would be faster" if name == "float32" else ""
    return Finding(f"{name}: {choice.dtype_reason}", cost)


def _triton(config: Config) -> Finding:
    from speedrun import device

    device.check_kernels()
    from kernels import backend

    if device.choose(config.device).device.type != "cuda":
        return Finding("not used on this device: batches are made by torch")
    cost = "batches are made by torch, in many more passes over memory"
    if not backend.ENABLED:
        return Finding("not here", cost)
    if not _program("CC", "gcc", "clang"):
        return Finding(f"{versions()['triton']}, but no C compiler for its launchers", cost)
    return Finding(f"{versions()['triton']}: batches are made by the fused kernel")


def _compiler(config: Config) -> Finding:
    from kernels import native
    from speedrun import device

    if device.choose(config.device).device.type == "cpu" and native.has("avx512_bf16"):
        if found := native.compiler():  # not tried: that would leave something in the cache
            return Finding(f"{found}, for the kernels of this processor")
        return Finding("no C compiler", "without the kernels of this processor steps take up to twice as long")
    if found := _program("CXX", "g++", "clang++"):
        return Finding(found)
    return Finding("no C++ compiler", "steps are not compiled; on a GPU they take a fifth longer")


def _program(variable: str, *names: str) -> str | None:
    """The path of the program that a variable of the environment names, or of the first that is here."""
    paths = (shutil.which(name) for name in (os.environ.get(variable, ""), *names))
    return next(filter(None, paths), None)


def _memory(config: Config) -> Finding:
    from speedrun import device, memory

    chosen = device.choose(config.device).device
    free = memory.free_bytes(chosen)
    if free is None:
        return Finding(f"unknown on {chosen}")
    cost = "" if free >= MEMORY else f"less than {MEMORY / 2**30:.0f} GiB: batches may have to be smaller"
    return Finding(f"{free / 2**30:.1f} GiB free on {chosen}", cost)


def _cache(config: Config) -> Finding:
    folder = data.default_cache_dir()
    try:
        _try_to_write(folder)
    except OSError as error:
        cost = "archives are unpacked and steps compiled anew at each start; $SPEEDRUN_CACHE moves it"
        return Finding(f"{folder} cannot be written ({error.strerror})", cost)
    return Finding(str(folder))


def _data(config: Config) -> Finding:
    found = data.find(config.dataset, data_dir=config.data_dir)
    if found.kind == "synthetic":
        return Finding("generated images", "accuracies say nothing about CIFAR-10")
    if found.kind == "missing" and not found.needs_fetch:
        raise DataError(f"{found.path} does not exist")
    if found.needs_fetch:
        size = KNOWN[found.name].layouts[0].archive.size / 1e6
        return Finding(f"{found.name} is not here", f"a run fetches its {size:.0f} MB first, outside its seconds")
    loaded = data.load(config.dataset, data_dir=config.data_dir)
    cost = "; ".join(loaded.notes)
    return Finding(f"{loaded.name}, {len(loaded.train_images):,} images, whole, in {found.path}", cost)


def _disk(config: Config) -> Finding:
    folder = config.out or Path("runs")
    try:
        _try_to_write(folder)
    except OSError as error:
        raise SpeedrunError(f"{folder} cannot be written ({error.strerror}): name another by --out") from None
    free = shutil.disk_usage(_existing(folder)).free
    cost = "" if free >= DISK else f"less than {DISK / 2**20:.0f} MiB: results may not be saved"
    return Finding(f"{free / 2**30:.1f} GiB free for {folder}", cost)


def _locks(config: Config) -> Finding:
    try:
        with tempfile.TemporaryDirectory(dir=_existing(config.out or Path("runs"))) as folder:
            trial = files.lock(Path(folder) / "lock", wait_seconds=0, what="a trial")
            with trial as held:
                pass
    except OSError:
        return Finding("not tried, the disk cannot be written")
    if held:
        return Finding("files can be locked")
    return Finding("files cannot be locked here", "nothing keeps two runs out of one --out")


def _try_to_write(folder: Path) -> None:
    """Write a file where `folder` is or would be made, and remove it. Raises OSError."""
    with tempfile.TemporaryFile(dir=_existing(folder)) as file:
        file.write(b"speedrun")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


CHECKS: dict[str, Callable[[Config], Finding]] = {
    "software": _software,
    "device": _device,
    "dtype": _dtype,
    "triton": _triton,
    "compiler": _compiler,
    "memory": _memory,
    "cache": _cache,
    "data": _data,
    "disk": _disk,
    "locks": _locks,
}
