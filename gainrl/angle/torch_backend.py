"""The op in plain PyTorch: linear in tokens, on every device that torch knows.

Sequences are taken in groups of at most `GROUP_ELEMENTS` activations, so the float32 copy of a group is all that
exists beside the input; a longer sequence is taken in pieces.  `cu_seqlens` is copied to the host once per call,
the only synchronisation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gainrl.angle.result import BAD, AngleCall, Outputs, Status

GROUP_ELEMENTS = 1 << 21


def run(call: AngleCall) -> Outputs:
    """The op in plain PyTorch."""
    device, batch, padded = call.hidden.device, call.sequences, call.padded
    with torch.no_grad():
        numbers = torch.zeros(3, batch, dtype=torch.float64, device=device)  # ‖U_q‖², U_q·U_p, ‖U_p+U_q‖²
        counts = torch.zeros(3, batch, dtype=torch.int32, device=device)
        directions, sums = (
            torch.zeros(batch, call.width, device=device) if on else None for on in (call.directions, call.sums)
        )
        length = call.token_role.shape[1] if padded else 0
        offsets = [b * length for b in range(batch + 1)] if padded else call.cu_seqlens.tolist()
        in_order = all(a <= b for a, b in itertools.pairwise(offsets))
        if not in_order or offsets[0] < 0 or offsets[-1] > call.token_role.numel():
            counts[0] = int(Status.INVALID_OFFSETS)
            return Outputs(torch.full((4, batch), torch.nan, device=device), counts, directions, sums)
        most = max(1, GROUP_ELEMENTS // call.width)
        for first, last in _groups(offsets, most):
            question, prefix = _role_sums(call, offsets[first : last + 1], first, most, counts[:, first:last])
            if call.shared_sum is not None:
                prefix = prefix + call.shared_sum.double()
                counts[2, first:last] += call.shared_tokens
            whole = question + prefix
            for row, (left, right) in enumerate(((question, question), (question, prefix), (whole, whole))):
                numbers[row, first:last] = (left * right).sum(dim=1)
            if directions is not None:
                norm = question.norm(dim=1, keepdim=True)
                defined = (norm > 0) & ((counts[0, first:last] & BAD) == 0)[:, None]
                directions[first:last] = torch.where(defined, question / norm, 0.0).float()
            if sums is not None:
                sums[first:last] = whole.float()
        values = finish(numbers[0], numbers[1], numbers[2], counts, call.diagonal)
    return Outputs(values, counts, directions, sums)


def finish(question: Tensor, cross: Tensor, whole: Tensor, counts: Tensor, diagonal: bool) -> Tensor:
    """(4, B) float32 values from the squared norms and products (B,) and `counts` (3, B), whose flags it completes."""
    status, q, p = counts[0], counts[1].double(), counts[2].double()
    n = q + p
    status |= (q == 0).int() * int(Status.EMPTY_QUESTION) + (p == 0).int() * int(Status.EMPTY_PREFIX)
    nan = torch.full_like(q, torch.nan)
    if diagonal:
        intra = torch.where(q > 0, question / (q * q), nan)
        mean = torch.where(n > 0, whole / (n * n), nan)
    else:
        status |= (q < 2).int() * int(Status.TOO_FEW_ROWS)
        intra = torch.where(q > 1, (question - q) / (q * (q - 1)), nan)
        mean = torch.where(n > 1, (whole - n) / (n * (n - 1)), nan)
    inter = torch.where((q > 0) & (p > 0), cross / (q * p), nan)
    score = torch.where((p > 0).any(), intra + inter, intra)
    values = torch.stack([intra, inter, score, mean])
    return torch.where((status & BAD) != 0, nan, values).float()


def _groups(offsets: list[int], most: int) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of sequences that together have at most `most` rows (or are one longer sequence)."""
    first = 0
    for b in range(len(offsets) - 1):
        if b > first and offsets[b + 1] - offsets[first] > most:
            yield first, b
            first = b
    if first < len(offsets) - 1:
        yield first, len(offsets) - 1


def _role_sums(call: AngleCall, offsets: list[int], before: int, most: int, counts: Tensor) -> Tensor:
    """(2, n, D) float64 sums of question and prefix of n sequences, `most` rows at a time; adds to `counts` (3, n).

    The sequences begin and end at `offsets` (n+1,); `before` others precede them in the call.
    """
    group, device = len(offsets) - 1, call.hidden.device
    sums = torch.zeros(2 * group, call.width, dtype=torch.float64, device=device)
    bounds = torch.tensor(offsets, device=device)
    for low in range(offsets[0], offsets[-1], most):
        high = min(low + most, offsets[-1])
        position = torch.arange(low, high, device=device)
        owner = torch.searchsorted(bounds, position, right=True) - 1
        at: Any = slice(low, high)
        if call.padded:
            at = (owner + before, position - (owner + before) * call.token_role.shape[1])
        rows, roles = call.hidden[at], call.token_role[at]
        roles = roles.int() * (2 if roles.dtype == torch.bool else 1)
        used = (roles == 1) | (roles == 2)
        unit, finite, nonzero = _unit(rows, used)
        counted = used & finite & nonzero
        # Rows that do not count are zero and may land anywhere.
        sums.index_add_(0, owner + group * (roles == 1), unit.double())
        counts[1].index_add_(0, owner, (counted & (roles == 2)).int())
        counts[2].index_add_(0, owner, (counted & (roles == 1)).int())
        for flag, wrong in ((Status.INVALID_ROLE, (roles < 0) | (roles > 2)), (Status.NON_FINITE, used & ~finite)):
            found = torch.zeros_like(counts[0]).index_add_(0, owner, wrong.int())
            counts[0] |= (found > 0).int() * int(flag)
    return sums.view(2, group, call.width)


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
