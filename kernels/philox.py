"""Counter-based random numbers: Philox 4x32-10, the same bits in Triton and in torch.

One counter layout for the whole project: key = seed (64 bits), counter = (index low, index high, epoch, stream), each 32
bits. So four words belong to every (seed, epoch, image index, stream), whoever asks for them, in whatever batch. A stream
is one operation's private sequence; switching one operation on moves no number of another.

Source: J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Key = int | Tensor  # a seed or an epoch: a Python integer, or a 0-d int64 tensor that a captured graph reads anew

# Streams: one for each operation that draws.
FLIP, TRANSLATE, CUTOUT = 0, 1, 2

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: Sequence[Key], key: Sequence[Key]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32-10 of int64 tensors that hold 32-bit words.

    counter: four words, key: two; tensors that broadcast against each other, or integers (at least one counter word is a
    tensor). Returns four int64 tensors of words in [0, 2**32). Products wrap around in int64; the shift that follows is
    masked, so the wrapped sign never shows.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = (product1 >> 32 & _WORD) ^ c1 ^ k0, (product0 >> 32 & _WORD) ^ c3 ^ k1
        c1, c3 = product1 & _WORD, product0 & _WORD
        k0, k1 = k0 + _WEYL[0] & _WORD, k1 + _WEYL[1] & _WORD
    return c0, c1, c2, c3  # type: ignore[return-value]  # a tensor among the words makes all of them tensors


def draw(seed: Key, epoch: Key, index: Tensor, streams: Sequence[int]) -> dict[int, tuple[Tensor, ...]]:
    """The four words of every image in each of `streams`: {stream: four int64 tensors of `index`'s shape}.

    All streams go through one evaluation, for a torch call costs more than the arithmetic of a batch.
    """
    if not streams:
        return {}
    stream = torch.tensor(list(streams), device=index.device).view(-1, *[1] * index.dim())
    counter = (index & _WORD, index >> 32 & _WORD, epoch & _WORD, stream)
    words = philox(counter, (seed & _WORD, seed >> 32 & _WORD))
    return {s: tuple(word[position] for word in words) for position, s in enumerate(streams)}


def below(word: Tensor, n: int) -> Tensor:
    """Uniform integers in [0, n), n < 2**31, from 32-bit words: the high half of the product (bias under n / 2**32)."""
    return word * n >> 32


def unit(word: Tensor) -> Tensor:
    """Uniform float32 in [0, 1): the upper 24 bits of a word, exact."""
    return (word >> 8).to(torch.float32) * 2.0**-24


def chance(word: Tensor, probability: float) -> Tensor:
    """True with the given probability (to 24 bits)."""
    return word >> 8 < round(probability * 2**24)
