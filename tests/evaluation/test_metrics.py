from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from gainrl.errors import UserError
from gainrl.evaluation import majority_at_k, mean_interval, pass_at_k, row_accuracy


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_k_subsets_with_a_right_sample(n: int) -> None:
    for right in range(n + 1):
        for k in range(1, n + 1):
            subsets = list(combinations([1] * right + [0] * (n - right), k))
            expected = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k([right], [n], k)[0] == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_needs_k_scored_samples_and_survives_large_n() -> None:
    assert np.isnan(pass_at_k([1], [3], 4)[0])
    assert pass_at_k([1], [100_000], 50_000)[0] == pytest.approx(0.5)
    with pytest.raises(UserError, match="at least 1"):
        pass_at_k([1], [3], 0)


def test_row_accuracy_leaves_out_what_was_not_scored() -> None:
    values = row_accuracy([1, 0, 0], [2, 4, 0])
    assert values[:2].tolist() == [0.5, 0.0]
    assert np.isnan(values[2])


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([("4", True), ("4", True), ("5", False)], 1.0),
        ([("5", False), ("5", False), ("4", True)], 0.0),
        ([("1/2", True), ("0.5", True), ("5", False), ("5", False)], 0.5),  # right answers are one class
        ([("4", True), ("5", False), ("6", False)], 1 / 3),
        ([], 0.0),
    ],
)
def test_majority_votes_and_ties(votes: list[tuple[str, bool]], expected: float) -> None:
    assert majority_at_k([votes])[0] == pytest.approx(expected)


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        values = (generator.random(100) < 0.3).astype(float)
        _, low, high = mean_interval(values, resamples=500, seed=seed)
        inside += low <= 0.3 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_intervals_are_reproducible_and_empty_ones_are_nan() -> None:
    values = np.array([0.0, 1.0, 1.0, math.nan])
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values)[0] == pytest.approx(2 / 3)
    assert all(math.isnan(value) for value in mean_interval(np.array([math.nan])))


def test_the_interval_is_scipys_percentile_bootstrap() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).random(60) ** 3
    mean, low, high = mean_interval(values, resamples=20_000)
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=2
    ).confidence_interval
    assert mean == pytest.approx(values.mean(), abs=1e-12)
    assert (low, high) == pytest.approx((found.low, found.high), abs=0.01 * (high - low) + 1e-3)


def test_majority_is_what_voting_with_ties_broken_at_random_comes_to() -> None:
    generator = np.random.default_rng(3)
    for _ in range(50):
        ballots = [(str(answer), bool(answer == 0)) for answer in generator.integers(0, 4, generator.integers(1, 9))]
        counts = {answer: sum(one == answer for one, _ in ballots) for answer, _ in ballots}
        winners = [answer for answer, count in counts.items() if count == max(counts.values())]
        assert majority_at_k([ballots])[0] == pytest.approx(winners.count("0") / len(winners))
