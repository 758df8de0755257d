"""GAIN-RL's curriculum: a Gaussian window over the ranking that moves on as the policy learns.

(Wang et al. 2025, arXiv 2506.02281.)  The prompt at position r of the ranking, highest score first, has the weight
w_r = exp(−(r−μ)²/2σ²).  A draw takes prompts one after another without replacement, each with probability proportional
to its weight among the prompts still there.  A race does that: prompt r has the arrival time E_r/w_r, with independent
unit exponentials E_r, and the n earliest are the draw.  After each `prompts_per_move` prompts

    μ ← clip( μ + clip( (n/2)·[tanh(α(Acc − β)) + tanh(α·C̄)], 0, n ), 0, N−1 )

n counts the prompts since the last move, Acc is the mean accuracy of their scored rollouts, C̄ the mean angle
concentration of their rollouts under the current policy.  The window never moves back, and at most n positions forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gainrl.curriculum.base import Navigator
from gainrl.curriculum.prompts import Floats, Integers, Outcomes, check_number

PUBLISHED_SIGMA = 1000 / 7500
"""The published σ = 1000 for about 7,500 prompts, as a share of N."""


@dataclass(frozen=True)
class GaussianSettings:
    """Settings of the window; UserError for values out of range."""

    sigma: float | None = None
    """Width in positions, > 0; None for N·1000/7500, the published width."""
    alpha: float = 2.0
    """How sharply accuracy and angle act, > 0."""
    beta: float = 0.5
    """Accuracy at which the accuracy's share of a move changes its sign, in [0, 1]."""
    prompts_per_move: int = 1024
    """Observed prompts after which the window moves, >= 1; the paper's n."""

    def __post_init__(self) -> None:
        if self.sigma is not None:
            check_number("sigma", self.sigma, 0, math.inf, exclusive=True)
        check_number("alpha", self.alpha, 0, math.inf, exclusive=True)
        check_number("beta", self.beta, 0, 1)
        check_number("prompts_per_move", self.prompts_per_move, 1, 2**53, whole=True)


class GaussianNavigator(Navigator):
    """The published window; see the module's docstring.

    It needs angles: groups without one move nothing and are not counted.
    """

    name = "gaussian"
    needs_angle = True
    Settings = GaussianSettings
    STATE = ("mean", "observed")
    settings: GaussianSettings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        size = len(self.prompts)
        self.sigma = float(PUBLISHED_SIGMA * size if self.settings.sigma is None else self.settings.sigma)
        """Width of the window in positions."""
        self.mean = 0.0
        """Where the window is, in positions, from 0 to N−1."""
        self.observed = np.zeros(5)
        """Since the last move: prompts, scored rollouts, the sum of their accuracies, rollouts, rollouts × angle."""

    def race(self, n: int) -> Floats:
        """(M,) log E_r + (r−μ)²/2σ²: logarithms, so that no weight underflows."""
        distance = (self.prompts.position - self.mean) / self.sigma
        times: Floats = np.log(self.rng.standard_exponential(len(self.prompts))) + 0.5 * distance**2
        return times

    def draw(self, n: int) -> Integers:
        """(n,) int64 distinct rows in the order of the ranking, as published."""
        super().draw(n)
        self._last = self._last[np.argsort(self.prompts.position[self._last])]
        return self.prompts.rows[self._last]

    def learn(self, index: Integers, outcomes: Outcomes, angle: Floats) -> None:
        """Count the groups that have an angle; move the window if enough have come since the last move."""
        known = np.isfinite(angle)
        outcomes, angle = outcomes[known], angle[known]
        columns = (outcomes.scored, outcomes.correct, outcomes.rollouts, outcomes.rollouts * angle)
        self.observed = self.observed + np.array([len(outcomes), *(column.sum() for column in columns)])
        if self.observed[0] >= self.settings.prompts_per_move:
            n, scored, correct, rollouts, angles = self.observed.tolist()
            alpha, beta = self.settings.alpha, self.settings.beta
            move = 0.5 * n * (math.tanh(alpha * (correct / scored - beta)) + math.tanh(alpha * angles / rollouts))
            self.mean = min(self.mean + min(max(move, 0.0), n), float(len(self.prompts) - 1))
            self.observed = np.zeros(5)

    def metrics(self) -> dict[str, Any]:
        """Also mean and sigma of the window, in positions, and the prompts observed since its last move."""
        return {**super().metrics(), "mean": self.mean, "sigma": self.sigma, "since_move": int(self.observed[0])}
