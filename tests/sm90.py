"""Compiles the kernels of training for an H100 on a machine without a GPU, down to its machine code.

    python tests/sm90.py        # a line of JSON a kernel: its name and the bytes of shared memory that a program takes

The interpreter shows that a kernel computes the right numbers; this, that Triton's compiler takes it, and that it fits.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch

torch.version.cuda = torch.version.cuda or "12.8"  # else the kernels are not even defined

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from kernels import newton_schulz  # noqa: E402

H100 = GPUTarget("cuda", 90, 32)
HALF, FLOAT, INT64, NUMBER = "*bf16", "*fp32", "*i64", "fp32"


def compiled(kernel: Any, signature: Mapping[str, str], constants: Mapping[str, Any], **options: int) -> Any:
    """The kernel for arguments of these types, pointers aligned as torch aligns its tensors."""
    types = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
    aligned = [index for index, name in enumerate(kernel.arg_names) if types[name].startswith("*")]
    attributes = {(index,): [["tt.divisibility", 16]] for index in aligned}
    source = ASTSource(fn=kernel, signature=types, constexprs=dict(constants), attrs=attributes)
    return triton.compile(source, target=H100, options=options)


def products(half: str, precision: str, symmetric: bool, added: bool) -> Any:
    signature = {"left": half, "right": half, "out": half, "table": INT64, "alpha": NUMBER, "beta": NUMBER}
    constants: dict[str, Any] = {"SYMMETRIC": symmetric, "TILE": newton_schulz._TILE, "PRECISION": precision}
    signature, constants = (signature | {"add": half}, constants) if added else (signature, constants | {"add": None})
    return compiled(newton_schulz._product_kernel, signature, constants)


CASES = {
    "newton-schulz, padding": lambda: compiled(
        newton_schulz._pad_kernel,
        {"source": FLOAT, "norms": FLOAT, "out": HALF, "table": INT64, "eps": NUMBER},
        {"TILE": newton_schulz._TILE},
    ),
    "newton-schulz, X X^T": lambda: products(HALF, "tf32", True, False),
    "newton-schulz, square": lambda: products(HALF, "tf32", True, True),
    "newton-schulz, apply": lambda: products(HALF, "tf32", False, True),
    "newton-schulz, apply in float32": lambda: products(FLOAT, "ieee", False, True),
}


def main() -> None:
    for name, make in CASES.items():
        kernel = make()
        assert kernel.asm["cubin"], name
        print(json.dumps({"kernel": name, "shared": kernel.metadata.shared}), flush=True)


if __name__ == "__main__":
    main()
