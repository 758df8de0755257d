"""How far a reward counts as correct: the two settings that say so, the same in every trainer."""

from __future__ import annotations

import math
from typing import Any

from gainrl.errors import UserError

Range = tuple[float, float]


def reward_range(given: Any, called: str) -> Range | None:
    """The setting `accuracy_range` as (low, high), or None where it is not given; UserError by the name `called`."""
    if given is None:
        return None
    try:
        low, high = (float(value) for value in given)
    except (TypeError, ValueError):
        raise UserError(f"{called}={given!r} is not a pair [low, high]") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{called}={given!r} must be finite, with low below high")
    return low, high


def check_threshold(given: float | None, called: str) -> None:
    """UserError, by the name `called`, unless the setting `accuracy_threshold` is a share of the range or None."""
    if given is not None and not 0 < given <= 1:
        raise UserError(f"{called}={given} must lie in (0, 1]")
