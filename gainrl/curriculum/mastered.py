"""Prompts that are solved in full again and again rest for a while: no rollouts are spent on what is known.

A prompt of which every rollout was scored and fully correct in k epochs in a row rests for `rest` epochs, in which it
is drawn only if fewer than n others are awake.  When it is drawn again and solved in full again, it rests again
at once; else its count starts anew.  Rollouts that come back after their epoch (`Navigator.observe_late`) count as an
epoch of their own, before the one in which they come: a group should come back whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum.arrays import from_text, to_text
from gainrl.curriculum.outcomes import CREDIT, Outcomes
from gainrl.errors import UserError

MAX_STREAK, MAX_REST = 255, 65535

Integers = npt.NDArray[np.int64]


class Mastered:
    """The streaks and rests of N prompts, by rank.

    times: k, full solutions in a row after which a prompt rests, 1 to 255.  rest: epochs that it rests, 1 to 65535.
    Raises UserError for values outside these.
    """

    def __init__(self, size: int, times: int, rest: int) -> None:
        for name, value, most in (("skip_mastered", times, MAX_STREAK), ("mastered_rest", rest, MAX_REST)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= most:
                raise UserError(f"{name} must be an integer from 1 to {most}, got {value!r}")
        self.times = int(times)
        self.rest = int(rest)
        self._streak: Integers = np.zeros(size, dtype=np.int64)
        self._left: Integers = np.zeros(size, dtype=np.int64)  # epochs that a prompt still rests

    @property
    def resting(self) -> int:
        """How many prompts rest in the epoch under way."""
        return int(np.count_nonzero(self._left))

    def awake_first(self, ranks: Integers) -> Integers:
        """The ranks that are awake, in their order; after them the resting ones, those that rest longest already first.

        A draw of n is the first n of these: prompts only rest where n others can take their place.
        """
        return ranks[np.argsort(self._left[ranks], kind="stable")]

    def finish(self, outcomes: Outcomes) -> None:
        """Take the consequences of a finished epoch."""
        self._left = np.maximum(self._left - 1, 0)
        for ranks, rollouts, scored, credit in (outcomes.late(), outcomes.own()):
            full = (scored == rollouts) & (credit == CREDIT * scored)
            # a streak stays at k: after the rest one full solution is enough
            self._streak[ranks] = np.where(full, np.minimum(self._streak[ranks] + 1, self.times), 0)
            self._left[ranks] = np.where(self._streak[ranks] == self.times, self.rest, 0)

    def reorder(self, old_rank: Integers) -> None:
        """The prompt that is now at rank r was at `old_rank[r]`."""
        self._streak, self._left = self._streak[old_rank], self._left[old_rank]

    def state(self) -> dict[str, str]:
        """As JSON types: three bytes a prompt at most, before base64."""
        return {"streak": to_text(self._streak, "<u1"), "rest": to_text(self._left, "<u2")}

    def restore(self, state: Any) -> None:
        """From `state()`; UserError, changing nothing, if it is none."""
        if not isinstance(state, Mapping) or set(state) != {"streak", "rest"}:
            raise UserError("curriculum state: mastered prompts need the fields streak and rest")
        streak = from_text(state["streak"], "<u1", len(self._streak), "streak")
        left = from_text(state["rest"], "<u2", len(self._left), "rest")
        if streak.max() > self.times or left.max() > self.rest:
            raise UserError("curriculum state: a prompt's streak or rest is longer than the settings allow")
        self._streak, self._left = streak, left
