"""A trained net as a safetensors file, with its config in the file's metadata. Needs the extra `export`.

The format is huggingface.co/docs/safetensors: tensors by name, and texts by name. Ours are `format`, as JSON the
`config` and `meta` of a checkpoint, and `sha256`, a digest of those two and the tensors.
"""

import json
from pathlib import Path

from torch import Tensor

from speedrun.checkpoint import FORMAT, Checkpoint, digest
from speedrun.errors import SpeedrunError
from speedrun.files import write_bytes

SUFFIX = ".safetensors"
_MISSING = "safetensors files need their package: pip install 'speedrun[export]'"


def write(saved: Checkpoint, path: Path) -> None:
    """Write a checkpoint's net as safetensors. Raises SpeedrunError without the package, OSError from the disk."""
    try:
        from safetensors.torch import save
    except ImportError:
        raise SpeedrunError(_MISSING) from None
    tensors = {name: tensor.contiguous() for name, tensor in saved.model.items()}
    texts = {"format": str(FORMAT), "config": json.dumps(saved.config), "meta": json.dumps(saved.meta)}
    texts["sha256"] = _digest(texts, tensors)
    write_bytes(path, save(tensors, metadata=texts))


def read(path: Path) -> Checkpoint:
    """Read what `write` wrote, tensors on the CPU.

    Raises SpeedrunError that names the file if it is damaged or another's, or the package is missing.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise SpeedrunError(_MISSING) from None
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            config, meta = json.loads(texts["config"]), json.loads(texts["meta"])
            if int(texts["format"]) > FORMAT:
                raise SpeedrunError(f"{path} has format {texts['format']}; this version reads up to {FORMAT}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if texts["sha256"] != _digest(texts, tensors):
                raise SpeedrunError(f"{path} is damaged: its contents do not match their checksum")
            return Checkpoint(config, tensors, meta)
    except (KeyError, ValueError):
        raise SpeedrunError(f"{path} holds no net of speedrun") from None
    except (SafetensorError, OSError) as error:
        raise SpeedrunError(f"{path} was not loaded: {error}") from None


def _digest(texts: dict[str, str], tensors: dict[str, Tensor]) -> str:
    return digest({"config": texts["config"], "meta": texts["meta"], "model": dict(sorted(tensors.items()))})
