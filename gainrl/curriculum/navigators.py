"""Navigators: which prompts an epoch trains on.  One contract for all of them.

    draw()             ids of the next epoch; the same ids again until something is observed
    ids, epoch         the epoch under way; reading them never moves anything
    observe(records)   one record per finished rollout of the epoch under way, in any number of calls
    metrics()          the epoch under way as one JSON-able object
    state_dict(), load_state_dict(state)

An epoch is under way from its draw until the next draw after something was observed: that draw completes the pending
move first.  A run that resumes in the middle of an epoch therefore loads the state and reads `ids`; a run that begins
an epoch calls `draw()`.  Every draw is a pure function of (ranking, settings, epoch, position): same state,
same prompts, on every process and after every resume.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from gainrl.curriculum import draw as drawing
from gainrl.curriculum import state as states
from gainrl.curriculum.controller import Position, WindowSettings, step
from gainrl.curriculum.ranking import Ranking
from gainrl.curriculum.totals import Totals
from gainrl.errors import UserError

ORDERS = ("rank", "draw", "shuffled")


class Navigator(ABC):
    """What all navigators share: the epoch's life, the sums, the order, the state.

    ranking: the prompts by rank.  n: prompts per epoch, 1 <= n <= N.  seed: in [0, 2^64).
    order: how an epoch's prompts follow one another: by `rank` (as published), in the order of the `draw`, or
        `shuffled`.

    Raises UserError for values outside these.
    """

    kind: ClassVar[str]

    def __init__(self, ranking: Ranking, n: int, *, order: str = "rank", seed: int = 0) -> None:
        _whole("n", n)
        _whole("seed", seed)
        if n > len(ranking):
            raise UserError(
                f"cannot draw n = {n} distinct prompts of the {len(ranking)} in the ranking: "
                f"lower n to {len(ranking)} or less"
            )
        if n < 1:
            raise UserError(f"n must be at least 1, got {n}")
        if order not in ORDERS:
            raise UserError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
        if not 0 <= seed < 2**64:
            raise UserError(f"seed must be in [0, 2^64), got {seed}")
        self.ranking = ranking
        self.n = int(n)
        self.order = order
        self.seed = int(seed)
        self._epoch = 0
        self._totals = Totals()
        self._ranks: drawing.Ranks | None = None
        self._members: frozenset[str] | None = None

    # What a kind of navigator decides.

    @abstractmethod
    def _pick(self) -> drawing.Ranks:
        """n distinct ranks for the epoch under way, (n,) int64, in the order of the draw."""

    def _move(self, totals: Totals) -> None:  # noqa: B027 (most navigators have nothing to move)
        """Take the consequences of a finished epoch; the epoch's number is still the finished one's."""

    def _position(self) -> dict[str, Any]:
        """What the draw depends on besides settings and epoch, as plain JSON types."""
        return {}

    def _restore(self, position: Mapping[str, Any]) -> None:  # noqa: B027 (nor anything to restore)
        """Take over a position; raise UserError, before anything has changed, if it is impossible."""

    def _settings(self) -> dict[str, Any]:
        """Every setting that draws depend on, as plain JSON types."""
        return {"n": self.n, "order": self.order, "seed": self.seed}

    def _describe(self) -> dict[str, Any]:
        """Metrics of this kind of navigator."""
        return {}

    # The contract.

    @property
    def epoch(self) -> int:
        """Number of the epoch under way, from 0."""
        return self._epoch

    @property
    def totals(self) -> Totals:
        """Sums over what was observed in the epoch under way."""
        return self._totals

    @property
    def ranks(self) -> drawing.Ranks:
        """Ranks of the epoch under way in training order, (n,) int64."""
        if self._ranks is None:
            ranks = self._pick()
            if self.order == "rank":
                ranks = np.sort(ranks)
            elif self.order == "shuffled":
                ranks = drawing.shuffled(ranks, seed=self.seed, epoch=self._epoch)
            ranks.flags.writeable = False
            self._ranks = ranks
        return self._ranks

    @property
    def ids(self) -> list[str]:
        """Ids of the epoch under way in training order."""
        return [self.ranking.ids[rank] for rank in self.ranks.tolist()]

    def draw(self) -> list[str]:
        """The ids of the next epoch, n of them; the same again until something is observed.

        If something was observed since the last draw, that epoch is over: the move that it earned is made first.
        """
        if self._totals.rollouts:
            self._move(self._totals)
            self._epoch += 1
            self._totals = Totals()
            self._forget()
        return self.ids

    def observe(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add rollouts of the epoch under way: records {id, correct, scored, angle, reward, tokens}.

        All or none of them are added.  Raises UserError for a malformed record (see `Totals.from_records`) and for a
        prompt that is not part of the epoch.
        """
        records = list(records)
        totals = Totals.from_records(records)
        if self._members is None:
            self._members = frozenset(self.ids)
        for record in records:
            if record["id"] not in self._members:
                raise UserError(f"prompt {record['id']!r} was observed but is not part of epoch {self._epoch}")
        self.observe_totals(totals)

    def observe_totals(self, totals: Totals) -> None:
        """Add sums that were made elsewhere, such as `Totals` reduced over processes."""
        self._totals = self._totals + totals

    def metrics(self) -> dict[str, Any]:
        """The epoch under way: its number, its draw, means over what was observed so far (None where undefined).

        `ranks` are the lowest rank drawn, the 10, 50 and 90 % quantiles, and the highest.
        """
        totals = self._totals
        low, tenth, middle, ninetieth, high = np.quantile(self.ranks, [0.0, 0.1, 0.5, 0.9, 1.0]).tolist()
        return {
            "navigator": self.kind,
            "epoch": self._epoch,
            "accuracy": totals.accuracy,
            "angle": totals.angle,
            "reward": totals.reward,
            "prompts": self.n,
            "rollouts": totals.rollouts,
            "scored": totals.scored,
            "tokens": totals.tokens,
            "ranks": {"min": int(low), "p10": tenth, "median": middle, "p90": ninetieth, "max": int(high)},
            "undefined_drawn": int(np.count_nonzero(self.ranks >= len(self.ranking) - self.ranking.undefined)),
            **self._describe(),
        }

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON types (gainrl.curriculum.state): what the epoch under way came from, and its sums."""
        return states.pack(self.kind, self.ranking, self._settings(), self._epoch, self._position(), self._totals)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; `ids` are then those of the epoch that was under way.

        Raises UserError, changing nothing, if the state has unknown or missing fields, or is of another version,
        navigator, dataset, ranking or setting; the message names what differs.
        """
        epoch, position, totals = states.unpack(state, self.kind, self.ranking, self._settings(), self._position())
        self._restore(position)
        self._epoch, self._totals = epoch, totals
        self._forget()

    def _forget(self) -> None:
        self._ranks = None
        self._members = None


