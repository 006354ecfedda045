"""The stream of batches: order, labels, normalisation, and what an image's augmentation depends on."""

import numpy as np
import pytest
import torch

from kernels.augment import Augmentation
from speedrun.methods.captured import CapturedStream
from speedrun.stream import Batch, Normalization, Stream, in_order

COUNT = 103
RNG = np.random.default_rng(0)
IMAGES = torch.from_numpy(RNG.integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8))
LABELS = torch.from_numpy(RNG.integers(0, 10, COUNT))
NONE = Augmentation()
ALL = Augmentation(flip="alternating", translate=2, cutout=8)


def stream(batch_size: int = 10, seed: int = 0, augmentation: Augmentation = ALL, dtype=torch.float32) -> Stream:
    return Stream(
        IMAGES,
        LABELS,
        batch_size=batch_size,
        augmentation=augmentation,
        normalization=Normalization.of(IMAGES),
        dtype=dtype,
        seed=seed,
    )


def epochs(source: Stream, count: int) -> list[list[Batch]]:
    return [[source.next() for _ in range(source.batches_per_epoch)] for _ in range(count)]


def order(batches: list[Batch]) -> list[int]:
    return torch.cat([batch.index for batch in batches]).tolist()


def test_normalization_is_numpys():
    found = Normalization.of(IMAGES)
    pixels = IMAGES.numpy().reshape(-1, 3).astype(np.float64) / 255
    np.testing.assert_allclose(found.mean.numpy(), pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.std.numpy(), pixels.std(0), rtol=1e-6)
    assert found.mean.dtype == found.std.dtype == torch.float32


def test_normalization_of_extreme_pixels_is_exact():
    images = torch.zeros(2, 1, 1, 3, dtype=torch.uint8)
    images[0] = torch.tensor([255, 0, 51], dtype=torch.uint8)
    found = Normalization.of(images)
    assert found.mean.tolist() == pytest.approx([0.5, 0.0, 0.1])
    assert found.std.tolist() == pytest.approx([0.5, 1.0, 0.1])  # nothing is divided by 0


def test_a_channel_of_one_value_becomes_zero_and_not_nan():
    """7 is no exact float of 0..1, 255 is."""
    images = IMAGES.clone()
    images[..., 0], images[..., 1] = 7, 255
    found = Normalization.of(images)
    assert found.std[:2].tolist() == [1.0, 1.0]
    batch = Stream(
        images, LABELS, batch_size=5, augmentation=NONE, normalization=found, dtype=torch.float32, seed=0
    ).next()
    assert batch.images[:, :2].abs().max() < 1e-6
    assert batch.images.isfinite().all()


