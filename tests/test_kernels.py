"""The fused kernel and its torch twin against the oracle, on the GPU or under Triton's interpreter."""

from dataclasses import asdict

import numpy as np
import oracles
import pytest
import torch

from kernels import backend, colour, philox
from kernels.augment import augment, view
from kernels.augmentation import Augmentation

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
FUSED = pytest.param("fused", marks=pytest.mark.skipif(not backend.ENABLED, reason="no Triton that runs here"))
METHODS = ["torch", FUSED]
# Of values up to about 2.2. A GPU divides to two units in the last place where the CPU is exact.
TOLERANCE = {torch.float32: 2e-6 if DEVICE == "cuda" else 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# Interpolated values: coordinates have an error of some 1e-5 pixels in float32, and a pixel may differ by 255.
BLURRED = 3e-4

GEOMETRY = [
    Augmentation(),
    Augmentation(flip="random"),
    Augmentation(flip="alternating"),
    Augmentation(flip="always"),
    *(Augmentation(flip="random", translate=4, padding=padding, cutout=12) for padding in ("reflect", "edge", "zero")),
    Augmentation(translate=15, cutout=16, size=16),
    Augmentation(cutout=32),
    Augmentation(cutout=1),
    Augmentation(holes=0.5, hole_count=5, hole_size=6),
    Augmentation(flip="alternating", translate=2, size=24),
    Augmentation(flip="alternating", translate=2, size=28, cutout=8),
    Augmentation(translate=2, size=1, padding="edge"),
]
WARPED = [
    *(
        Augmentation(affine=0.5, affine_rotate=90, affine_scale=0.5, affine_shift=0.3, padding=padding)
        for padding in ("reflect", "edge", "zero")
    ),
    Augmentation(affine=0.5, flip="random", translate=3, size=24),
]
COLOURED = [
    Augmentation(tone=0.6, brightness=0.5, contrast=0.9),
    Augmentation(hue=0.6, hue_shift=0.5, saturation_shift=0.6, value_shift=0.4),
    Augmentation(grayscale=0.5),
    Augmentation(tone=0.5, hue=0.5, grayscale=0.3, size=24, translate=2),
]
POLICY = [
    *(Augmentation(policy="trivial", padding=padding) for padding in ("reflect", "edge", "zero")),
    Augmentation(policy="trivial", flip="random", translate=4, affine=0.3, tone=0.3, cutout=8, size=28),
]


def changes(augmentation: Augmentation) -> str:
    """What is on, as a test's name."""
    defaults = asdict(Augmentation())
    return ",".join(f"{name}={value}" for name, value in asdict(augmentation).items() if value != defaults[name])


def images(count: int = 64, height: int = 32, width: int = 32) -> torch.Tensor:
    """Noise, so that no pixel can stand for another, with two images of one value and one with few."""
    made = torch.randint(
        0, 256, (count, height, width, 3), generator=torch.Generator().manual_seed(9), dtype=torch.uint8
    )
    made[0], made[1, :, :, 1] = 130, 7
    made[2] = made[2] // 100 * 90
    return made


def run(data, index, augmentation, **options):
    """`augment` with all that a test does not care about filled in; the batch comes back to the CPU."""
    return made(data, index, augmentation, **options).cpu()


def made(data, index, augmentation, *, seed=3, epoch=2, dtype=torch.float32, method="torch", **options):
    batch = augment(
        data.to(DEVICE),
        torch.as_tensor(index, device=DEVICE),
        augmentation,
        mean=torch.tensor(MEAN, device=DEVICE),
        std=torch.tensor(STD, device=DEVICE),
        seed=seed,
        epoch=epoch,
        dtype=dtype,
        method=method,
        **options,
    )
    assert batch.is_contiguous(memory_format=torch.channels_last)
    return batch


def oracle(data, augmentation, seed=3, epoch=2, **options):
    return oracles.Oracle(data.numpy(), np.array(MEAN), np.array(STD), augmentation, seed, epoch, **options)


def expected(data, index, augmentation, **options):
    who = oracle(data, augmentation, **options)
    return torch.from_numpy(np.stack([who.picture(int(i)) for i in index])).permute(0, 3, 1, 2)


def assert_close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    error = (got.double() - wanted.double()).abs()
    worst = np.unravel_index(int(error.argmax()), error.shape)
    assert error.max() <= tolerance, f"{error.max():.3g} at (image, channel, y, x) {tuple(map(int, worst))}"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("augmentation", GEOMETRY, ids=changes)
def test_T1_geometry_equals_the_oracle(augmentation, method):
    data, index = images(), [5, 0, 63, 5, *range(30)]
    got = run(data, index, augmentation, method=method)
    resized = augmentation.size < 32
    assert_close(got, expected(data, index, augmentation), BLURRED if resized else TOLERANCE[torch.float32])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("augmentation", [*WARPED, *COLOURED, *POLICY], ids=changes)
def test_the_rest_equals_the_oracle(augmentation, method):
    data, index = images(), [63, 0, 1, 2, *range(20, 44)]
    got = run(data, index, augmentation, method=method)
    assert_close(got, expected(data, index, augmentation), BLURRED)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("operation", range(14))
@pytest.mark.parametrize("side", [32, 45])  # of the images: the kernel takes their statistics 1,024 pixels at a time
def test_every_operation_of_the_policy_equals_the_oracle(side, operation, method):
    """Images are looked for whose draw is this operation, at a strength that shows."""
    data, augmentation = images(512, side, side), Augmentation(policy="trivial")
    who = oracle(data, augmentation)
    index = [i for i in range(3, 512) if who.policy(i)[0] == operation and who.policy(i)[1] > 12][:3]
    assert len(index) == 3
    got = run(data, index, augmentation, method=method)
    assert_close(got, expected(data, index, augmentation), BLURRED)
    plain = run(data, index, Augmentation(), method=method)
    # Noise has bytes from 0 to 255 in every channel: stretching it changes nothing.
    assert ((got - plain).abs().amax((1, 2, 3)) > 0.05).all() == (operation not in (0, 12))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("count", [1, 7, 512])
def test_T1_T5_counts_and_dtypes(count, dtype, method):
    augmentation = Augmentation(flip="random", translate=2, cutout=6)
    data = images(600)
    index = torch.arange(count) * 5 % 600
    got = run(data, index, augmentation, dtype=dtype, method=method)
    assert got.dtype == dtype
    rows = sorted({0, count // 2, count - 1})
    assert_close(got[rows], expected(data, index[rows], augmentation), TOLERANCE[dtype])
    if method == "fused":
        assert_close(got, run(data, index, augmentation, dtype=dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_batch(method):
    assert run(images(), torch.zeros(0, dtype=torch.int64), Augmentation(), method=method).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("augmentation", [GEOMETRY[4], WARPED[3], COLOURED[3]], ids=changes)
def test_other_sides(augmentation, method):
    """Images need not be square, nor a power of two."""
    data, index = images(8, 40, 35), [7, 3, 3]
    got = run(data, index, augmentation, method=method)
    assert_close(got, expected(data, index, augmentation), BLURRED)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("padding", ["reflect", "edge", "zero"])
def test_T1_shifts_and_squares_at_their_extremes(padding, method):
    """The four corners of the range of shifts, and of the places of the square, on images that draw them."""
    augmentation = Augmentation(flip="random", translate=4, cutout=12, padding=padding)
    data = images(4000)
    who = oracle(data, augmentation)
    shifts = {who.shift(i): i for i in range(4000)}
    corners = {who.squares(i)[0][:2]: i for i in range(4000)}
    index = [shifts[y, x] for y in (-4, 4) for x in (-4, 4)] + [corners[y, x] for y in (0, 20) for x in (0, 20)]
    assert {who.mirrored(i) for i in index} == {True, False}
    got = run(data, index, augmentation, method=method)
    assert_close(got, expected(data, index, augmentation), TOLERANCE[torch.float32])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(size=70, flip="random", translate=9, cutout=40),
        Augmentation(size=40, hue=1.0, holes=1.0, affine=0.5),
        Augmentation(size=33, policy="trivial"),
    ],
    ids=changes,
)
def test_outputs_larger_than_a_block(augmentation, method):
    data, index = images(8, 70, 72), [7, 3, 5, 4]
    got = run(data, index, augmentation, method=method)
    assert_close(got, expected(data, index, augmentation), BLURRED)


def test_hue_does_not_jump_near_gray_and_black():
    """There hue and saturation mean nothing, so what was a rounding error before the shift must stay one."""
    augmentation = Augmentation(hue=1.0, hue_shift=0.5, saturation_shift=0.6, value_shift=0.4)
    words = philox.draw(3, 2, torch.arange(400), [philox.HUE])
    gray = torch.linspace(0, 255, 400).clamp(min=128) - 128  # a third of the images is black
    gray = gray[:, None, None, None].expand(400, 8, 8, 3).clone()
    noise = 1e-4 * torch.rand(gray.shape, generator=torch.Generator().manual_seed(0))
    with_noise = colour.colour(gray + noise, augmentation, words)
    assert (with_noise - colour.colour(gray, augmentation, words)).abs().max() < 0.05  # of 255


@pytest.mark.parametrize("method", METHODS)
def test_T3_identity_is_plain_normalisation(method):
    data = images()
    wanted = (data.double() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    got = run(data, range(64), Augmentation(), method=method)
    assert_close(got, wanted.permute(0, 3, 1, 2), TOLERANCE[torch.float32])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("padding", ["reflect", "edge", "zero"])
@pytest.mark.parametrize(("flip", "shift", "size"), [(False, (1, 1), 32), (True, (-1, 1), 32), (True, (0, -3), 24)])
def test_views_are_fixed(flip, shift, size, padding, method):
    data, index = images(), torch.arange(12)
    got = view(
        data.to(DEVICE),
        index.to(DEVICE),
        flip=flip,
        shift=shift,
        size=size,
        padding=padding,
        mean=torch.tensor(MEAN, device=DEVICE),
        std=torch.tensor(STD, device=DEVICE),
        dtype=torch.float32,
        method=method,
    )
    augmentation = Augmentation(size=size, flip="always" if flip else "none", padding=padding)
    assert_close(got.cpu(), expected(data, index, augmentation, offset=shift), BLURRED)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU")
@pytest.mark.parametrize("augmentation", [GEOMETRY[4], GEOMETRY[11], WARPED[3], COLOURED[3], POLICY[0]], ids=changes)
def test_T1_T5_fifty_thousand_images(augmentation):
    data = images(50_000)
    index = torch.randperm(50_000)
    assert_close(run(data, index, augmentation, method="fused"), run(data, index, augmentation), BLURRED)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU")
def test_T4_offsets_beyond_two_to_the_31st():
    """The last images of 2.2 GB in, and the last of 4.3 GB out."""
    count = 2**31 // 3072 + 1000
    data = torch.zeros((count, 32, 32, 3), dtype=torch.uint8, device=DEVICE)
    data[-1000:] = images(1000).to(DEVICE)
    index = torch.arange(count, device=DEVICE)
    augmentation = Augmentation(flip="random", translate=2)
    got = made(data, index, augmentation, dtype=torch.float16, method="fused")[-1000:]
    assert_close(got.cpu(), run(data, index[-1000:], augmentation, dtype=torch.float16), TOLERANCE[torch.float16])