def _whole(name: str, value: object) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise UserError(f"{name} must be an integer, got {value!r}")


class GaussianNavigator(Navigator):
    """GAIN-RL's curriculum: a Gaussian window over the ranks whose mean moves on as the policy learns.

    `window` holds σ, α, β, the starting mean and `at_end` (see `WindowSettings`).  An epoch without a scored rollout,
    or without a single angle, leaves the mean where it is and says so in the metric `held`.
    """

    kind = "gaussian"

    def __init__(
        self,
        ranking: Ranking,
        n: int,
        window: WindowSettings | None = None,
        *,
        order: str = "rank",
        seed: int = 0,
    ) -> None:
        super().__init__(ranking, n, order=order, seed=seed)
        self.window = WindowSettings() if window is None else window
        if self.window.mean > len(ranking) - 1:
            raise UserError(f"the starting mean {self.window.mean} lies beyond the last rank, {len(ranking) - 1}")
        self.sigma = self.window.width(len(ranking))
        self._at = Position(float(self.window.mean))

    @property
    def mean(self) -> float:
        """Mean of the epoch under way, in ranks."""
        return self._at.mean

    def _pick(self) -> drawing.Ranks:
        sigma = math.inf if self._at.uniform else self.sigma
        return drawing.draw_ranks(self.n, len(self.ranking), self._at.mean, sigma, seed=self.seed, epoch=self._epoch)

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

    def _move(self, totals: Totals) -> None:
        self._at = self._next(totals)

    def _position(self) -> dict[str, Any]:
        return {"mean": self._at.mean, "uniform": self._at.uniform}

    def _restore(self, position: Mapping[str, Any]) -> None:
        mean, uniform = position["mean"], position["uniform"]
        if not isinstance(mean, float) or not 0 <= mean <= len(self.ranking) - 1:
            raise UserError(f"curriculum state: mean must be a float from 0 to {len(self.ranking) - 1}, got {mean!r}")
        if not isinstance(uniform, bool):
            raise UserError(f"curriculum state: uniform must be true or false, got {uniform!r}")
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
        }


class UniformNavigator(Navigator):
    """The baseline: every epoch n distinct prompts, all equally likely."""

    kind = "uniform"

    def _pick(self) -> drawing.Ranks:
        return drawing.draw_ranks(self.n, len(self.ranking), 0.0, math.inf, seed=self.seed, epoch=self._epoch)


class FixedNavigator(Navigator):
    """The ranking in order: epoch e takes the n ranks from e·n on, starting over at the last rank."""

    kind = "fixed"

    def _pick(self) -> drawing.Ranks:
        start = self._epoch * self.n
        return np.array([(start + i) % len(self.ranking) for i in range(self.n)], dtype=np.int64)


class ShortestFirstNavigator(FixedNavigator):
    """Shortest questions first, then in order: hand it `shortest_first_ranking`."""

    kind = "shortest-first"


def shortest_first_ranking(ids: list[str], question_tokens: Iterable[int], fingerprint: str) -> Ranking:
    """A ranking by length: rank 0 has the fewest question tokens, ties by id."""
    return Ranking(ids, [-float(tokens) for tokens in question_tokens], fingerprint)


NAVIGATORS: dict[str, type[Navigator]] = {
    kind.kind: kind for kind in (GaussianNavigator, UniformNavigator, FixedNavigator, ShortestFirstNavigator)
}
"""By the name that a configuration gives."""
