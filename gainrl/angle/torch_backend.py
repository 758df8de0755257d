"""The op in plain PyTorch: linear in tokens, on every device that torch knows.

Sequences are taken in groups of at most `GROUP_ELEMENTS` activations, so the float32 copy of a group is all that
exists beside the input; a longer sequence is taken in pieces.  `cu_seqlens` is copied to the host once per call,
the only synchronisation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from gainrl.angle.result import BAD, AngleCall, Outputs, Status

GROUP_ELEMENTS = 1 << 21


def run(call: AngleCall) -> Outputs:
    """The op in plain PyTorch."""
    device, batch, width = call.hidden.device, call.sequences, call.width
    with torch.no_grad():
        numbers = torch.zeros(4, batch, dtype=torch.float64, device=device)  # ‖U_q‖², U_q·U_p, ‖U_p+U_q‖², ‖·‖
        counts = torch.zeros(3, batch, dtype=torch.int32, device=device)
        outputs = Outputs(
            numbers, counts,
            torch.zeros(batch, width, device=device) if call.directions else None,
            torch.zeros(batch, width, device=device) if call.sums else None,
        )  # fmt: skip
        offsets = _host_offsets(call.cu_seqlens, call.token_role)
        if _ordered(offsets, call.token_role.numel()):
            _Pass(call, outputs).run(offsets)
            values = finish(numbers[0], numbers[1], numbers[2], counts, call.diagonal)
        else:
            counts[0] = int(Status.INVALID_OFFSETS)
            values = torch.full((4, batch), torch.nan, device=device)
    return outputs._replace(values=values)


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


def _host_offsets(cu_seqlens: Tensor | None, token_role: Tensor) -> list[int]:
    if cu_seqlens is None:
        batch, length = token_role.shape
        return [b * length for b in range(batch + 1)]
    offsets: list[int] = cu_seqlens.tolist()
    return offsets


def _ordered(offsets: list[int], rows: int) -> bool:
    return offsets[0] >= 0 and offsets[-1] <= rows and all(a <= b for a, b in itertools.pairwise(offsets))


def _groups(offsets: list[int], most: int) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of sequences that together have at most `most` rows (or are one longer sequence)."""
    first = 0
    for b in range(len(offsets) - 1):
        if b > first and offsets[b + 1] - offsets[first] > most:
            yield first, b
            first = b
    if first < len(offsets) - 1:
        yield first, len(offsets) - 1


class _Pass:
    """One pass over the activations; `outputs.values` collects the products (4, B) in float64."""

    def __init__(self, call: AngleCall, outputs: Outputs) -> None:
        self.hidden, self.roles, self.padded, self.width = call.hidden, call.token_role, call.padded, call.width
        self.shared_sum, self.shared_tokens = call.shared_sum, call.shared_tokens
        self.numbers, self.counts, self.directions, self.sums = outputs

    def run(self, offsets: list[int]) -> None:
        most = max(1, GROUP_ELEMENTS // max(1, self.width))
        for first, last in _groups(offsets, most):
            sums = torch.zeros(2 * (last - first), self.width, dtype=torch.float64, device=self.hidden.device)
            for rows, roles, owner in self._pieces(offsets, first, last, most):
                self._add(rows, roles, owner, first, sums)
            self._close(first, last, sums.view(2, last - first, self.width))

    def _pieces(self, offsets: list[int], first: int, last: int, most: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows (n, D) as stored, roles (n,) int32 and owning sequences (n,) of the group, `most` rows at a time."""
        device = self.hidden.device
        start, stop = offsets[first], offsets[last]
        bounds = torch.tensor(offsets[first : last + 1], device=device)
        for low in range(start, stop, most):
            high = min(low + most, stop)
            position = torch.arange(low, high, device=device)
            owner = torch.searchsorted(bounds, position, right=True) - 1 + first
            if self.padded:
                length = self.roles.shape[1]
                rows = self.hidden[owner, position - owner * length]
                roles = self.roles[owner, position - owner * length]
            else:
                rows, roles = self.hidden[low:high], self.roles[low:high]
            roles = roles.int() * (2 if roles.dtype == torch.bool else 1)
            yield rows, roles, owner

    def _unit(self, rows: Tensor, used: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit rows in float32 (zero where unused, zero or not finite); which rows are finite; which are not zero."""
        rows = torch.where(used[:, None], rows, 0).float()
        finite = torch.isfinite(rows).all(dim=1)
        rows = torch.where(finite[:, None], rows, 0.0)
        rows = rows * _power_of_two(rows)
        square = (rows * rows).sum(dim=1, keepdim=True)
        return rows * torch.where(square > 0, square, 1.0).rsqrt(), finite, square[:, 0] > 0

    def _add(self, rows: Tensor, roles: Tensor, owner: Tensor, first: int, sums: Tensor) -> None:
        group = sums.shape[0] // 2
        used = (roles == 1) | (roles == 2)
        unit, finite, nonzero = self._unit(rows, used)
        counted = used & finite & nonzero
        # Question sums come first, then prefix sums; rows that do not count are zero and may land anywhere.
        sums.index_add_(0, owner - first + group * (roles == 1), unit.double())
        self.counts[1].index_add_(0, owner, (counted & (roles == 2)).int())
        self.counts[2].index_add_(0, owner, (counted & (roles == 1)).int())
        for flag, wrong in ((Status.INVALID_ROLE, (roles < 0) | (roles > 2)), (Status.NON_FINITE, used & ~finite)):
            found = torch.zeros_like(self.counts[0]).index_add_(0, owner, wrong.int())
            self.counts[0] |= (found > 0).int() * int(flag)

    def _close(self, first: int, last: int, sums: Tensor) -> None:
        """Products of the group's sums into `numbers`, and its outputs."""
        question, prefix = sums[0], sums[1]
        if self.shared_sum is not None:
            prefix = prefix + self.shared_sum.double()
            self.counts[2, first:last] += self.shared_tokens
        whole = question + prefix
        numbers = self.numbers[:, first:last]
        numbers[0] = (question * question).sum(dim=1)
        numbers[1] = (question * prefix).sum(dim=1)
        numbers[2] = (whole * whole).sum(dim=1)
        good = ((self.counts[0, first:last] & BAD) == 0)[:, None]
        if self.directions is not None:
            self.directions[first:last] = torch.where(good, _normalised(question), 0.0).float()
        if self.sums is not None:
            self.sums[first:last] = whole.float()


def _power_of_two(rows: Tensor) -> Tensor:
    """(n, 1) powers of two that bring each row's largest magnitude into [1, 2) (or near it, at float32's ends)."""
    _, exponent = torch.frexp(rows.abs().amax(dim=1, keepdim=True))
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), (1 - exponent).clamp(-126, 126))


def _normalised(rows: Tensor) -> Tensor:
    norm = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norm > 0, norm, 1.0)
