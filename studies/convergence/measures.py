"""Rollouts to a level, factors, and their intervals over bases.

A curve is smoothed by averaging each evaluation with its two neighbours (the last with one).  The target of a family
and base is the end of uniform's smoothed curve in the usual shape, 16 prompts × 8 rollouts; what it costs is where a
smoothed curve first reaches it, interpolated linearly.  The factor of an arm is uniform's cost over the arm's: above 1,
the arm needs fewer rollouts.  An arm that does not reach the target within the budget is censored there: its factor is
an upper bound, and how many there are is shown beside the mean.  A base on which uniform gains less than MIN_GAIN has
no target and is left out, counted.

An interval is Student's t over bases, of the logarithm of the geometric mean over families.  A run belongs to its base
(`base`, a hash of its weights): the same seed gives another base on another kind of processor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t

MIN_GAIN = 0.01
"""Accuracy that uniform must gain for its end to be a target."""

Run = Mapping[str, Any]
Floats = npt.NDArray[np.float64]


def column(run: Run, name: str) -> Floats:
    """(E,) values of the curve's evaluations."""
    return np.array([point[name] for point in run["curve"]], dtype=np.float64)


def smoothed(run: Run) -> Floats:
    """(E,) mean accuracies over each evaluation and its neighbours; the first stays as it is."""
    accuracy = column(run, "accuracy")
    padded = np.pad(accuracy, 1, constant_values=np.nan)
    means: Floats = np.nanmean(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    means[0] = accuracy[0]
    return means


def target_of(uniform: Run) -> float | None:
    """The accuracy that uniform ends with; None if it hardly gained."""
    curve = smoothed(uniform)
    return float(curve[-1]) if curve[-1] - curve[0] >= MIN_GAIN else None


def rollouts_to(run: Run, target: float) -> tuple[float, bool]:
    """(rollouts at which the smoothed curve first reaches `target`, whether it does); the whole run's if not."""
    accuracy, spent = smoothed(run), column(run, "rollouts")
    above = np.flatnonzero(accuracy >= target)
    if not len(above):
        return float(spent[-1]), False
    at = int(above[0])
    if at == 0:
        return float(spent[0]), True
    share = (target - accuracy[at - 1]) / (accuracy[at] - accuracy[at - 1])
    return float(spent[at - 1] + share * (spent[at] - spent[at - 1])), True


@dataclass(frozen=True)
class Factor:
    """A geometric mean with its 95 % interval (None with fewer than 3 bases)."""

    mean: float
    low: float | None
    high: float | None
    bases: int
    censored: int
    """Runs that did not reach the target: the mean is an upper bound if there are any."""

    def __str__(self) -> str:
        if not self.bases:
            return "-"
        inside = "" if self.low is None else f" ({self.low:.2f} to {self.high:.2f})"
        return f"{'≤ ' if self.censored else ''}{self.mean:.2f}{inside}"


def factor(pairs: Iterable[tuple[int, float, bool]]) -> Factor:
    """From (seed of the base, factor, censored) of runs: over families first, then over bases."""
    by_base: dict[int, list[float]] = {}
    censored = 0
    for seed, value, cut in pairs:
        by_base.setdefault(seed, []).append(math.log(value))
        censored += cut
    means = [float(np.mean(values)) for values in by_base.values()]
    return Factor(*_interval(means), len(means), censored)


def _interval(logs: Sequence[float]) -> tuple[float, float | None, float | None]:
    if not logs:
        return math.nan, None, None
    mean = float(np.mean(logs))
    if len(logs) < 3:
        return math.exp(mean), None, None
    error = float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    if error < 1e-12:
        return math.exp(mean), None, None
    low, high = t.interval(0.95, len(logs) - 1, mean, error)
    return math.exp(mean), math.exp(float(low)), math.exp(float(high))


def compared(runs: Sequence[Run], base: Run, run: Run) -> tuple[float, bool] | None:
    """(factor of `run` over `base`, whether `run` is censored) to the target of their family and base.

    `runs` hold uniform's run in the usual shape on that base; None if it is missing or gives no target.
    """
    usual = next((one for one in runs if one["usual"] and same_base(one, run)), None)
    target = None if usual is None else target_of(usual)
    if target is None:
        return None
    theirs, (own, reached) = rollouts_to(base, target)[0], rollouts_to(run, target)
    return theirs / max(own, 1.0), not reached


def same_base(one: Run, other: Run) -> bool:
    """Whether two runs began with the same weights and problems."""
    return (one["family"], one["seed"], one["base"]) == (other["family"], other["seed"], other["base"])
