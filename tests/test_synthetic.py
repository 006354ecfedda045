"""The synthetic set: fixed by its seed, balanced, and out of reach of a linear model."""

import hashlib

import numpy as np
import pytest

from speedrun import synthetic
from speedrun.formats import Splits


@pytest.fixture(scope="module")
def splits() -> Splits:
    return synthetic.generate()


def test_shapes_and_types(splits):
    assert splits.train_images.shape == (20_000, 32, 32, 3)
    assert splits.test_images.shape == (4_000, 32, 32, 3)
    assert splits.train_images.dtype == splits.test_images.dtype == np.uint8
    assert splits.train_images.flags.c_contiguous
    assert np.bincount(splits.train_labels).tolist() == [2_000] * 10
    assert np.bincount(splits.test_labels).tolist() == [400] * 10
    assert len(set(synthetic.CLASSES)) == 10


def test_it_is_the_same_everywhere():
    """The seed and nothing else: a count that ends within a chunk gives the same first images."""
    few, more = synthetic.generate(seed=1, train=130, test=7), synthetic.generate(seed=1, train=500, test=120)
    np.testing.assert_array_equal(few.train_images, more.train_images[:130])
    np.testing.assert_array_equal(few.test_labels, more.test_labels[:7])
    other = synthetic.generate(seed=2, train=130, test=7)
    assert not np.array_equal(few.train_images, other.train_images)


def test_no_image_is_in_both_splits(splits):
    train, test = (
        {hashlib.blake2b(image).digest() for image in images} for images in (splits.train_images, splits.test_images)
    )
    assert len(train) == 20_000
    assert not train & test


@pytest.mark.parametrize("name", synthetic.CLASSES)
def test_every_class_is_its_own_mirror_image(name):
    y, x = np.mgrid[-12:12.5:0.5, -12:12.5:0.5].astype(np.float32) / 8
    field = synthetic.SHAPES[name](x, y)
    np.testing.assert_allclose(field, field[:, ::-1], atol=1e-6)
    assert 0.1 < (field[8:-8, 8:-8] > 0).mean() < 0.9


def test_a_linear_model_stays_under_60_percent(splits):
    """Ridge regression from every second value of an image onto its class, at the best of three strengths."""
    train = splits.train_images.reshape(len(splits.train_images), -1)[:, ::2].astype(np.float32) / 255
    test = splits.test_images.reshape(len(splits.test_images), -1)[:, ::2].astype(np.float32) / 255
    mean = train.mean(0)
    train, test = train - mean, test - mean
    targets = np.eye(10, dtype=np.float32)[splits.train_labels] - 0.1
    gram, moments = train.T @ train, train.T @ targets
    accuracies = []
    for strength in (1.0, 100.0, 10_000.0):
        weights = np.linalg.solve(gram + strength * np.eye(len(gram), dtype=np.float32), moments)
        accuracies.append(((test @ weights).argmax(1) == splits.test_labels).mean())
    assert max(accuracies) < 0.6


def test_colour_gives_nothing_away(splits):
    """The nearest class by mean and spread of each channel is right hardly more often than chance."""

    def colours(images: np.ndarray) -> np.ndarray:
        pixels = images.reshape(len(images), -1, 3).astype(np.float32)
        return np.concatenate([pixels.mean(1), pixels.std(1)], 1)

    train, test = colours(splits.train_images), colours(splits.test_images)
    spread = train.std(0)
    centres = np.stack([train[splits.train_labels == label].mean(0) for label in range(10)])
    distances = (((test[:, None] - centres) / spread) ** 2).sum(2)
    assert (distances.argmin(1) == splits.test_labels).mean() < 0.25
