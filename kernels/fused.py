"""The one kernel that composes every operation, specialised at compile time, and its launcher.

A program makes a block of at most 32 x 32 pixels of `IMAGES` images, in tiles of rows x columns. Where channels do not
touch each other a column is a byte of the row (pixel and channel), so that loads and stores are contiguous; where they
do, it is a pixel. What depends on the image, the row or the column alone is computed once for it, by shape:
(IMAGES, 1, 1), (1, rows, 1), (1, 1, columns).
"""

from typing import Any

from torch import Tensor

from kernels import mixing
from kernels.affine import affine_jit
from kernels.augmentation import Augmentation
from kernels.backend import INTERPRETED, constant, jit, on_device, tl
from kernels.colour import colour_jit
from kernels.cutout import erased_jit
from kernels.flip import flips_jit
from kernels.members import inside_jit, member_jit, partner_jit, store_labels_jit
from kernels.normalise import normalise_jit
from kernels.philox import Key
from kernels.request import Request
from kernels.resize import coordinates_jit
from kernels.sample import sample_jit
from kernels.translate import shifts_jit
from kernels.trivial import move_jit, sample_recoloured_jit

_BLOCK = 32  # pixels: a side of the square that one program makes, as a whole larger image would not fit its registers


def launch(request: Request) -> None:
    """Makes a batch by one launch."""
    images, index, augmentation, mean, std, out, seed, epoch, offset, mixed = request
    count, total, height, width = len(index), *images.shape[:3]
    if count == 0:
        return
    table = mixing.table(augmentation, images.device) if mixed else None
    step = mixed.step if mixed else 0
    fixed = specialised(augmentation, height, width)
    blocks = -(-augmentation.size // fixed["BLOCK"])
    with on_device(images):
        _kernel[(-(-count // fixed["IMAGES"]), blocks, blocks)](
            images,
            index,
            mean,
            std,
            out,
            mixed.labels if mixed else None,
            table,
            mixed.out_labels if mixed else None,
            mixed.out_weights if mixed else None,
            *_halves(seed),
            _halves(epoch)[0],
            *_halves(step),
            count,
            total,
            *offset,
            SEED_IN_MEMORY=isinstance(seed, Tensor),
            EPOCH_IN_MEMORY=isinstance(epoch, Tensor),
            STEP_IN_MEMORY=isinstance(step, Tensor),
            **fixed,
        )


def specialised(augmentation: Augmentation, height: int, width: int) -> dict[str, Any]:
    """What the kernel is compiled for, beside the types of its arguments: constants, and the warps of a program."""
    block = min(augmentation.size, _BLOCK)
    # One warp for what is little work a pixel: index arithmetic then serves four rows, a random draw ninety-six bytes.
    light = augmentation.members == 1 and not (augmentation.warps or augmentation.colours)
    return {
        "A": constant(augmentation),
        "H": height,
        "W": width,
        "PIXELS": _power_of_two(height * width),
        # The interpreter pays by the program, a device by idle multiprocessors; the policy needs an image to itself.
        "IMAGES": 64 if INTERPRETED and augmentation.policy == "none" else 1,
        "BLOCK": block,
        "ROWS": _power_of_two(block),
        "COLUMNS": 32,
        "num_warps": 1 if light else 4,
    }


def _halves(key: Key) -> tuple[Key, int]:
    """The lower and the upper 32 bits of an integer, each with a sign, as Triton compiles anew for an argument that
    does not fit one type any more. A tensor stays whole; its upper half is not read."""
    if isinstance(key, Tensor):
        return key, 0
    return _signed(key), _signed(key >> 32)


def _signed(number: int) -> int:
    """What its lowest 32 bits mean as int32."""
    return (number & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


# Numbers change from launch to launch, and so does where slices of these tensors begin: neither may compile anew.
_ANY_VALUE = ["seed", "seed_high", "epoch", "step", "step_high", "count", "total", "offset_y", "offset_x"]
_ANY_ALIGNMENT = ["index", "mean", "std", "labels", "out_labels", "out_weights"]


@jit(do_not_specialize=_ANY_VALUE + _ANY_ALIGNMENT)
def _kernel(
    images, index, mean, std, out, labels, table, out_labels, out_weights,
    seed, seed_high, epoch, step, step_high, count, total, offset_y, offset_x,
    SEED_IN_MEMORY: tl.constexpr, EPOCH_IN_MEMORY: tl.constexpr, STEP_IN_MEMORY: tl.constexpr,
    A: tl.constexpr, H: tl.constexpr, W: tl.constexpr, PIXELS: tl.constexpr,
    IMAGES: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    SIZE: tl.constexpr = A.value.size
    COLOURS: tl.constexpr = A.value.colours
    MEMBERS: tl.constexpr = A.value.members
    MIX_PER: tl.constexpr = A.value.mix_per
    seed = tl.load(seed) if SEED_IN_MEMORY else _joined_jit(seed, seed_high)
    step = tl.load(step) if STEP_IN_MEMORY else _joined_jit(step, step_high)
    if EPOCH_IN_MEMORY:
        epoch = tl.load(epoch)
    epoch = epoch.to(tl.uint32)
    rows = (tl.program_id(0).to(tl.int64) * IMAGES + tl.arange(0, IMAGES))[:, None, None]
    valid = rows < count
    own = tl.load(index + rows, mask=valid, other=0)
    key, key_epoch = own, epoch
    if MIX_PER == "batch":
        key, key_epoch = own * 0 + step, epoch * 0

    WIDTH: tl.constexpr = SIZE if COLOURS else 3 * SIZE
    LINE: tl.constexpr = BLOCK if COLOURS else 3 * BLOCK
    top, left = 0, 0
    if SIZE > BLOCK:
        top, left = tl.program_id(1) * BLOCK, tl.program_id(2) * LINE
    for column in tl.static_range(0, LINE, COLUMNS):
        y = (top + tl.arange(0, ROWS))[None, :, None]
        place = (left + column + tl.arange(0, COLUMNS))[None, None, :]
        inside = valid & (y < SIZE) & (place < WIDTH)
        x, channel = place, place * 0
        if not COLOURS:
            x, channel = place // 3, place % 3
        if MEMBERS == 1:
            red, green, blue = _picture_jit(
                images, own, y, x, channel, inside, seed, epoch, offset_y, offset_x, mean, std, H, W, PIXELS, A
            )
        else:
            red, green, blue = _mixed_jit(
                images, index, rows, own, count, total, table, key, key_epoch,
                y, x, channel, inside, seed, epoch, offset_y, offset_x, mean, std, H, W, PIXELS, A,
            )  # fmt: skip
        target = out + rows * (SIZE * SIZE * 3) + (y * (SIZE * 3) + place)
        if COLOURS:
            target += place * 2
            tl.store(target + 1, green.to(out.dtype.element_ty), mask=inside)
            tl.store(target + 2, blue.to(out.dtype.element_ty), mask=inside)
        tl.store(target, red.to(out.dtype.element_ty), mask=inside)

    if labels is not None:
        store_labels_jit(
            labels, table, out_labels, out_weights, index, rows, own, count, total, seed, key, key_epoch, top + left, A
        )


@jit
def _joined_jit(low, high):
    """The int64 whose halves these are, as `_halves` makes them."""
    return (high.to(tl.int64) << 32) | (low.to(tl.int64) & 0xFFFFFFFF)


@jit
def _mixed_jit(
    images, index, rows, own, count, total, table, key, key_epoch,
    y, x, channel, inside, seed, epoch, offset_y, offset_x, mean, std,
    H: tl.constexpr, W: tl.constexpr, PIXELS: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """The pictures of a mix's members, painted over each other in order."""
    MEMBERS: tl.constexpr = A.value.members
    red = tl.zeros(inside.shape, tl.float32)
    green, blue = red, red
    for k in range(MEMBERS):
        share, top, bottom, left, right, shift_y, shift_x = member_jit(k, seed, key, key_epoch, table, A)
        seen = inside & (inside_jit(y, x, top, bottom, left, right) | (k == 0))
        share = tl.where(seen, share, 0.0)
        # Of a single image, members without a part cost nothing; several would have to agree.
        if tl.max(tl.max(tl.max(share, 2), 1), 0) > 0.0:
            source = partner_jit(k, seed, key, key_epoch, index, rows, own, count, total, A)
            r, g, b = _picture_jit(
                images, source, y + shift_y, x + shift_x, channel, inside & (share > 0.0),
                seed, epoch, offset_y, offset_x, mean, std, H, W, PIXELS, A,
            )  # fmt: skip
            red = red * (1.0 - share) + r * share
            green = green * (1.0 - share) + g * share
            blue = blue * (1.0 - share) + b * share
    return red, green, blue


@jit
def _picture_jit(
    images, i, y, x, channel, inside, seed, epoch, offset_y, offset_x, mean, std,
    H: tl.constexpr, W: tl.constexpr, PIXELS: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """Images `i` at output pixels (y, x): normalised red, green and blue, or three times the value of `channel`."""
    SIZE: tl.constexpr = A.value.size
    FLIP: tl.constexpr = A.value.flip
    TRANSLATE: tl.constexpr = A.value.translate
    PADDING: tl.constexpr = A.value.padding
    AFFINE: tl.constexpr = A.value.affine
    WARPS: tl.constexpr = A.value.warps
    COLOURS: tl.constexpr = A.value.colours
    ERASES: tl.constexpr = A.value.erases
    POLICY: tl.constexpr = A.value.policy
    image = images + i * (H * W * 3)
    v, u = y, x
    if WARPS or (H != SIZE or W != SIZE):  # Triton before 3.4 takes two operands at a time
        v, u = coordinates_jit(y, H, SIZE), coordinates_jit(x, W, SIZE)
    if AFFINE > 0.0:
        v, u = affine_jit(seed, epoch, i, v, u, H, W, A)
    if FLIP != "none":
        u = tl.where(flips_jit(seed, epoch, i, A), W - 1 - u, u)
    if TRANSLATE > 0:
        dy, dx = shifts_jit(seed, epoch, i, A)
        v, u = v + dy, u + dx
    v, u = v + offset_y, u + offset_x
    if COLOURS:
        if POLICY != "none":
            v, u = move_jit(seed, epoch, i, v, u, H, W)
            red, green, blue = sample_recoloured_jit(seed, epoch, i, images, v, u, inside, H, W, PIXELS, PADDING)
        else:
            red = sample_jit(image, v, u, 0, inside, H, W, PADDING)
            green = sample_jit(image, v, u, 1, inside, H, W, PADDING)
            blue = sample_jit(image, v, u, 2, inside, H, W, PADDING)
        red, green, blue = colour_jit(seed, epoch, i, red, green, blue, A)
        red = normalise_jit(red, 0, mean, std)
        green = normalise_jit(green, 1, mean, std)
        blue = normalise_jit(blue, 2, mean, std)
    else:
        red = normalise_jit(sample_jit(image, v, u, channel, inside, H, W, PADDING), channel, mean, std)
        green, blue = red, red
    if ERASES:
        erased = erased_jit(seed, epoch, i, y, x, A)
        red, green, blue = tl.where(erased, 0.0, red), tl.where(erased, 0.0, green), tl.where(erased, 0.0, blue)
    return red, green, blue
