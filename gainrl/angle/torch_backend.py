"""The op in plain PyTorch: linear in tokens, on every device that torch knows.

Rows are taken in pieces of at most `PIECE_ELEMENTS` activations, so the float32 copy of a piece and the sequences' sums
are all that exists beside the input.  Whether `cu_seqlens` is in order is asked on the host, the only synchronisation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gainrl.angle.result import BAD, AngleCall, AngleConcentration, Status, new_result

PIECE_ELEMENTS = 1 << 21


@torch.no_grad()
def run(call: AngleCall) -> AngleConcentration:
    """The op in plain PyTorch."""
    hidden, device, batch = call.hidden, call.hidden.device, call.sequences
    result = new_result(call, torch.zeros, torch.float32, torch.int32, device=device)
    rows, counts, offsets = call.token_role.numel(), result.counts, call.cu_seqlens
    if offsets is None:
        offsets = torch.arange(batch + 1, device=device) * call.token_role.shape[1]
    ends = offsets.tolist()
    if ends != sorted(ends) or ends[0] < 0 or ends[-1] > rows:
        counts[0] = int(Status.INVALID_OFFSETS)
        result.values.fill_(torch.nan)
        return result
    sums = torch.zeros(2, batch, hidden.shape[-1], dtype=torch.float64, device=device)
    most = max(1, PIECE_ELEMENTS // hidden.shape[-1])
    for low in range(ends[0], ends[-1], most):
        _add_rows(call, low, min(low + most, ends[-1]), offsets, sums, counts)
    question, prefix = sums
    counts[2] += call.shared_tokens
    if call.shared_sum is not None:
        prefix += call.shared_sum
    pairs = (question, question), (question, prefix), (whole := question + prefix, whole)
    numbers = torch.stack([torch.linalg.vecdot(left, right) for left, right in pairs])
    if result.directions is not None:
        norm = numbers[0, :, None].sqrt()
        result.directions.copy_(torch.where((norm > 0) & ((counts[0, :, None] & BAD) == 0), question / norm, 0.0))
    result.values.copy_(finish(numbers, counts, call.diagonal))
    return result


def finish(numbers: Tensor, counts: Tensor, diagonal: bool) -> Tensor:
    """(4, B) values of `numbers` (3, B: |U_q|², U_q·U_p, |U|²) and `counts` (3, B), whose flags it completes."""
    question, cross, whole = numbers
    status, q, p = counts[0], counts[1].double(), counts[2].double()
    n = q + p
    status |= (q == 0).int() * int(Status.EMPTY_QUESTION) + (p == 0).int() * int(Status.EMPTY_PREFIX)
    k = int(not diagonal)  # cosines of each row that are left out
    status |= (q < 2 * k).int() * int(Status.TOO_FEW_ROWS)
    intra = torch.where(q > k, (question - k * q) / (q * (q - k)), torch.nan)
    mean = torch.where(n > k, (whole - k * n) / (n * (n - k)), torch.nan)
    inter = torch.where((q > 0) & (p > 0), cross / (q * p), torch.nan)
    score = torch.where((p > 0).any(), intra + inter, intra)
    return torch.where((status & BAD) != 0, torch.nan, torch.stack([intra, inter, score, mean]))


def _add_rows(call: AngleCall, low: int, high: int, offsets: Tensor, sums: Tensor, counts: Tensor) -> None:
    """Add rows [low, high) to the sums of question and prefix (2, B, D) of their sequences and to `counts` (3, B)."""
    row = torch.arange(low, high, device=offsets.device)
    owner = torch.searchsorted(offsets, row, right=True) - 1
    where: Any = slice(low, high) if call.cu_seqlens is not None else (owner, row - offsets[owner])
    rows, roles = call.hidden[where], call.token_role[where]
    roles = roles.int() * (2 if roles.dtype == torch.bool else 1)
    used = (roles == 1) | (roles == 2)
    unit, finite, nonzero = _unit(rows, used)
    counted = used & finite & nonzero
    sums.flatten(0, 1).index_add_(0, owner + sums.shape[1] * (roles == 1), unit.double())  # zero if not counted
    counts[1].index_add_(0, owner, (counted & (roles == 2)).int())
    counts[2].index_add_(0, owner, (counted & (roles == 1)).int())
    for flag, wrong in ((Status.INVALID_ROLE, (roles < 0) | (roles > 2)), (Status.NON_FINITE, used & ~finite)):
        found = torch.zeros_like(counts[0]).index_add_(0, owner, wrong.int())
        counts[0] |= (found > 0).int() * int(flag)


def _unit(rows: Tensor, used: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows in float32 (zero where unused, zero or not finite); which rows are finite; which are not zero."""
    rows = torch.where(used[:, None], rows, 0).float()
    finite = torch.isfinite(rows).all(dim=1)
    rows = torch.where(finite[:, None], rows, 0.0)
    largest = rows.abs().amax(dim=1, keepdim=True)  # divided by it, no square overflows or vanishes
    rows = rows / torch.where(largest > 0, largest, 1.0)
    square = (rows * rows).sum(dim=1, keepdim=True)
    return rows * torch.where(square > 0, square, 1.0).rsqrt(), finite, square[:, 0] > 0
