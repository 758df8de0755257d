"""The op in plain PyTorch: linear in tokens, on every device that torch knows.

Rows are taken in pieces of at most `PIECE_ELEMENTS` activations, so the float32 copy of a piece and its sums are all
that exists beside the input.  `cu_seqlens` is copied to the host once per call, the only synchronisation.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any

import torch
from torch import Tensor

from gainrl.angle.result import BAD, AngleCall, AngleConcentration, Status, new_result

PIECE_ELEMENTS = 1 << 21


@torch.no_grad()
def run(call: AngleCall) -> AngleConcentration:
    """The op in plain PyTorch."""
    hidden, device, batch, padded = call.hidden, call.hidden.device, call.sequences, call.cu_seqlens is None
    result = new_result(call, torch.zeros, torch.float32, torch.int32, device=device)
    counts, length = result.counts, call.token_role.shape[-1]
    offsets = [b * length for b in range(batch + 1)] if padded else call.cu_seqlens.tolist()
    if offsets != sorted(offsets) or offsets[0] < 0 or offsets[-1] > call.token_role.numel():
        counts[0] = int(Status.INVALID_OFFSETS)
        result.values.fill_(torch.nan)
        return result
    numbers = torch.zeros(3, batch, dtype=torch.float64, device=device)  # ‖U_q‖², U_q·U_p, ‖U_p+U_q‖²
    add_shared(call, numbers, result)
    begun: tuple[int, Any] = (-1, None)  # the sequence that the piece before left unfinished, and its sums
    most = max(1, PIECE_ELEMENTS // hidden.shape[-1])
    for low in range(offsets[0], offsets[-1], most):
        high = min(low + most, offsets[-1])
        first, last = bisect_right(offsets, low) - 1, bisect_left(offsets, high)  # sequences with rows in the piece
        bounds = torch.tensor(offsets[first : last + 1], device=device)
        totals = _role_sums(call, low, high, first, bounds, counts[:, first:last])
        if begun[0] == first:
            totals[:, 0] += begun[1]
        begun = (last - 1, totals[:, -1])
        question, prefix = totals
        if call.shared_sum is not None:
            prefix = prefix + call.shared_sum
        whole = question + prefix
        for row, (left, right) in enumerate(((question, question), (question, prefix), (whole, whole))):
            numbers[row, first:last] = (left * right).sum(dim=1)
        if result.directions is not None:
            norm = question.norm(dim=1, keepdim=True)
            defined = (norm > 0) & ((counts[0, first:last] & BAD) == 0)[:, None]
            result.directions[first:last] = torch.where(defined, question / norm, 0.0)
        if result.sums is not None:
            result.sums[first:last] = whole
    result.values.copy_(finish(numbers, counts, call.diagonal))
    return result


def add_shared(call: AngleCall, numbers: Tensor, result: AngleConcentration) -> None:
    """What a sequence without rows of its own has of the shared prefix: its tokens, its square and its sum."""
    result.counts[2] += call.shared_tokens
    if call.shared_sum is not None:
        numbers[2] = call.shared_sum.double().square().sum()
        if result.sums is not None:
            result.sums.copy_(call.shared_sum.expand_as(result.sums))


def finish(numbers: Tensor, counts: Tensor, diagonal: bool) -> Tensor:
    """(4, B) float64 values from `numbers` (3, B), squared norms and a product, and `counts` (3, B), of which it
    completes the flags."""
    question, cross, whole = numbers
    status, q, p = counts[0], counts[1].double(), counts[2].double()
    n = q + p
    status |= (q == 0).int() * int(Status.EMPTY_QUESTION) + (p == 0).int() * int(Status.EMPTY_PREFIX)
    if diagonal:
        intra = torch.where(q > 0, question / (q * q), torch.nan)
        mean = torch.where(n > 0, whole / (n * n), torch.nan)
    else:
        status |= (q < 2).int() * int(Status.TOO_FEW_ROWS)
        intra = torch.where(q > 1, (question - q) / (q * (q - 1)), torch.nan)
        mean = torch.where(n > 1, (whole - n) / (n * (n - 1)), torch.nan)
    inter = torch.where((q > 0) & (p > 0), cross / (q * p), torch.nan)
    score = torch.where((p > 0).any(), intra + inter, intra)
    return torch.where((status & BAD) != 0, torch.nan, torch.stack([intra, inter, score, mean]))


def _role_sums(call: AngleCall, low: int, high: int, first: int, bounds: Tensor, counts: Tensor) -> Tensor:
    """(2, n, D) float64 sums of question and prefix over rows [low, high) of n sequences; adds to `counts` (3, n).

    The sequences are those from `first` on, and begin and end at `bounds` (n+1,).
    """
    group, width, device = len(bounds) - 1, call.hidden.shape[-1], call.hidden.device
    sums = torch.zeros(2 * group, width, dtype=torch.float64, device=device)
    position = torch.arange(low, high, device=device)
    owner = torch.searchsorted(bounds, position, right=True) - 1
    at: Any = slice(low, high)
    if call.cu_seqlens is None:
        at = (owner + first, position - bounds[owner])
    rows, roles = call.hidden[at], call.token_role[at]
    roles = roles.int() * (2 if roles.dtype == torch.bool else 1)
    used = (roles == 1) | (roles == 2)
    unit, finite, nonzero = _unit(rows, used)
    counted = used & finite & nonzero
    sums.index_add_(0, owner + group * (roles == 1), unit.double())  # rows that do not count are zero
    counts[1].index_add_(0, owner, (counted & (roles == 2)).int())
    counts[2].index_add_(0, owner, (counted & (roles == 1)).int())
    for flag, wrong in ((Status.INVALID_ROLE, (roles < 0) | (roles > 2)), (Status.NON_FINITE, used & ~finite)):
        found = torch.zeros_like(counts[0]).index_add_(0, owner, wrong.int())
        counts[0] |= (found > 0).int() * int(flag)
    return sums.view(2, group, width)


def _unit(rows: Tensor, used: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows in float32 (zero where unused, zero or not finite); which rows are finite; which are not zero."""
    rows = torch.where(used[:, None], rows, 0).float()
    finite = torch.isfinite(rows).all(dim=1)
    rows = torch.where(finite[:, None], rows, 0.0)
    # A power of two brings each row's largest magnitude into [1, 2), or near it at float32's ends.
    _, exponent = torch.frexp(rows.abs().amax(dim=1, keepdim=True))
    rows = rows * torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), (1 - exponent).clamp(-126, 126))
    square = (rows * rows).sum(dim=1, keepdim=True)
    return rows * torch.where(square > 0, square, 1.0).rsqrt(), finite, square[:, 0] > 0