def test_a_batch_without_augmentation_is_the_normalised_pictures():
    batch = stream(augmentation=NONE).next()
    pixels = IMAGES.numpy() / 255
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    expected = ((pixels - mean) / std)[batch.index.numpy()].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(batch.images.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_batches_are_channels_last_in_the_compute_dtype(dtype: torch.dtype):
    batch = stream(dtype=dtype).next(12)
    assert (batch.images.shape, batch.images.dtype) == ((10, 3, 12, 12), dtype)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert (batch.labels.shape, batch.labels.dtype, batch.index.dtype) == ((10,), torch.int64, torch.int64)


def test_every_image_comes_once_an_epoch_but_the_remainder():
    for batches in epochs(stream(), 3):
        seen = order(batches)
        assert len(seen) == len(set(seen)) == 100
        assert set(seen) <= set(range(COUNT))


def test_the_remainder_is_another_one_each_epoch():
    left_out = [set(range(COUNT)) - set(order(batches)) for batches in epochs(stream(), 6)]
    assert all(len(left) == 3 for left in left_out)
    assert len(set(map(frozenset, left_out))) > 1


def test_epochs_are_shuffled_anew():
    first, second = (order(batches) for batches in epochs(stream(), 2))
    assert first != second
    assert first != sorted(first)


def test_R1_one_seed_gives_the_same_batches():
    for mine, other in zip(epochs(stream(seed=5), 2), epochs(stream(seed=5), 2), strict=True):
        for a, b in zip(mine, other, strict=True):
            assert torch.equal(a.index, b.index)
            assert torch.equal(a.images, b.images)


def test_R2_another_seed_gives_another_order_and_other_pictures():
    first, second = stream(seed=1).next(), stream(seed=2).next()
    assert not torch.equal(first.index, second.index)
    pictures = [pictures_by_index(stream(seed=seed)) for seed in (1, 2)]
    same = [torch.equal(pictures[0][i], pictures[1][i]) for i in set(pictures[0]) & set(pictures[1])]
    assert sum(same) < 0.1 * len(same)


def test_labels_belong_to_their_images():
    for batch in epochs(stream(), 1)[0]:
        assert torch.equal(batch.labels, LABELS[batch.index])


def pictures_by_index(source: Stream, epoch: int = 0) -> dict[int, torch.Tensor]:
    batches = epochs(source, epoch + 1)[epoch]
    return {int(i): image for batch in batches for i, image in zip(batch.index, batch.images, strict=True)}


@pytest.mark.parametrize("epoch", [0, 1])
def test_R7_what_is_done_to_an_image_does_not_depend_on_the_batch(epoch: int):
    small, large = (pictures_by_index(stream(batch_size=size), epoch) for size in (7, 50))
    shared = set(small) & set(large)
    assert len(shared) > 90
    assert all(torch.equal(small[i], large[i]) for i in shared)


def test_an_image_is_augmented_anew_each_epoch():
    first, second = (pictures_by_index(stream(), epoch) for epoch in (0, 1))
    shared = set(first) & set(second)
    assert sum(torch.equal(first[i], second[i]) for i in shared) < 0.1 * len(shared)


def test_alternating_flips_show_both_sides_in_two_epochs():
    source = Augmentation(flip="alternating")
    first, second = (pictures_by_index(stream(augmentation=source), epoch) for epoch in (0, 1))
    shared = set(first) & set(second)
    assert all(torch.equal(first[i], second[i].flip(-1)) for i in shared)


def test_the_erased_square_keeps_its_share_of_the_picture():
    augmentation = Augmentation(cutout=8)
    for size, side in ((16, 8), (12, 6), (8, 4)):
        batch = stream(augmentation=augmentation).next(size)
        assert [int((image == 0).all(0).sum()) for image in batch.images] == [side * side] * 10


def test_epochs_are_counted():
    source = stream()
    assert (source.epoch, source.batches_per_epoch) == (0.0, 10)
    for _ in range(15):
        source.next()
    assert source.epoch == 1.5


def test_a_loop_over_it_is_an_epoch():
    source, other = stream(), stream()
    other.batches = source.batches = 3
    for count in (7, 10, 10):  # what is left of an epoch that was begun, then whole ones
        batches = list(source)
        assert len(batches) == count
        assert all(torch.equal(batch.images, other.next().images) for batch in batches)
    assert len(source) == 10


def test_the_size_is_the_augmentations_where_no_other_is_asked_for():
    """Numbers that count pixels are those of that size."""
    source = stream(augmentation=Augmentation(size=12, cutout=6))
    for size, side in ((None, 6), (12, 6), (16, 8), (8, 4)):
        images = source.next(size).images
        assert images.shape[2:] == (size or 12, size or 12)
        assert [int((image == 0).all(0).sum()) for image in images] == [side * side] * 10
    assert stream(augmentation=Augmentation(size=32)).next().images.shape[2:] == (16, 16)  # the set has no more
    options = {"batch_size": 10, "normalization": Normalization.of(IMAGES), "dtype": torch.float32, "seed": 0}
    captured = CapturedStream(IMAGES, LABELS, augmentation=Augmentation(size=12), **options)
    assert (captured.next().size, captured.next(8).size) == (12, 8)


@pytest.mark.parametrize(
    ("name", "wrong", "error", "words"),
    [
        ("images", IMAGES.float(), TypeError, "images must be a tensor of torch.uint8, not torch.float32"),
        ("images", IMAGES.numpy(), TypeError, "images must be a tensor of torch.uint8, not uint8"),
        ("images", IMAGES.permute(0, 3, 1, 2), ValueError, r"images must be contiguous \(N, H, W, 3\), not"),
        ("images", IMAGES.transpose(1, 2), ValueError, r"images must be contiguous \(N, H, W, 3\), not"),
        ("images", IMAGES[0], ValueError, r"images must be contiguous \(N, H, W, 3\), not"),
        ("labels", LABELS.int(), TypeError, "labels must be a tensor of torch.int64, not torch.int32"),
        ("labels", list(range(COUNT)), TypeError, "labels must be a tensor of torch.int64, not list"),
        ("labels", LABELS[:-1], ValueError, r"labels must be contiguous \(103,\) as the images, not \(102,\)"),
        ("labels", LABELS[:, None], ValueError, r"labels must be contiguous \(103,\) as the images, not \(103, 1\)"),
        ("labels", LABELS.to("meta"), ValueError, "labels must be on cpu as the images, not on meta"),
        ("batch_size", 0, ValueError, "batch_size must be at least 1, not 0"),
        ("batch_size", -5, ValueError, "batch_size must be at least 1, not -5"),
        ("batch_size", 5.0, TypeError, "batch_size must be an integer, not float"),
    ],
)
def test_what_is_no_data_set_is_refused_at_once(name: str, wrong: object, error: type[Exception], words: str):
    options = {"images": IMAGES, "labels": LABELS, "batch_size": 10, name: wrong}
    common = {"normalization": Normalization.of(IMAGES), "dtype": torch.float32}
    with pytest.raises(error, match=words):
        Stream(augmentation=NONE, seed=0, **common, **options)
    with pytest.raises(error, match=words):
        in_order(**common, **options)


@pytest.mark.parametrize(("flip", "shift"), [(False, (0, 0)), (True, (1, -2))])
def test_in_order_all_images_come_once_and_nothing_is_random(flip: bool, shift: tuple[int, int]):
    options = {"batch_size": 25, "normalization": Normalization.of(IMAGES), "dtype": torch.float32}
    batches = list(in_order(IMAGES, LABELS, flip=flip, shift=shift, **options))
    assert [len(batch.images) for batch in batches] == [25, 25, 25, 25, 3]
    assert order(batches) == list(range(COUNT))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), LABELS)
    pixels = IMAGES.numpy() / 255
    expected = np.pad(pixels, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    expected = expected[:, 2 + shift[0] :, 2 + shift[1] :][:, :16, :16]
    expected = (expected[:, :, ::-1] if flip else expected) - pixels.mean((0, 1, 2))
    found = torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, expected / pixels.std((0, 1, 2)), atol=1e-5)
    assert next(in_order(IMAGES, LABELS, size=8, **options)).images.shape == (25, 3, 8, 8)


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(ValueError, match="a batch of 104 needs as many images, the set has 103"):
        stream(batch_size=104)
    assert stream(batch_size=103).batches_per_epoch == 1


