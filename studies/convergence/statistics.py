"""Rollouts to a level, areas under curves, and intervals over seeds.  All comparisons are paired by seed.

A curve is smoothed by averaging each evaluation with its two neighbours (the last with one).  The level of a family
and seed is the end of uniform's smoothed curve; what it costs is where a smoothed curve first reaches it,
interpolated linearly.  The factor of an arm is uniform's cost over the arm's: above 1, the arm needs less.

An arm that does not reach the level within the budget is censored there: its factor is at most uniform's cost over the
whole budget, that bound stands in the mean, and how many there are is said beside it (a mean with censored seeds
is an upper bound).  A seed in which uniform gains less than MIN_GAIN has no level, and is left out of factors, counted.

The even factor shows an arm that is worse, too: where the arm ends below uniform, the level is the arm's end, which
costs the arm its whole budget and uniform what it needs to get there (one evaluation's rollouts at least); elsewhere it
is the factor above.

An interval is Student's, of the logarithms where a factor is averaged.  Of five values from a normal distribution a
percentile bootstrap covers the mean in 85 cases of 100 instead of 95, a bias-corrected one too
(`tests/benchmarks/test_convergence_intervals.py` counts).  Over several families the mean keeps its weights, each
family adds the variance of its own seeds, and the degrees of freedom are Satterthwaite's: families are taken as given.
`across` takes them as a sample of more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t

MIN_GAIN = 0.01
"""Accuracy that uniform must gain for its end to be a level."""
COSTS = ("rollouts", "tokens", "seconds")

Run = Mapping[str, Any]
Floats = npt.NDArray[np.float64]


def column(run: Run, name: str) -> Floats:
    """(E,) values of the curve's evaluations; seconds include what the ranking took."""
    values = np.array([point[name] for point in run["curve"]], dtype=np.float64)
    return values + run["ranking_seconds"] if name == "seconds" else values


