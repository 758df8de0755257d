"""What is known of each rollout of one generation batch, gathered over ranks into the curriculum's records.

Rewards and token counts are known when the batch has been generated, angles come in slices as the loss is computed
(TRL shuffles the rollouts and cuts them into `steps_per_generation` slices); each rollout is measured once, in its
first pass, however often `num_iterations` reuses it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

_FIELDS = ("row", "correct", "reward", "tokens", "angle")


class RolloutBatch:
    """The R rollouts of this process, in the order in which they were generated.

    rows: R dataset rows.  correct (R,) float64: 1, 0, or NaN where unscored.  reward (R,) float64, TRL's
    weighted sum, NaN where no function scored it.  tokens: R numbers of generated tokens.
    """

    def __init__(self, rows: Sequence[int], correct: Tensor, reward: Tensor, tokens: Sequence[int]) -> None:
        self.rows = list(rows)
        self._correct = correct
        self._reward = reward
        self._tokens = list(tokens)
        self._slices: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add_angles(self, index: Tensor, angles: Tensor) -> None:
        """Angles (S,) float32 of the rollouts at positions `index` (S,) of the batch; nothing is copied to the host."""
        self._slices.append((index, angles))

    def records(self, ids: Sequence[str], accelerator: Accelerator) -> list[dict[str, Any]]:
        """One record per rollout of all ranks, the same on every rank, in the order of the epoch's prompts.

        A collective when there are several processes.  A rollout whose angle was not measured has None.
        """
        local = torch.full((len(self), len(_FIELDS)), math.nan, dtype=torch.float64)
        local[:, 0] = torch.tensor(self.rows, dtype=torch.float64)
        local[:, 1] = self._correct.cpu()
        local[:, 2] = self._reward.cpu()
        local[:, 3] = torch.tensor(self._tokens, dtype=torch.float64)
        if self._slices:
            index = torch.cat([index for index, _ in self._slices]).cpu()
            local[index, 4] = torch.cat([angles for _, angles in self._slices]).double().cpu()
        if accelerator.num_processes > 1:
            # Ranks hold consecutive parts of the generation batch, so rank order is the sampler's order.
            local = accelerator.gather(local.to(accelerator.device)).cpu()
        return [
            {
                "id": ids[int(row)],
                "correct": correct == 1.0,
                "scored": not math.isnan(correct),
                "angle": None if math.isnan(angle) else angle,
                "reward": None if math.isnan(reward) else reward,
                "tokens": int(tokens),
            }
            for row, correct, reward, tokens, angle in local.tolist()
        ]
