"""From rewards to how correct each rollout is, from 0 to 1, whatever the rewards' scale.

A reward with a declared range [low, high] gives partial credit, (r − low)/(high − low), or with a threshold right or
wrong; one without is 0 or 1.

A reward that is None or NaN is unscored: the rollout is counted, left out of accuracy, never wrong.  The same holds
for a row whose reward function raises: the function is called again row by row, and only the rows that fail are lost.
A function that has failed on every row of every process since the run began is a mistake, and its error ends the run.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from trl.trainer.utils import get_callable_name, is_async_callable

from gainrl.errors import UserError
from gainrl.integrations.credit import Range
from gainrl.integrations.trl.config import accuracy_ranges

logger = logging.getLogger(__name__)


class Accuracy:
    """Reads correctness from the rewards that the user names.

    `names` are all reward functions in TRL's order, `chosen` those that say what is correct (None: the only one
    there is).  `given_range` is the config's `accuracy_range`; with a `threshold`, a rollout is correct from that
    share of the range on and wrong below it.  Raises UserError for names that do not exist.
    """

    def __init__(
        self,
        names: Sequence[str],
        chosen: Sequence[str] | None,
        given_range: Any = None,
        threshold: float | None = None,
    ) -> None:
        if chosen is None and len(names) != 1:
            raise UserError(
                f"{len(names)} reward functions ({', '.join(names)}): say with accuracy_rewards=[...] which of them "
                "tell whether a completion is correct"
            )
        chosen = list(names) if chosen is None else list(chosen)
        unknown = [name for name in chosen if name not in names]
        if unknown or not chosen:
            raise UserError(f"accuracy_rewards={chosen}: choose from the reward functions {list(names)}")
        self.names = chosen
        self.threshold = threshold
        self.ranges = accuracy_ranges(given_range, chosen)
        self._columns = [list(names).index(name) for name in chosen]

    def __call__(self, rewards: Tensor) -> Tensor:
        """(R,) float64: from 0 (wrong) to 1 (correct), NaN unscored, from (R, F) rewards with NaN where there is none.

        Where several named rewards score a rollout, the mean of their shares counts.  Raises UserError for a
        reward outside its range.
        """
        shares = [
            self._share(rewards[:, column].double(), name, self.ranges[name])
            for column, name in zip(self._columns, self.names, strict=True)
        ]
        share: Tensor = torch.stack(shares, dim=1).nanmean(dim=1)
        if self.threshold is None:
            return share
        correct: Tensor = (share >= self.threshold - 1e-6).double()
        return correct.masked_fill(share.isnan(), math.nan)

    @staticmethod
    def _share(values: Tensor, name: str, bounds: Range | None) -> Tensor:
        scored = values[~values.isnan()]
        if bounds is None:
            odd = scored[(scored != 0) & (scored != 1)]
            if odd.numel():
                raise UserError(
                    f"reward {name!r} returned {odd[0].item():g}, which says neither wrong (0) nor correct (1): "
                    "declare its range with accuracy_range=[low, high], or name another reward in accuracy_rewards"
                )
            return values
        low, high = torch.tensor(bounds, dtype=torch.float32).tolist()  # rewards come as float32, and 0.1 is not 0.1f
        odd = scored[(scored < low) | (scored > high)]
        if odd.numel():
            raise UserError(
                f"reward {name!r} returned {odd[0].item():g}, outside its declared accuracy_range [{low:g}, {high:g}]"
            )
        share: Tensor = (values - low) / (high - low)
        return share


class RewardGuard:
    """Makes reward functions that raise cost only the rows they fail on."""

    def __init__(self) -> None:
        self._errors = 0
        self._broken: dict[str, Exception] = {}  # functions that failed on every row of their last call
        self._worked: Tensor | None = None  # (F,) bool: functions that have returned a reward, in any process

    def require_working(self, rewards: Tensor, names: Sequence[str]) -> None:
        """Raise a function's own error where it failed on every row and never returned a reward in this run.

        rewards: (R, F) of all processes, NaN unscored; names: the F functions.  What is decided is the same on every
        rank, so that none waits for one that raised; a collective while a function has not returned a reward.
        """
        scored = (~rewards.isnan()).any(dim=0).cpu()
        self._worked = scored if self._worked is None else self._worked | scored
        broken, self._broken = self._broken, {}
        for index in (~self._worked).nonzero()[:, 0].tolist():
            error = broken.get(names[index])
            if all(gather_object([error is not None])) and error is not None:
                raise error

    def take_errors(self) -> int:
        """Rows that failed in this process since this was last asked."""
        errors, self._errors = self._errors, 0
        return errors

    def wrap(self, reward_funcs: Any) -> Any:
        """The same reward functions, guarded; reward models and names of models are left as they are."""
        if reward_funcs is None:
            return None
        if isinstance(reward_funcs, list):
            return [self._wrap(function) for function in reward_funcs]
        return self._wrap(reward_funcs)

    def _wrap(self, function: Any) -> Any:
        if isinstance(function, str | nn.Module) or not callable(function):
            return function
        name = get_callable_name(function)
        guarded: Callable[..., Any]
        if is_async_callable(function):

            async def guarded(**columns: Any) -> list[float | None]:
                try:
                    return list(await function(**columns))
                except UserError:
                    raise
                except Exception as error:
                    return await self._by_row_async(function, name, columns, error)

        else:

            def guarded(**columns: Any) -> list[float | None]:
                try:
                    return list(function(**columns))
                except UserError:
                    raise
                except Exception as error:
                    return self._by_row(function, name, columns, error)

        functools.update_wrapper(guarded, function, updated=())
        guarded.__name__ = name  # instances and partials have none of their own
        return guarded

    def _by_row(
        self, function: Callable[..., Any], name: str, columns: Mapping[str, Any], error: Exception
    ) -> list[float | None]:
        rewards: list[float | None] = []
        failures: list[Exception] = []
        for row in _rows(columns):
            try:
                rewards.append(next(iter(function(**row))))
            except UserError:
                raise
            except Exception as failure:
                failures.append(failure)
                rewards.append(None)
        return self._finish(name, rewards, failures, error)

    async def _by_row_async(
        self, function: Callable[..., Any], name: str, columns: Mapping[str, Any], error: Exception
    ) -> list[float | None]:
        rewards: list[float | None] = []
        failures: list[Exception] = []
        for row in _rows(columns):
            try:
                rewards.append(next(iter(await function(**row))))
            except UserError:
                raise
            except Exception as failure:
                failures.append(failure)
                rewards.append(None)
        return self._finish(name, rewards, failures, error)

    def _finish(
        self, name: str, rewards: list[float | None], failures: list[Exception], error: Exception
    ) -> list[float | None]:
        if len(failures) == len(rewards):
            self._broken[name] = error
        self._errors += len(failures)
        logger.warning(
            "reward %r raised %s: %s; called again row by row, %d of %d rows fail and count as unscored",
            name,
            type(error).__name__,
            error,
            len(failures),
            len(rewards),
        )
        return rewards


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """TRL's keyword arguments, one row at a time; what is no list of that length goes to every row."""
    count = len(columns["completions"])
    return [
        {
            key: [value[index]] if isinstance(value, list) and len(value) == count else value
            for key, value in columns.items()
        }
        for index in range(count)
    ]