def smoothed(accuracy: Floats) -> Floats:
    """(E,) means over each evaluation and its neighbours; the first stays as it is."""
    padded = np.pad(accuracy, 1, constant_values=np.nan)
    means: Floats = np.nanmean(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    means[0] = accuracy[0]
    return means


def level_of(uniform: Run) -> float | None:
    """The accuracy that uniform ends with; None if it hardly gained."""
    curve = smoothed(column(uniform, "accuracy"))
    return float(curve[-1]) if curve[-1] - curve[0] >= MIN_GAIN else None


def cost_to(run: Run, level: float, cost: str) -> tuple[float, bool]:
    """(cost at which the smoothed curve first reaches `level`, whether it does); the whole run's cost if not."""
    accuracy, spent = smoothed(column(run, "accuracy")), column(run, cost)
    above = np.flatnonzero(accuracy >= level)
    if not len(above):
        return float(spent[-1]), False
    at = int(above[0])
    if at == 0:
        return float(spent[0]), True
    share = (level - accuracy[at - 1]) / (accuracy[at] - accuracy[at - 1])
    return float(spent[at - 1] + share * (spent[at] - spent[at - 1])), True


def area(run: Run) -> float:
    """Mean accuracy over the rollouts of the budget (trapezoids)."""
    rollouts = column(run, "rollouts")
    return float(np.trapezoid(column(run, "accuracy"), rollouts) / rollouts[-1])


def even_factor(uniform: Run, run: Run) -> float:
    """Uniform's rollouts over the arm's to the lower of their ends; above 1, the arm needs less."""
    end, uniforms = (float(smoothed(column(one, "accuracy"))[-1]) for one in (run, uniform))
    least, budget = column(uniform, "rollouts")[1], column(run, "rollouts")[-1]
    if end < uniforms:
        return float(max(cost_to(uniform, end, "rollouts")[0], least) / budget)
    theirs, own = (max(cost_to(one, uniforms, "rollouts")[0], least) for one in (uniform, run))
    return theirs / own


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval (None with fewer than 3 seeds, and where they are all alike)."""

    mean: float
    low: float | None
    high: float | None
    seeds: int

    def text(self, form: str = ".2f") -> str:
        """`1.52 (1.10 to 2.07)`."""
        if self.seeds == 0:
            return "-"
        inside = "" if self.low is None else f" ({self.low:{form}} to {self.high:{form}})"
        return f"{self.mean:{form}}{inside}"


def interval(values: Sequence[float], *, geometric: bool = False, families: Sequence[str] | None = None) -> Interval:
    """Mean over seeds and its 95 % t interval; of the logarithms, for a geometric mean.

    `families` (one for each value): the standard error is of the seeds within their families, whose variances need not
    be alike (Satterthwaite 1946, Biometrics Bulletin 2, 110-114); without, all values are one sample.  A family with a
    single value says nothing of its variance: no interval then.
    """
    given = np.log(values) if geometric else np.asarray(values, dtype=np.float64)
    back = math.exp if geometric else float
    if not len(given):
        return Interval(math.nan, None, None, 0)
    mean = float(given.mean())
    names = np.zeros(len(given)) if families is None else np.array(families)
    samples = [given[names == name] for name in np.unique(names)]
    plain = Interval(back(mean), None, None, len(given))
    if len(given) < 3 or min(map(len, samples)) < 2:
        return plain
    parts = np.array([len(one) * one.var(ddof=1) for one in samples]) / len(given) ** 2
    if parts.sum() < 1e-20:
        return plain
    freedom = parts.sum() ** 2 / sum(part**2 / (len(one) - 1) for part, one in zip(parts, samples, strict=True))
    low, high = t.interval(0.95, freedom, mean, math.sqrt(parts.sum()))
    return Interval(back(mean), back(float(low)), back(float(high)), len(given))


def across(values: Sequence[float], families: Sequence[str], *, geometric: bool = False) -> Interval:
    """Mean over families, each with the mean of its seeds as its one value, and its 95 % t interval.

    The families are a sample of those that might have been made: the interval is for the mean over all of these.
    """
    given = np.log(values) if geometric else np.asarray(values, dtype=np.float64)
    names = np.array(families)
    means = [float(given[names == name].mean()) for name in np.unique(names)]
    return interval([math.exp(one) for one in means] if geometric else means, geometric=geometric)


def compare(runs: Mapping[tuple[str, str, int], Run], family: str, arm: str) -> dict[str, Any] | None:
    """An arm against uniform in one family, over the seeds that have both; None if there is none."""
    seeds = sorted(seed for (f, a, seed) in runs if (f, a) == (family, arm) and (family, "uniform", seed) in runs)
    if not seeds:
        return None
    each = [_seed(runs[family, "uniform", seed], runs[family, arm, seed], seed) for seed in seeds]
    defined = [one for one in each if one["level"] is not None]
    return {
        "family": family,
        "arm": arm,
        "seeds": each,
        "without_level": len(each) - len(defined),
        "censored": sum(one["censored"] for one in defined),
        **{f"factor_{cost}": interval([one[f"factor_{cost}"] for one in defined], geometric=True) for cost in COSTS},
        "even": interval([one["even"] for one in each], geometric=True),
        "area": interval([one["area"] for one in each]),
        "final": interval([one["final"] for one in each]),
    }


def _seed(uniform: Run, run: Run, seed: int) -> dict[str, Any]:
    level = level_of(uniform)
    found: dict[str, Any] = {
        "seed": seed,
        "level": level,
        "even": even_factor(uniform, run),
        "area": area(run) - area(uniform),
        "final": float(smoothed(column(run, "accuracy"))[-1] - smoothed(column(uniform, "accuracy"))[-1]),
    }
    if level is not None:
        found["censored"] = not cost_to(run, level, "rollouts")[1]
        for cost in COSTS:
            theirs, own = cost_to(uniform, level, cost)[0], cost_to(run, level, cost)[0]
            found[f"factor_{cost}"] = theirs / max(own, 1e-9)
    return found
