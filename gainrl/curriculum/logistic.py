"""Bayesian logistic regression that forgets: pass rates from features, one epoch's rollouts after another.

Each prompt's pass rate has the logit  η = xᵀw + e,  w the weights that all prompts share and e its own residual: what
one prompt teaches moves the others, and what the policy gains moves all of them.  The weights are Gaussian, kept as
mean m and precision Λ, from the prior N(m₀, Λ₀⁻¹):

  fade     Λ ← λΛ + (1−λ)Λ₀, and Λm likewise: observations lose their say by λ an epoch, the prior does not; then the
           intercept's variance grows by q (a random walk), because practice raises all pass rates together
  observe  t rollouts of which s were solved are a binomial likelihood of η.  Under the prediction N(a, b) its place is
           taken by the Gaussian that gives η the same posterior mean and variance (assumed-density filtering; Opper
           1998, "A Bayesian approach to on-line learning"), of precision J around z, by quadrature: 0 of 8 thus says
           "low" without saying how low.  Over the residual's variance v it bears on the weights with J/(1 + Jv):

               Λ ← Λ + Σ κ x xᵀ,   Λm ← Λm + Σ κ (z − e) x,   κ = J/(1 + Jv)

An epoch's prompts are taken in chunks of 32, each seen from the weights that the ones before left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import portable
from gainrl.errors import UserError

Floats = npt.NDArray[np.float64]

_NODES = np.linspace(-5.0, 5.0, 101)
_DENSITY = portable.exp(-0.5 * _NODES * _NODES)
_FEW = np.linspace(-3.0, 3.0, 13)
_WEIGHTS = portable.exp(-0.5 * _FEW * _FEW)
_CHUNK = 32
_LEAST = 1e-6
MOST_ROLLOUTS = 32.0
"""Rollouts of one prompt in one epoch that count; of more, the share."""


@dataclass(frozen=True)
class Sites:
    """The Gaussians that stand for an epoch's outcomes; all (n,)."""

    precision: Floats
    centre: Floats
    evidence: Floats
    """Log likelihood of the outcomes under the prediction, without the binomial coefficient."""


def sites(centre: Floats, variance: Floats, tried: Floats, solved: Floats) -> Sites:
    """For η ~ N(centre, variance) and `solved` of `tried` rollouts, all (n,); solved may be fractional."""
    deviation = np.sqrt(variance)
    logits = centre[:, None] + deviation[:, None] * _NODES
    softplus = np.maximum(logits, 0.0) + portable.log(1.0 + portable.exp(-np.abs(logits)))
    likelihood = solved[:, None] * logits - tried[:, None] * softplus
    top = likelihood.max(axis=1)
    weights = portable.exp(likelihood - top[:, None]) * _DENSITY
    total = portable.ordered_sum(weights)
    mean = portable.ordered_sum(weights * _NODES) / total
    second = portable.ordered_sum(weights * (_NODES * _NODES)) / total
    # in units of the deviation, around the centre
    narrowed = np.maximum(second - mean * mean, 1e-9)
    precision = np.maximum((1.0 / narrowed - 1.0) / variance, _LEAST)
    target = centre + mean / narrowed / (deviation * precision)
    evidence = top + portable.log(total / float(portable.ordered_sum(_DENSITY)))
    return Sites(precision, target, evidence)


def chance_of_spread(centre: Floats, variance: Floats, rollouts: int) -> Floats:
    """(n,) chances that a group of `rollouts` has both right and wrong ones, for logits N(centre, variance), both (n,).

    E 1 − p^t − (1 − p)^t, t the rollouts: a group of equal rewards has no advantages, and where advantages are divided
    by their deviation all other groups weigh alike.  By quadrature on 13 nodes; MOST_ROLLOUTS at most count.
    """
    deviation, result = np.sqrt(variance), np.zeros(len(centre))
    times = min(rollouts, int(MOST_ROLLOUTS))
    for node, share in zip(_FEW.tolist(), (_WEIGHTS / float(portable.ordered_sum(_WEIGHTS))).tolist(), strict=True):
        rate = portable.sigmoid(centre + node * deviation)
        all_right, all_wrong = np.ones(len(rate)), np.ones(len(rate))
        for _ in range(times):
            all_right *= rate
            all_wrong *= 1.0 - rate
        result += share * (1.0 - all_right - all_wrong)
    return result


def expected_rate(mean: Floats, variance: Floats) -> Floats:
    """(n,) E σ(η), η ~ N(mean, variance), by MacKay's approximation (1992): σ(a/√(1 + πb/8))."""
    return portable.sigmoid(mean / np.sqrt(1.0 + (math.pi / 8.0) * variance))


def log_likelihood(chances: Floats, happened: Floats) -> float:
    """Of events that `happened` (1 or 0) under these chances, both (n,)."""
    sure = np.clip(chances, 1e-6, 1.0 - 1e-6)
    return float(portable.ordered_sum(portable.log(np.where(happened > 0.0, sure, 1.0 - sure))))


