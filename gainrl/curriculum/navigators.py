"""The navigators by name: two windows, a uniform baseline, posterior sampling, a probe, and two fixed orders.

The contract that they share is in gainrl.curriculum.base.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gainrl.curriculum import draw as drawing
from gainrl.curriculum.base import Navigator
from gainrl.curriculum.posterior import PosteriorNavigator
from gainrl.curriculum.probe import ProbeNavigator
from gainrl.curriculum.ranking import Ranking
from gainrl.curriculum.windows import GaussianNavigator, TargetNavigator, UniformNavigator


class FixedNavigator(Navigator):
    """The ranking in order: epoch e takes the n ranks from e·n on, starting over at the last rank."""

    kind = "fixed"

    def _pick(self) -> drawing.Ranks:
        return self._from(self._epoch * self.n, self.n)

    def _pick_spares(self) -> drawing.Ranks:
        """The prompts that follow, which the next epoch has again."""
        return self._from((self._epoch + 1) * self.n, min(self.n, len(self.ranking) - self.n))

    def _from(self, start: int, count: int) -> drawing.Ranks:
        return np.array([(start + i) % len(self.ranking) for i in range(count)], dtype=np.int64)


class ShortestFirstNavigator(FixedNavigator):
    """Shortest questions first, then in order: hand it `shortest_first_ranking`."""

    kind = "shortest-first"


def shortest_first_ranking(ids: list[str], question_tokens: Iterable[int], fingerprint: str) -> Ranking:
    """A ranking by length: rank 0 has the fewest question tokens, ties by id."""
    return Ranking(ids, [-float(tokens) for tokens in question_tokens], fingerprint)


NAVIGATORS: dict[str, type[Navigator]] = {
    kind.kind: kind
    for kind in (
        GaussianNavigator,
        TargetNavigator,
        PosteriorNavigator,
        ProbeNavigator,
        UniformNavigator,
        FixedNavigator,
        ShortestFirstNavigator,
    )
}
"""By the name that a configuration gives."""
