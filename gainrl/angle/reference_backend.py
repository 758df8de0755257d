"""The oracle behind the backends' contract: for callers who ask for `backend="reference"`, and for NumPy arrays where
neither torch nor the compiled module is installed."""

from __future__ import annotations

from typing import Any

import numpy as np

from gainrl.angle.call import CONTRIBUTIONS, DIRECTIONS, SUMS, AngleCall, Outputs
from gainrl.angle.reference import angle_concentration_reference, as_float64, as_integers, unit_rows
from gainrl.errors import UserError


def angle_arrays(call: AngleCall) -> Outputs:
    """The op by its definition, as NumPy arrays; the matrix form needs the prefix's rows, so no `shared_sum`."""
    if call.shared_sum is not None:
        raise UserError(
            "backend 'reference' forms similarity matrices and cannot use the sum of a shared prefix;"
            " put the prefix rows into each sequence, or use another backend"
        )
    result = angle_concentration_reference(
        call.hidden, call.cu_seqlens, call.token_role,
        norm_weight=call.norm_weight, norm_offset=call.norm_offset, diagonal=call.diagonal,
    )  # fmt: skip
    sums = None
    if call.wanted & SUMS:
        if not call.padded:
            raise UserError("backend 'reference' gives sums for padded rows only")
        multiplier = 1.0 if call.norm_weight is None else as_float64(call.norm_weight) + call.norm_offset
        used = np.isin(as_integers(call.token_role), (1, 2))[..., None]
        rows = np.where(used, as_float64(call.hidden) * multiplier, 0.0)
        sums = np.stack([unit_rows(sequence).sum(axis=0) for sequence in rows]).astype(np.float32)
    return Outputs(
        np.stack([result.intra, result.inter, result.score, result.whole]).astype(np.float32),
        np.stack([result.status, result.question_tokens, result.prefix_tokens]).astype(np.int32),
        result.directions.astype(np.float32) if call.wanted & DIRECTIONS else None,
        result.contributions.astype(np.float32) if call.wanted & CONTRIBUTIONS else None,
        sums,
    )


def angle(call: AngleCall) -> Outputs:
    """The same as torch tensors on hidden's device."""
    import torch

    def tensor(array: Any) -> Any:
        return None if array is None else torch.from_numpy(array).to(call.hidden.device)

    return Outputs(*map(tensor, angle_arrays(call)))
