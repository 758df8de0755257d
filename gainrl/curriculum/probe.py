"""A probe on the directions: which prompts' groups will tell rewards apart, learnt from the rollouts of training.

A GRPO group whose rewards are all equal teaches nothing.  Two models predict from a prompt's features x_r
(gainrl.curriculum.features), known before training, whether its group's rewards will differ ("spread"):

    of pass rates   the pass rate has the logit  η_r = x_rᵀw + e_r,  and the group spreads with chance
                    E 1 − p^t − (1 − p)^t, t rollouts.  Finds the band of middling prompts where difficulty is a matter
                    of degree along some direction (lengths, sizes of numbers)
    of spread       spreading itself has the logit  x_rᵀu.  Finds the kinds of prompts that are between mastered and
                    hopeless where these kinds stand in no order, which the first model cannot express

Weights are Gaussian and forget (gainrl.curriculum.logistic).  The residual e_r ~ N(0, τ²) is what the features do not
tell of a prompt's pass rate.  A prompt tried before is judged by its own rollouts: with information J_r (the
precision of what they said, fading) and their mean residual ē_r,

    e_r | own rollouts ~ N( v_r J_r ē_r, v_r ),   v_r = 1/(1/τ² + J_r)

and since it is the residual that is kept, practice that raises the weights' prediction raises it for such a prompt too.
The second model knows kinds of prompts only, not single ones.

Draw: a prompt's usefulness is its chance of spread, the two models' chances weighted by how well each foretold the
groups that came (Bayesian model averaging with fading evidence).  It is small where the prompt is known to be mastered
or hopeless, and middling where little is known.  The epoch's prompts are drawn one after another without replacement,
each with probability proportional to usefulness^SHARPNESS (as a race of exponential clocks, see
gainrl.curriculum.draw), so that draws follow what is useful without being the same few prompts over and over; a
prompt that was drawn rests for REST epochs.  A share `explore` of the epoch is drawn uniformly from all prompts
instead: none starves, and what is known of the pool does not come from the useful prompts alone.  Prompts without a
direction are drawn in that share only, until they have been tried.

Fading λ and τ² are not settings.  A filter for each λ in FADINGS runs along, each outcome is first predicted by each
with each τ² in RESIDUALS, and the pair with the highest (fading) evidence makes the next draw; likewise the λ of the
spread's weights.

Settings frozen: the constants below were chosen on the development families of benchmarks/convergence; its held-out
families had no part in it.

Without directions (K = 0) ranking and length are all that the models see.

A draw is O(N·K²) elementwise operations and bit for bit the same on every machine (gainrl.curriculum.portable).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import draw as drawing
from gainrl.curriculum import philox, portable
from gainrl.curriculum.arrays import floats_from_text, floats_to_text, from_text, to_text
from gainrl.curriculum.base import Navigator
from gainrl.curriculum.features import PromptFeatures
from gainrl.curriculum.logistic import (
    MOST_ROLLOUTS,
    LogisticFilter,
    calibration,
    chance_of_spread,
    expected_rate,
    log_likelihood,
    sites,
)
from gainrl.curriculum.outcomes import CREDIT, Columns, Outcomes
from gainrl.curriculum.ranking import Ranking
from gainrl.curriculum.totals import Totals
from gainrl.errors import UserError

FADINGS = (0.8, 0.95, 0.99)
RESIDUALS = (0.25, 1.0, 4.0, 12.0)
"""τ², squared logits."""
SHARPNESS = 1.5
"""Power of the usefulness in the chance to be drawn."""
REST = 4
"""Epochs that a prompt rests after it was drawn, where no more than a quarter of all prompts then rest."""
_USUAL = (1, 2)  # where evidence begins
_HEAD_START = 1.0  # nats
_EVIDENCE_FADING = 0.9
_DRIFT = 0.01  # growth of the intercept's variance, an epoch
_INTERCEPT, _SIDE, _SPREAD = 4.0, 0.5, 6.0
"""Prior variances, squared logits: intercept; slopes on ranking and length; all components together."""
_OWN_FADING = 0.98

_SPREAD_RESIDUAL = 1.0
"""Variance of what the features do not tell of a prompt's spread, squared logits."""
_GROUP = 8  # rollouts of a group until one of at least two was seen

