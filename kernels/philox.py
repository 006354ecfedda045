"""Counter-based random numbers: Philox 4x32-10, the same bits in Triton and in torch.

One counter layout for the whole project: key = seed (64 bits), counter = (index low, index high, epoch, stream), each
of 32 bits. So four words belong to every (seed, epoch, image index, stream), whoever asks for them, in whatever batch.
A stream is one operation's private sequence: switching an operation on changes no number of another.

Source: J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.backend import jit, tl

Key = int | Tensor  # a seed, epoch or step: an integer, or a 0-d int64 tensor that a captured graph reads anew
Words = tuple[Tensor, ...]  # four int64 tensors of one shape, of words in [0, 2**32)

# Streams. Squares of `holes` take two to a stream, from HOLES on.
FLIP, TRANSLATE, CUTOUT, AFFINE, TONE, HUE, GRAY, POLICY = range(8)
MIX, PARTNER, PLACE_Y, PLACE_X = range(8, 12)
ERASE, HOLES = 15, 16

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: Sequence[Key], key: Sequence[Key]) -> Words:
    """Philox 4x32-10 of int64 tensors that hold 32-bit words.

    counter: four words, key: two; tensors that broadcast against each other, or integers. Products wrap around in
    int64; the shift that follows is masked, so the wrapped sign never shows. At least one word must be a tensor.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = (product1 >> 32 & _WORD) ^ c1 ^ k0, (product0 >> 32 & _WORD) ^ c3 ^ k1
        c1, c3 = product1 & _WORD, product0 & _WORD
        k0, k1 = k0 + _WEYL[0] & _WORD, k1 + _WEYL[1] & _WORD
    return c0, c1, c2, c3  # type: ignore[return-value]  # a tensor among the words makes tensors of all


def draw(seed: Key, epoch: Key, index: Tensor, streams: Sequence[int]) -> dict[int, Words]:
    """The words of every image in each of `streams`: {stream: four int64 tensors of `index`'s shape}.

    All streams go through one evaluation, for a torch call costs more than the arithmetic of a batch.
    """
    if not streams:
        return {}
    stream = torch.tensor(list(streams), device=index.device).view(-1, *[1] * index.dim())
    counter = (index & _WORD, index >> 32 & _WORD, epoch & _WORD, stream)
    words = philox(counter, (seed & _WORD, seed >> 32 & _WORD))
    return {s: tuple(word[position] for word in words) for position, s in enumerate(streams)}


def below(word: Tensor, n: int | Tensor) -> Tensor:
    """Uniform integers in [0, n), n < 2**31: the high half of word times n (a bias under n / 2**32)."""
    return word * n >> 32


def unit(word: Tensor) -> Tensor:
    """Uniform float32 in [0, 1): the upper 24 bits of a word, exact."""
    return (word >> 8).to(torch.float32) * 2.0**-24


def signed(word: Tensor) -> Tensor:
    """Uniform float32 in [-1, 1)."""
    return 2.0 * unit(word) - 1.0


def chance(word: Tensor, probability: float) -> Tensor:
    """True with the given probability (to 24 bits)."""
    return word >> 8 < round(probability * 2**24)


@jit
def words_jit(seed, epoch, index, STREAM: tl.constexpr):
    """The four uint32 words of (seed, epoch, index, STREAM), each of the shape of `index` (int64)."""
    low = index.to(tl.uint32)
    high = (index >> 32).to(tl.uint32)
    return tl.philox(seed, low, high, epoch, low * 0 + STREAM)


@jit
def below_jit(word, n):
    """`below`, int32. n: a constant, or a scalar tensor."""
    return tl.umulhi(word, word * 0 + n).to(tl.int32)


@jit
def unit_jit(word):
    """`unit`."""
    return (word >> 8).to(tl.int32).to(tl.float32) * (1.0 / 16777216.0)


@jit
def signed_jit(word):
    """`signed`."""
    return 2.0 * unit_jit(word) - 1.0


@jit
def chance_jit(word, PROBABILITY: tl.constexpr):
    """`chance`."""
    THRESHOLD: tl.constexpr = int(PROBABILITY * 16777216.0 + 0.5)
    return (word >> 8).to(tl.int32) < THRESHOLD
