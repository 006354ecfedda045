"""Compiles all kernels for an H100 on a machine without a GPU, down to its machine code.

    python tests/sm90.py        # a line of JSON a kernel: its name, the bytes of shared memory that a program takes,
                                # and those that a thread has no registers for

The interpreter shows that a kernel computes the right numbers; this, that Triton's compiler takes it, and that it fits.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

torch.version.cuda = torch.version.cuda or "12.8"  # else the kernels are not even defined

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from kernels import conv_fp8, conv_pool, fused, newton_schulz, norm, pool_norm, whiten  # noqa: E402
from kernels.augmentation import Augmentation  # noqa: E402

H100 = GPUTarget("cuda", 90, 32)
HALF, FLOAT, INT64, BYTE, NUMBER = "*bf16", "*fp32", "*i64", "*u8", "fp32"
EIGHT = {conv_fp8.FORWARD: "*fp8e4nv", conv_fp8.BACKWARD: "*fp8e5"}


def compiled(kernel: Any, signature: Mapping[str, str], constants: Mapping[str, Any], **options: int) -> Any:
    """The kernel for arguments of these types, pointers aligned as torch aligns them, channels a multiple of 16."""
    types = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
    aligned = [
        index
        for index, name in enumerate(kernel.arg_names)
        if (types[name].startswith("*") or name == "channels") and not kernel.params[index].do_not_specialize
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
    """A kernel of normalisation or of a convolution: its arguments are told by their names."""
    types = {name: half for name in ("x", "filters", "pooled", "rows", "grad", "out", "dx")}
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


def first_convolution(kernel: Any, half: str, **constants: Any) -> Any:
    """A kernel of the first convolution, at the sizes that its launcher takes for 24 to 64 channels."""
    dtype = torch.bfloat16 if half == HALF else torch.float32
    x, filters = torch.empty(2, 24, 31, 31, dtype=dtype, device="meta"), torch.empty(64, 24, 3, 3, device="meta")
    _, tile = conv_pool._tiles(x, filters, 450)
    options = {name: tile.pop(name) for name in ("num_warps", "num_stages")}
    return rows_of(kernel, half, {**tile, **constants}, **options)


def whitening(half: str) -> Any:
    tile = {"CHANNELS": 3, "SIDE": 2, "FILTERS": 24, "ROWS": whiten._ROWS, "LENGTH": 16, "WIDTH": 32}
    precision = "tf32" if half == HALF else "tf32x3"
    return rows_of(whiten._kernel, half, {**tile, "ACTIVATION": "gelu", "PRECISION": precision})


def eight_bits(kind: torch.dtype, channels: int) -> Any:
    """The product of 8-bit floats, from so many channels to 128 or more."""
    types = {"x": EIGHT[kind], "filters": EIGHT[conv_fp8.FORWARD], "out": HALF}
    types |= {"x_scale": FLOAT, "filters_scale": FLOAT}
    types |= {name: "i32" for name in ("count", "height", "width", "channels")}
    tile = {"CHANNELS": channels, "ROWS": conv_fp8._ROWS, "LENGTH": conv_fp8._LENGTH, "FILTERS": conv_fp8._FILTERS}
    return compiled(conv_fp8._product_kernel, types, tile, **conv_fp8._OPTIONS)


def rounding(kind: torch.dtype) -> Any:
    bits, least, end = conv_fp8._FORMATS[kind]
    types = {"x": HALF, "largest": FLOAT, "scale": FLOAT, "out": EIGHT[kind], "count": "i32"}
    constants = {"BITS": bits, "LEAST": least, "END": end, "BLOCK": conv_fp8._BLOCK}
    return compiled(conv_fp8._round_kernel, types, constants)


def augmentation(in_memory: bool = False, labelled: bool = True, **fields: Any) -> Any:
    """The kernel that makes batches, from images of 32 pixels or of as many as it gives. in_memory: its keys are read
    from there, as in a graph. labelled: with labels, as `kernels.augment.mix` has it."""
    wanted = Augmentation(**fields)
    side = max(32, wanted.size)
    constants = {**fused.specialised(wanted, side, side), "IMAGES": 1}  # which is 64 where TRITON_INTERPRET is set
    options = {"num_warps": constants.pop("num_warps")}
    types = {name: "i32" for name in fused._ANY_VALUE}
    types |= {"images": BYTE, "index": INT64, "mean": FLOAT, "std": FLOAT, "out": "*fp16"}
    mixing = {"labels": INT64, "table": "*i32", "out_labels": INT64, "out_weights": FLOAT}
    absent = [] if wanted.members > 1 else ["table"] if labelled else list(mixing)
    constants |= dict.fromkeys(absent)
    mixing = {name: kind for name, kind in mixing.items() if name not in absent}
    for name in ("seed", "epoch", "step"):
        constants[f"{name.upper()}_IN_MEMORY"] = in_memory
        if in_memory:
            types[name] = INT64
    return compiled(fused._kernel, types | mixing, constants, **options)


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
    **{
        name: partial(first_convolution, kernel, half, **constants)
        for half in (HALF, FLOAT)
        for name, kernel, constants in (
            (f"convolution and pooling, {half}", conv_pool._forward_kernel, {}),
            (f"filters' gradient, {half}", conv_pool._filters_kernel, {"ACTIVATION": "gelu"}),
        )
    },
    **{f"whitening, {half}": partial(whitening, half) for half in (HALF, FLOAT)},
    "8 bits, rounding": partial(rounding, conv_fp8.FORWARD),
    "8 bits, rounding a gradient": partial(rounding, conv_fp8.BACKWARD),
    "8 bits, product": partial(eight_bits, conv_fp8.FORWARD, 256),
    "8 bits, product from 64 channels": partial(eight_bits, conv_fp8.FORWARD, 64),
    "8 bits, product with a gradient": partial(eight_bits, conv_fp8.BACKWARD, 256),
}

MIXES = {"mixup": 0.3, "cutmix": 0.3, "ricap": 0.2}
DSNET = {"flip": "random", "affine": 0.5, "tone": 0.5, "hue": 0.5, "holes": 0.3, **MIXES}
CASES |= {
    "augmentation, flip and shift": partial(augmentation, flip="random", translate=4, cutout=8),
    "augmentation, keys in memory": partial(augmentation, True, flip="alternating", translate=2, size=24),
    "augmentation, colours": partial(augmentation, affine=0.5, tone=0.5, hue=0.5, grayscale=0.2, holes=0.3),
    "augmentation, policy": partial(augmentation, flip="random", translate=4, policy="trivial"),
    "augmentation, dsnet": partial(augmentation, **DSNET),
    "augmentation, a mix a batch": partial(augmentation, True, mix_per="batch", **MIXES),
    "augmentation, 70 pixels, no labels": partial(augmentation, labelled=False, size=70, flip="random", padding="zero"),
}


def spilt(kernel: Any) -> int:
    """Bytes of its stack, by the tool that Triton brings along."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        told = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    (stack,) = re.findall(r"STACK:(\d+)", told.stdout)
    return int(stack)


def main() -> None:
    for name, make in CASES.items():
        kernel = make()
        assert kernel.asm["cubin"], name
        assert "rounding" not in name or "div." not in kernel.asm["ptx"], "it would only nearly be exact"
        print(json.dumps({"kernel": name, "shared": kernel.metadata.shared, "spilt": spilt(kernel)}), flush=True)


if __name__ == "__main__":
    main()
