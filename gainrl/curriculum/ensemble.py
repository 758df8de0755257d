"""Logistic filters that differ in what they look at and how fast they forget, and compete by what they foretell.

How fast old outcomes should fade, how far apart prompts of the same features lie (the residual's variance τ²), and
whether the directions say anything at all differ from dataset to dataset and change while training goes on.  So none of
these is a setting: a filter for each number of features and each fading λ runs along, every outcome is first predicted
by each of them with each τ², and the pair with the highest evidence (log likelihood of what came, fading) predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import portable
from gainrl.curriculum.arrays import floats_from_text, floats_to_text
from gainrl.curriculum.logistic import LogisticFilter, sites
from gainrl.errors import UserError

Floats = npt.NDArray[np.float64]

FADINGS = (0.8, 0.95, 0.99)
_USUAL = 1  # where evidence begins
_HEAD_START = 1.0  # nats
_EVIDENCE_FADING = 0.9
_DRIFT = 0.01  # growth of the intercept's variance, an epoch


class Learnt(NamedTuple):
    """What the filter that predicted an epoch thought of its n prompts; all (n,) but the first."""

    residual: float
    """The τ² that it predicted with."""
    mean: Floats
    variance: Floats
    """Of xᵀw, before the outcomes."""
    mean_after: Floats
    variance_after: Floats


class Ensemble:
    """Competing `LogisticFilter`s of the same outcomes.

    variance: (k,) prior variances of the weights, squared logits, with means of 0.  widths: numbers of features, each
    filter sees so many of the first; the first width is the usual one.  residuals: the τ² to choose from, `usual` the
    place of the usual one.
    """

    def __init__(self, variance: Floats, widths: Sequence[int], residuals: Sequence[float], usual: int = 0) -> None:
        self.residuals = tuple(residuals)
        self.filters = [
            LogisticFilter(np.zeros(width), variance[:width], fading, _DRIFT) for width in widths for fading in FADINGS
        ]
        self.evidence = np.full((len(self.filters), len(self.residuals)), -_HEAD_START)
        """Fading log likelihoods by filter and τ², the highest 0."""
        self.evidence[_USUAL, usual] = 0.0

    @property
    def best(self) -> tuple[int, int]:
        """Filter and τ² of the highest evidence."""
        at = int(np.argmax(self.evidence))
        return at // len(self.residuals), at % len(self.residuals)

    @property
    def residual(self) -> float:
        """The τ² of the highest evidence."""
        return self.residuals[self.best[1]]

    @property
    def fading(self) -> float:
        """The λ of the highest evidence."""
        return FADINGS[self.best[0] % len(FADINGS)]

    @property
    def width(self) -> int:
        """Features that the best filter looks at."""
        return self.filters[self.best[0]].width

    @property
    def untaught(self) -> bool:
        """Whether no outcome has been seen yet."""
        return not self.filters[0].mean.any()

    def predict(self, features: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """Mean and variance of xᵀw by the best filter, (n,) each, for features (k, n)."""
        return _seen_by(self.filters[self.best[0]], features)

    def learn(
        self,
        features: npt.NDArray[Any],
        own: Callable[[float], tuple[Floats, Floats]],
        tried: Floats,
        solved: Floats,
    ) -> Learnt:
        """Judge all filters by an epoch's outcomes, and teach them.

        features: (k, n).  own: from a τ² to mean and variance of the prompts' residuals, (n,) each.  tried, solved:
        rollouts, (n,).
        """
        x = features.astype(np.float64)
        residuals = [own(residual) for residual in self.residuals]
        which, usual = self.best
        found = np.zeros_like(self.evidence)
        before = [_seen_by(each, x) for each in self.filters]
        for i, j in np.ndindex(*found.shape):
            mean, variance = before[i]
            seen = sites(mean + residuals[j][0], variance + residuals[j][1], tried, solved)
            found[i, j] = float(portable.ordered_sum(seen.evidence))
        for i, each in enumerate(self.filters):
            each.observe(x[: each.width], *residuals[int(np.argmax(self.evidence[i]))], tried, solved)
        self.evidence = _EVIDENCE_FADING * self.evidence + (found - found.max())
        self.evidence -= self.evidence.max()
        return Learnt(self.residuals[usual], *before[which], *_seen_by(self.filters[which], x))

    def fade(self) -> None:
        """One epoch has gone by."""
        for each in self.filters:
            each.fade()

    def state(self) -> dict[str, Any]:
        """Evidence and weights, JSON-able."""
        return {
            "evidence": floats_to_text(self.evidence.ravel()),
            "weights": [floats_to_text(each.state()) for each in self.filters],
        }

    def checked(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """What goes on from `state()` when it is called; UserError, with nothing changed, for a state that is none."""
        evidence = floats_from_text(state["evidence"], self.evidence.size, "evidence").reshape(self.evidence.shape)
        texts = state["weights"]
        if not isinstance(texts, list) or len(texts) != len(self.filters):
            raise UserError(f"curriculum state: weights must be a list of {len(self.filters)}")
        weights = [
            each.checked(floats_from_text(text, each.size, "weights"))
            for each, text in zip(self.filters, texts, strict=True)
        ]

        def restore() -> None:
            self.evidence = evidence
            for each, own in zip(self.filters, weights, strict=True):
                each.restore(own)

        return restore


def _seen_by(each: LogisticFilter, features: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    return each.predict(features[: each.width])
