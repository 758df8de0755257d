"""Rank correlations against SciPy, and the diagonal's share of C_intra against the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from gainrl.angle.reference import angle_concentration_reference
from gainrl.correlation import kendall, length_correlations, other_diagonal, spearman


@settings(derandomize=True, max_examples=200)
@given(st.lists(st.tuples(st.integers(-3, 9), st.integers(0, 4)), min_size=3, max_size=40))
def test_both_agree_with_scipy_ties_included(pairs):
    x, y = np.array(pairs, dtype=float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(spearman(x, y))
        assert np.isnan(kendall(x, y))
        return
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert kendall(x, y) == pytest.approx(kendalltau(x, y).statistic, abs=1e-12)


def test_pairs_with_a_missing_value_are_left_out():
    x, y = np.array([1.0, 2, np.nan, 3, 5]), np.array([2.0, 1, 3, np.inf, 4])
    assert kendall(x, y) == pytest.approx(kendalltau([1, 2, 5], [2, 1, 4]).statistic)
    assert spearman(x, y) == pytest.approx(spearmanr([1, 2, 5], [2, 1, 4]).statistic)
    assert np.isnan(spearman([1, 2], [1, 2])), "two points are always in line"


def test_the_other_diagonal_is_that_of_the_definition():
    hidden = np.random.default_rng(0).normal(size=(9, 5))
    roles, offsets = np.full(9, 2), [0, 1, 3, 9]
    with_it = angle_concentration_reference(hidden, offsets, roles)
    without = angle_concentration_reference(hidden, offsets, roles, diagonal=False)
    q = np.array([1, 2, 6])
    np.testing.assert_allclose(other_diagonal(with_it.intra, q, diagonal=True), without.intra, atol=1e-12)
    np.testing.assert_allclose(other_diagonal(without.intra, q, diagonal=False)[1:], with_it.intra[1:], atol=1e-12)


def test_the_diagonal_alone_makes_an_order_of_length():
    """Directions that are unrelated: C_intra with the diagonal is 1/q and noise, without it noise alone."""
    random = np.random.default_rng(1)
    q = random.integers(5, 200, 400)
    without = random.normal(0, 1e-3, 400)
    with_it = (1 + (q - 1) * without) / q
    first, second = length_correlations(with_it, np.zeros(400), q, diagonal=True, inter_weight=1.0)
    assert first["diagonal"]
    assert first["intra"] < -0.9
    assert abs(second["intra"]) < 0.2
    assert first["score"] == pytest.approx(first["intra"])
