"""What navigators read: the prompts that can be drawn, and the outcomes of the groups that were generated for them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.errors import UserError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Blocks = Callable[[], Iterator[tuple[slice | Integers, npt.NDArray[Any]]]]
"""Yields (which of the M prompts, their (m, D) directions), each prompt at most once; called anew for each pass."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts that can be drawn, M of them; raises UserError for arrays that do not fit together.

    rows: (M,) distinct row numbers of the score table.  score: (M,) floating; a prompt without a finite one ranks last.
    tokens: (M,) question tokens.  directions: None, (M, D) floating, or `Blocks` where they do not fit into memory;
    a row with a non-finite entry is a prompt without a direction.  fingerprint: of the score table.  sources: M names.
    """

    rows: Integers
    score: Floats
    tokens: Integers
    directions: npt.NDArray[Any] | Blocks | None = None
    fingerprint: str = ""
    sources: Sequence[str] | None = None
    position: Integers = field(init=False)
    """(M,) int64 positions in the ranking: 0 has the highest score, ties go by row."""
    _by_row: Integers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows, tokens = whole("rows", self.rows), whole("tokens", self.tokens)
        score = np.array(self.score, dtype=np.float64).reshape(-1)
        if not len(rows):
            raise UserError("there is no prompt to draw: every row was skipped, failed or filtered out")
        for name in ("score", "tokens", "directions", "sources"):
            column = getattr(self, name)
            if column is not None and not callable(column) and len(column) != len(rows):
                raise UserError(f"{len(rows)} rows need as many entries in {name}, got {len(column)}")
        by_row = np.argsort(rows, kind="stable")
        repeated = np.flatnonzero(np.diff(rows[by_row]) == 0)
        if len(repeated):
            raise UserError(f"row {rows[by_row[repeated[0]]]} occurs twice: rows must be distinct")
        if min(rows.min(), tokens.min()) < 0:
            raise UserError("rows and tokens must not be negative")
        score[~np.isfinite(score)] = np.nan
        position = np.empty(len(rows), dtype=np.int64)
        position[np.lexsort((rows, -score))] = np.arange(len(rows))
        columns = {"rows": rows, "score": score, "tokens": tokens, "position": position, "_by_row": by_row}
        for name, value in columns.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.rows)

    def index(self, rows: npt.ArrayLike) -> Integers:
        """(n,) indices of these rows among the M prompts; UserError for a row that is not among them."""
        wanted = whole("rows", rows)
        at = np.searchsorted(self.rows, wanted, sorter=self._by_row)
        found = self._by_row[np.minimum(at, len(self) - 1)]
        unknown = wanted[self.rows[found] != wanted]
        if len(unknown):
            raise UserError(f"row {unknown[0]} is not among the {len(self)} prompts that can be drawn")
        return found

    def digest(self) -> str:
        """16 hex digits of a hash over rows, scores and tokens."""
        rolling = hashlib.sha256()
        for column in (self.rows, self.score, self.tokens):
            rolling.update(column.tobytes())
        return rolling.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Finished groups, one entry each, in any order; a row may occur several times.

    row: (g,) rows of the score table.  rollouts: (g,) generated.  scored: (g,) of them graded.  correct: (g,) sum of
    the scored rollouts' accuracies, each in [0, 1].  mixed: (g,) bool, whether the group's rewards differ.

    Raises UserError for columns of unequal length, and for a group that contradicts itself, naming its row.
    """

    row: Integers
    rollouts: Integers
    scored: Integers
    correct: Floats
    mixed: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        for name in ("row", "rollouts", "scored"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        object.__setattr__(self, "correct", np.array(self.correct, dtype=np.float64).reshape(-1))
        object.__setattr__(self, "mixed", np.array(self.mixed, dtype=np.bool_).reshape(-1))
        lengths = {item.name: len(getattr(self, item.name)) for item in fields(self)}
        if len(set(lengths.values())) != 1:
            raise UserError(f"the columns of outcomes must have equal lengths, got {lengths}")
        possible = (self.scored >= 0) & (self.scored <= self.rollouts)
        possible &= (self.correct >= -1e-6) & (self.correct <= self.scored + 1e-6)  # false where it is NaN
        if not possible.all():
            at = int(np.argmin(possible))
            raise UserError(
                f"row {self.row[at]}: a group needs 0 <= correct <= scored <= rollouts, "
                f"got {self.correct[at]:g}, {self.scored[at]}, {self.rollouts[at]}"
            )

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, which: slice | Integers | npt.NDArray[np.bool_]) -> Outcomes:
        return Outcomes(*(getattr(self, item.name)[which] for item in fields(self)))


def whole(name: str, values: npt.ArrayLike) -> Integers:
    """`values` as (n,) int64; UserError unless they are whole numbers."""
    given = np.asarray(values)
    if given.ndim != 1 or (len(given) and given.dtype.kind not in "iu"):
        raise UserError(f"{name} must be one-dimensional and integer, got {given.dtype} {given.shape}")
    return given.astype(np.int64)


def check_number(
    name: str, value: object, low: float, high: float, *, whole: bool = False, exclusive: bool = False
) -> None:
    """UserError by `name` unless `value` is a number from `low` to `high`, the bounds themselves excluded if asked."""
    number = isinstance(value, (int, np.integer) if whole else (int, float, np.number)) and not isinstance(value, bool)
    if number and (low < value < high if exclusive else low <= value <= high):  # type: ignore[operator]
        return
    kind = "an integer" if whole else "a finite number" if exclusive else "a number"
    lower = f"above {low:g}" if exclusive else f"at least {low:g}"
    upper = "" if high == math.inf else f" and below {high:g}" if exclusive else f" and at most {high:g}"
    raise UserError(f"{name} must be {kind}, {lower}{upper}, got {value!r}")
