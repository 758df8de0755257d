"""Prompts in order of score: rank 0 has the highest score, ties go by id, prompts without a score come last.

The curriculum works on ranks 0…N−1 alone; this is where a rank and the id of its prompt meet.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gainrl.errors import UserError


class Ranking:
    """A dataset's prompts, sorted once.

    ids: N distinct, non-empty strings.
    scores: (N,) floating; NaN or infinite means that the prompt has no score.
    fingerprint: names the dataset (`gainrl.table.fingerprint`); a saved state is only loaded into a ranking with
        the same one.

    `ids` holds the ids in rank order, `scores` (N,) float64 the scores in rank order (NaN at the end),
    `undefined` how many have none.  Sorting is O(N log N), once; nothing later scans the dataset.

    Raises UserError for repeated or empty ids, unequal lengths, or no prompt at all.
    """

    def __init__(self, ids: Sequence[str], scores: npt.ArrayLike, fingerprint: str) -> None:
        names = list(ids)
        values = np.array(scores, dtype=np.float64)
        if not names:
            raise UserError("cannot rank an empty dataset: there are no ids")
        if values.shape != (len(names),):
            raise UserError(f"{len(names)} ids need {len(names)} scores, got an array of shape {values.shape}")
        if len(set(names)) != len(names):
            repeated = [name for name, count in Counter(names).items() if count > 1]
            raise UserError(
                f"{len(repeated)} ids occur more than once, first {repeated[0]!r}: "
                "every prompt needs an id of its own (gainrl.table.content_ids makes them)"
            )
        if "" in names:
            raise UserError(f"the prompt in row {names.index('')} has an empty id")
        values[~np.isfinite(values)] = np.nan
        # Sorting by id first and then stably by score breaks ties by id; NumPy sorts NaN last.
        by_id = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
        order = by_id[np.argsort(-values[by_id], kind="stable")]
        self.ids: list[str] = [names[i] for i in order.tolist()]
        self.scores: npt.NDArray[np.float64] = values[order]
        self.scores.flags.writeable = False
        self.undefined = int(np.isnan(values).sum())
        self.fingerprint = fingerprint
        self._digest: str | None = None
        self._rank_of: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digest(self) -> str:
        """Identity of the order itself: 32 hex digits of a SHA-256 over the ids in rank order, newline-ended."""
        if self._digest is None:
            rolling = hashlib.sha256()
            for name in self.ids:
                rolling.update(name.encode() + b"\n")
            self._digest = rolling.hexdigest()[:32]
        return self._digest

    def rank_of(self, name: str) -> int:
        """The rank of an id; UserError if the ranking does not have it."""
        if self._rank_of is None:
            self._rank_of = {name: rank for rank, name in enumerate(self.ids)}
        try:
            return self._rank_of[name]
        except KeyError:
            raise UserError(f"the ranking of {len(self)} prompts has no id {name!r}") from None
