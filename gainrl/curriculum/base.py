"""The contract of all navigators: draw rows, observe what came of them, resume.

    navigator.draw(n)                        n distinct rows of the score table
    navigator.observe(outcomes, angle=None)  groups that have finished: at any time, in any order, of any draw
    navigator.metrics(), navigator.predicted(rows)
    navigator.state_dict(), navigator.load_state_dict(state)

A draw first learns all that was observed since the draw before, at once: how observations are split over calls does not
matter.  Metrics and predictions are those of the last draw.

A navigator of one's own is a subclass with a `name`, a dataclass of `Settings`, and one method, `race`; if it learns,
also `learn`, and `STATE`, the names of the attributes that it resumes from: see `examples/custom_navigator.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gainrl.curriculum.prompts import Floats, Integers, Outcomes, Prompts, check_number
from gainrl.errors import UserError


@dataclass(frozen=True)
class NoSettings:
    """Nothing to set."""


class Navigator(ABC):
    """Decides which prompts are drawn.

    prompts: M prompts.  settings: an instance of `Settings`, None for the defaults.  seed: of the random numbers, >= 0.
    quota: by source, the largest share of a draw, in [0, 1]; n prompts may have ceil(share·n) of the source.  Raises
    UserError for a quota that names no source of `prompts`, or whose shares cannot fill a draw.
    """

    name: ClassVar[str]
    """As the registry and the state call it."""
    needs_angle: ClassVar[bool] = False
    """Whether `observe` needs the mean angle concentration of the rollouts."""
    Settings: ClassVar[type] = NoSettings
    """A frozen dataclass of plain values, whose `__post_init__` raises UserError for values out of range."""
    STATE: ClassVar[tuple[str, ...]] = ()
    """Attributes that a resumed run continues from: int, float, bool, or numeric arrays of fixed shape."""

    def __init__(
        self, prompts: Prompts, settings: Any = None, *, seed: int = 0, quota: Mapping[str, float] | None = None
    ) -> None:
        check_number("seed", seed, 0, 2**64 - 1, whole=True)
        self.prompts = prompts
        self.settings = self.Settings() if settings is None else settings
        self.rng = np.random.Generator(np.random.Philox(seed))
        self.draws = 0
        """Draws so far."""
        self._pending = np.empty((0, 6))
        """(g, 6) groups since the last draw: the columns of `Outcomes` in their order, and the angle."""
        self._last: Integers = np.empty(0, dtype=np.int64)
        self._bounds = _bounds(prompts, quota or {})

    # What a navigator decides.

    @abstractmethod
    def race(self, n: int) -> Floats:
        """(M,) arrival times for a draw of n prompts: the earliest are drawn, as far as the quota allows."""

    def learn(self, index: Integers, outcomes: Outcomes, angle: Floats) -> None:  # noqa: B027 (need not learn)
        """Take in the groups since the last draw, g of them, at least one.

        index: (g,) indices into the M prompts, parallel to `outcomes`; one may occur several times.  angle: (g,) mean
        over the rollouts of the call that observed the group, NaN if unknown.
        """

    def predicted(self, rows: npt.ArrayLike) -> Floats | None:
        """(n,) chances that a group of these rows is mixed; None for a navigator that predicts none."""
        return None

    def expected_accuracy(self, rows: npt.ArrayLike) -> Floats | None:
        """(n,) expected pass rates of these rows; None for a navigator that predicts none."""
        return None

    # What all share.

    def draw(self, n: int) -> Integers:
        """(n,) int64 distinct rows, the earliest of the race first.  UserError if there are fewer than n to draw."""
        check_number("n", n, 1, math.inf, whole=True)
        if n > len(self.prompts):
            raise UserError(f"cannot draw {n} distinct prompts of {len(self.prompts)}: lower the prompts per draw")
        if len(self._pending):
            outcomes = _outcomes(self._pending)
            self.learn(self.prompts.index(outcomes.row), outcomes, self._pending[:, 5])
            self._pending = np.empty((0, 6))
        times = self._within_quota(self.race(n), n)
        first = np.argpartition(times, n - 1)[:n]
        self._last = first[np.argsort(times[first], kind="stable")]
        self.draws += 1
        return self.prompts.rows[self._last]

    def observe(self, outcomes: Outcomes, angle: float | None = None) -> None:
        """Take in finished groups of this or any earlier draw.

        angle: mean angle concentration of their rollouts; None or NaN if it was not measured.  Nothing changes if no
        rollout was scored.  UserError, changing nothing, for a row that is not among the prompts.
        """
        self.prompts.index(outcomes.row)
        if outcomes.scored.any():
            angles = np.full(len(outcomes), math.nan if angle is None or not math.isfinite(angle) else angle)
            columns = [getattr(outcomes, item.name) for item in dataclasses.fields(outcomes)]
            self._pending = np.concatenate([self._pending, np.stack([*columns, angles], axis=1)])

    def metrics(self) -> dict[str, Any]:
        """Flat and JSON-able; of the last draw: 10, 50 and 90 % quantiles of its positions in the ranking."""
        if not len(self._last):
            return {"draws": self.draws}
        low, middle, high = np.quantile(self.prompts.position[self._last], [0.1, 0.5, 0.9]).tolist()
        return {"draws": self.draws, "position_p10": low, "position_median": middle, "position_p90": high}

    def state_dict(self) -> dict[str, Any]:
        """What the next draws follow from: plain values and NumPy arrays, which are copies."""
        own = {name: np.copy(x) if isinstance(x := getattr(self, name), np.ndarray) else x for name in self.STATE}
        return {
            "navigator": self.name,
            "fingerprint": self.prompts.fingerprint,
            "prompts": len(self.prompts),
            "ranking": self.prompts.digest(),
            "settings": json.loads(json.dumps(dataclasses.asdict(self.settings), default=float)),  # lists for tuples
            "draws": self.draws,
            "random": _random_state(self.rng),
            "pending": self._pending,
            **own,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; the next draw is the one that would have followed.

        Raises UserError, changing nothing, for missing or unknown fields, for values of another kind, and for a state
        of another navigator, score table or settings.
        """
        now = self.state_dict()
        theirs, mine = state.get("navigator"), now["navigator"]
        if theirs != mine:
            raise UserError(f"the state is of the navigator {theirs!r}, this run uses {mine!r}: choose {theirs!r}")
        missing, unknown = sorted(now.keys() - state.keys()), sorted(map(str, state.keys() - now.keys()))
        if missing or unknown:
            raise UserError(f"the curriculum's state does not fit: missing fields {missing}, unknown fields {unknown}")
        for field, what in (
            ("fingerprint", "another score table"),
            ("prompts", "another number of prompts"),
            ("ranking", "other rows or scores"),
            ("settings", "other settings of the navigator"),
        ):
            if state[field] != now[field]:
                raise UserError(f"the state is of {what}: {field} was {state[field]!r} and is now {now[field]!r}")
        pending = np.array(state["pending"])
        if pending.ndim != 2 or pending.shape[1] != 6 or pending.dtype != np.float64:
            raise UserError(
                f"the curriculum's state: pending must be (g, 6) float64, got {pending.dtype} {pending.shape}"
            )
        self.prompts.index(_outcomes(pending).row)
        loaded = {name: _like(now[name], state[name], name) for name in ("draws", "random", *self.STATE)}
        _set_random_state(self.rng, loaded.pop("random"))
        for name, value in loaded.items():
            setattr(self, name, value)
        self._pending, self._last = pending, np.empty(0, dtype=np.int64)

    def _within_quota(self, times: Floats, n: int) -> Floats:
        """The arrival times, infinite for prompts that come too late for their source's share of n."""
        if not self._bounds:
            return times
        times = np.array(times, dtype=np.float64)
        allowed = len(times)
        for _, share, members in self._bounds:
            most = math.ceil(share * n - 1e-9)
            if most < len(members):
                order = np.argpartition(times[members], most)
                times[members[order[most:]]] = math.inf
                allowed -= len(members) - most
        if allowed < n:
            shares = ", ".join(f"{name} {share:g} of {len(members)}" for name, share, members in self._bounds)
            raise UserError(f"the quota ({shares}) allows {allowed} prompts in a draw of {n}: raise a share")
        return times


