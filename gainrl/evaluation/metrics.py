"""Estimators over k samples per problem.

All take per-problem counts; problems without a scored sample are left out.  Shapes: (P,) for P problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gainrl.errors import UserError

FloatArray = NDArray[np.float64]


def row_accuracy(right: Sequence[int], scored: Sequence[int]) -> FloatArray:
    """Share right per problem, among its scored samples; NaN for a problem with none.  Shape (P,)."""
    correct, total = np.asarray(right, dtype=np.float64), np.asarray(scored, dtype=np.float64)
    out: FloatArray = np.divide(correct, total, out=np.full(correct.shape, np.nan), where=total > 0)
    return out


def pass_at_k(right: Sequence[int], scored: Sequence[int], k: int) -> FloatArray:
    """Unbiased pass@k per problem: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    n scored samples of which c are right; NaN for a problem with fewer than k scored samples.  Computed as a
    product, which neither overflows nor cancels.  Shape (P,).
    """
    if k < 1:
        raise UserError(f"k of pass@k must be at least 1, but is {k}")
    out = np.full(len(right), np.nan)
    for index, (c, n) in enumerate(zip(right, scored, strict=True)):
        if n >= k:
            out[index] = 1.0 if n - c < k else 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))
    return out


def majority_at_k(votes: Sequence[Sequence[tuple[str, bool]]]) -> FloatArray:
    """maj@k per problem: the expected correctness of the answer with most votes (Wang et al. 2022, arXiv 2203.11171).

    `votes[p]` holds one (answer, right) per scored sample that gave an answer.  All right answers are one class,
    however they are spelled; wrong ones are classed by their canonical spelling.  A tie is broken at random, so it
    counts its share of right classes.  No votes: 0.  Shape (P,).
    """
    out = np.zeros(len(votes))
    for index, ballots in enumerate(votes):
        counts = Counter(None if right else answer for answer, right in ballots)
        if counts:
            first = [key for key, count in counts.items() if count == max(counts.values())]
            out[index] = (None in first) / len(first)
    return out


def mean_interval(
    values: FloatArray, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean over problems and its percentile bootstrap interval (problems resampled; Efron 1979).

    NaN values are left out; three NaN where nothing is left.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    generator = np.random.Generator(np.random.Philox(seed))
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(values.mean()), float(low), float(high)
