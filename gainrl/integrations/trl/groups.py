"""Groups of rollouts of one prompt: which of them have rewards that differ, and so anything to teach."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor

TOLERANCE = 1e-6
"""Rewards of a group that differ by less than this share of the largest one (or of 1) are equal: float32 noise."""


def zero_variance(rewards: Tensor, size: int) -> Tensor:
    """(G,) bool: the groups in which no two scored rollouts differ, from (G·size,) or (G·size, F) rewards.

    A reward is NaN where it is missing; of several columns one that varies is enough.  A group with fewer than two
    scored rollouts has no variance either.
    """
    columns = rewards.reshape(rewards.shape[0] // size, size, -1).double()
    missing = columns.isnan()
    high = columns.masked_fill(missing, -float("inf")).amax(dim=1)
    low = columns.masked_fill(missing, float("inf")).amin(dim=1)
    scale = columns.abs().nan_to_num().amax(dim=1).clamp(min=1.0)
    return ~(high - low > TOLERANCE * scale).any(dim=1)  # nothing scored: -inf - inf is not greater


@dataclass
class EpochCounts:
    """What the trainer counts in an epoch besides the navigator's sums, over all ranks; part of a checkpoint."""

    reward_errors: int = 0
    """Rows on which a reward function raised."""
    groups: int = 0
    """Groups that were generated."""
    zero_variance: int = 0
    """Those of them whose rewards are all equal."""
    backfilled: int = 0
    """Groups without variance that others took the place of."""

    def add(self, *, reward_errors: int, groups: int, zero_variance: int, backfilled: int) -> None:
        """Add what one generation batch came to."""
        self.reward_errors += reward_errors
        self.groups += groups
        self.zero_variance += zero_variance
        self.backfilled += backfilled

    def as_dict(self) -> dict[str, int]:
        """By name, for records and checkpoints."""
        return asdict(self)
