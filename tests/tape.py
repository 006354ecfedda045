"""What a CUDA graph does, on any device: an operation's every run again with the same tensors, and nothing of Python.

So what a captured function reads from the host, a number, a decision, stays what it was when it was recorded.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

# What makes the host wait for a device's numbers, and so cannot be captured.
WAITS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim", "item")


class Tape(TorchDispatchMode):
    """Records the operations of its body with their tensors, and runs them again. AssertionError for one that waits."""

    def __init__(self) -> None:
        super().__init__()
        self._runs: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func._schema.name.partition("::")[2] not in WAITS, f"{func} waits for the device"
        out = func(*args, **(kwargs or {}))
        self._runs.append((func, args, kwargs or {}, _tensors(out)))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        """Run what was recorded again; every result lands where the first one did."""
        for func, args, kwargs, first in self._runs:
            for place, fresh in zip(first, _tensors(func(*args, **kwargs)), strict=True):
                if place.untyped_storage().data_ptr() != fresh.untyped_storage().data_ptr():
                    place.copy_(fresh)


def _tensors(out: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(out)[0] if isinstance(leaf, Tensor)]
