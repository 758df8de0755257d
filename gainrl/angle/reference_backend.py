"""The oracle behind the backends' contract, for callers who ask for `backend="reference"`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gainrl.angle.call import CONTRIBUTIONS, DIRECTIONS, SUMS, Outputs
from gainrl.angle.reference import angle_concentration_reference, as_float64, unit_rows
from gainrl.errors import UserError


def angle(
    hidden: Tensor,
    cu_seqlens: Tensor | None,
    token_role: Tensor,
    shared_sum: Tensor | None,
    shared_tokens: int,
    norm_weight: Tensor | None,
    norm_offset: float,
    diagonal: bool,
    wanted: int,
) -> Outputs:
    """Arguments and results as in `gainrl.angle.call`; the matrix form needs the prefix's rows, so no `shared_sum`."""
    if shared_sum is not None:
        raise UserError(
            "backend 'reference' forms similarity matrices and cannot use the sum of a shared prefix;"
            " put the prefix rows into each sequence, or use another backend"
        )
    result = angle_concentration_reference(
        hidden, cu_seqlens, token_role, norm_weight=norm_weight, norm_offset=norm_offset, diagonal=diagonal
    )

    def tensor(array: object, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.as_tensor(np.asarray(array)).to(device=hidden.device, dtype=dtype)

    width = hidden.shape[-1]
    sums = np.zeros((0, width))
    if wanted & SUMS:
        if cu_seqlens is not None:
            raise UserError("backend 'reference' gives sums for padded rows only")
        multiplier = 1.0 if norm_weight is None else as_float64(norm_weight) + norm_offset
        used = np.isin(token_role.cpu().numpy(), (1, 2))[..., None]
        rows = np.where(used, as_float64(hidden) * multiplier, 0.0)
        sums = np.stack([unit_rows(sequence).sum(axis=0) for sequence in rows])
    return (
        tensor(np.stack([result.intra, result.inter, result.score, result.whole])),
        tensor(np.stack([result.status, result.question_tokens, result.prefix_tokens]), torch.int32),
        tensor(result.directions if wanted & DIRECTIONS else np.zeros((0, width))),
        tensor(result.contributions if wanted & CONTRIBUTIONS else np.zeros((0,))),
        tensor(sums),
    )
