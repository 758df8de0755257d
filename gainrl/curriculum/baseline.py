"""GRPO's advantages with a navigator's prediction in the baseline, for any trainer."""

from __future__ import annotations

import numpy as np

from gainrl.curriculum.prompts import Floats

LEAST_VARIANCE = 0.05
"""Least variance of a reward that an advantage is divided by the root of."""


def advantages_over(expected: Floats, credit: Floats, prior: float, scale: bool = True) -> Floats:
    """Advantages over a baseline in which a predicted pass rate takes part as `prior` rollouts.

    expected: (n,) predicted pass rates m.  credit: (n, g) in [0, 1], NaN for an unscored rollout, whose advantage is 0.
    Of rollout i, b = (prior·m + Σ credit of its scored mates)/(prior + their number), and the advantage is credit − b,
    over √(b(1 − b)) with `scale`: (n·g,).  Unbiased, since b holds nothing of the rollout itself.
    """
    known, got = ~np.isnan(credit), np.nan_to_num(credit)
    mates, right = known.sum(axis=1, keepdims=True) - known, got.sum(axis=1, keepdims=True) - got
    baseline = (prior * expected[:, None] + right) / (prior + mates)
    deviation = np.sqrt(np.maximum(baseline * (1.0 - baseline), LEAST_VARIANCE)) if scale else 1.0
    found: Floats = np.where(known, (got - baseline) / deviation, 0.0)
    return found.ravel()
