"""A probe on the directions: predicts which prompts' groups will be mixed, learnt from the rollouts of training.

A GRPO group whose rewards are all equal has no advantages.  Two models predict from a prompt's features x_r (a
constant, its position in the ranking, its length, the leading principal components of the directions) whether its
group's rewards will differ:

    pass rates   the pass rate has the logit  x_rᵀw + e_r,  and a group of t rollouts is mixed with chance
                 E 1 − p^t − (1 − p)^t.  Finds middling prompts where difficulty is a matter of degree
    groups       being mixed has itself the logit  x_rᵀu.  Finds kinds of prompts that are between mastered and
                 hopeless, where these kinds stand in no order, which the first model cannot express

w and u are Bayesian logistic regressions that forget.  Their Gaussian posteriors, mean m and precision Λ, follow

    fade      Λ ← λΛ + (1−λ)Λ₀, and Λm likewise; then the variance of the intercept grows by DRIFT, because practice
              raises all pass rates
    observe   s of t rollouts solved are a binomial likelihood of the logit η.  Under the prediction N(a, b) it is
              replaced by the Gaussian, of precision J around z, that gives η the same posterior mean and variance
              (assumed-density filtering; Opper 1998, "A Bayesian approach to on-line learning").  Over the variance v
              of the residual e it enters the weights with κ = J/(1 + Jv):  Λ ← Λ + Σ κ x xᵀ,  Λm ← Λm + Σ κ (z − e) x

The residual e_r ~ N(0, τ²) is what the features do not tell of a prompt.  A prompt tried before is judged by its own
rollouts: with their fading information J_r and mean residual ē_r,  e_r ~ N(v_r J_r ē_r, v_r),  v_r = 1/(1/τ² + J_r).

Draw: a prompt's usefulness is its chance of a mixed group, the two models' chances weighted by how well each predicted
the groups that came (model averaging with fading evidence).  Prompts are drawn without replacement with probability
proportional to usefulness^SHARPNESS, and rest for REST draws.  A share `explore` of a draw is uniform over all prompts.
Prompts without a direction are drawn in that share only, until they have been tried.  λ and τ² are not settings: a
filter for each λ in FADINGS runs along, and the pair with the highest fading evidence makes the next draw.

The constants were chosen on the development families of the convergence study; its held-out families had no part in
it.  A draw is O(M·K²).  Without directions, position and length are all that the models see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from scipy.special import expit

from gainrl.curriculum.base import Navigator
from gainrl.curriculum.components import principal_components
from gainrl.curriculum.prompts import Floats, Integers, Outcomes, Prompts, check_number

FADINGS = np.array([0.8, 0.95, 0.99])
"""λ, the share that observations keep at each draw."""
RESIDUALS = np.array([0.25, 1.0, 4.0, 12.0])
"""τ², squared logits."""
DRIFT = 0.01
"""Growth of the intercept's variance, squared logits per draw."""
SHARPNESS = 1.5
"""Power of the usefulness in the chance to be drawn."""
REST = 4
"""Draws that a drawn prompt rests, if no more than a quarter of all prompts then rest."""
INTERCEPT, SLOPE, COMPONENTS = 4.0, 0.5, 6.0
"""Prior variances, squared logits: intercept; slopes of position and length; all components together."""
GROUP_RESIDUAL = 1.0
"""Variance of what the features do not tell of a group's being mixed, squared logits."""
OWN_FADING, EVIDENCE_FADING = 0.98, 0.9
"""Shares that J and the evidence keep at each draw."""
HEAD_START = 1.0
"""Evidence, in nats, by which the usual λ and τ² begin ahead of the others."""
MOST_ROLLOUTS = 32
"""Rollouts of one prompt that count between two draws; of more, their share."""
_LEAST_OWN, _MOST_OWN, _MOST_RESIDUAL = 1 / 64, 939.0, 32.0
_NODES, _FEW = np.linspace(-5.0, 5.0, 101), np.linspace(-3.0, 3.0, 13)
_DENSITY, _WEIGHTS = np.exp(-0.5 * _NODES**2), np.exp(-0.5 * _FEW**2) / np.exp(-0.5 * _FEW**2).sum()
_CHUNK = 32  # prompts that are seen from the weights that the ones before left
_BLOCK = 4096  # prompts whose chances are computed at a time

Half = npt.NDArray[np.float16]


@dataclass(frozen=True)
class ProbeSettings:
    """Settings of the probe; UserError for values out of range."""

    components: int = 32
    """Principal components of the directions that the models see, 1 to 128."""
    explore: float = 0.1
    """Share of a draw that is uniform over all prompts, in [0, 1]."""

    def __post_init__(self) -> None:
        check_number("components", self.components, 1, 128, whole=True)
        check_number("explore", self.explore, 0, 1)