def calibration(predicted: Floats, tried: Floats, solved: Floats) -> dict[str, float | None]:
    """How good predicted pass rates were: correlation with the observed ones, nats a rollout, those of a constant."""
    if not len(tried):
        return {"correlation": None, "log_loss": None, "constant_log_loss": None}
    observed, share = solved / tried, float(solved.sum() / tried.sum())
    correlation = None
    if len(tried) > 2 and np.ptp(predicted) > 0 and np.ptp(observed) > 0:
        correlation = float(np.corrcoef(predicted, observed)[0, 1])
    predicted = np.clip(predicted, 1e-12, 1.0 - 1e-12)
    losses = -(solved * np.log(predicted) + (tried - solved) * np.log1p(-predicted))
    constant = -sum(x * math.log(x) for x in (share, 1.0 - share) if x > 0)
    return {
        "correlation": correlation,
        "log_loss": float(losses.sum() / tried.sum()),
        "constant_log_loss": constant,
    }


class LogisticFilter:
    """The weights' posterior; see the module's docstring.

    prior_mean, prior_variance: (k,) of independent weights.  fading: λ in (0, 1], and drift: q >= 0, for each `fade`.
    """

    def __init__(self, prior_mean: Floats, prior_variance: Floats, fading: float, drift: float) -> None:
        self._prior_mean = prior_mean
        self._prior_precision = 1.0 / prior_variance
        self._fading, self._drift = fading, drift
        self.mean = prior_mean.copy()
        self.precision = np.diag(self._prior_precision)
        self._lower: Floats | None = None

    def predict(self, features: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """Mean and variance of xᵀw, (n,) each, for features (k, n)."""
        if self._lower is None:
            self._lower = portable.cholesky(self.precision)
        half = portable.forward(self._lower, features)
        variance = np.zeros(features.shape[1])
        for row in half:
            variance += row * row
        return portable.combine(self.mean, features), variance

    def fade(self) -> None:
        """One epoch has gone by."""
        own = self._prior_precision
        right = _times(self.precision, self.mean) * self._fading + (1.0 - self._fading) * own * self._prior_mean
        precision = self._fading * self.precision + np.diag((1.0 - self._fading) * own)
        self.mean = portable.solve(portable.cholesky(precision), right)
        column = precision[:, 0].copy()
        shrink = self._drift / (1.0 + self._drift * float(column[0]))
        self.precision = precision - shrink * np.multiply.outer(column, column)
        self._lower = None

    def observe(
        self, features: npt.NDArray[Any], residual: Floats, variance: Floats, tried: Floats, solved: Floats
    ) -> Floats:
        """Take in n prompts' outcomes; features (k, n), the others (n,).  Returns the evidence of each, (n,)."""
        evidence = np.empty(len(tried))
        for start in range(0, len(tried), _CHUNK):
            part = slice(start, start + _CHUNK)
            x = features[:, part].astype(np.float64)
            mean, spread = self.predict(x)
            seen = sites(mean + residual[part], spread + variance[part], tried[part], solved[part])
            evidence[part] = seen.evidence
            weight = seen.precision / (1.0 + seen.precision * variance[part])
            self.absorb(x, weight, seen.centre - residual[part])
        return evidence

    def absorb(self, features: Floats, weight: Floats, target: Floats) -> None:
        """Gaussian observations `target` of xᵀw with precision `weight`, (n,) each, for features (k, n)."""
        right = _times(self.precision, self.mean)
        precision = self.precision.copy()
        for x, w, z in zip(features.T, weight.tolist(), target.tolist(), strict=True):
            precision += w * np.multiply.outer(x, x)
            right += (w * z) * x
        self.precision = precision
        self._lower = portable.cholesky(precision)
        self.mean = portable.solve(self._lower, right)

    @property
    def size(self) -> int:
        """Numbers in `state()`."""
        k = len(self.mean)
        return k + k * (k + 1) // 2

    def state(self) -> Floats:
        """(size,) the mean, then the precision's lower triangle by rows."""
        return np.concatenate([self.mean, self.precision[np.tril_indices(len(self.mean))]])

    def checked(self, state: Floats) -> tuple[Floats, Floats, Floats]:
        """Mean, precision and its Cholesky factor from `state()`; UserError if the precision is not positive."""
        k = len(self.mean)
        precision = np.zeros((k, k))
        precision[np.tril_indices(k)] = state[k:]
        precision += np.tril(precision, -1).T
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            lower = portable.cholesky(precision)
        if not (np.isfinite(lower).all() and (np.diag(lower) > 0).all()):
            raise UserError("curriculum state: weights have a precision that is not positive definite")
        return state[:k].copy(), precision, lower

    def restore(self, state: tuple[Floats, Floats, Floats]) -> None:
        """Go on from what `checked` made of a state."""
        self.mean, self.precision, self._lower = state


def _times(matrix: Floats, vector: Floats) -> Floats:
    return portable.combine(vector, matrix)  # symmetric: its rows are its columns
