"""What each prompt of the epoch under way came to: sums per prompt, for the navigators that remember prompts.

Sums are integers, so that the order of the observations and their split over calls and processes do not matter.
Credit is summed in units of 1/256, rounded down: only a rollout of full credit (within 2^-20) counts 256.
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
_FIELDS = ("ranks", "rollouts", "scored", "credit")


class Outcomes:
    """Rollouts, scored rollouts and credit of every prompt observed in the epoch, by rank."""

    def __init__(self) -> None:
        self._sums: dict[int, tuple[int, int, int]] = {}

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, rank: int, record: Mapping[str, Any]) -> None:
        """Add one rollout record of the prompt at `rank`; the record has been checked (`Totals.from_records`)."""
        rollouts, scored, credit = self._sums.get(rank, (0, 0, 0))
        if record["scored"]:
            scored += 1
            credit += round(float(record["correct"]) * 2**20) * CREDIT >> 20
        self._sums[rank] = (rollouts + 1, scored, credit)

    def columns(self) -> tuple[Integers, Integers, Integers, Integers]:
        """Ranks in ascending order, and their rollouts, scored rollouts and credit in units of 1/256; each (m,)."""
        rows = [(rank, *self._sums[rank]) for rank in sorted(self._sums)]
        table = np.array(rows, dtype=np.int64).reshape(len(rows), 4)
        return table[:, 0], table[:, 1], table[:, 2], table[:, 3]

    def reordered(self, new_rank: Integers) -> Outcomes:
        """The same outcomes where the prompt of rank r has moved to `new_rank[r]`."""
        moved = Outcomes()
        moved._sums = {int(new_rank[rank]): sums for rank, sums in self._sums.items()}
        return moved

    def state(self) -> dict[str, Any]:
        """As JSON types."""
        ranks, *sums = self.columns()
        steps = np.diff(ranks, prepend=0)
        texts = [to_text(column, "<u4") for column in (steps, *sums)]
        return {"size": len(ranks), **dict(zip(_FIELDS, texts, strict=True))}

    @classmethod
    def from_state(cls, state: Any, size: int) -> Outcomes:
        """From `state()`, over a ranking of `size` prompts; UserError if it is none."""
        wanted = {"size", *_FIELDS}
        if not isinstance(state, Mapping) or set(state) != wanted:
            raise UserError(f"curriculum state: the outcomes of the epoch need the fields {sorted(wanted)}")
        count = state["size"]
        if not isinstance(count, int) or not 0 <= count <= size:
            raise UserError(f"curriculum state: outcomes of {count!r} prompts in a ranking of {size}")
        steps, rollouts, scored, credit = (from_text(state[name], "<u4", count, name) for name in _FIELDS)
        ranks = np.cumsum(steps)
        possible = (scored <= rollouts) & (credit <= CREDIT * scored) & (ranks < size) & (rollouts > 0)
        if not possible.all() or (count and len(np.unique(ranks)) < count):
            raise UserError("curriculum state: the outcomes of the epoch contradict themselves")
        outcomes = cls()
        rows = zip(*(column.tolist() for column in (ranks, rollouts, scored, credit)), strict=True)
        outcomes._sums = {rank: (a, b, c) for rank, a, b, c in rows}
        return outcomes
