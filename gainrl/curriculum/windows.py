"""Navigators whose draw is a window over the ranks: Gaussian (GAIN-RL), target accuracy, uniform.

All of them can let mastered prompts rest (gainrl.curriculum.mastered).  A resting prompt is taken out of the order of
the draw, which leaves the law of successive sampling over the others: in a race of independent clocks it does not
matter who else runs.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from gainrl.curriculum import draw as drawing
from gainrl.curriculum.base import Navigator
from gainrl.curriculum.controller import Position, WindowSettings, step, step_to_target
from gainrl.curriculum.mastered import Mastered
from gainrl.curriculum.outcomes import Outcomes
from gainrl.curriculum.ranking import Ranking
from gainrl.curriculum.totals import Totals
from gainrl.errors import UserError

DEFAULT_REST = 10


class WindowNavigator(Navigator):
    """A draw by weights over the ranks, from which mastered prompts can be left out.

    skip_mastered: k, full solutions in a row after which a prompt rests; None: no prompt ever does.
    mastered_rest: epochs that it rests.
    """

    def __init__(
        self,
        ranking: Ranking,
        n: int,
        *,
        order: str = "rank",
        seed: int = 0,
        skip_mastered: int | None = None,
        mastered_rest: int = DEFAULT_REST,
    ) -> None:
        super().__init__(ranking, n, order=order, seed=seed)
        self._mastered = None if skip_mastered is None else Mastered(len(ranking), skip_mastered, mastered_rest)

    @abstractmethod
    def _weights(self) -> tuple[float, float]:
        """Mean and sigma of the window of the epoch under way."""

    def _pick(self) -> drawing.Ranks:
        mean, sigma = self._weights()
        if self._mastered is None:
            return drawing.draw_ranks(self.n, len(self.ranking), mean, sigma, seed=self.seed, epoch=self._epoch)
        most = min(self.n + self._mastered.resting, len(self.ranking))
        ranks = drawing.draw_ranks(most, len(self.ranking), mean, sigma, seed=self.seed, epoch=self._epoch)
        return self._mastered.awake_first(ranks)[: self.n]

    def _pick_spares(self) -> drawing.Ranks:
        """The draw goes on, with clocks of its own: those that have not rung have no memory."""
        mean, sigma = self._weights()
        size = len(self.ranking)
        count = min(self.n, size - self.n)
        if not count:
            return np.empty(0, dtype=np.int64)
        resting = self._mastered.resting if self._mastered else 0
        most = min(self.n + count + resting, size)
        ranks = drawing.draw_ranks(most, size, mean, sigma, seed=self.seed, epoch=self._epoch, lot=1)
        ranks = ranks[~np.isin(ranks, self.ranks)]
        if self._mastered is not None:
            ranks = self._mastered.awake_first(ranks)
        return ranks[:count]

    @property
    def _remembers(self) -> bool:
        return self._mastered is not None

    def _move(self, totals: Totals, outcomes: Outcomes) -> None:
        if self._mastered is not None:
            self._mastered.finish(outcomes)

    def _reorder(self, old_rank: drawing.Ranks) -> None:
        if self._mastered is not None:
            self._mastered.reorder(old_rank)

    def _position(self) -> dict[str, Any]:
        return {} if self._mastered is None else {"mastered": self._mastered.state()}

    def _restore(self, position: Mapping[str, Any]) -> None:
        if self._mastered is not None:
            self._mastered.restore(position["mastered"])

    def _settings(self) -> dict[str, Any]:
        on = self._mastered
        return {
            **super()._settings(),
            "skip_mastered": on.times if on else None,
            "mastered_rest": on.rest if on else None,
        }

    def _describe(self) -> dict[str, Any]:
        """resting: prompts left out of the draw of the epoch under way (where skip_mastered is on)."""
        return {} if self._mastered is None else {"resting": self._mastered.resting}


class GaussianNavigator(WindowNavigator):
    """GAIN-RL's curriculum: a Gaussian window over the ranks whose mean moves on as the policy learns.

    `window` holds σ, α, β, the starting mean and `at_end` (see `WindowSettings`).  An epoch without a scored rollout,
    or without a single angle, leaves the mean where it is and says so in the metric `held`.
    """

    kind = "gaussian"
    reranks = True

    def __init__(
        self,
        ranking: Ranking,
        n: int,
        window: WindowSettings | None = None,
        *,
        order: str = "rank",
        seed: int = 0,
        skip_mastered: int | None = None,
        mastered_rest: int = DEFAULT_REST,
    ) -> None:
        super().__init__(ranking, n, order=order, seed=seed, skip_mastered=skip_mastered, mastered_rest=mastered_rest)
        self.window = WindowSettings() if window is None else window
        if self.window.mean > len(ranking) - 1:
            raise UserError(f"the starting mean {self.window.mean} lies beyond the last rank, {len(ranking) - 1}")
        self.sigma = self.window.width(len(ranking))
        self._at = Position(float(self.window.mean))

    @property
    def mean(self) -> float:
        """Mean of the epoch under way, in ranks."""
        return self._at.mean

    def _weights(self) -> tuple[float, float]:
        return self._at.mean, math.inf if self._at.uniform else self.sigma

    def _held(self, totals: Totals) -> str | None:
        if not totals.rollouts:
            return "nothing observed"
        if not totals.scored:
            return "no scored rollout"
        return None if totals.angles else "no rollout with an angle"

    def _next(self, totals: Totals) -> Position:
        accuracy, angle = totals.accuracy, totals.angle
        if accuracy is None or angle is None:
            return self._at
        move = step(self.n, self.window.alpha, self.window.beta, accuracy, angle)
        return self._at.moved(move, self.window, len(self.ranking))

    def _move(self, totals: Totals, outcomes: Outcomes) -> None:
        super()._move(totals, outcomes)
        self._at = self._next(totals)

    def _position(self) -> dict[str, Any]:
        return {"mean": self._at.mean, "uniform": self._at.uniform, **super()._position()}

    def _restore(self, position: Mapping[str, Any]) -> None:
        mean, uniform = position["mean"], position["uniform"]
        if not isinstance(mean, float) or not 0 <= mean <= len(self.ranking) - 1:
            raise UserError(f"curriculum state: mean must be a float from 0 to {len(self.ranking) - 1}, got {mean!r}")
        if not isinstance(uniform, bool):
            raise UserError(f"curriculum state: uniform must be true or false, got {uniform!r}")
        super()._restore(position)
        self._at = Position(mean, uniform)

    def _settings(self) -> dict[str, Any]:
        return {
            **super()._settings(),
            "sigma": self.sigma,
            "alpha": float(self.window.alpha),
            "beta": float(self.window.beta),
            "mean": float(self.window.mean),
            "at_end": self.window.at_end,
        }

    def _describe(self) -> dict[str, Any]:
        """mean and sigma of the epoch under way; next_mean and held as they would be if it ended now."""
        following = self._next(self._totals)
        return {
            "mean": self._at.mean,
            "sigma": self.sigma,
            "uniform": self._at.uniform,
            "next_mean": following.mean,
            "held": self._held(self._totals),
            **super()._describe(),
        }


class TargetNavigator(GaussianNavigator):
    """A Gaussian window that follows a target accuracy and may move back.

        μ ← clip( μ + n·tanh(α(Acc − β)), 0, N−1 )

    β is the target: the window moves on above it and back below it, by less than n ranks an epoch either way.  Angles
    are measured and logged, but have no say.  An epoch without a scored rollout leaves the mean where it is.  Only
    `at_end: stay` makes sense here, because the last rank is no end.
    """

    kind = "target"

    def __init__(self, ranking: Ranking, n: int, window: WindowSettings | None = None, **options: Any) -> None:
        super().__init__(ranking, n, window, **options)
        if self.window.at_end != "stay":
            raise UserError(
                f"at_end={self.window.at_end!r}: the navigator 'target' comes back from the last rank by itself; "
                "leave at_end at 'stay'"
            )

    def _held(self, totals: Totals) -> str | None:
        if not totals.rollouts:
            return "nothing observed"
        return None if totals.scored else "no scored rollout"

    def _next(self, totals: Totals) -> Position:
        if totals.accuracy is None:
            return self._at
        move = step_to_target(self.n, self.window.alpha, self.window.beta, totals.accuracy)
        return Position(min(max(self._at.mean + move, 0.0), float(len(self.ranking) - 1)))

    def _describe(self) -> dict[str, Any]:
        """As the Gaussian window, and `target`, the accuracy that is followed."""
        return {**super()._describe(), "target": float(self.window.beta)}


class UniformNavigator(WindowNavigator):
    """The baseline: every epoch n distinct prompts, all equally likely."""

    kind = "uniform"

    def _weights(self) -> tuple[float, float]:
        return 0.0, math.inf
