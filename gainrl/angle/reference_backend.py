"""The oracle behind the backends' contract, for callers who ask for `backend="reference"`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gainrl.angle.call import CONTRIBUTIONS, DIRECTIONS, SUMS, AngleCall, Outputs
from gainrl.angle.reference import angle_concentration_reference, as_float64, unit_rows
from gainrl.errors import UserError


def angle(call: AngleCall) -> Outputs:
    """The op by its definition; the matrix form needs the prefix's rows, so no `shared_sum`."""
    if call.shared_sum is not None:
        raise UserError(
            "backend 'reference' forms similarity matrices and cannot use the sum of a shared prefix;"
            " put the prefix rows into each sequence, or use another backend"
        )
    result = angle_concentration_reference(
        call.hidden, call.cu_seqlens, call.token_role,
        norm_weight=call.norm_weight, norm_offset=call.norm_offset, diagonal=call.diagonal,
    )  # fmt: skip

    def tensor(array: object, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.as_tensor(np.asarray(array)).to(device=call.hidden.device, dtype=dtype)

    sums = None
    if call.wanted & SUMS:
        if not call.padded:
            raise UserError("backend 'reference' gives sums for padded rows only")
        multiplier = 1.0 if call.norm_weight is None else as_float64(call.norm_weight) + call.norm_offset
        used = np.isin(call.token_role.cpu().numpy(), (1, 2))[..., None]
        rows = np.where(used, as_float64(call.hidden) * multiplier, 0.0)
        sums = tensor(np.stack([unit_rows(sequence).sum(axis=0) for sequence in rows]))
    return Outputs(
        tensor(np.stack([result.intra, result.inter, result.score, result.whole])),
        tensor(np.stack([result.status, result.question_tokens, result.prefix_tokens]), torch.int32),
        tensor(result.directions) if call.wanted & DIRECTIONS else None,
        tensor(result.contributions) if call.wanted & CONTRIBUTIONS else None,
        sums,
    )
