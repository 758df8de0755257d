"""Prompts and made-up outcomes for the tests of navigators."""

from __future__ import annotations

from typing import Any

import numpy as np

from gainrl.curriculum import Outcomes, Prompts


def make_prompts(size: int = 60, width: int = 6, **options: Any) -> Prompts:
    """Rows 1000, 1003, …; three prompts without a score, two without a direction; sources a, b, c in turn."""
    rng = np.random.default_rng(size)
    score = rng.normal(size=size)
    score[:3] = np.nan
    directions = rng.normal(size=(size, width)) + 0.5
    directions[4:10:5] = np.nan
    columns = {
        "rows": 1000 + 3 * np.arange(size),
        "score": score,
        "tokens": rng.integers(5, 90, size=size),
        "directions": directions,
        "fingerprint": "f00d",
        "sources": ["abc"[i % 3] for i in range(size)],
    }
    return Prompts(**(columns | options))


def groups(rows: Any, correct: Any, rollouts: int = 8, scored: int | None = None) -> Outcomes:
    """One group of each row, all of whose rollouts are scored unless `scored` says otherwise."""
    rows, scored = np.asarray(rows), rollouts if scored is None else scored
    correct = np.broadcast_to(np.asarray(correct, dtype=float), rows.shape)
    full = np.full(len(rows), scored)
    return Outcomes(rows, np.full(len(rows), rollouts), full, correct, (correct > 0) & (correct < scored))


def set_chances(weights: np.ndarray, n: int) -> dict[tuple[int, ...], float]:
    """By enumeration: the chance of each set of n that is drawn one by one, without replacement, by these weights."""
    chances: dict[tuple[int, ...], float] = {}

    def go(taken: tuple[int, ...], chance: float) -> None:
        if len(taken) == n:
            key = tuple(sorted(taken))
            chances[key] = chances.get(key, 0.0) + chance
            return
        left = [i for i in range(len(weights)) if i not in taken]
        for i in left:
            go((*taken, i), chance * weights[i] / sum(weights[j] for j in left))

    go((), 1.0)
    return chances
