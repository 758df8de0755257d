"""What each prompt of the epoch under way came to: sums per prompt, for the navigators that remember prompts.

Sums are integers, so that the order of the observations and their split over calls and processes do not matter.
Credit is summed in units of 1/256, rounded down: only a rollout of full credit (within 2^-20) counts 256.

Rollouts of prompts that were drawn for an earlier epoch (`Navigator.observe_late`) are kept apart: what a prompt came
to in that epoch is not what it came to in this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum.arrays import from_text, to_text
from gainrl.errors import UserError

CREDIT = 256
"""Units of one rollout solved in full."""

Integers = npt.NDArray[np.int64]
Columns = tuple[Integers, Integers, Integers, Integers]
Sums = dict[int, tuple[int, int, int]]
_FIELDS = ("ranks", "rollouts", "scored", "credit")


class Outcomes:
    """Rollouts, scored rollouts and credit of every prompt observed in the epoch, by rank."""

    partial = False
    """Whether a rollout of the epoch's own prompts had partial credit."""

    def __init__(self) -> None:
        self._own: Sums = {}
        self._late: Sums = {}

    def __len__(self) -> int:
        return len(self._own.keys() | self._late.keys())

    def add(self, rank: int, record: Mapping[str, Any], *, late: bool = False) -> None:
        """Add one rollout record of the prompt at `rank`; the record has been checked (`Totals.from_records`)."""
        sums = self._late if late else self._own
        rollouts, scored, credit = sums.get(rank, (0, 0, 0))
        if record["scored"]:
            scored += 1
            earned = round(float(record["correct"]) * 2**20) * CREDIT >> 20
            credit += earned
            self.partial = self.partial or (not late and earned not in (0, CREDIT))
        sums[rank] = (rollouts + 1, scored, credit)

    def columns(self) -> Columns:
        """Ranks in ascending order, and their rollouts, scored rollouts and credit in units of 1/256; each (m,)."""
        if not self._late:
            return _columns(self._own)
        both = dict(self._own)
        for rank, late in self._late.items():
            rollouts, scored, credit = both.get(rank, (0, 0, 0))
            both[rank] = (rollouts + late[0], scored + late[1], credit + late[2])
        return _columns(both)

    def own(self) -> Columns:
        """As `columns`, of the prompts drawn for this epoch alone."""
        return _columns(self._own)

    def late(self) -> Columns:
        """As `columns`, of the prompts drawn for an earlier epoch alone."""
        return _columns(self._late)

    def state(self) -> dict[str, Any]:
        """As JSON types; `late` is null where nothing came late, `partial` there where it is true."""
        late = {"late": _state(self._late) if self._late else None}
        return {**_state(self._own), **late, **({"partial": True} if self.partial else {})}

    @classmethod
    def from_state(cls, state: Any, size: int) -> Outcomes:
        """From `state()`, over a ranking of `size` prompts; UserError if it is none."""
        wanted = {"size", "late", *_FIELDS}
        if not isinstance(state, Mapping) or set(state) - {"partial"} != wanted:
            raise UserError(f"curriculum state: the outcomes of the epoch need the fields {sorted(wanted)}")
        outcomes = cls()
        outcomes._own = _sums(state, size)
        outcomes.partial = state.get("partial", False) is True
        if (late := state["late"]) is not None:
            if not isinstance(late, Mapping) or set(late) != wanted - {"late"}:
                raise UserError(f"curriculum state: late outcomes need the fields {sorted(wanted - {'late'})}")
            outcomes._late = _sums(late, size)
        return outcomes


def _columns(sums: Sums) -> Columns:
    rows = [(rank, *sums[rank]) for rank in sorted(sums)]
    table = np.array(rows, dtype=np.int64).reshape(len(rows), 4)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


def _state(sums: Sums) -> dict[str, Any]:
    ranks, *others = _columns(sums)
    steps = np.diff(ranks, prepend=0)
    texts = [to_text(column, "<u4") for column in (steps, *others)]
    return {"size": len(ranks), **dict(zip(_FIELDS, texts, strict=True))}


def _sums(state: Mapping[str, Any], size: int) -> Sums:
    count = state["size"]
    if not isinstance(count, int) or not 0 <= count <= size:
        raise UserError(f"curriculum state: outcomes of {count!r} prompts in a ranking of {size}")
    steps, rollouts, scored, credit = (from_text(state[name], "<u4", count, name) for name in _FIELDS)
    ranks = np.cumsum(steps)
    possible = (scored <= rollouts) & (credit <= CREDIT * scored) & (ranks < size) & (rollouts > 0)
    if not possible.all() or (count and len(np.unique(ranks)) < count):
        raise UserError("curriculum state: the outcomes of the epoch contradict themselves")
    rows = zip(*(column.tolist() for column in (ranks, rollouts, scored, credit)), strict=True)
    return {rank: (a, b, c) for rank, a, b, c in rows}
