"""Intervals of the convergence study: how often they hold the mean, over one family and over several."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_1samp

pytest.importorskip("trl", reason="trl is not installed")

from benchmarks.convergence import report
from benchmarks.convergence.statistics import across, interval

MEANS, SPREADS, SEEDS = np.array([0.3, 0.6, 0.1]), np.array([0.05, 0.4, 0.2]), 5
FAMILIES = np.repeat(["sums", "strings", "lists"], SEEDS)


def coverage(holds: Callable[[np.random.Generator], bool], count: int) -> float:
    random = np.random.default_rng(0)
    return sum(holds(random) for _ in range(count)) / count


def test_five_seeds_have_the_interval_of_students_t():
    values = [1.2, 1.9, 1.4, 0.9, 2.2]
    wanted = ttest_1samp(np.log(values), 0).confidence_interval(0.95)
    found = interval(values, geometric=True)
    assert (found.low, found.high) == pytest.approx((math.exp(wanted.low), math.exp(wanted.high)))
    assert found.mean == pytest.approx(math.exp(np.log(values).mean()))
    assert interval(values, families=["a"] * 5) == interval(values)


def test_an_interval_over_five_seeds_holds_the_mean_in_95_cases_of_100():
    def holds(random: np.random.Generator) -> bool:
        found = interval(np.exp(random.normal(0.4, 0.3, SEEDS)).tolist(), geometric=True)
        return found.low < math.exp(0.4) < found.high

    assert coverage(holds, 1500) == pytest.approx(0.95, abs=0.02)


def test_an_interval_over_given_families_holds_their_mean_whatever_sets_them_apart():
    widths = []

    def holds(random: np.random.Generator) -> bool:
        values = random.normal(np.repeat(MEANS, SEEDS), np.repeat(SPREADS, SEEDS)).tolist()
        found = interval(values, families=FAMILIES.tolist())
        if len(widths) < 50:
            widths.append((found.high - found.low) / (interval(values).high - interval(values).low))
        return found.low < MEANS.mean() < found.high

    assert coverage(holds, 1000) == pytest.approx(0.95, abs=0.025)
    assert np.median(widths) < 1  # what sets the families apart is no noise


def test_an_interval_over_families_as_a_sample_holds_the_mean_of_all_that_might_be():
    def holds(random: np.random.Generator) -> bool:
        means = np.repeat(random.normal(0.5, 0.3, 5), SEEDS)
        found = across(random.normal(means, 0.2).tolist(), np.repeat(list("abcde"), SEEDS).tolist())
        return found.low < 0.5 < found.high

    assert coverage(holds, 1000) == pytest.approx(0.95, abs=0.025)
    uneven = across([1.0, 1.0, 4.0, 2.0], ["a", "a", "b", "c"], geometric=True)
    assert uneven.mean == pytest.approx(2.0)
    assert uneven.seeds == 3


def test_there_is_no_interval_without_anything_to_estimate_it_from():
    assert interval([1.0, 2.0]).low is None
    assert interval([1.0, 1.0, 1.0], geometric=True).low is None
    assert interval([1.0, 2.0, 3.0], families=["a", "a", "b"]).low is None
    assert interval([1.0, 2.0, 3.0], families=["a", "a", "b"]).mean == 2.0
    assert interval([]).text() == "-"


def test_the_report_takes_families_as_given_in_one_table_and_as_a_sample_in_another():
    def seed(number: int, factor: float) -> dict[str, float | int | bool]:
        return {"seed": number, "level": 0.5, "censored": False, "factor_rollouts": factor, "even": factor,
                "area": 0.1, "final": 0.1 + number / 100}  # fmt: skip

    compared = [
        {"family": family, "arm": "probe", "seeds": [seed(at, mean * (1 + at / 50)) for at in range(5)]}
        for family, mean in (("sums", 1.0), ("strings", 2.0), ("lists", 4.0), ("chains", 2.0), ("brackets", 2.0))
    ]
    of_kind = {row["families"]: row["rollouts, factor"] for row in report.overall(compared)}
    (sampled,) = report.sampled(compared)
    assert of_kind["development"].startswith("2.08 (2.0")
    assert (sampled["families"], sampled["rollouts, factor"][:9]) == (5, "2.08 (1.1")


@pytest.mark.full
@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_a_bootstrap_over_five_seeds_would_be_too_narrow(method: str):
    def holds(random: np.random.Generator) -> bool:
        found = bootstrap((random.normal(size=SEEDS),), np.mean, n_resamples=999, method=method, rng=random)
        return bool(found.confidence_interval.low < 0 < found.confidence_interval.high)

    assert coverage(holds, 1000) == pytest.approx(0.85, abs=0.03)
