"""A state stays below 1 MB per 100 thousand prompts, whatever was observed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

import numpy as np
import pytest

from gainrl.curriculum import GaussianNavigator, Navigator, PosteriorNavigator, ProbeNavigator, PromptFeatures, Ranking

SIZE = 100_000
RANKING = Ranking([f"p{i:05d}" for i in range(SIZE)], np.arange(SIZE, dtype=float), "data")


@functools.cache
def features() -> PromptFeatures:
    """Of random directions."""
    directions = np.random.default_rng(1).normal(size=(SIZE, 48)).astype(np.float32)
    return PromptFeatures(RANKING, sorted(RANKING.ids), directions)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PosteriorNavigator(RANKING, SIZE, memory=255),
        lambda: ProbeNavigator(RANKING, SIZE, features()),
        lambda: GaussianNavigator(RANKING, SIZE, skip_mastered=255, mastered_rest=65535),
    ],
    ids=["posterior", "probe", "resting"],
)
def test_the_worst_state_is_below_a_megabyte(make: Callable[[], Navigator]) -> None:
    """Every prompt drawn in every epoch, with counts and credit as random, and so as long, as they can be."""
    navigator = make()
    rng = np.random.default_rng(0)
    if isinstance(navigator, PosteriorNavigator):
        navigator._tried = rng.integers(128, 256, SIZE)
        navigator._solved = (rng.random(SIZE) * 256 * navigator._tried).astype(np.int64)
    elif isinstance(navigator, ProbeNavigator):
        navigator._own = rng.integers(1, 256, SIZE)
        navigator._residual = rng.integers(1, 65536, SIZE)
        navigator._resting = rng.integers(0, 5, SIZE)
        for each in navigator._filters:
            each.absorb(rng.normal(size=(len(each.mean), 300)), rng.random(300), rng.normal(size=300))
    else:
        assert isinstance(navigator, GaussianNavigator)
        assert navigator._mastered is not None
        navigator._mastered._streak = rng.integers(0, 256, SIZE)
        navigator._mastered._left = rng.integers(0, 65536, SIZE)
    credit = rng.integers(0, 8 * 256 + 1, SIZE).tolist()
    scored = rng.integers(0, 9, SIZE).tolist()
    navigator._outcomes._own = {r: (8, s, min(c, 256 * s)) for r, (c, s) in enumerate(zip(credit, scored, strict=True))}
    text = json.dumps(navigator.state_dict())
    assert len(text) < 1_000_000
    again = make()
    again.load_state_dict(json.loads(text))
    assert json.dumps(again.state_dict()) == text
