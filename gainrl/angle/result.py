"""What the op returns, and the contract of its backends: `run(call: AngleCall) -> AngleConcentration`."""

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


BAD = int(Status.NON_FINITE | Status.INVALID_ROLE | Status.INVALID_OFFSETS)
"""Flags under which every field of the sequence is NaN."""


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

    intra = property(lambda self: self.values[0])
    """(B,) float32 `‖U_q‖² / q²`; without the diagonal `(‖U_q‖² − q) / (q(q−1))`."""
    inter = property(lambda self: self.values[1])
    """(B,) float32 `U_q·U_p / (q·p)`, NaN where q or p is 0."""
    score = property(lambda self: self.values[2])
    """(B,) float32 `intra + inter`; `intra` alone when no sequence of the call has a prefix."""
    whole = property(lambda self: self.values[3])
    """(B,) float32 mean over the whole sequence, `‖U_p + U_q‖² / (p+q)²` (with or without the diagonal)."""
    status = property(lambda self: self.counts[0])
    """(B,) int32 flags of `Status`."""
    question_tokens = property(lambda self: self.counts[1])
    """(B,) int32 q, the non-zero question rows."""
    prefix_tokens = property(lambda self: self.counts[2])
    """(B,) int32 p, the non-zero prefix rows, those of the shared prefix included."""


@dataclass(frozen=True, slots=True, eq=False)
class SharedPrefix:
    """The sum of a prefix that all sequences of a call share, computed once by `shared_prefix`."""

    sum: Any
    """(D,) float32 `U_p`."""
    tokens: int
    """Its non-zero rows."""


@dataclass(slots=True)
class AngleCall:
    """Checked arguments of one call.  What is wrong with their values, a backend puts into the result's status."""

    hidden: Any  # (T, D) packed or (B, L, D) padded
    cu_seqlens: Any  # (B+1,), or None for padded rows
    token_role: Any  # (T,) or (B, L)
    shared_sum: Any = None  # (D,) float32, or None
    shared_tokens: int = 0
    diagonal: bool = True
    directions: bool = False

    @property
    def sequences(self) -> int:
        """B."""
        return int(self.token_role.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1)


def new_result(call: AngleCall, make: Any, floats: Any, integers: Any, **options: Any) -> AngleConcentration:
    """A result of the right shapes for a backend to fill, made by `make` (`empty` or `zeros` of torch or NumPy)."""
    batch, width = call.sequences, call.hidden.shape[-1]
    return AngleConcentration(
        make((4, batch), dtype=floats, **options),
        make((3, batch), dtype=integers, **options),
        make((batch, width), dtype=floats, **options) if call.directions else None,
    )


def question_sums(result: AngleConcentration) -> Any:
    """(B, D) float32 `U_q`, zero where undefined, of a result with directions whose `intra` has the diagonal."""
    norms = result.intra**0.5
    norms *= result.question_tokens
    norms[norms != norms] = 0.0  # NaN
    return result.directions * norms[:, None]
