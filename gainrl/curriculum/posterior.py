"""Posterior sampling: prompts whose pass rate is likely to be informative, from what each was seen to do.

Each prompt's pass rate has a Beta posterior.  Its prior comes from the ranking: mean m_r = 1 − (r + ½)/N (the highest
score is expected to be the easiest), worth `prior_strength` rollouts; on top come the prompt's own scored rollouts,
partial credit included:

    θ_r ~ Beta( κ·m_r + s_r,  κ·(1 − m_r) + t_r − s_r )        κ prior strength, t rollouts tried, s their credit

A draw takes one θ_r for every prompt (Thompson sampling) and the n prompts whose θ_r is nearest to the target pass
rate, nearest first: where groups of rollouts differ, and so teach, most.  Prompts never tried have the widest posterior
of their rank and are tried in time; certain ones, always or never solved, are seldom drawn.

The policy moves, so old rollouts lose their say: t is held at `memory` rollouts, and s scaled with it.  Counts are
integers (t in rollouts, s in 1/256), so the state is exact: three bytes a prompt.  A draw is O(N): 0.1 to 0.2 s for 100
thousand prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import draw as drawing
from gainrl.curriculum.arrays import from_text, to_text
from gainrl.curriculum.base import Navigator
from gainrl.curriculum.beta import beta
from gainrl.curriculum.outcomes import CREDIT, Outcomes
from gainrl.curriculum.ranking import Ranking
from gainrl.curriculum.totals import Totals
from gainrl.errors import UserError

MAX_MEMORY = 255


class PosteriorNavigator(Navigator):
    """Thompson sampling towards a target pass rate; see the module's docstring.

    target: pass rate looked for, in (0, 1).  prior_strength: κ, rollouts that the ranking is worth, > 0.
    memory: rollouts of a prompt that count at most, 1 to 255.  Raises UserError for values outside these.
    """

    kind = "posterior"
    reranks = True

    def __init__(
        self,
        ranking: Ranking,
        n: int,
        *,
        target: float = 0.5,
        prior_strength: float = 4.0,
        memory: int = 64,
        order: str = "rank",
        seed: int = 0,
    ) -> None:
        super().__init__(ranking, n, order=order, seed=seed)
        if not (_is_number(target) and 0 < target < 1):
            raise UserError(f"the target pass rate must lie in (0, 1), got {target!r}: 0.5 teaches most")
        if not (_is_number(prior_strength) and 0 < prior_strength < math.inf):
            raise UserError(f"prior_strength must be a positive finite number of rollouts, got {prior_strength!r}")
        if isinstance(memory, bool) or not isinstance(memory, (int, np.integer)) or not 1 <= memory <= MAX_MEMORY:
            raise UserError(f"memory must be an integer from 1 to {MAX_MEMORY} rollouts, got {memory!r}")
        self.target = float(target)
        self.prior_strength = float(prior_strength)
        self.memory = int(memory)
        self._tried = np.zeros(len(ranking), dtype=np.int64)
        self._solved = np.zeros(len(ranking), dtype=np.int64)  # in 1/256 rollouts
        self._nearest_first: drawing.Ranks | None = None
        self._prompts_tried: int | None = None

    def _shapes(self, ranks: drawing.Ranks) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The two shapes of these prompts' posteriors, (R,) float64 each, positive."""
        prior = 1.0 - (ranks + 0.5) / len(self.ranking)
        solved = self._solved[ranks] / CREDIT
        tried = self._tried[ranks]
        return self.prior_strength * prior + solved, self.prior_strength * (1.0 - prior) + (tried - solved)

    def _order(self) -> drawing.Ranks:
        if self._nearest_first is None:
            passes = beta(*self._shapes(np.arange(len(self.ranking))), seed=self.seed, epoch=self._epoch)
            self._nearest_first = np.argsort(np.abs(passes - self.target), kind="stable").astype(np.int64)
        return self._nearest_first

    def _pick(self) -> drawing.Ranks:
        return self._order()[: self.n].copy()

    def _pick_spares(self) -> drawing.Ranks:
        return self._order()[self.n : 2 * self.n]

    @property
    def _remembers(self) -> bool:
        return True

    def _move(self, totals: Totals, outcomes: Outcomes) -> None:
        ranks, _, scored, credit = outcomes.columns()
        tried, solved = self._tried[ranks] + scored, self._solved[ranks] + credit
        over = tried > self.memory
        solved[over] = (solved[over] * self.memory + tried[over] // 2) // tried[over]
        tried[over] = self.memory
        self._tried[ranks], self._solved[ranks] = tried, solved

    def _reorder(self, old_rank: drawing.Ranks) -> None:
        self._tried, self._solved = self._tried[old_rank], self._solved[old_rank]

    def _position(self) -> dict[str, Any]:
        return {"tried": to_text(self._tried, "<u1"), "solved": to_text(self._solved, "<u2")}

    def _restore(self, position: Mapping[str, Any]) -> None:
        tried = from_text(position["tried"], "<u1", len(self.ranking), "tried")
        solved = from_text(position["solved"], "<u2", len(self.ranking), "solved")
        if (tried > self.memory).any() or (solved > CREDIT * tried).any():
            raise UserError("curriculum state: a prompt was solved more often than tried, or tried beyond the memory")
        self._tried, self._solved = tried, solved

    def _settings(self) -> dict[str, Any]:
        return {
            **super()._settings(),
            "target": self.target,
            "prior_strength": self.prior_strength,
            "memory": self.memory,
        }

    def _forget(self) -> None:
        super()._forget()
        self._nearest_first = None
        self._prompts_tried = None

    def _describe(self) -> dict[str, Any]:
        """target; tried: prompts tried before the epoch; expected: mean pass rate that was expected of the draw."""
        a, b = self._shapes(self.ranks)
        if self._prompts_tried is None:  # counts change between epochs alone, and this is asked for at every step
            self._prompts_tried = int(np.count_nonzero(self._tried))
        return {
            "target": self.target,
            "tried": self._prompts_tried,
            "expected": float(np.mean(a / (a + b))),
        }


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
