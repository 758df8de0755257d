"""A world for the probe: prompts whose difficulty shows in their directions, and a policy that learns."""

from __future__ import annotations

from typing import Any

import numpy as np

from gainrl.curriculum import ProbeNavigator, PromptFeatures, Ranking

SIZE, N, GROUP = 600, 24, 8


def ranking(size: int = SIZE, seed: int = 0) -> Ranking:
    scores = np.random.default_rng(seed).normal(size=size)
    return Ranking([f"p{i:04d}" for i in range(size)], scores, "data")


class World:
    """Prompts whose difficulty shows in their directions (or not), and a policy that learns from what is varied."""

    def __init__(self, seed: int = 0, *, telling: bool = True, learning: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        self.rng, self.learning = rng, learning
        self.logits = rng.normal(-3.0, 3.0, SIZE)
        directions = rng.normal(size=(SIZE, 48))
        if telling:
            directions[:, 0] += self.logits
        directions[:, 1] += 5.0
        self.directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        self.ranking = ranking(seed=seed)

    @classmethod
    def of_kinds(cls, seed: int) -> World:
        """Ten kinds of prompts in no order of difficulty: one in five is between mastered and hopeless."""
        world = cls(seed)
        kinds = np.arange(SIZE) % 10
        world.logits = np.array([6.0, -9, 6, -9, 0.3, 6, -9, -0.5, 6, -9])[kinds] + world.rng.normal(0, 0.3, SIZE)
        world.directions = world.rng.normal(size=(10, 48))[kinds] + 0.5 * world.rng.normal(size=(SIZE, 48))
        return world

    def features(self, **options: Any) -> PromptFeatures:
        ids = sorted(self.ranking.ids)
        return PromptFeatures(self.ranking, ids, self.directions, np.full(SIZE, 9), **options)

    def probe(self, **options: Any) -> ProbeNavigator:
        return ProbeNavigator(self.ranking, N, self.features(), **options)

    @property
    def rates(self) -> Any:
        return 1.0 / (1.0 + np.exp(-self.logits))

    def epoch(self, navigator: Any) -> float:
        """One epoch of rollouts; returns the mean p(1 − p) of its prompts."""
        rows = [int(name[1:]) for name in navigator.draw()]
        rates = self.rates[rows]
        solved = self.rng.binomial(GROUP, rates)
        for row, right in zip(rows, solved.tolist(), strict=True):
            navigator.observe(outcome(f"p{row:04d}", right))
        self.logits += self.learning * np.sqrt(solved * (GROUP - solved)).sum() / GROUP
        return float((rates * (1.0 - rates)).mean())


def outcome(name: str, solved: int, tried: int = GROUP) -> list[dict[str, Any]]:
    return [
        {"id": name, "correct": i < solved, "scored": True, "angle": None, "reward": None, "tokens": 1}
        for i in range(tried)
    ]