_MODEL = 2
"""Part of the state: another number where other constants or formulas would make other draws of it."""

_RACE, _EXPLORE = 17, 18  # purposes of streams (those of draw_ranks, lot 1, which this never draws)

# A prompt's own information J in one byte: 0 for none, else 2^((c−1)/16)/64, from 1/64 to 939, 4.4 % apart.
_STEPS, _UNIT = 16, 1.0 / 64.0
_LEVELS = _UNIT * portable.exp(np.arange(-1, 255) * (0.6931471805599453 / _STEPS))
_LEVELS[0] = 0.0
_CENTRE, _GRAIN = 32768, 1.0 / 1024.0  # ē in two bytes

Floats = npt.NDArray[np.float64]


class ProbeNavigator(Navigator):
    """Draws prompts by the predicted chance that their groups' rewards differ; see the module's docstring.

    features: of the prompts of this ranking.  explore: share of an epoch that is drawn uniformly, in [0, 1].  Raises
    UserError for values outside it, and for features of another ranking.
    """

    kind = "probe"

    def __init__(
        self,
        ranking: Ranking,
        n: int,
        features: PromptFeatures,
        *,
        explore: float = 0.1,
        order: str = "rank",
        seed: int = 0,
    ) -> None:
        super().__init__(ranking, n, order=order, seed=seed)
        if not (_is_number(explore) and 0 <= explore <= 1):
            raise UserError(f"explore must be a share of the epoch, in [0, 1], got {explore!r}")
        if len(features.known) != len(ranking):
            raise UserError(f"features of {len(features.known)} prompts for a ranking of {len(ranking)}")
        self.features = features
        self.explore = float(explore)
        size = 3 + features.components
        variance = np.full(size, _SPREAD / max(features.components, 1))
        variance[:3] = _INTERCEPT, _SIDE, _SIDE
        self._filters = [LogisticFilter(np.zeros(size), variance, fading, _DRIFT) for fading in FADINGS]
        self._spread = [LogisticFilter(np.zeros(size), variance, fading, _DRIFT) for fading in FADINGS]
        self._spread_evidence = np.array([-_HEAD_START, 0.0, -_HEAD_START])
        self._weight = np.zeros(2)
        """Fading log likelihoods of the groups' spreading under the two models, the highest 0."""
        self._group = _GROUP
        self._evidence = np.full((len(FADINGS), len(RESIDUALS)), -_HEAD_START)
        self._evidence[_USUAL] = 0.0
        self._own = np.zeros(len(ranking), dtype=np.int64)  # codes of J
        self._residual = np.full(len(ranking), _CENTRE, dtype=np.int64)  # ē
        self._resting = np.zeros(len(ranking), dtype=np.int64)  # epochs that a prompt still rests
        self._chosen: tuple[drawing.Ranks, drawing.Ranks] | None = None  # nearest first, and the explored
        self._prompts_tried: int | None = None
        self._expected = self._useful = math.nan

    # -- what is known of prompts ---------------------------------------------------------------------------

    @property
    def _best(self) -> tuple[int, int]:
        """Filter and residual variance of the highest evidence."""
        at = int(np.argmax(self._evidence))
        return at // len(RESIDUALS), at % len(RESIDUALS)

    def _residuals(self, ranks: npt.NDArray[np.int64] | slice, tau: float) -> tuple[Floats, Floats]:
        """Mean and variance of these prompts' residuals."""
        information = _LEVELS[self._own[ranks]]
        variance = 1.0 / (1.0 / tau + information)
        mean = variance * information * ((self._residual[ranks] - _CENTRE) * _GRAIN)
        return mean, variance + np.where(self.features.known[ranks], 0.0, _SPREAD)

    def _logits(self, ranks: npt.NDArray[np.int64] | slice) -> tuple[Floats, Floats]:
        """Mean and variance of these prompts' logits."""
        which, tau = self._best
        mean, variance = self._filters[which].predict(self.features.values[:, ranks])
        own_mean, own_variance = self._residuals(ranks, RESIDUALS[tau])
        return mean + own_mean, variance + own_variance

    def _chances(self, ranks: npt.NDArray[np.int64] | slice) -> tuple[Floats, Floats]:
        """Chances of spread by the two models: of pass rates, of spread."""
        mean, variance = self._spread[int(np.argmax(self._spread_evidence))].predict(self.features.values[:, ranks])
        return (
            chance_of_spread(*self._logits(ranks), self._group),
            expected_rate(mean, variance + _SPREAD_RESIDUAL),
        )

    def _usefulness(self, ranks: npt.NDArray[np.int64] | slice) -> Floats:
        """Both models' chances, weighted by their evidence."""
        first, second = self._chances(ranks)
        share = self._share
        return share * first + (1.0 - share) * second

    @property
    def _share(self) -> float:
        """Share of the model of pass rates in the usefulness: all of it until a group told the other one anything."""
        if not self._spread[0].mean.any():
            return 1.0
        return float(portable.sigmoid(self._weight[:1] - self._weight[1:])[0])

    # -- the draw -------------------------------------------------------------------------------------------

    def _order(self) -> tuple[drawing.Ranks, drawing.Ranks]:
        if self._chosen is None:
            size = len(self.ranking)
            value = np.empty(size)
            for start in range(0, size, 4096):
                part = slice(start, start + 4096)
                value[part] = np.maximum(self._usefulness(part), 1e-30)
            words = philox.Stream(self.seed, self._epoch, _RACE).words(0, size)
            clocks = portable.log(-portable.log(philox.uniform(words)))  # of unit exponentials
            order = np.argsort(clocks - SHARPNESS * portable.log(value), kind="stable")
            late = np.where(self.features.known | (self._own > 0), self._resting, 256)
            best = order[np.argsort(late[order], kind="stable")]
            words = philox.Stream(self.seed, self._epoch, _EXPLORE).words(0, size)
            explored = np.argsort(words, kind="stable")[: self._to_explore()]
            best = best[~np.isin(best, explored)]
            self._chosen = best.astype(np.int64), explored.astype(np.int64)
        return self._chosen

    def _to_explore(self) -> int:
        """How many prompts of the epoch under way are drawn uniformly: of a small epoch one in some epochs."""
        share = self.explore * self.n
        if round(share) >= 1:
            return round(share)
        return math.floor((self._epoch + 1) * share) - math.floor(self._epoch * share)

    def _pick(self) -> drawing.Ranks:
        best, explored = self._order()
        return np.concatenate([best[: self.n - len(explored)], explored])

    def _pick_spares(self) -> drawing.Ranks:
        best, explored = self._order()
        start = self.n - len(explored)
        return best[start : start + self.n]

    # -- what an epoch teaches ------------------------------------------------------------------------------

    @property
    def _remembers(self) -> bool:
        return True

    def _move(self, totals: Totals, outcomes: Outcomes) -> None:
        drawn = self.ranks  # some may not have come back yet (asynchronous trainers)
        ranks, tried, solved = _outcomes(outcomes.columns())
        self._fade_own()
        self._resting = np.maximum(self._resting - 1, 0)
        self._resting[np.union1d(drawn, outcomes.own()[0])] = min(REST, len(self.ranking) // (4 * self.n))
        if len(ranks):
            self._learn_spread(outcomes)
            which, _ = self._best
            x = self.features.values[:, ranks].astype(np.float64)
            found = np.zeros_like(self._evidence)
            before = [each.predict(x) for each in self._filters]
            for i, j in np.ndindex(*found.shape):
                mean, variance = before[i]
                own_mean, own_variance = self._residuals(ranks, RESIDUALS[j])
                seen = sites(mean + own_mean, variance + own_variance, tried, solved)
                found[i, j] = float(portable.ordered_sum(seen.evidence))
            for i, each in enumerate(self._filters):
                tau = RESIDUALS[int(np.argmax(self._evidence[i]))]
                each.observe(x, *self._residuals(ranks, tau), tried, solved)
            self._learn_own(ranks, x, which, before[which], tried, solved)
            self._evidence = _EVIDENCE_FADING * self._evidence + (found - found.max())
            self._evidence -= self._evidence.max()
        for each in (*self._filters, *self._spread):
            each.fade()

    def _learn_spread(self, outcomes: Outcomes) -> None:
        """Which groups had both right and wrong rollouts; before anything else is learnt of the epoch.

        Groups of the epoch under way alone: what came late may be part of one.  The sums of partial credit do not say
        whether a group's rewards were alike, so that such an epoch teaches pass rates only.
        """
        ranks, _, scored, credit = outcomes.own()
        groups = scored > 1
        if outcomes.partial or not groups.any():
            return
        ranks, right = ranks[groups], credit[groups] // CREDIT
        spread = ((right > 0) & (right < scored[groups])).astype(np.float64)
        sizes = np.sort(scored[groups])
        self._group = int(sizes[len(sizes) // 2])
        found = [log_likelihood(chances, spread) for chances in self._chances(ranks)]
        self._weight = _EVIDENCE_FADING * self._weight + np.array(found)
        self._weight -= self._weight.max()
        x, ones = self.features.values[:, ranks].astype(np.float64), np.ones(len(ranks))
        seen = [sites(mean, variance + _SPREAD_RESIDUAL, ones, spread).evidence
                for mean, variance in (each.predict(x) for each in self._spread)]  # fmt: skip
        told = np.array([float(portable.ordered_sum(one)) for one in seen])
        self._spread_evidence = _EVIDENCE_FADING * self._spread_evidence + (told - told.max())
        self._spread_evidence -= self._spread_evidence.max()
        for each in self._spread:
            each.observe(x, 0.0 * ones, _SPREAD_RESIDUAL * ones, ones, spread)

    def _learn_own(
        self, ranks: drawing.Ranks, x: Floats, which: int, before: tuple[Floats, Floats], tried: Floats, solved: Floats
    ) -> None:
        """What the rollouts say of each prompt beyond what the weights, as they are now, predict."""
        tau = RESIDUALS[int(np.argmax(self._evidence[which]))]
        own_mean, own_variance = self._residuals(ranks, tau)
        seen = sites(before[0] + own_mean, before[1] + own_variance, tried, solved)
        mean, variance = self._filters[which].predict(x)
        information = seen.precision / (1.0 + seen.precision * variance)
        old = _LEVELS[self._own[ranks]]
        centre = (self._residual[ranks] - _CENTRE) * _GRAIN
        centre = (old * centre + information * (seen.centre - mean)) / (old + information)
        self._own[ranks] = np.clip(np.searchsorted(_LEVELS, old + information, side="right") - 1, 1, 255)
        self._residual[ranks] = np.clip(np.rint(centre / _GRAIN), -32767, 32767).astype(np.int64) + _CENTRE

    def _fade_own(self) -> None:
        """Codes are logarithms: one less is 4.4 % less information."""
        rate = -_STEPS * float(portable.log(_OWN_FADING)) / 0.6931471805599453
        steps = math.floor((self._epoch + 1) * rate) - math.floor(self._epoch * rate)
        self._own = np.maximum(self._own - steps, 0)
        self._residual[self._own == 0] = _CENTRE

    # -- state and metrics ----------------------------------------------------------------------------------

    def _position(self) -> dict[str, Any]:
        return {
            "own": to_text(self._own, "<u1"),
            "residual": to_text(self._residual, "<u2"),
            "resting": to_text(self._resting, "<u1"),
            "evidence": floats_to_text(self._evidence.ravel()),
            "weights": [floats_to_text(each.state()) for each in (*self._filters, *self._spread)],
            "spread": floats_to_text(np.concatenate([self._spread_evidence, self._weight])),
            "group": self._group,
        }

    def _restore(self, position: Mapping[str, Any]) -> None:
        size = len(self.ranking)
        own = from_text(position["own"], "<u1", size, "own")
        residual = from_text(position["residual"], "<u2", size, "residual")
        if (residual[own == 0] != _CENTRE).any():
            raise UserError("curriculum state: a prompt without rollouts of its own has a residual")
        resting = from_text(position["resting"], "<u1", size, "resting")
        if (resting > REST).any():
            raise UserError("curriculum state: a prompt rests longer than any does")
        evidence = floats_from_text(position["evidence"], self._evidence.size, "evidence")
        spread = floats_from_text(position["spread"], len(FADINGS) + 2, "spread")
        weights, filters, group = position["weights"], [*self._filters, *self._spread], position["group"]
        if not isinstance(weights, list) or len(weights) != len(filters):
            raise UserError(f"curriculum state: weights must be a list of {len(filters)}")
        if isinstance(group, bool) or not isinstance(group, int) or group < 2:
            raise UserError(f"curriculum state: groups of {group!r} rollouts")
        states = [
            each.checked(floats_from_text(text, each.size, "weights"))
            for each, text in zip(filters, weights, strict=True)
        ]
        self._own, self._residual, self._resting = own, residual, resting
        self._evidence = evidence.reshape(self._evidence.shape)
        self._spread_evidence, self._weight, self._group = spread[: len(FADINGS)], spread[len(FADINGS) :], group
        for each, state in zip(filters, states, strict=True):
            each.restore(state)

    def _settings(self) -> dict[str, Any]:
        return {
            **super()._settings(),
            "model": _MODEL,
            "explore": self.explore,
            "components": self.features.components,
            "features": self.features.digest,
        }

    def _forget(self) -> None:
        super()._forget()
        self._chosen = None
        self._prompts_tried = None

    def _describe(self) -> dict[str, Any]:
        """What the epoch was expected to be, and how true that is of what was observed so far.

        tried: prompts of whose rollouts something is remembered; expected: mean pass rate predicted for the draw;
        useful: mean predicted chance that its groups' rewards differ; by_pass_rate: share of the model of pass rates
        in that, the rest is the model of spread's; explored: share of the draw that is uniform; fading and residual:
        λ and τ² of the draw; of the observed prompts: correlation of predicted and observed pass rates, log_loss of
        the predictions, in nats a rollout, and constant_log_loss, of the observed mean for all (None where undefined).
        """
        which, tau = self._best
        if self._prompts_tried is None:  # asked for at every step
            self._prompts_tried = int(np.count_nonzero(self._own))
            self._expected = float(np.mean(self._pass_rates(self.ranks)))
            self._useful = float(np.mean(self._usefulness(self.ranks)))
        ranks, tried, solved = _outcomes(self._outcomes.columns())
        return {
            "tried": self._prompts_tried,
            "expected": self._expected,
            "useful": self._useful,
            "by_pass_rate": self._share,
            "explored": len(self._order()[1]) / self.n,
            "fading": FADINGS[which],
            "residual": RESIDUALS[tau],
            **calibration(self._pass_rates(ranks), tried, solved),
        }

    def _pass_rates(self, ranks: npt.NDArray[np.int64]) -> Floats:
        """Expected pass rates."""
        return expected_rate(*self._logits(ranks))


def _outcomes(columns: Columns) -> tuple[drawing.Ranks, Floats, Floats]:
    """Ranks with a scored rollout, rollouts tried and solved (fractional), of which MOST_ROLLOUTS count."""
    ranks, _, scored, credit = columns
    some = scored > 0
    ranks, tried, solved = ranks[some], scored[some].astype(np.float64), credit[some] / CREDIT
    share = np.minimum(1.0, MOST_ROLLOUTS / tried)
    return ranks, tried * share, solved * share


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
