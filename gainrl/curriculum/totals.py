"""Sums over an epoch's rollouts, exact and independent of order, so that they can be split over processes.

Credit, angles and rewards are summed in integer units of 2^-32 (2.3e-10): integer addition is associative, so the same
rollouts give the same totals in whatever order, and on however many processes, they were observed.  All fields are
integers that fit int64 for up to 2^17 rollouts of rewards up to 2^14; `as_list` and `from_list` are for an all-reduce.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from gainrl.errors import UserError

UNIT = 2.0**-32
"""Resolution of the summed credit, angles and rewards."""
_WHOLE = 2**32

RECORD_FIELDS = ("id", "correct", "scored", "angle", "reward", "tokens")


@dataclass(frozen=True)
class Totals:
    """Counts and sums; the empty sum by default.  `a + b` is the sum over both sets of rollouts."""

    rollouts: int = 0
    scored: int = 0
    """Rollouts that were graded; the others are neither right nor wrong."""
    credit_units: int = 0
    """Sum over UNIT of how correct the scored rollouts are, each from 0 (wrong) to 1 (right)."""
    angles: int = 0
    """Rollouts with a finite angle concentration."""
    angle_units: int = 0
    """Sum of the angles over UNIT."""
    rewards: int = 0
    """Rollouts with a finite reward."""
    reward_units: int = 0
    """Sum of the rewards over UNIT."""
    tokens: int = 0
    """Generated tokens."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise UserError(f"totals: {field.name} must be an integer, got {value!r}")
        counts = (self.credit_units, self.scored, self.rollouts, self.angles, self.rewards, self.tokens)
        if min(counts) < 0 or not self.credit_units <= self.scored * _WHOLE <= self.rollouts * _WHOLE:
            raise UserError(
                "totals: need 0 <= credit <= scored <= rollouts, got "
                f"{self.credit_units * UNIT:g}, {self.scored}, {self.rollouts}"
            )
        if max(self.angles, self.rewards) > self.rollouts:
            raise UserError(f"totals: {self.angles} angles and {self.rewards} rewards of {self.rollouts} rollouts")

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(a + b for a, b in zip(self.as_list(), other.as_list(), strict=True)))

    def __sub__(self, other: Totals) -> Totals:
        """The sum without rollouts that are part of it; UserError if they cannot be."""
        return Totals(*(a - b for a, b in zip(self.as_list(), other.as_list(), strict=True)))

    @property
    def accuracy(self) -> float | None:
        """Mean credit of the scored rollouts: the share of correct ones where it is 0 or 1; None if none was scored."""
        return self.credit_units / self.scored * UNIT if self.scored else None

    @property
    def angle(self) -> float | None:
        """Mean angle concentration; None if no rollout has one."""
        return self.angle_units / self.angles * UNIT if self.angles else None

    @property
    def reward(self) -> float | None:
        """Mean reward; None if no rollout has one."""
        return self.reward_units / self.rewards * UNIT if self.rewards else None

    def as_list(self) -> list[int]:
        """The fields in order, for an int64 sum over processes."""
        return [getattr(self, field.name) for field in fields(self)]

    @classmethod
    def from_list(cls, values: Sequence[int]) -> Totals:
        """The inverse of `as_list`; UserError if the number of values is another."""
        if len(values) != len(fields(cls)):
            raise UserError(f"totals have {len(fields(cls))} values, got {len(values)}")
        return cls(*(int(value) for value in values))

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, Any]]) -> Totals:
        """Sum records {id, correct, scored, angle, reward, tokens}, one per rollout.

        scored: bool (0 and 1 will do).  correct: how correct the rollout is, from 0 to 1 (false and true will do);
        an unscored rollout has no part in it, whatever `correct` says.
        angle, reward: float; None or NaN is counted as absent and left out of the mean.  tokens: int >= 0.
        Raises UserError for a missing or unknown field or a value that fits none of this.
        """
        sums = [0] * len(fields(cls))
        for record in records:
            if record.keys() != set(RECORD_FIELDS):
                missing = [name for name in RECORD_FIELDS if name not in record]
                unknown = sorted(map(str, record.keys() - set(RECORD_FIELDS)))
                raise UserError(
                    f"a rollout record has the fields {RECORD_FIELDS}: missing {missing}, unknown {unknown}"
                )
            scored = _flag(record, "scored")
            credit = _credit(record) if scored else 0
            has_angle, angle = _units(record, "angle")
            has_reward, reward = _units(record, "reward")
            tokens = int(record["tokens"])
            if tokens < 0:
                raise UserError(f"rollout of prompt {record['id']!r}: tokens must be at least 0, got {tokens}")
            one = (1, scored, credit, has_angle, angle, has_reward, reward, tokens)
            sums = [a + int(b) for a, b in zip(sums, one, strict=True)]
        return cls(*sums)


def _flag(record: Mapping[str, Any], name: str) -> bool:
    value = record[name]
    if value not in (0, 1):
        raise UserError(f"rollout of prompt {record['id']!r}: {name} must be true or false, got {value!r}")
    return bool(value)


def _credit(record: Mapping[str, Any]) -> int:
    value = record["correct"]
    if isinstance(value, str) or value is None or not 0 <= value <= 1:
        raise UserError(f"rollout of prompt {record['id']!r}: correct must lie in [0, 1], got {value!r}")
    return round(float(value) * _WHOLE)


def _units(record: Mapping[str, Any], name: str) -> tuple[bool, int]:
    value = record[name]
    if value is None or math.isnan(value):
        return False, 0
    if math.isinf(value):
        raise UserError(f"rollout of prompt {record['id']!r}: {name} must be finite, got {value!r}")
    return True, round(float(value) / UNIT)
