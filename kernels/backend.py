"""Triton where this torch has a device for it, or where its interpreter was asked for; stand-ins elsewhere.

Every operation's file holds a Triton device function beside its torch twin, so all of them ask here. The stand-ins let
those files load on a machine that can never launch a kernel, without Triton or without the 0.4 s that its import takes.
`TRITON_INTERPRET=1` must be set before the first import of this module, as Triton reads it when a function is
decorated.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ENABLED = find_spec("triton") is not None and bool(torch.version.cuda or torch.version.hip or INTERPRETED)

tl: Any
jit: Any
constant: Any  # makes a number that device functions may read from their module

if ENABLED:
    import triton
    import triton.language

    tl = triton.language
    jit = triton.jit
    constant = tl.constexpr
else:

    def jit(function: Any = None, **_: Any) -> Any:
        return function if function is not None else jit

    tl = SimpleNamespace(constexpr=Any)
    constant = int


METHODS = ("auto", "fused", "torch")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)  # that the kernels of training take


def check_method(method: str, tensor: torch.Tensor) -> None:
    """Raises ValueError for an unknown method, and for "fused" where `tensor` lies out of the kernels' reach."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if method == "fused" and not (ENABLED and (tensor.is_cuda or INTERPRETED)):
        raise ValueError("a fused kernel needs Triton, and tensors on CUDA or TRITON_INTERPRET=1")


def wanted(method: str, tensor: torch.Tensor) -> bool:
    """Whether `method` asks for a kernel where `tensor` lies; "auto" does on CUDA alone. Raises as `check_method`."""
    check_method(method, tensor)
    return method == "fused" or (method == "auto" and ENABLED and tensor.is_cuda)


def check_dtype(tensor: torch.Tensor) -> None:
    """Raises ValueError where the kernels of training do not take the dtype of `tensor`."""
    if tensor.dtype not in DTYPES:
        raise ValueError(f"x must be float16, bfloat16 or float32, not {str(tensor.dtype).removeprefix('torch.')}")


def on_device(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Within it, kernels are launched on the device of `tensor`."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
