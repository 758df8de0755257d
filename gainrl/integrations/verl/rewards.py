"""From verl's rewards to how correct a rollout is, from 0 to 1.

verl's reward functions return a number, or a dict whose `score` is the reward and whose other entries are extra
information; `acc` among them is verl's own name for correctness.  What is missing, None or NaN is unscored: the rollout
counts, its accuracy does not.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from gainrl.errors import UserError
from gainrl.integrations.verl.settings import SECTION, Settings

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))  # as verl's own modules do

REWARD = "reward"
_DEFAULT = "acc"


class Grader:
    """How correct rollouts are; remembers what it has warned of."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reported = False  # whether `acc` has ever been, in this process: no part of the state
        self._warned = False

    def credits(
        self, rewards: Sequence[float | None], extras: Sequence[Mapping[str, Any]], *, whole: bool
    ) -> list[float | None]:
        """How correct each of these rollouts is, in [0, 1]; None where it is unscored.

        rewards: verl's scores, None or NaN where there is none.  extras: the reward function's extra information.
        whole: whether this is a batch, and not some groups that verl put away.  A rollout that lacks the value is
        unscored, which is said once; UserError for a whole batch without it, and for a value outside its range.
        """
        name = self._name(extras)
        lacking = [name != REWARD and name not in extra for extra in extras]
        if any(lacking):
            self._miss(name, lacking, extras, whole)
        return [
            None if lacks else _credit(self._settings, name, reward if name == REWARD else extra[name])
            for lacks, reward, extra in zip(lacking, rewards, extras, strict=True)
        ]

    def _name(self, extras: Sequence[Mapping[str, Any]]) -> str:
        if self._settings.accuracy is not None:
            return self._settings.accuracy
        self._reported = self._reported or any(extra.get(_DEFAULT) is not None for extra in extras)
        return _DEFAULT if self._reported else REWARD

    def _miss(self, name: str, lacking: list[bool], extras: Sequence[Mapping[str, Any]], whole: bool) -> None:
        if whole and all(lacking):
            there = ", ".join(sorted({key for extra in extras for key in extra})) or "nothing"
            chosen = f"{SECTION}.accuracy={name!r}"
            if self._settings.accuracy is None:
                chosen = f"{SECTION}.accuracy is not set and earlier rollouts reported {name!r}"
            raise UserError(
                f"{chosen}, but no rollout of a whole batch reports it; besides its score the "
                f"reward function reports {there}: choose one of these, or {REWARD!r}"
            )
        if not self._warned:
            self._warned = True
            logger.warning(
                "%d of %d rollouts do not report %r, which says what is correct: these, and others like them, are "
                "unscored (curriculum/unscored counts them)",
                sum(lacking),
                len(lacking),
                name,
            )


def _credit(settings: Settings, name: str, value: Any) -> float | None:
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
