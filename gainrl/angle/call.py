"""The contract between the public function and the backends.

    angle(hidden, cu_seqlens, token_role, shared_sum, shared_tokens, norm_weight, norm_offset, diagonal, wanted)
        -> values (4, B) float32, counts (3, B) int32, directions, contributions, sums

Arguments are checked: shapes, dtypes and devices agree.  `cu_seqlens` None means padded rows (B, L, D).  `wanted`
is a set of the bits below; an output that is not wanted is an empty tensor.  Values are never checked here: what is
wrong with them is in `counts[0]`.
"""

from __future__ import annotations

from typing import Any

from gainrl.angle.result import Status

DIRECTIONS = 1
"""(B, D) float32 `U_q / ‖U_q‖`."""
CONTRIBUTIONS = 2
"""float32 in the shape of `token_role`."""
SUMS = 4
"""(B, D) float32 `U_p + U_q`, the shared prefix included (what `shared_prefix` keeps)."""

TRITON_WIDEST = 16384
"""Widest row that the triton backend serves: it and two sums must fit one program's registers."""

BAD = int(Status.NON_FINITE | Status.INVALID_ROLE | Status.INVALID_OFFSETS)
"""Flags under which every field of the sequence is NaN."""

Outputs = tuple[Any, Any, Any, Any, Any]
