"""What the op returns: per-sequence values, counts and status flags."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Any


class Status(IntFlag):
    """Flags of one sequence in `AngleConcentration.status` (0: every field is defined)."""

    OK = 0
    EMPTY_QUESTION = 1
    """No non-zero question row: `intra`, `inter` and `score` are NaN."""
    EMPTY_PREFIX = 2
    """No non-zero prefix row: `inter` is NaN; so is `score`, unless no sequence of the call has a prefix."""
    TOO_FEW_ROWS = 4
    """Without the diagonal, fewer than two non-zero question rows (`intra`) or rows at all (`whole`): NaN."""
    NON_FINITE = 8
    """A prefix or question row holds NaN or infinity: every field of this sequence is NaN."""
    INVALID_ROLE = 16
    """A role other than 0, 1 and 2: every field of this sequence is NaN."""
    INVALID_OFFSETS = 32
    """`cu_seqlens` decreases or leaves [0, T], so no row has a certain owner: every field of every sequence is NaN."""


@dataclass(frozen=True, slots=True, eq=False)
class AngleConcentration:
    """Angle concentration of B sequences: torch tensors for torch input, NumPy arrays for other host arrays.

    Nothing here has been copied to the host: reading a value of a CUDA result is what synchronises.
    """

    values: Any
    """(4, B) float32: rows `intra`, `inter`, `score`, `whole`."""
    counts: Any
    """(3, B) int32: rows `status`, `question_tokens`, `prefix_tokens`."""
    directions: Any = None
    """(B, D) float32 `U_q / ‖U_q‖` (zero where undefined), or None when not asked for."""

    @property
    def intra(self) -> Any:
        """(B,) float32 `‖U_q‖² / q²`; without the diagonal `(‖U_q‖² − q) / (q(q−1))`."""
        return self.values[0]

    @property
    def inter(self) -> Any:
        """(B,) float32 `U_q·U_p / (q·p)`, NaN where q or p is 0."""
        return self.values[1]

    @property
    def score(self) -> Any:
        """(B,) float32 `intra + inter`; `intra` alone when no sequence of the call has a prefix."""
        return self.values[2]

    @property
    def whole(self) -> Any:
        """(B,) float32 mean over the whole sequence, `‖U_p + U_q‖² / (p+q)²` (with or without the diagonal)."""
        return self.values[3]

    @property
    def status(self) -> Any:
        """(B,) int32 flags of `Status`."""
        return self.counts[0]

    @property
    def question_tokens(self) -> Any:
        """(B,) int32 q, the non-zero question rows."""
        return self.counts[1]

    @property
    def prefix_tokens(self) -> Any:
        """(B,) int32 p, the non-zero prefix rows, those of the shared prefix included."""
        return self.counts[2]


@dataclass(frozen=True, slots=True, eq=False)
class SharedPrefix:
    """The sum of a prefix that all sequences of a call share, computed once by `shared_prefix`."""

    sum: Any
    """(D,) float32 `U_p`."""
    tokens: int
    """Its non-zero rows."""