class ProbeNavigator(Navigator):
    """Draws prompts by the predicted chance that their groups are mixed; see the module's docstring.

    Building it reads the directions twice.  Raises UserError if they are there and no prompt has one.
    """

    name = "probe"
    Settings = ProbeSettings
    STATE = ("mean", "precision", "evidence", "group_evidence", "model_evidence", "group", "own", "residual", "resting")
    settings: ProbeSettings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.features, self.known = _features(self.prompts, self.settings.components)
        width, size = self.features.shape
        variance = np.full(width, COMPONENTS / max(width - 3, 1))
        variance[:3] = INTERCEPT, SLOPE, SLOPE
        filters = 2 * len(FADINGS)
        self._prior = np.diag(1.0 / variance)
        self.mean: Floats = np.zeros((filters, width))
        """(6, 3+K) of the weights: pass rates at each λ, then groups at each λ."""
        self.precision: Floats = np.tile(self._prior, (filters, 1, 1))
        self.evidence = np.full((len(FADINGS), len(RESIDUALS)), -HEAD_START)
        """(3, 4) fading log likelihoods of the pass rates for each λ and τ², the highest 0."""
        self.evidence[1, 2] = 0.0
        self.group_evidence = np.array([-HEAD_START, 0.0, -HEAD_START])
        self.model_evidence = np.zeros(2)
        """Fading log likelihoods of the groups under the model of pass rates and the model of groups."""
        self.group = 8
        """Scored rollouts of a usual group."""
        self.own: Half = np.zeros(size, dtype=np.float16)
        """(M,) J, information of each prompt's own rollouts, in 1/(squared logits)."""
        self.residual: Half = np.zeros(size, dtype=np.float16)
        """(M,) ē, logits."""
        self.resting: npt.NDArray[np.uint8] = np.zeros(size, dtype=np.uint8)
        """(M,) draws that a prompt still rests."""
        self._explored = 0

    # -- predictions ----------------------------------------------------------------------------------------

    def predicted(self, rows: npt.ArrayLike) -> Floats:
        """(n,) chances that a group of these rows is mixed, both models averaged."""
        return self._usefulness(self.prompts.index(rows))

    def expected_accuracy(self, rows: npt.ArrayLike) -> Floats:
        """(n,) expected pass rates of these rows."""
        return _expected_rate(*self._logits(self.prompts.index(rows)))

    @property
    def _best(self) -> tuple[int, int]:
        """Which λ and τ² have the highest evidence."""
        fading, tau = np.unravel_index(np.argmax(self.evidence), self.evidence.shape)
        return int(fading), int(tau)

    def _linear(self, which: int, x: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """Mean and variance, (n,) each, of a filter's xᵀw for features x (3+K, n)."""
        inverse = solve_triangular(np.linalg.cholesky(self.precision[which]), np.eye(len(x)), lower=True)
        return self.mean[which] @ x, np.square(inverse @ x).sum(axis=0)

    def _residuals(self, index: Integers | slice, tau: float | Floats) -> tuple[Floats, Floats]:
        """Mean and variance, (n,) each, of these prompts' residuals."""
        own = self.own[index].astype(np.float64)
        variance = 1.0 / (1.0 / tau + own)
        return variance * own * self.residual[index], variance + np.where(self.known[index], 0.0, COMPONENTS)

    def _logits(self, index: Integers | slice) -> tuple[Floats, Floats]:
        """Mean and variance, (n,) each, of the logits of these prompts' pass rates."""
        which, tau = self._best
        mean, variance = self._linear(which, self.features[:, index])
        own_mean, own_variance = self._residuals(index, RESIDUALS[tau])
        return mean + own_mean, variance + own_variance

    def _chances(self, index: Integers | slice) -> tuple[Floats, Floats]:
        """Chances of a mixed group by the two models: of pass rates, of groups."""
        mean, variance = self._linear(len(FADINGS) + int(np.argmax(self.group_evidence)), self.features[:, index])
        return _chance_of_mixed(*self._logits(index), self.group), _expected_rate(mean, variance + GROUP_RESIDUAL)

    def _usefulness(self, index: Integers | slice) -> Floats:
        by_rate, by_group = self._chances(index)
        return self._share * by_rate + (1.0 - self._share) * by_group

    @property
    def _share(self) -> float:
        """Weight of the model of pass rates: 1 until a group taught the other one anything."""
        if not self.mean[len(FADINGS) :].any():
            return 1.0
        return float(expit(self.model_evidence[0] - self.model_evidence[1]))

    # -- the draw -------------------------------------------------------------------------------------------

    def race(self, n: int) -> Floats:
        """(M,) log E_r − SHARPNESS·log usefulness; the explored come first, the resting last."""
        size = len(self.prompts)
        times = np.log(self.rng.standard_exponential(size))
        for start in range(0, size, _BLOCK):
            part = slice(start, start + _BLOCK)
            times[part] -= SHARPNESS * np.log(np.maximum(self._usefulness(part), 1e-30))
        times += 1e3 * np.where(self.known | (self.own > 0), self.resting, 256.0)  # |times| stays below 150
        share = self.settings.explore * n
        if round(share) >= 1:
            self._explored = round(share)
        else:  # one prompt in some draws
            self._explored = math.floor((self.draws + 1) * share) - math.floor(self.draws * share)
        explored = self.rng.choice(size, self._explored, replace=False)
        times[explored] = -1e6 + np.arange(len(explored))
        return times

    def draw(self, n: int) -> Integers:
        """(n,) int64 distinct rows, which then rest."""
        rows = super().draw(n)
        self.resting -= self.resting > 0
        self.resting[self._last] = min(REST, len(self.prompts) // (4 * n))
        return rows

    # -- what groups teach ----------------------------------------------------------------------------------

    def learn(self, index: Integers, outcomes: Outcomes, angle: Floats) -> None:
        """One step of both models, their evidence and the prompts' own residuals."""
        self.own *= np.float16(OWN_FADING)
        self.own[self.own < _LEAST_OWN] = 0.0
        self.residual[self.own == 0] = 0.0
        order = np.argsort(index, kind="stable")  # whatever order they came in
        index, outcomes = index[order], outcomes[order]
        several = outcomes.scored > 1  # a group of one rollout is never mixed
        if several.any():
            self._learn_groups(index[several], outcomes[several])
        self._learn_rates(index, outcomes)
        self._fade()

    def _learn_groups(self, index: Integers, outcomes: Outcomes) -> None:
        self.group = int(np.sort(outcomes.scored)[len(index) // 2])
        mixed, ones = outcomes.mixed.astype(np.float64), np.ones(len(index))
        found = [np.log(np.where(mixed > 0, p, 1 - p)).sum() for p in np.clip(self._chances(index), 1e-6, 1 - 1e-6)]
        self.model_evidence = _faded(self.model_evidence, np.array(found))
        x, foretold = self.features[:, index].astype(np.float64), []
        for i in range(len(FADINGS), 2 * len(FADINGS)):
            mean, variance = self._linear(i, x)
            foretold.append(_sites(mean, variance + GROUP_RESIDUAL, ones, mixed)[2].sum())
            self._observe(i, x, 0.0 * ones, GROUP_RESIDUAL * ones, ones, mixed)
        self.group_evidence = _faded(self.group_evidence, np.array(foretold))

    def _learn_rates(self, index: Integers, outcomes: Outcomes) -> None:
        seen, inverse = np.unique(index[outcomes.scored > 0], return_inverse=True)
        columns = (outcomes.scored, outcomes.correct)
        summed: Floats = np.array([np.bincount(inverse, column[outcomes.scored > 0]) for column in columns])
        tried, solved = summed * np.minimum(1.0, MOST_ROLLOUTS / summed[0])
        x = self.features[:, seen].astype(np.float64)
        which, _ = self._best
        before = [self._linear(i, x) for i in range(len(FADINGS))]
        found = np.empty_like(self.evidence)
        for i, j in np.ndindex(found.shape):
            (mean, variance), (own_mean, own_variance) = before[i], self._residuals(seen, RESIDUALS[j])
            found[i, j] = _sites(mean + own_mean, variance + own_variance, tried, solved)[2].sum()
        taus = RESIDUALS[np.argmax(self.evidence, axis=1)]
        for i, tau in enumerate(taus):
            self._observe(i, x, *self._residuals(seen, tau), tried, solved)
        # What the rollouts tell of each prompt beyond what the weights, as they are now, predict.
        own_mean, own_variance = self._residuals(seen, taus[which])
        precision, centre, _ = _sites(before[which][0] + own_mean, before[which][1] + own_variance, tried, solved)
        mean, variance = self._linear(which, x)
        information, old = precision / (1.0 + precision * variance), self.own[seen].astype(np.float64)
        residual = (old * self.residual[seen] + information * (centre - mean)) / (old + information)
        self.own[seen] = np.clip(old + information, _LEAST_OWN, _MOST_OWN)
        self.residual[seen] = np.clip(residual, -_MOST_RESIDUAL, _MOST_RESIDUAL)
        self.evidence = _faded(self.evidence, found)

    def _observe(self, which: int, x: Floats, e: Floats, variance: Floats, tried: Floats, solved: Floats) -> None:
        """Take in n prompts' outcomes; features x (3+K, n), residuals e and their variance (n,), the others (n,)."""
        for start in range(0, len(tried), _CHUNK):
            part = slice(start, start + _CHUNK)
            mean, own = self._linear(which, x[:, part])
            precision, centre, _ = _sites(mean + e[part], own + variance[part], tried[part], solved[part])
            weight = precision / (1.0 + precision * variance[part])
            right = self.precision[which] @ self.mean[which] + x[:, part] @ (weight * (centre - e[part]))
            self.precision[which] += (x[:, part] * weight) @ x[:, part].T
            self.mean[which] = np.linalg.solve(self.precision[which], right)

    def _fade(self) -> None:
        """The weights forget; the intercept drifts."""
        fading = np.tile(FADINGS, 2)[:, None, None]
        right = fading * (self.precision @ self.mean[:, :, None])
        precision = fading * self.precision + (1.0 - fading) * self._prior
        self.mean[:] = np.linalg.solve(precision, right)[:, :, 0]
        column = precision[:, :, :1]
        self.precision = precision - DRIFT / (1.0 + DRIFT * column[:, :1]) * (column @ column.transpose(0, 2, 1))

    def metrics(self) -> dict[str, Any]:
        """Also of the last draw: mean predicted chance of a mixed group, mean expected pass rate, share explored.

        pass_rate_weight: of the model of pass rates in these predictions; fading, residual: λ and τ² in use.
        """
        if not len(self._last):
            return super().metrics()
        which, tau = self._best
        return {
            **super().metrics(),
            "expected_mixed": float(self._usefulness(self._last).mean()),
            "expected_accuracy": float(_expected_rate(*self._logits(self._last)).mean()),
            "explored": self._explored / len(self._last),
            "pass_rate_weight": self._share,
            "fading": float(FADINGS[which]),
            "residual": float(RESIDUALS[tau]),
        }


def _faded(evidence: Floats, found: Floats) -> Floats:
    """Fading log likelihoods with new ones added, the highest 0."""
    total: Floats = EVIDENCE_FADING * evidence + (found - found.max())
    total -= total.max()
    return total


def _sites(centre: Floats, variance: Floats, tried: Floats, solved: Floats) -> tuple[Floats, Floats, Floats]:
    """Precision J and centre z of the Gaussians that stand for the outcomes, and the outcomes' log evidence; all (n,).

    For η ~ N(centre, variance) and `solved` of `tried` rollouts, (n,) and perhaps fractional; by quadrature.
    """
    deviation = np.sqrt(variance)
    logits = centre[:, None] + deviation[:, None] * _NODES
    likelihood = solved[:, None] * logits - tried[:, None] * np.logaddexp(0.0, logits)
    top = likelihood.max(axis=1)
    weights = np.exp(likelihood - top[:, None]) * _DENSITY
    total = weights.sum(axis=1)
    mean, second = weights @ _NODES / total, weights @ _NODES**2 / total  # in deviations, around the centre
    narrowed = np.maximum(second - mean**2, 1e-9)
    precision = np.maximum((1.0 / narrowed - 1.0) / variance, 1e-6)
    return precision, centre + mean / narrowed / (deviation * precision), top + np.log(total / _DENSITY.sum())


def _chance_of_mixed(centre: Floats, variance: Floats, rollouts: int) -> Floats:
    """(n,) E 1 − p^t − (1 − p)^t for logits N(centre, variance), t rollouts, of which MOST_ROLLOUTS count."""
    deviation, alike = np.sqrt(variance), np.zeros(len(centre))
    for node, weight in zip(_FEW, _WEIGHTS, strict=True):
        rate = expit(centre + node * deviation)
        alike += weight * (rate ** min(rollouts, MOST_ROLLOUTS) + (1.0 - rate) ** min(rollouts, MOST_ROLLOUTS))
    return 1.0 - alike


def _expected_rate(mean: Floats, variance: Floats) -> Floats:
    """(n,) E σ(η), η ~ N(mean, variance): σ(a/√(1 + πb/8)) (MacKay 1992)."""
    rate: Floats = expit(mean / np.sqrt(1.0 + (math.pi / 8.0) * variance))
    return rate


def _features(prompts: Prompts, components: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """(3+K, M) features, and (M,) bool, which prompts have a direction (all, if no prompt has one).

    1; the position, √3·(1 − 2(r + ½)/M), 0 without a score; standardised ln(tokens + 1); the components, scaled to
    unit variance on average, 0 without a direction.
    """
    size, scored = len(prompts), np.isfinite(prompts.score)
    reduced, known = principal_components(prompts, components)
    values = np.zeros((3 + len(reduced), size), dtype=np.float32)
    values[0] = 1.0
    values[1, scored] = math.sqrt(3.0) * (1.0 - 2.0 * (prompts.position[scored] + 0.5) / scored.sum())
    lengths = np.log(prompts.tokens + 1.0)
    values[2] = (lengths - lengths.mean()) / max(lengths.std(), 1e-9)
    total = float(np.square(reduced, dtype=np.float64).sum()) / known.sum()
    values[3:] = reduced * math.sqrt(len(reduced) / max(total, 1e-30))
    return values, known
