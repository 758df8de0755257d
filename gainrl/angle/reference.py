"""The oracle: angle concentration from its definition, float64, quadratic, obvious.

    C_intra = (1/q²) Σ_{i,j in question} u_i·u_j      C_inter = (1/(q·p)) Σ_{i in question, j in prefix} u_i·u_j

with `u_i = h_i / ‖h_i‖` (Wang et al. 2025, arXiv 2506.02281, diagonal included).  It forms the similarity matrix of
every sequence, so it is for tests, benchmarks and small inputs.  Needs NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.angle.call import AngleCall, Outputs
from gainrl.angle.result import Status
from gainrl.errors import UserError

TOLERANCE = 2e-6
"""Largest absolute error of `intra`, `inter`, `score` and `whole` against this oracle on the same activations, for
every backend and dtype: sums are formed in float32 blocks whatever the input's dtype, so the dtype does not matter."""
VECTOR_TOLERANCE = 1e-5
"""The same for each element of `directions`."""

Float64 = np.ndarray[Any, np.dtype[np.float64]]


def as_float64(array: Any) -> Float64:
    """`array` (NumPy, torch of any dtype and device, or a list) as float64 on the host."""
    if hasattr(array, "detach"):
        array = array.detach().cpu().double().numpy()
    return np.asarray(array, dtype=np.float64)


def as_integers(array: Any) -> npt.NDArray[np.int64]:
    """The same as int64."""
    if hasattr(array, "detach"):
        array = array.detach().cpu().numpy()
    return np.asarray(array).astype(np.int64)


@dataclass(frozen=True)
class ReferenceResult:
    """Fields as in `AngleConcentration`, float64."""

    intra: Float64
    inter: Float64
    score: Float64
    whole: Float64
    status: npt.NDArray[np.int32]
    question_tokens: npt.NDArray[np.int32]
    prefix_tokens: npt.NDArray[np.int32]
    directions: Float64
    sums: Float64
    """`U_p + U_q`."""


def unit_rows(rows: Float64) -> Float64:
    """(n, D) rows divided by their norms; zero rows stay zero.  Scaled first, so that no square overflows."""
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    scaled = rows / np.where(largest > 0, largest, 1.0)
    norms = np.sqrt((scaled * scaled).sum(axis=1, keepdims=True))
    return np.asarray(scaled / np.where(norms > 0, norms, 1.0))


def _mean_similarity(left: Float64, right: Float64) -> float:
    """Mean of the matrix of cosines between two sets of unit rows."""
    return float((left @ right.T).mean()) if len(left) and len(right) else np.nan


def _mean_within(rows: Float64, diagonal: bool) -> float:
    similarity = rows @ rows.T
    if diagonal:
        return float(similarity.mean()) if len(rows) else np.nan
    off_diagonal = similarity[~np.eye(len(rows), dtype=bool)]
    return float(off_diagonal.mean()) if len(rows) > 1 else np.nan


def angle_concentration_reference(
    hidden: Any,
    cu_seqlens: Any,
    token_role: Any,
    *,
    shared_rows: Any = None,
    diagonal: bool = True,
) -> ReferenceResult:
    """The definition, for packed rows (T, D) with `cu_seqlens` (B+1,) or padded rows (B, L, D) with None.

    `shared_rows` (P, D) are the activations of the shared prefix themselves, so that the oracle does not depend on
    the sum that it judges.  Everything else as in `gainrl.angle_concentration`.
    """
    roles = as_integers(token_role)
    if np.asarray(token_role.cpu() if hasattr(token_role, "cpu") else token_role).dtype == np.bool_:
        roles = roles * 2
    flat: npt.NDArray[np.float64] = as_float64(hidden)
    if cu_seqlens is None:
        batch, length = roles.shape
        offsets = np.arange(batch + 1, dtype=np.int64) * length
    else:
        offsets = as_integers(cu_seqlens)
    flat = flat.reshape(-1, flat.shape[-1])
    flat_roles = roles.reshape(-1)

    count = len(offsets) - 1
    intra, inter, whole = (np.full(count, np.nan) for _ in range(3))
    status, questions, prefixes = (np.zeros(count, dtype=np.int32) for _ in range(3))
    directions, sums = (np.zeros((count, flat.shape[1])) for _ in range(2))
    shared = np.zeros((0, flat.shape[1]))
    if shared_rows is not None:
        shared = unit_rows(as_float64(shared_rows))
        shared = shared[(shared != 0).any(axis=1)]

    if (np.diff(offsets) < 0).any() or offsets[0] < 0 or offsets[-1] > len(flat):
        status[:] = Status.INVALID_OFFSETS
        score = np.full(count, np.nan)
        return ReferenceResult(intra, inter, score, whole, status, questions, prefixes, directions, sums)

    for b in range(count):
        span = np.arange(offsets[b], offsets[b + 1])
        role = flat_roles[span]
        flags = Status.OK
        if ((role < 0) | (role > 2)).any():
            flags |= Status.INVALID_ROLE
        used = span[(role == 1) | (role == 2)]
        finite = np.isfinite(flat[used]).all(axis=1)
        if not finite.all():
            flags |= Status.NON_FINITE
        used = used[finite]
        unit = unit_rows(flat[used])
        nonzero = (unit != 0).any(axis=1)
        used, unit = used[nonzero], unit[nonzero]
        question = unit[flat_roles[used] == 2]
        prefix = np.concatenate([shared, unit[flat_roles[used] == 1]])
        questions[b], prefixes[b] = len(question), len(prefix)
        rows = np.concatenate([prefix, question])
        if len(question) == 0:
            flags |= Status.EMPTY_QUESTION
        if len(prefix) == 0:
            flags |= Status.EMPTY_PREFIX
        if not diagonal and (len(question) < 2 or len(rows) < 2):
            flags |= Status.TOO_FEW_ROWS
        status[b], sums[b] = flags, rows.sum(axis=0)
        if flags & (Status.NON_FINITE | Status.INVALID_ROLE):
            continue
        intra[b] = _mean_within(question, diagonal)
        inter[b] = _mean_similarity(question, prefix)
        whole[b] = _mean_within(rows, diagonal)
        directions[b] = unit_rows(question.sum(axis=0, keepdims=True))[0]

    score = intra + inter if (prefixes > 0).any() else intra.copy()
    return ReferenceResult(intra, inter, score, whole, status, questions, prefixes, directions, sums)


def run(call: AngleCall) -> Outputs:
    """The oracle behind the backends' contract: NumPy arrays for NumPy arrays, else tensors on hidden's device."""
    if call.shared_sum is not None:
        raise UserError(
            "backend 'reference' forms similarity matrices and cannot use the sum of a shared prefix;"
            " put the prefix rows into each sequence, or use another backend"
        )
    found = angle_concentration_reference(call.hidden, call.cu_seqlens, call.token_role, diagonal=call.diagonal)
    outputs = (
        np.stack([found.intra, found.inter, found.score, found.whole]).astype(np.float32),
        np.stack([found.status, found.question_tokens, found.prefix_tokens]).astype(np.int32),
        found.directions.astype(np.float32) if call.directions else None,
        found.sums.astype(np.float32) if call.sums else None,
    )
    if isinstance(call.hidden, np.ndarray):
        return Outputs(*outputs)
    import torch

    return Outputs(*(None if x is None else torch.from_numpy(x).to(call.hidden.device) for x in outputs))
