"""Triton where this torch has a device for it, or where its interpreter was asked for; stand-ins elsewhere.

Every operation's file holds a Triton device function beside its torch twin, so all of them ask here. The stand-ins let
those files load on a machine that can never launch a kernel, without Triton or without the 0.4 s that its import takes.
`TRITON_INTERPRET=1` must be set before the first import of this module, as Triton reads it when a function is
decorated.
"""

import os
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
