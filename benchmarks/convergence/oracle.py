"""The ceiling: a navigator that is told the present policy's true pass rates before every draw.

Nobody has these in practice.  Working them out is not counted, neither in rollouts nor in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import NAVIGATORS, Navigator

PassRates = Callable[[Sequence[str]], npt.NDArray[np.float64]]


class OracleNavigator(Navigator):
    """The n prompts whose pass rate is nearest to 0.5, ties by rank.

    `pass_rates` must be set before the first draw: from ids to the chances (N,) that a rollout is right, now.  Its
    state does not hold the policy, so a run with it cannot be resumed.
    """

    kind = "oracle"
    target = 0.5
    pass_rates: PassRates | None = None

    def _pick(self) -> npt.NDArray[np.int64]:
        return self._nearest()[: self.n].copy()

    def _pick_spares(self) -> npt.NDArray[np.int64]:
        return self._nearest()[self.n : 2 * self.n]

    def _nearest(self) -> npt.NDArray[np.int64]:
        if self.pass_rates is None:
            raise RuntimeError("the oracle was not told the pass rates: set pass_rates before training")
        distance = np.abs(self.pass_rates(self.ranking.ids) - self.target)
        nearest: npt.NDArray[np.int64] = np.argsort(distance, kind="stable").astype(np.int64)
        return nearest


def register() -> None:
    """Make `curriculum_navigator="oracle"` known to gainrl's trainer, for this process."""
    kinds: dict[str, Any] = NAVIGATORS
    kinds[OracleNavigator.kind] = OracleNavigator
