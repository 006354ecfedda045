"""Compiles the kernels of training for an H100 on a machine without a GPU, down to its machine code.

    python tests/sm90.py        # a line of JSON a kernel: its name and the bytes of shared memory that a program takes

The interpreter shows that a kernel computes the right numbers; this, that Triton's compiler takes it, and that it fits.
"""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

torch.version.cuda = torch.version.cuda or "12.8"  # else the kernels are not even defined

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from kernels import newton_schulz, norm, pool_norm  # noqa: E402

H100 = GPUTarget("cuda", 90, 32)
HALF, FLOAT, INT64, BYTE, NUMBER = "*bf16", "*fp32", "*i64", "*u8", "fp32"


def compiled(kernel: Any, signature: Mapping[str, str], constants: Mapping[str, Any], **options: int) -> Any:
    """The kernel for arguments of these types, pointers aligned as torch aligns them, channels a multiple of 16."""
    types = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
    aligned = [
        index for index, name in enumerate(kernel.arg_names) if types[name].startswith("*") or name == "channels"
    ]
    attributes = {(index,): [["tt.divisibility", 16]] for index in aligned}
    source = ASTSource(fn=kernel, signature=types, constexprs=dict(constants), attrs=attributes)
    return triton.compile(source, target=H100, options=options)


def products(half: str, precision: str, symmetric: bool, added: bool) -> Any:
    signature = {"left": half, "right": half, "out": half, "table": INT64, "alpha": NUMBER, "beta": NUMBER}
    constants: dict[str, Any] = {"SYMMETRIC": symmetric, "TILE": newton_schulz._TILE, "PRECISION": precision}
    signature, constants = (signature | {"add": half}, constants) if added else (signature, constants | {"add": None})
    return compiled(newton_schulz._product_kernel, signature, constants)


def rows_of(kernel: Any, half: str, constants: Mapping[str, Any], **options: int) -> Any:
    """A kernel of normalisation: its arguments are told by their names."""
    types = {name: half for name in ("x", "pooled", "rows", "grad", "out", "dx")}
    types |= {name: FLOAT for name in ("partial", "statistics", "weight", "bias", "sums")}
    types |= {name: FLOAT for name in ("running_mean", "running_var")}
    types |= {name: "i32" for name in ("count", "height", "width", "channels", "cells")}
    types |= {"index": BYTE, "eps": NUMBER, "momentum": NUMBER}
    if kernel is norm._merge_kernel:
        types["rows"] = "i32"
    if constants.get("POOL") == 1:
        constants = {**constants, "index": None}
    used = {name: types[name] for name in kernel.arg_names if name in types and name not in constants}
    return compiled(kernel, used, constants, **options)


TILE = {"ROWS": norm.ROWS, "CHANNELS": 64}
CASES = {
    "newton-schulz, padding": lambda: compiled(
        newton_schulz._pad_kernel,
        {"source": FLOAT, "norms": FLOAT, "out": HALF, "table": INT64, "eps": NUMBER},
        {"TILE": newton_schulz._TILE},
    ),
    "newton-schulz, X X^T": lambda: products(HALF, "tf32", True, False),
    "newton-schulz, square": lambda: products(HALF, "tf32", True, True),
    "newton-schulz, apply": lambda: products(HALF, "tf32", False, True),
    "newton-schulz, apply in float32": lambda: products(FLOAT, "tf32x3", False, True),
    **{
        f"pool {pool}, {half}": partial(rows_of, pool_norm._pool_kernel, half, {**TILE, "POOL": pool})
        for pool, half in ((2, HALF), (2, FLOAT), (1, HALF))
    },
    "merge": partial(rows_of, norm._merge_kernel, HALF, {"PROGRAMS": norm.PROGRAMS, "CHANNELS": norm._MERGED}),
    **{
        f"{name}, {activation}": partial(rows_of, kernel, HALF, {**TILE, "ACTIVATION": activation})
        for activation in ("gelu", "silu", "relu")
        for name, kernel in (("apply", norm._apply_kernel), ("sums", norm._sums_kernel))
    },
    "spread": partial(rows_of, pool_norm._spread_kernel, HALF, {**TILE, "ACTIVATION": "gelu", "POOL": 2}),
    "spread, no pooling": partial(rows_of, pool_norm._spread_kernel, HALF, {**TILE, "ACTIVATION": "gelu", "POOL": 1}),
}


def main() -> None:
    for name, make in CASES.items():
        kernel = make()
        assert kernel.asm["cubin"], name
        print(json.dumps({"kernel": name, "shared": kernel.metadata.shared}), flush=True)


if __name__ == "__main__":
    main()
