"""How the window moves: the mean's update after an epoch, and the settings that govern it.

    μ ← clip( μ + clip( (n/2)·[tanh(α(Acc − β)) + tanh(α·C̄)], 0, n ), 0, N−1 )

(Wang et al. 2025, arXiv 2506.02281, with the mean kept on the ranks.)  Acc is the share of correct rollouts among the
scored ones, C̄ the mean angle concentration of the epoch's rollouts under the current policy.  The mean never moves
back, and at most n ranks per epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gainrl.errors import UserError

AT_END = ("stay", "restart", "uniform")
PUBLISHED_SIGMA_FRACTION = 1000 / 7500
"""The published σ = 1000 for about 7,500 prompts, as a share of N."""


@dataclass(frozen=True)
class WindowSettings:
    """Settings of the Gaussian window.

    sigma: width in ranks, > 0; or sigma_fraction: width as a share of N, > 0.  At most one of them; with neither,
        sigma_fraction is 1000/7500, the published width.
    alpha: how sharply accuracy and angle act, > 0.
    beta: target accuracy, in [0, 1].
    mean: where the window starts, in ranks, in [0, N−1].
    at_end: what happens once an epoch was drawn with the mean at N−1 and the next move points further: `stay` there,
        `restart` at `mean`, or draw `uniform`ly over all ranks from then on.
    """

    sigma: float | None = None
    sigma_fraction: float | None = None
    alpha: float = 2.0
    beta: float = 0.5
    mean: float = 0.0
    at_end: str = "stay"

    def __post_init__(self) -> None:
        if self.sigma is not None and self.sigma_fraction is not None:
            raise UserError(
                f"give sigma ({self.sigma}) or sigma_fraction ({self.sigma_fraction}), not both: they set one width"
            )
        for name in ("sigma", "sigma_fraction", "alpha"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise UserError(f"{name} must be a positive finite number, got {value!r}")
        if not (_is_number(self.beta) and 0 <= self.beta <= 1):
            raise UserError(f"beta is an accuracy and must be in [0, 1], got {self.beta!r}")
        if not (_is_number(self.mean) and 0 <= self.mean < math.inf):
            raise UserError(f"the starting mean is a rank and must be at least 0, got {self.mean!r}")
        if self.at_end not in AT_END:
            raise UserError(f"at_end must be one of {', '.join(AT_END)}, got {self.at_end!r}")

    def width(self, size: int) -> float:
        """σ in ranks for a ranking of `size` prompts."""
        if self.sigma is not None:
            return float(self.sigma)
        fraction = PUBLISHED_SIGMA_FRACTION if self.sigma_fraction is None else self.sigma_fraction
        return float(fraction * size)


def step(n: int, alpha: float, beta: float, accuracy: float, angle: float) -> float:
    """Ranks by which the mean moves after an epoch of n prompts: in [0, n]."""
    move = 0.5 * n * (math.tanh(alpha * (accuracy - beta)) + math.tanh(alpha * angle))
    return min(max(move, 0.0), float(n))


def step_to_target(n: int, alpha: float, target: float, accuracy: float) -> float:
    """Ranks by which a window that follows a target accuracy moves, in (−n, n): back where it is missed."""
    return n * math.tanh(alpha * (accuracy - target))


@dataclass(frozen=True)
class Position:
    """Where the window is: its mean in ranks, and whether it has been given up for uniform draws."""

    mean: float
    uniform: bool = False

    def moved(self, move: float, settings: WindowSettings, size: int) -> Position:
        """The position after a move of `move` >= 0 ranks over `size` ranks, `at_end` included."""
        if self.uniform:
            return self
        last = float(size - 1)
        if self.mean == last and move > 0 and settings.at_end != "stay":
            return Position(float(settings.mean)) if settings.at_end == "restart" else Position(last, uniform=True)
        return Position(min(self.mean + move, last))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
