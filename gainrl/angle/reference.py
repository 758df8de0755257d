"""The oracle: angle concentration from its definition, float64, quadratic, obvious.

    C_intra = (1/q²) Σ_{i,j in question} u_i·u_j      C_inter = (1/(q·p)) Σ_{i in question, j in prefix} u_i·u_j

with `u_i = h_i / ‖h_i‖` (Wang et al. 2025, arXiv 2506.02281, diagonal included).  It forms the similarity matrix of
every sequence, so it is for tests, benchmarks and small inputs.  Needs NumPy alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.angle.result import AngleCall, AngleConcentration, Status
from gainrl.errors import UserError

TOLERANCE = 2e-6
"""Largest absolute error of `intra`, `inter`, `score` and `whole` against this oracle on the same activations, for
every backend and dtype: sums are formed in float32 blocks whatever the input's dtype, so the dtype does not matter."""
VECTOR_TOLERANCE = 1e-5
"""The same for each element of `directions`."""

Float64 = np.ndarray[Any, np.dtype[np.float64]]


def _host(array: Any) -> npt.NDArray[Any]:
    """`array` (NumPy, torch of any dtype and device, or a list) on the host."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = (array.double() if array.is_floating_point() else array).numpy()
    return np.asarray(array)


def unit_rows(rows: Float64) -> Float64:
    """(n, D) rows divided by their norms; zero rows stay zero.  Scaled first, so that no square overflows."""
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    scaled = rows / np.where(largest > 0, largest, 1.0)
    norms = np.sqrt((scaled * scaled).sum(axis=1, keepdims=True))
    return np.asarray(scaled / np.where(norms > 0, norms, 1.0))


def _mean(similarity: Float64, diagonal: bool = True) -> float:
    """Mean of a matrix of cosines, with its diagonal or without; NaN if there are none."""
    cosines = similarity if diagonal else similarity[~np.eye(len(similarity), dtype=bool)]
    return float(cosines.mean()) if cosines.size else np.nan


def angle_concentration_reference(
    hidden: Any, cu_seqlens: Any, token_role: Any, *, shared_rows: Any = None, diagonal: bool = True
) -> AngleConcentration:
    """The definition, for packed rows (T, D) with `cu_seqlens` (B+1,) or padded rows (B, L, D) with None.

    `shared_rows` (P, D) are the activations of the shared prefix themselves, so that the oracle does not depend on
    the sum that it judges.  Everything else as in `gainrl.angle_concentration`; values and vectors are float64.
    """
    roles = _host(token_role)
    roles = roles.astype(np.int64) * (2 if roles.dtype == np.bool_ else 1)
    offsets = np.arange(len(roles) + 1) * roles.shape[1] if cu_seqlens is None else _host(cu_seqlens).astype(np.int64)
    flat: Float64 = _host(hidden).astype(np.float64)
    flat, roles = flat.reshape(-1, flat.shape[-1]), roles.reshape(-1)
    shared = np.zeros((0, flat.shape[1]))
    if shared_rows is not None:
        shared = unit_rows(_host(shared_rows).astype(np.float64))
        shared = shared[(shared != 0).any(axis=1)]

    count = len(offsets) - 1
    values, counts = np.full((4, count), np.nan), np.zeros((3, count), dtype=np.int32)
    directions = np.zeros((count, flat.shape[1]))
    if (np.diff(offsets) < 0).any() or offsets[0] < 0 or offsets[-1] > len(flat):
        counts[0] = Status.INVALID_OFFSETS
        return AngleConcentration(values, counts, directions)

    for b in range(count):
        span = np.arange(offsets[b], offsets[b + 1])
        flags = Status.OK
        if ((roles[span] < 0) | (roles[span] > 2)).any():
            flags |= Status.INVALID_ROLE
        used = span[(roles[span] == 1) | (roles[span] == 2)]
        finite = np.isfinite(flat[used]).all(axis=1)
        if not finite.all():
            flags |= Status.NON_FINITE
        used = used[finite]
        unit = unit_rows(flat[used])
        nonzero = (unit != 0).any(axis=1)
        used, unit = used[nonzero], unit[nonzero]
        question = unit[roles[used] == 2]
        prefix = np.concatenate([shared, unit[roles[used] == 1]])
        rows = np.concatenate([prefix, question])
        if len(question) == 0:
            flags |= Status.EMPTY_QUESTION
        if len(prefix) == 0:
            flags |= Status.EMPTY_PREFIX
        if not diagonal and (len(question) < 2 or len(rows) < 2):
            flags |= Status.TOO_FEW_ROWS
        counts[:, b] = flags, len(question), len(prefix)
        if flags & (Status.NON_FINITE | Status.INVALID_ROLE):
            continue
        intra, inter = _mean(question @ question.T, diagonal), _mean(question @ prefix.T)
        values[:, b] = intra, inter, intra + inter, _mean(rows @ rows.T, diagonal)
        directions[b] = unit_rows(question.sum(axis=0, keepdims=True))[0]

    if not counts[2].any():
        values[2] = values[0]
    return AngleConcentration(values, counts, directions)


def run(call: AngleCall) -> AngleConcentration:
    """The oracle behind the backends' contract: NumPy arrays for NumPy arrays, else tensors on hidden's device."""
    if call.shared_sum is not None:
        raise UserError(
            "backend 'reference' forms similarity matrices and cannot use the sum of a shared prefix;"
            " put the prefix rows into each sequence, or use another backend"
        )
    found = angle_concentration_reference(call.hidden, call.cu_seqlens, call.token_role, diagonal=call.diagonal)
    directions = found.directions.astype(np.float32) if call.directions else None
    arrays = [found.values.astype(np.float32), found.counts, directions]
    if not isinstance(call.hidden, np.ndarray):
        import torch

        arrays = [None if x is None else torch.from_numpy(x).to(call.hidden.device) for x in arrays]
    return AngleConcentration(*arrays)