@pytest.mark.parametrize("mix_per", ["sample", "batch"])
def test_mixed_batches_bring_the_labels_and_weights_of_their_parts(mix_per: str):
    source = stream(batch_size=50, augmentation=Augmentation(ricap=0.5, mixup=0.5, mix_per=mix_per))
    batch = source.next()
    assert batch.weights is not None
    assert batch.labels.shape == batch.weights.shape == (50, 4)
    torch.testing.assert_close(batch.weights.sum(1), torch.ones(50))
    # Each image's own label is among its parts, and the other parts are other images' labels.
    assert (batch.labels == LABELS[batch.index][:, None]).any(1).all()
    assert (batch.labels[:, 1:] != LABELS[batch.index][:, None]).any()
    again = stream(batch_size=50, augmentation=Augmentation(ricap=0.5, mixup=0.5, mix_per=mix_per)).next()
    assert torch.equal(batch.images, again.images)


def test_holes_keep_their_share_of_the_picture():
    source = stream(augmentation=Augmentation(holes=1.0, hole_count=1, hole_size=8))
    full, half = source.next(16).images, source.next(8).images
    for images, side in ((full, 8), (half, 4)):
        erased = (images == 0).all(1).flatten(1).sum(1)
        assert (erased >= side * side).all()
        assert (erased <= side * side + 2).all()
