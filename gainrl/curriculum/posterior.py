"""Posterior sampling: prompts whose pass rate is likely to be informative, from what each was seen to do.

Each prompt's pass rate has a Beta posterior.  Its prior comes from the ranking: mean m_r = 1 − (r + ½)/N (the highest
score is expected to be the easiest), worth `prior_strength` rollouts; on top come the prompt's own scored rollouts,
partial credit included:

    θ_r ~ Beta( κ·m_r + s_r,  κ·(1 − m_r) + t_r − s_r )    κ prior strength

t scored rollouts, s the sum of their accuracies.

A draw samples one θ_r for every prompt (Thompson sampling) and takes the n prompts whose θ_r is nearest to the target
pass rate.  The policy moves, so old rollouts lose their weight: t is held at `memory` rollouts, and s scaled with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

from gainrl.curriculum.base import Navigator
from gainrl.curriculum.prompts import Floats, Integers, Outcomes, check_number


@dataclass(frozen=True)
class PosteriorSettings:
    """Settings of posterior sampling; UserError for values out of range."""

    target: float = 0.5
    """Pass rate that is looked for, in (0, 1)."""
    prior_strength: float = 4.0
    """Rollouts that the ranking is worth, > 0."""
    memory: int = 64
    """Rollouts of a prompt that count at most, >= 1."""

    def __post_init__(self) -> None:
        check_number("target", self.target, 0, 1, exclusive=True)
        check_number("prior_strength", self.prior_strength, 0, math.inf, exclusive=True)
        check_number("memory", self.memory, 1, 2**15, whole=True)


class PosteriorNavigator(Navigator):
    """Thompson sampling towards a target pass rate; see the module's docstring."""

    name = "posterior"
    Settings = PosteriorSettings
    STATE = ("tried", "solved", "group")
    settings: PosteriorSettings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tried: npt.NDArray[np.float32] = np.zeros(len(self.prompts), dtype=np.float32)
        """(M,) scored rollouts of each prompt, at most `memory`."""
        self.solved: npt.NDArray[np.float32] = np.zeros(len(self.prompts), dtype=np.float32)
        """(M,) sums of their accuracies."""
        self.group = 8
        """Scored rollouts of a usual group."""

    def race(self, n: int) -> Floats:
        """(M,) distances of sampled pass rates from the target."""
        times: Floats = np.abs(self.rng.beta(*self._shapes(slice(None))) - self.settings.target)
        return times

    def learn(self, index: Integers, outcomes: Outcomes, angle: Floats) -> None:
        """Add the groups' rollouts to their prompts'."""
        np.add.at(self.tried, index, outcomes.scored)
        np.add.at(self.solved, index, outcomes.correct)
        share = np.minimum(1.0, self.settings.memory / np.maximum(self.tried[index], 1.0))
        for counts in (self.tried, self.solved):
            counts[index] *= share
        self.group = max(2, int(np.median(outcomes.scored)))

    def predicted(self, rows: npt.ArrayLike) -> Floats:
        """(n,) 1 − E θ^t − E (1−θ)^t under the posteriors, t the scored rollouts of a usual group."""
        a, b = self._shapes(self.prompts.index(rows))
        right, wrong = betaln(a + self.group, b) - betaln(a, b), betaln(a, b + self.group) - betaln(a, b)
        chances: Floats = 1.0 - np.exp(right) - np.exp(wrong)
        return chances

    def expected_accuracy(self, rows: npt.ArrayLike) -> Floats:
        """(n,) means of the posteriors."""
        a, b = self._shapes(self.prompts.index(rows))
        mean: Floats = a / (a + b)
        return mean

    def metrics(self) -> dict[str, Any]:
        """Also the mean predicted chance of a mixed group and the mean expected pass rate of the last draw."""
        if not len(self._last):
            return super().metrics()
        rows = self.prompts.rows[self._last]
        return {
            **super().metrics(),
            "expected_mixed": float(self.predicted(rows).mean()),
            "expected_accuracy": float(self.expected_accuracy(rows).mean()),
        }

    def _shapes(self, index: Integers | slice) -> tuple[Floats, Floats]:
        """The two shapes of these prompts' posteriors, positive."""
        prior = 1.0 - (self.prompts.position[index] + 0.5) / len(self.prompts)
        strength, solved, tried = self.settings.prior_strength, self.solved[index], self.tried[index]
        return strength * prior + solved, strength * (1.0 - prior) + np.maximum(tried - solved, 0.0)
