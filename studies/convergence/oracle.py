"""The ceiling: a navigator that is told the present policy's true pass rates before every draw.

Nobody has these in practice.  Working them out is not counted, neither in rollouts nor in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import NAVIGATORS, Navigator
from gainrl.curriculum.probe import SHARPNESS

GROUP = 8
"""Rollouts of a prompt, as in protocol.yaml."""

PassRates = Callable[[Sequence[str]], npt.NDArray[np.float64]]


class OracleNavigator(Navigator):
    """n prompts drawn one after another without replacement, each in proportion to its reward variance p(1 − p).

    `pass_rates` must be set before the first draw: from ids to the chances (N,) that a rollout is right, now.  Its
    state does not hold the policy, so a run with it cannot be resumed.
    """

    kind = "oracle"
    pass_rates: PassRates | None = None
    _drawn: tuple[int, npt.NDArray[np.int64]] | None = None

    def _pick(self) -> npt.NDArray[np.int64]:
        return self._order()[: self.n].copy()

    def _pick_spares(self) -> npt.NDArray[np.int64]:
        return self._order()[self.n : 2 * self.n]

    def _order(self) -> npt.NDArray[np.int64]:
        """All prompts, by a race of exponential clocks whose rates are the variances: once an epoch."""
        if self._drawn is None or self._drawn[0] != self._epoch:
            if self.pass_rates is None:
                raise RuntimeError("the oracle was not told the pass rates: set pass_rates before training")
            weights = np.maximum(self._weights(self.pass_rates(self.ranking.ids)), 1e-12)
            clocks = np.random.default_rng([self.seed, self._epoch]).exponential(size=len(weights))
            self._drawn = self._epoch, np.argsort(clocks / weights).astype(np.int64)
        return self._drawn[1]

    def _weights(self, rates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return rates * (1 - rates)


class SpreadOracleNavigator(OracleNavigator):
    """As the probe draws, with true chances that a group of GROUP rollouts differs in reward, but without its rests."""

    kind = "oracle-spread"

    def _weights(self, rates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return (1 - rates**GROUP - (1 - rates) ** GROUP) ** SHARPNESS


def register() -> None:
    """Make `curriculum_navigator="oracle"` and `"oracle-spread"` known to gainrl's trainer, for this process."""
    kinds: dict[str, Any] = NAVIGATORS
    for navigator in (OracleNavigator, SpreadOracleNavigator):
        kinds[navigator.kind] = navigator
