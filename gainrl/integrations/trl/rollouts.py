"""What is known of each rollout of one generation batch, gathered over ranks into the curriculum's records.

Rewards and token counts are known when rollouts have been generated, angles come in slices as the loss is computed
(TRL shuffles the rollouts and cuts them into `steps_per_generation` slices); each rollout is measured once, in its
first pass, however often `num_iterations` reuses it.  A rollout may be trained on by another rank than the one that
generated it, or by none (back-filling), so angles find their rollout by a number that is the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

_FIELDS = ("row", "correct", "reward", "tokens", "flat", "errors")
_OWNER = 2**32  # rollout i of rank k has the number k * _OWNER + i


def rollout_numbers(rank: int, start: int, count: int, device: torch.device) -> Tensor:
    """(count,) int64 numbers of the rollouts from `start` on that `rank` generates."""
    return rank * _OWNER + torch.arange(start, start + count, device=device)


@dataclass(frozen=True)
class Gathered:
    """One generation batch over all ranks: a record per rollout, and what was counted besides."""

    records: list[dict[str, Any]]
    flat: int
    """Rollouts in groups without variance."""
    reward_errors: int


class RolloutBatch:
    """The rollouts that this process generates for one generation batch, in the order in which they are made."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self._slices: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def add(
        self,
        rows: Sequence[int],
        correct: Tensor,
        reward: Tensor,
        tokens: Sequence[int],
        flat: Tensor,
        reward_errors: int,
    ) -> None:
        """Add R rollouts, the same number on every rank.

        rows: R dataset rows.  correct (R,) float64: credit in [0, 1], NaN where unscored.  reward (R,) float64, TRL's
        weighted sum, NaN where no function scored it.  tokens: R numbers of generated tokens.  flat (R,) bool:
        whether the rollout's group has no variance.  reward_errors: rows on which a reward function raised.
        """
        part = torch.zeros((len(rows), len(_FIELDS)), dtype=torch.float64)
        part[:, 0] = torch.tensor(rows, dtype=torch.float64)
        part[:, 1] = correct.cpu()
        part[:, 2] = reward.cpu()
        part[:, 3] = torch.tensor(tokens, dtype=torch.float64)
        part[:, 4] = flat.cpu()
        part[0, 5] = reward_errors
        self._parts.append(part)

    def flat_groups(self, size: int) -> list[bool]:
        """Whether each group of `size` rollouts of the part added last has no variance."""
        return [bool(flat) for flat in self._parts[-1][::size, 4].tolist()]

    def add_angles(self, numbers: Tensor, angles: Tensor) -> None:
        """Angles (S,) float32 of the rollouts with these numbers (S,); nothing is copied to the host."""
        self._slices.append((numbers, angles))

    def gather(self, ids: Sequence[str], accelerator: Accelerator) -> Gathered:
        """One record per rollout of all ranks, the same on every rank, in the order of the epoch's prompts.

        A collective when there are several processes.  A rollout whose angle was not measured has None.
        """
        table = torch.cat(self._parts)
        own = len(table)
        numbers, angles = torch.empty(0, dtype=torch.int64), torch.empty(0)
        if self._slices:
            numbers, angles = (torch.cat([column[i] for column in self._slices]) for i in (0, 1))
        if accelerator.num_processes > 1:
            # Ranks hold consecutive parts of the generation batch, so rank order is the sampler's order.
            # Their bits travel as int64: not every device has float64.
            table = accelerator.gather(table.view(torch.int64).to(accelerator.device)).cpu().view(torch.float64)
            numbers, angles = (accelerator.gather(part.to(accelerator.device)) for part in (numbers, angles))
        angle = torch.full((len(table),), math.nan, dtype=torch.float64)
        numbers = numbers.cpu()
        angle[numbers // _OWNER * own + numbers % _OWNER] = angles.cpu().double()
        records = [
            {
                "id": ids[int(row)],
                "correct": 0.0 if math.isnan(correct) else correct,
                "scored": not math.isnan(correct),
                "angle": None if math.isnan(concentration) else concentration,
                "reward": None if math.isnan(reward) else reward,
                "tokens": int(tokens),
            }
            for (row, correct, reward, tokens), concentration in zip(table[:, :4].tolist(), angle.tolist(), strict=True)
        ]
        return Gathered(records, int(table[:, 4].sum()), int(table[:, 5].sum()))
