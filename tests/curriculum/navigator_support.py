"""Every navigator over the same ranking, and made-up rollouts, for the tests of what they share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from gainrl.curriculum import (
    FixedNavigator,
    GaussianNavigator,
    Navigator,
    PosteriorNavigator,
    ProbeNavigator,
    PromptFeatures,
    Ranking,
    ShortestFirstNavigator,
    TargetNavigator,
    UniformNavigator,
    WindowSettings,
)

SIZE, N = 200, 24


def ranking(size: int = SIZE, undefined: int = 3) -> Ranking:
    scores = [math.nan if i < undefined else math.sin(i) for i in range(size)]
    return Ranking([f"prompt-{i:04d}" for i in range(size)], scores, "fingerprint-of-the-data")


def gaussian(n: int = N, order: str = "rank", seed: int = 5, **window: Any) -> GaussianNavigator:
    return GaussianNavigator(ranking(), n, WindowSettings(**({"sigma": 20.0} | window)), order=order, seed=seed)


def probe(**options: Any) -> ProbeNavigator:
    prompts = ranking()
    directions = np.multiply.outer(np.arange(SIZE) + 3, np.arange(12) ** 2 + 5) % 31 / 8.0  # the same on every machine
    directions[5] = math.nan
    features = PromptFeatures(prompts, sorted(prompts.ids), directions, np.arange(SIZE) % 17 + 3, components=6)
    return ProbeNavigator(prompts, N, features, **options)


MAKE: dict[str, Callable[[], Navigator]] = {
    "gaussian": gaussian,
    "target": lambda: TargetNavigator(ranking(), N, WindowSettings(sigma=20.0, mean=30), order="rank", seed=5),
    "posterior": lambda: PosteriorNavigator(ranking(), N, seed=5, order="draw", memory=6),
    "probe": lambda: probe(seed=5, order="draw", explore=0.25),
    "uniform": lambda: UniformNavigator(ranking(), N, seed=5, order="draw"),
    "fixed": lambda: FixedNavigator(ranking(), N),
    "shortest-first": lambda: ShortestFirstNavigator(ranking(), N, order="shuffled"),
}
RESTING: dict[str, Callable[[], Navigator]] = {
    "gaussian, resting": lambda: GaussianNavigator(
        ranking(), N, WindowSettings(sigma=20.0), seed=5, skip_mastered=1, mastered_rest=2
    ),
    "target, resting": lambda: TargetNavigator(
        ranking(), N, WindowSettings(sigma=20.0), seed=5, order="draw", skip_mastered=2, mastered_rest=300
    ),
    "uniform, resting": lambda: UniformNavigator(ranking(), N, seed=5, skip_mastered=1),
}
each = pytest.mark.parametrize("make", (MAKE | RESTING).values(), ids=(MAKE | RESTING).keys())


def rollouts(ids: list[str], epoch: int, share: float = 1.0) -> list[dict[str, Any]]:
    """Made-up outcomes, two a prompt, that differ from epoch to epoch."""
    taken = ids[: round(share * len(ids))]
    return [
        {
            "id": name,
            "correct": (hash_of(name) + copy * (epoch % 2) + epoch) % 4 / 3,
            "scored": (hash_of(name) + copy) % 7 != 0,
            "angle": 0.1 + (hash_of(name) % 50) / 100,
            "reward": float(copy),
            "tokens": 5 + copy,
        }
        for name in taken
        for copy in range(2)
    ]


def hash_of(name: str) -> int:
    return sum(name.encode())


def run(navigator: Navigator, epochs: int) -> list[list[str]]:
    drawn = []
    for _ in range(epochs):
        drawn.append(navigator.draw())
        navigator.observe(rollouts(navigator.ids, navigator.epoch))
    return drawn


def through_json(state: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.dumps(state, allow_nan=False))
    return result
