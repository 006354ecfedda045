"""What a trained net leaves behind and how it is loaded again: tensors and plain values, nothing that runs code.

A checkpoint opens with `torch.load(path, weights_only=True)` and holds

    {"format": 1, "config": {...}, "model": {name: tensor}, "meta": {...}, "sha256": "..."}

where `config` and `meta` nest dicts, lists and tuples of plain values (and of tensors, for an optimiser's state), and
`sha256` is the digest of the rest. torch's zip reader does not verify the CRCs that it writes, so without the digest
a flipped bit would become a slightly worse net.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speedrun import files
from speedrun.errors import SpeedrunError

FORMAT = 1
_PLAIN = (bool, int, float, str, type(None))
_SHOWN = 6  # differences of one kind that a message names


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint. `model` maps names to CPU tensors; `meta` has what was saved as `extra`."""

    config: dict[str, Any]
    model: dict[str, Tensor]
    meta: dict[str, Any]


def save(
    path: str | os.PathLike[str],
    *,
    model: nn.Module | Mapping[str, Tensor],
    config: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically: a crash, a kill or a full disk leaves the file that was there before.

    model: a net or its state. Names lose what torch.compile and data parallelism put before them.
    config, extra: plain values, nested; `extra` becomes `meta` (statistics of the data, names of classes).
    TypeError if they hold anything else, OSError if the file cannot be written.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    contents: dict[str, Any] = {
        "format": FORMAT,
        "config": _plain(config, "config"),
        "model": _plain({clean: state[name] for clean, name in clean_names(state).items()}, "model"),
        "meta": _plain(extra or {}, "extra"),
    }
    contents["sha256"] = digest(contents)
    with files.atomic_path(path) as temporary:
        torch.save(contents, temporary)


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint onto the CPU. Runs no code that a file might bring along, and no flag allows it.

    SpeedrunError that names the file if it is missing, damaged, from a newer version, or holds more than tensors and
    plain values.
    """
    path = Path(path)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SpeedrunError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged file fails in as many ways as it has bytes; torch's words help nobody
        raise SpeedrunError(
            f"{path} was not loaded: it is damaged, or is not made of tensors and plain values"
        ) from error
    if not isinstance(contents, dict) or type(contents.get("format")) is not int:
        raise SpeedrunError(f"{path} is not a checkpoint of speedrun")
    if contents["format"] > FORMAT:
        raise SpeedrunError(f"{path} has format {contents['format']}; this version reads up to {FORMAT}")
    sealed = contents.pop("sha256", None)
    if sealed != digest(contents):
        raise SpeedrunError(f"{path} is damaged: its contents do not match their checksum")
    return Checkpoint(contents["config"], contents["model"], contents["meta"])


def load_into(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy the tensors of `state` into a net, compiled or not, whatever its dtype and device.

    SpeedrunError if the net has another architecture: one line with the names and shapes that differ; the net is then
    as it was.
    """
    own = model.state_dict()
    ours, theirs = clean_names(own), clean_names(state)
    shapes = {name: tuple(own[full].shape) for name, full in ours.items()}
    given = {name: tuple(state[full].shape) for name, full in theirs.items()}
    reshaped = [name for name in shapes if name in given and shapes[name] != given[name]]
    differences = [
        _listed("only in the net", [f"{name} {shapes[name]}" for name in shapes if name not in given]),
        _listed("only in the checkpoint", [f"{name} {given[name]}" for name in given if name not in shapes]),
        _listed("of another shape", [f"{name} {given[name]}, in the net {shapes[name]}" for name in reshaped]),
    ]
    if any(differences):
        raise SpeedrunError("the checkpoint is of another architecture; " + "; ".join(filter(None, differences)))
    model.load_state_dict({full: state[theirs[name]] for name, full in ours.items()})


def clean_names(state: Mapping[str, Any]) -> dict[str, str]:
    """From the names of a bare net's tensors to those in `state`, which torch.compile and data parallelism prefix."""
    names = {name.replace("_orig_mod.", ""): name for name in state}
    while names and all(name.startswith("module.") for name in names):
        names = {name.removeprefix("module."): full for name, full in names.items()}
    if len(names) < len(state):
        raise ValueError("two tensors have one name once the wrappers' prefixes are gone")
    return names


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what}: {', '.join(names[:_SHOWN])}{more}" if names else ""


def _plain(value: Any, where: str) -> Any:
    """The value in containers of our own, its tensors detached, on the CPU and without the storage around a view."""
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
        return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
    if isinstance(value, Mapping):
        if not all(type(key) in (str, int) for key in value):
            raise TypeError(f"{where}: a checkpoint names things by text and integers")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{where}[{index}]") for index, item in enumerate(value))
    if type(value) not in _PLAIN:  # exactly: numpy's float64 is a float, and needs code to be loaded
        raise TypeError(f"{where}: a checkpoint holds tensors and plain values, not a {type(value).__name__}")
    return value


def digest(contents: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of tensors and plain values, nested."""
    found = hashlib.sha256()
    for piece in _pieces(contents):
        found.update(piece)
    return found.hexdigest()


def _pieces(value: Any) -> Iterator[Any]:
    """Bytes that tell a value from every other, whatever the layout of its tensors in memory."""
    if isinstance(value, Tensor):
        yield f"tensor {value.dtype} {tuple(value.shape)};".encode()
        yield value.contiguous().reshape(-1).view(torch.uint8).numpy()
    elif isinstance(value, Mapping):
        yield f"dict {len(value)};".encode()
        for key, item in value.items():
            yield from _pieces(key)
            yield from _pieces(item)
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__} {len(value)};".encode()
        for item in value:
            yield from _pieces(item)
    else:
        text = f"{type(value).__name__} {value!r}".encode()
        yield f"{len(text)} ".encode() + text