def unknown_name(what: str, given: object, known: Collection[str]) -> UserError:
    """The error for a name that is not among the known ones, with the nearest of them."""
    if not known:
        return UserError(f"{what} {given!r}: there are none")
    near = difflib.get_close_matches(str(given), list(known), n=1, cutoff=0.0)[0]
    return UserError(f"{what} {given!r}: the nearest is {near!r} (of {', '.join(known)})")


def _bounds(prompts: Prompts, quota: Mapping[str, float]) -> list[tuple[str, float, Integers]]:
    """Name, share and members of each source that has a bound."""
    if not quota:
        return []
    if prompts.sources is None:
        raise UserError("quota needs the source of each prompt: name the dataset's column in group_by")
    sources = np.asarray(prompts.sources, dtype=np.str_)
    names = np.unique(sources).tolist()
    quota = {str(name): share for name, share in quota.items()}  # YAML reads level 1 as a number
    for name, share in quota.items():
        if name not in names:
            raise unknown_name("quota names an unknown source,", name, names)
        check_number(f"quota of {name!r}", share, 0, 1)
    if set(names) == set(quota) and (total := sum(quota.values())) < 1 - 1e-9:
        raise UserError(f"quota: the shares of all sources sum to {total:g} and cannot fill a draw: raise them to 1")
    return [(name, float(share), np.flatnonzero(sources == name)) for name, share in quota.items()]


def _outcomes(pending: Floats) -> Outcomes:
    row, rollouts, scored = pending[:, :3].T.astype(np.int64)
    return Outcomes(row, rollouts, scored, pending[:, 3], pending[:, 4] > 0)


def _random_state(rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    """(13,) uint64: counter, key, buffer and its position, and the half word of a Philox generator."""
    state: Any = rng.bit_generator.state
    words = [state["state"]["counter"], state["state"]["key"], state["buffer"]]
    rest = [state["buffer_pos"], state["has_uint32"], state["uinteger"]]
    return np.concatenate([*words, np.array(rest, dtype=np.uint64)])


def _set_random_state(rng: np.random.Generator, words: npt.NDArray[np.uint64]) -> None:
    rng.bit_generator.state = {
        "bit_generator": "Philox",
        "state": {"counter": words[:4], "key": words[4:6]},
        "buffer": words[6:10],
        "buffer_pos": int(words[10]),
        "has_uint32": int(words[11]),
        "uinteger": int(words[12]),
    }


def _like(now: Any, saved: Any, name: str) -> Any:
    """The saved value as the kind of the present one; UserError unless it is of that kind, shape and finite."""
    have, want = np.asarray(saved), np.asarray(now)
    numeric = have.dtype.kind in "biuf" and (have.dtype.kind == want.dtype.kind or want.dtype.kind == "f")
    if not numeric or have.shape != want.shape or not np.isfinite(have).all():
        raise UserError(
            f"the curriculum's state: {name} must be finite {want.dtype} of shape {want.shape}, "
            f"got {have.dtype} {have.shape}"
        )
    return have.astype(want.dtype) if isinstance(now, np.ndarray) else type(now)(saved)
