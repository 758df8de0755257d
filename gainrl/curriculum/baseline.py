"""GRPO's advantages with a navigator's prediction in the baseline, for any trainer."""

from __future__ import annotations

import numpy as np

from gainrl.curriculum.prompts import Floats

LEAST_VARIANCE = 0.05
"""Least variance of a reward that an advantage is divided by the root of."""


def advantages_over(expected: Floats, accuracy: Floats, prior: float, scale: bool = True) -> Floats:
    """Advantages over a baseline in which a predicted pass rate takes part as `prior` rollouts.

    expected: (n,) predicted pass rates m.  accuracy: (n, g) in [0, 1], NaN for an unscored rollout, whose advantage is
    0.  A rollout's baseline is b = (prior·m + Σ accuracy of the group's other scored rollouts)/(prior + their number).
    Its advantage is accuracy − b, divided by √(b(1 − b)) with `scale`: (n·g,).  It is unbiased, since b leaves out the
    rollout itself.
    """
    known, correct = ~np.isnan(accuracy), np.nan_to_num(accuracy)
    others, solved = (x.sum(axis=1, keepdims=True) - x for x in (known, correct))
    baseline = (prior * expected[:, None] + solved) / (prior + others)
    deviation = np.sqrt(np.maximum(baseline * (1.0 - baseline), LEAST_VARIANCE)) if scale else 1.0
    found: Floats = np.where(known, (correct - baseline) / deviation, 0.0)
    return found.ravel()
