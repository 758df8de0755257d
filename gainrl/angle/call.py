"""The contract between the public function and the backends: `run(call: AngleCall) -> Outputs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from gainrl.angle.result import Status

BAD = int(Status.NON_FINITE | Status.INVALID_ROLE | Status.INVALID_OFFSETS)
"""Flags under which every field of the sequence is NaN."""


@dataclass(slots=True)
class AngleCall:
    """Checked arguments of one call: shapes, dtypes and devices agree.

    Values are never checked by a backend: what is wrong with them goes into `Outputs.counts[0]`.
    """

    hidden: Any
    """(T, D) packed or (B, L, D) padded."""
    cu_seqlens: Any
    """(B+1,), or None for padded rows."""
    token_role: Any
    """(T,) or (B, L)."""
    shared_sum: Any = None
    """(D,) float32, or None."""
    shared_tokens: int = 0
    diagonal: bool = True
    directions: bool = False
    """Whether (B, D) float32 `U_q / ‖U_q‖` is wanted."""
    sums: bool = False
    """Whether (B, D) float32 `U_p + U_q` is wanted, the shared prefix included (what `shared_prefix` keeps)."""

    @property
    def padded(self) -> bool:
        """Whether rows are (B, L, D)."""
        return self.cu_seqlens is None

    @property
    def sequences(self) -> int:
        """B."""
        batch = self.token_role.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1
        return int(batch)

    @property
    def width(self) -> int:
        """D."""
        return int(self.hidden.shape[-1])


class Outputs(NamedTuple):
    """What a backend returns; an output that is not wanted is None."""

    values: Any
    """(4, B) float32: intra, inter, score, whole."""
    counts: Any
    """(3, B) int32: status, question rows, prefix rows."""
    directions: Any = None
    sums: Any = None


def empty_outputs(call: AngleCall, empty: Any, floats: Any, integers: Any, **options: Any) -> Outputs:
    """Outputs of the right shapes, not filled, made by `empty` (of torch or NumPy)."""
    batch = call.sequences
    values, counts = empty((4, batch), dtype=floats, **options), empty((3, batch), dtype=integers, **options)
    if not (call.directions or call.sums):
        return Outputs(values, counts)
    vectors = (
        empty((batch, call.width), dtype=floats, **options) if on else None for on in (call.directions, call.sums)
    )
    return Outputs(values, counts, *vectors)
