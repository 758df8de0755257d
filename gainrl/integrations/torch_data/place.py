"""How far into an epoch a sampler is: which of the epoch's prompts, in the order of the draw, are behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gainrl.errors import UserError


class Place:
    """The prompts that are gone, of the n of an epoch, and how many repeats of the first that is not."""

    FIELDS = ("done", "ahead", "repeated")

    def __init__(self, n: int) -> None:
        self.gone = np.zeros(n, dtype=np.bool_)
        self.repeated = 0

    @classmethod
    def from_state(cls, state: Mapping[str, Any], n: int, repeats: int) -> Place:
        """The place that `state_dict` told; UserError if an epoch of n prompts, `repeats` times each, has no such."""
        done, ahead, repeated = (state[name] for name in cls.FIELDS)
        whole = all(type(number) is int for number in (done, repeated, *ahead))
        if not (whole and 0 <= done <= n and 0 <= repeated < repeats and all(done < i < n for i in ahead)):
            raise UserError(
                f"the state was made {done} prompts and {repeated} repeats into an epoch (and has {len(ahead)} prompts "
                f"further on), of which this sampler has {n} and {repeats}"
            )
        place = cls(n)
        place.gone[:done] = place.gone[ahead] = True
        place.repeated = repeated
        return place

    def state_dict(self) -> dict[str, Any]:
        """As JSON types: `done` at the beginning, the positions of those beyond (`ahead`), and the repeats."""
        done = len(self.gone) if self.gone.all() else int(np.argmin(self.gone))
        return {"done": done, "ahead": (np.flatnonzero(self.gone[done:]) + done).tolist(), "repeated": self.repeated}

    @property
    def rest(self) -> list[int]:
        """Positions of the prompts that are left, in the order of the draw."""
        positions: list[int] = np.flatnonzero(~self.gone).tolist()
        return positions

    def add(self, positions: Iterable[int]) -> None:
        """These are gone, too."""
        self.gone[list(positions)] = True
        self.repeated = 0

    def copy(self) -> Place:
        """An equal place that moves on alone."""
        place = Place(len(self.gone))
        place.gone[:], place.repeated = self.gone, self.repeated
        return place
