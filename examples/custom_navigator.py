"""A navigator of one's own: this file and one line in the registry.

    python examples/custom_navigator.py

`growing` draws uniformly from the shortest questions and takes in longer ones as accuracy rises.  Once it is
registered, a run names it as `navigator: growing` and sets it with `navigator_args: {raise_at: 0.8}`; it resumes, logs
and keeps quotas like the others.  A new setting is one more field of `GrowingSettings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gainrl.curriculum import NAVIGATORS, Navigator, Outcomes, Prompts, check_number, make_navigator


@dataclass(frozen=True)
class GrowingSettings:
    start: float = 0.2
    """Share of the prompts, shortest first, that the first draw chooses from."""
    raise_at: float = 0.7
    """Accuracy from which longer questions are taken in."""

    def __post_init__(self) -> None:
        check_number("start", self.start, 0, 1)
        check_number("raise_at", self.raise_at, 0, 1)


class GrowingNavigator(Navigator):
    """Draws uniformly from the shortest share of the prompts; the share grows by a tenth after each accurate draw."""

    name = "growing"
    Settings = GrowingSettings
    STATE = ("share",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.share = float(self.settings.start)
        length = self.prompts.tokens
        self.shorter = np.argsort(np.argsort(length, kind="stable")) / len(length)

    def race(self, n: int) -> np.ndarray:
        """The earliest n of these (M,) times are drawn: the share at random, then the others by length."""
        return np.where(self.shorter <= self.share, self.rng.random(len(self.prompts)), 1.0 + self.shorter)

    def learn(self, index: np.ndarray, outcomes: Outcomes, angle: np.ndarray) -> None:
        """All groups since the last draw."""
        if outcomes.correct.sum() >= self.settings.raise_at * outcomes.scored.sum():
            self.share = min(1.0, self.share + 0.1)

    def metrics(self) -> dict[str, Any]:
        return {**super().metrics(), "share": self.share}


NAVIGATORS["growing"] = GrowingNavigator  # the registry line


def main() -> None:
    rng = np.random.default_rng(0)
    prompts = Prompts(rows=np.arange(500), score=rng.normal(size=500), tokens=rng.integers(10, 200, size=500))
    navigator = make_navigator("growing", prompts, {"raise_at": 0.5})
    for draw in range(6):
        rows = navigator.draw(16)
        correct = rng.binomial(8, 1.0 - prompts.tokens[rows] / 250)  # stands for 8 graded rollouts of each prompt
        group = np.full(16, 8)
        navigator.observe(Outcomes(rows, group, group, correct, (correct > 0) & (correct < 8)))
        print(f"draw {draw}: {prompts.tokens[rows].mean():.0f} tokens, accuracy {correct.mean() / 8:.2f}")


if __name__ == "__main__":
    main()
