"""The random numbers: published vectors, the same bits everywhere, and what they should be distributed as."""

import numpy as np
import oracles
import pytest
import torch

from kernels import philox

# Known answers from the Random123 distribution (kat_vectors): counter, key, result of philox4x32-10.
KNOWN = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    assert oracles.philox(counter, key) == expected
    words = philox.philox([torch.tensor([word]) for word in counter], key)
    assert tuple(int(word) for word in words) == expected


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (1, 7), (2**31, 2**31), (2**63 - 1, 2**32 - 1)])
def test_draw_keys_by_seed_epoch_index_and_stream(seed, epoch, tensors):
    index = torch.tensor([0, 1, 49_999, 2**32 - 1, 2**32, 2**40 + 5])
    key = (torch.tensor(seed), torch.tensor(epoch)) if tensors else (seed, epoch)
    drawn = philox.draw(*key, index, (philox.FLIP, philox.HOLES))
    for stream, words in drawn.items():
        got = torch.stack(words, 1).tolist()
        assert got == [list(oracles.words(seed, epoch, i, stream)) for i in index.tolist()]


def test_streams_epochs_and_seeds_are_independent():
    """Correlations of 20,000 numbers lie within five standard errors of 0, and each is uniform."""
    index = torch.arange(20_000)
    columns = [
        philox.unit(philox.draw(seed, epoch, index, (stream,))[stream][word])
        for seed, epoch, stream, word in [(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0)]
    ]
    columns.append(columns[0].roll(1))
    correlation = np.corrcoef(torch.stack(columns).numpy()) - np.eye(len(columns))
    assert abs(correlation).max() < 5 / np.sqrt(len(index))
    for column in columns:
        counts = np.histogram(column.numpy(), 64, (0, 1))[0]
        assert ((counts - len(index) / 64) ** 2).sum() / (len(index) / 64) < 63 + 5 * np.sqrt(2 * 63)


@pytest.mark.parametrize("n", [1, 2, 5, 1000])
def test_below_reaches_every_number_and_no_other(n):
    ends = torch.tensor([0, 2**32 - 1])
    assert philox.below(ends, n).tolist() == [0, n - 1]
    words = philox.draw(3, 0, torch.arange(50 * n), (0,))[0][0]
    counts = torch.bincount(philox.below(words, n), minlength=n)
    assert len(counts) == n
    assert ((counts - 50) ** 2 / 50).sum() < n + 5 * (2 * n) ** 0.5


def test_unit_signed_and_chance_at_their_ends():
    ends = torch.tensor([0, 2**32 - 1])
    assert philox.unit(ends).tolist() == [0.0, 1 - 2**-24]
    assert philox.signed(ends).tolist() == [-1.0, 1 - 2**-23]
    assert philox.chance(ends, 0.0).tolist() == [False, False]
    assert philox.chance(ends, 1.0).tolist() == [True, True]
