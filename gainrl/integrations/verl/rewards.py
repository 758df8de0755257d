"""From verl's rewards to how correct a rollout is, from 0 to 1.

verl's reward functions return a number, or a dict whose `score` is the reward and whose other entries are extra
information; `acc` among them is verl's own name for correctness.  What is missing or NaN is unscored: the rollout
counts, its accuracy does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gainrl.errors import UserError
from gainrl.integrations.verl.settings import SECTION, Settings

REWARD = "reward"
_DEFAULT = "acc"


def credit(settings: Settings, reward: float | None, extra: Mapping[str, Any]) -> float | None:
    """How correct a rollout is, in [0, 1]; None where it is unscored.

    reward: verl's score of the rollout, None or NaN where there is none.  extra: the reward function's extra
    information.  UserError for a value outside its range.
    """
    name = settings.accuracy
    if name is None:
        name = _DEFAULT if extra.get(_DEFAULT) is not None else REWARD
    elif name != REWARD and name not in extra:
        raise UserError(
            f"{SECTION}.accuracy={name!r}, but the reward function reports {', '.join(sorted(extra)) or 'nothing'} "
            f"besides its score: choose one of these, or {REWARD!r}"
        )
    value = reward if name == REWARD else extra[name]
    if value is None or math.isnan(float(value)):
        return None
    share = float(value)
    if settings.accuracy_range is None:
        if share not in (0.0, 1.0):
            raise UserError(
                f"{name!r} of a rollout is {share:g}, which says neither wrong (0) nor correct (1): declare its range "
                f"with {SECTION}.accuracy_range=[low,high], or name another value in {SECTION}.accuracy"
            )
    else:
        low, high = settings.accuracy_range
        slack = 1e-6 * (high - low)  # rewards travel as float32
        if not low - slack <= share <= high + slack:
            raise UserError(f"{name!r} of a rollout is {share:g}, outside {SECTION}.accuracy_range=[{low:g}, {high:g}]")
        share = min(max((share - low) / (high - low), 0.0), 1.0)
    if settings.accuracy_threshold is None:
        return share
    return float(share >= settings.accuracy_threshold - 1e-6)
