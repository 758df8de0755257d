"""What all navigators share: which prompts an epoch trains on, by one contract.

    draw()             ids of the next epoch; the same ids again until something is observed
    ids, epoch         the epoch under way; reading them never moves anything
    spares             ids to fall back on in the epoch under way, in the order of their use
    observe(records)   one record per finished rollout of the epoch under way, in any number of calls
    observe_late(records)   rollouts of earlier epochs that come back only now (asynchronous trainers)
    rerank(ranking)    between epochs: the same prompts in another order of score
    metrics()          the epoch under way as one JSON-able object
    state_dict(), load_state_dict(state)

An epoch is under way from its draw until the next draw after something was observed: that draw completes the pending
move first.  A run that resumes in the middle of an epoch therefore loads the state and reads `ids`; a run that begins
an epoch calls `draw()`.  Every draw is a pure function of (ranking, settings, epoch, position): same state,
same prompts, on every process and after every resume.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from gainrl.curriculum import draw as drawing
from gainrl.curriculum import state as states
from gainrl.curriculum.outcomes import Outcomes
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
    reranks: ClassVar[bool] = False
    """Whether a new ranking of the same prompts means something for this kind of navigator."""

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
        self._late = Totals()
        self._outcomes = Outcomes()
        self._ranks: drawing.Ranks | None = None
        self._spares: list[str] | None = None
        self._members: frozenset[str] | None = None

    # What a kind of navigator decides.

    @abstractmethod
    def _pick(self) -> drawing.Ranks:
        """n distinct ranks for the epoch under way, (n,) int64, in the order of the draw."""

    @abstractmethod
    def _pick_spares(self) -> drawing.Ranks:
        """At most n further ranks for the epoch under way, none of them in `ranks`, in the order of their use."""

    @property
    def _remembers(self) -> bool:
        """Whether outcomes are kept for each prompt of the epoch, and not in sum alone."""
        return False

    def _move(self, totals: Totals, outcomes: Outcomes) -> None:  # noqa: B027 (many have nothing to move)
        """Take the consequences of a finished epoch; the epoch's number is still the finished one's.

        `outcomes` are empty unless the navigator remembers prompts.
        """

    def _reorder(self, old_rank: drawing.Ranks) -> None:  # noqa: B027
        """The prompt that is at rank r from now on was at `old_rank[r]`."""

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
        """Sums over what was observed since the draw of the epoch under way: what its move follows from."""
        return self._totals

    @property
    def late(self) -> Totals:
        """The part of `totals` that comes from prompts drawn for earlier epochs."""
        return self._late

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

    @property
    def spares(self) -> list[str]:
        """At most n ids that may take the place of some of the epoch's: distinct, none of them in `ids`."""
        if self._spares is None:
            self._spares = [self.ranking.ids[rank] for rank in self._pick_spares().tolist()]
            self._members = None
        return self._spares

    def draw(self) -> list[str]:
        """The ids of the next epoch, n of them; the same again until something is observed.

        If something was observed since the last draw, that epoch is over: the move that it earned is made first.
        """
        self._finish()
        return self.ids

    def _finish(self) -> None:
        """Make the pending move, if there is one."""
        if self._totals.rollouts:
            self._move(self._totals, self._outcomes)
            self._epoch += 1
            self._totals, self._late, self._outcomes = Totals(), Totals(), Outcomes()
            self._forget()

    def rerank(self, ranking: Ranking) -> None:
        """Go on over another ranking of the same prompts, from the next draw on; a pending move is made first.

        A window stays where it is among the ranks; what is remembered of a prompt goes with the prompt.  Raises
        UserError, changing nothing, if the prompts are not the same or the ranking means nothing to this navigator.
        """
        if not self.reranks:
            raise UserError(f"the navigator {self.kind!r} does not draw by score: a new ranking would change nothing")
        if ranking.fingerprint != self.ranking.fingerprint or sorted(ranking.ids) != sorted(self.ranking.ids):
            raise UserError("a new ranking must have the prompts of the old one; these are of another dataset")
        self._finish()
        self._reorder(np.array([self.ranking.rank_of(name) for name in ranking.ids], dtype=np.int64))
        self.ranking = ranking
        self._forget()

    def observe(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add rollouts of the epoch under way: records {id, correct, scored, angle, reward, tokens}.

        All or none of them are added.  Raises UserError for a malformed record (see `Totals.from_records`) and for a
        prompt that is not part of the epoch.
        """
        records = list(records)
        totals = Totals.from_records(records)
        if self._members is None:
            self._members = frozenset(self.ids) | frozenset(self._spares or ())
        for record in records:
            if record["id"] not in self._members:
                raise UserError(f"prompt {record['id']!r} was observed but is not part of epoch {self._epoch}")
        self._totals = self._totals + totals
        if self._remembers:
            for record in records:
                self._outcomes.add(self.ranking.rank_of(record["id"]), record)

    def observe_late(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add rollouts of prompts that were drawn for an earlier epoch, whose move is made already.

        They have their say in the next move and in what is remembered of their prompts; `metrics` of the epoch under
        way leave them out.  All or none of them are added.  Raises UserError for a malformed record and for a prompt
        that is not in the ranking.
        """
        records = list(records)
        totals = Totals.from_records(records)
        ranks = [self.ranking.rank_of(record["id"]) for record in records]
        self._totals, self._late = self._totals + totals, self._late + totals
        if self._remembers:
            for rank, record in zip(ranks, records, strict=True):
                self._outcomes.add(rank, record, late=True)

    def observe_totals(self, totals: Totals) -> None:
        """Add sums that were made elsewhere, such as `Totals` reduced over processes.

        Raises UserError if this navigator remembers prompts, of which sums say nothing.
        """
        if self._remembers:
            raise UserError(
                f"the navigator {self.kind!r} remembers what each prompt came to, which sums do not tell: "
                "hand the records themselves to observe()"
            )
        self._totals = self._totals + totals

    def metrics(self) -> dict[str, Any]:
        """The epoch under way: its number, its draw, means over what was observed of it so far (None where undefined).

        `ranks` are the lowest rank drawn, the 10, 50 and 90 % quantiles, and the highest.  What came late from earlier
        epochs is not in these numbers (see `late`), except where they tell of the next move.
        """
        totals = self._totals - self._late
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
        outcomes = self._outcomes if self._remembers else None
        return states.pack(
            self.kind, self.ranking, self._settings(), self._epoch, self._position(), self._totals, self._late, outcomes
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; `ids` are then those of the epoch that was under way.

        Raises UserError, changing nothing, if the state has unknown or missing fields, or is of another version,
        navigator, dataset, ranking or setting; the message names what differs.
        """
        epoch, position, totals, late, outcomes = states.unpack(
            state, self.kind, self.ranking, self._settings(), self._position(), self._remembers
        )
        self._restore(position)
        self._epoch, self._totals, self._late, self._outcomes = epoch, totals, late, outcomes or Outcomes()
        self._forget()

    def _forget(self) -> None:
        self._ranks = None
        self._spares = None
        self._members = None


def _whole(name: str, value: object) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise UserError(f"{name} must be an integer, got {value!r}")
