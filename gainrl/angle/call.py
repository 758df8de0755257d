"""The contract between the public function and the backends: `angle(call: AngleCall) -> Outputs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from gainrl.angle.result import Status

DIRECTIONS = 1
"""Bit of `wanted`: (B, D) float32 `U_q / ‖U_q‖`."""
CONTRIBUTIONS = 2
"""Bit of `wanted`: float32 in the shape of `token_role`."""
SUMS = 4
"""Bit of `wanted`: (B, D) float32 `U_p + U_q`, the shared prefix included (what `shared_prefix` keeps)."""

TRITON_WIDEST = 16384
"""Widest row that the triton backend serves: it and two sums must fit one program's registers."""

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
    shared_sum: Any
    """(D,) float32, or None."""
    shared_tokens: int
    norm_weight: Any
    """(D,), or None."""
    norm_offset: float
    diagonal: bool
    wanted: int
    """A set of the bits above."""

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
    directions: Any
    contributions: Any
    sums: Any
