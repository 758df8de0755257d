"""Random numbers that no release of any library changes: raw Philox words, and what is made of them here.

Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") maps a key and a counter to four
64-bit words.  It has no state, so word i of a stream is a pure function of (key, stream, i) and can be had
without the words before it.  NumPy provides the function (`numpy.random.Philox.random_raw`, whose output is part of
its stream guarantee); everything from words to variates is the code below, never a method of `numpy.random.Generator`,
whose algorithms may change from release to release.

Resolution: uniforms lie on a grid of 2^-52, so the law of each variate is within 2^-52 of the exact one in total
variation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

MAX_BOUND = 2**32
"""Largest bound of `below`."""


class Stream:
    """The words of one stream: key (seed, epoch), name (purpose, part); four integers below 2^64."""

    def __init__(self, seed: int, epoch: int, purpose: int, part: int = 0) -> None:
        self._key = np.array([seed, epoch], dtype=np.uint64)
        self._name = (purpose, part)

    def words(self, start: int, count: int) -> Words:
        """Words start … start + count − 1, (count,) uint64."""
        block, skipped = divmod(start, 4)
        # NumPy adds one to the counter before it makes a block: block b here is Philox of the counter b + 1.
        counter = np.array([block, 0, self._name[1], self._name[0]], dtype=np.uint64)
        raw: Words = np.random.Philox(key=self._key, counter=counter).random_raw(skipped + count)
        return raw[skipped:]


def uniform(words: Words) -> Floats:
    """(k + ½)·2^-52 with k the upper 52 bits: strictly inside (0, 1), exact in float64, never 0 and never 1."""
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def exponential(words: Words) -> Floats:
    """Unit-rate exponentials −log(u), between 1.1e-16 and 36.8: always positive and finite, so they have a log."""
    result: Floats = -np.log(uniform(words))
    return result


def below(words: Words, bound: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Integers in [0, bound), 1 <= bound <= 2^32, as floor(word·bound / 2^64); no value is off by more than 2^-64.

    `bound` broadcasts against `words`.  The 96-bit product is put together from two 32-bit halves.
    """
    factor = np.asarray(bound, dtype=np.uint64)
    half = np.uint64(32)
    low = ((words & np.uint64(0xFFFFFFFF)) * factor) >> half
    return (((words >> half) * factor + low) >> half).astype(np.int64)


def permutation(words: Words) -> npt.NDArray[np.int64]:
    """A uniform permutation of 0 … len(words) − 1: the order that sorts the words.

    Equal words, the one source of bias (probability below len²/2^65), keep their positions' order.
    """
    return np.argsort(words, kind="stable").astype(np.int64)
