"""What the probe computes with: portable arithmetic, and the regression with its observations and fading."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from gainrl.curriculum import philox, portable
from gainrl.curriculum.logistic import LogisticFilter, chance_of_spread, sites

# -- portable arithmetic -------------------------------------------------------------------------------------


def test_exp_log_and_normals_are_what_they_say() -> None:
    x = np.linspace(-700.0, 700.0, 20_001)
    assert np.abs(portable.exp(x) / np.exp(x) - 1.0).max() < 4e-16 * 2
    y = np.exp(x)
    assert (np.abs(portable.log(y) - np.log(y)) / np.maximum(1.0, np.abs(x))).max() < 4e-16
    assert portable.sigmoid([-1000.0, 0.0, 1000.0]).tolist() == [pytest.approx(0.0, abs=1e-300), 0.5, 1.0]
    words = philox.Stream(1, 2, 30).words(0, 20_000)
    found = portable.normal(words)
    assert np.abs(found - stats.norm.ppf(philox.uniform(words))).max() < 2e-8
    assert stats.kstest(found, "norm").pvalue > 1e-3


def test_sums_factors_and_eigenvectors_agree_with_lapack() -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(13, 29))
    matrix = wide @ wide.T
    assert np.allclose(portable.ordered_sum(wide), wide.sum(axis=1), atol=1e-12)
    assert portable.ordered_sum(np.empty((3, 0))).tolist() == [0.0] * 3
    lower = portable.cholesky(matrix)
    assert np.allclose(lower, np.linalg.cholesky(matrix))
    assert np.allclose(portable.solve(lower, wide[:, 0]), np.linalg.solve(matrix, wide[:, 0]))
    values, vectors = portable.eigen(matrix)
    assert np.allclose(values, np.linalg.eigvalsh(matrix)[::-1])
    assert np.allclose(vectors * values @ vectors.T, matrix)


# -- the regression ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "variance", "tried", "solved"), [(0, 4, 8, 0), (-3, 2, 8, 1), (1, 0.3, 16, 7.5), (0, 9, 32, 16)]
)
def test_a_site_gives_the_exact_posterior_mean_and_variance(
    mean: float, variance: float, tried: float, solved: float
) -> None:
    eta = np.linspace(-20.0, 20.0, 40_001)
    density = np.exp(solved * eta - tried * np.logaddexp(0, eta)) * stats.norm.pdf(eta, mean, variance**0.5)
    moments = [float((eta**k * density).sum() * 0.001) for k in range(3)]
    exact, spread = moments[1] / moments[0], moments[2] / moments[0] - (moments[1] / moments[0]) ** 2
    found = sites(*(np.array([float(value)]) for value in (mean, variance, tried, solved)))
    precision = 1.0 / variance + float(found.precision[0])
    assert 1.0 / precision == pytest.approx(spread, rel=2e-3)
    centre = (mean / variance + float(found.precision[0] * found.centre[0])) / precision
    assert centre == pytest.approx(exact, abs=2e-3)
    assert float(found.evidence[0]) == pytest.approx(math.log(moments[0]), abs=2e-3)


@pytest.mark.parametrize(("mean", "variance", "rollouts"), [(0, 1, 8), (-4, 6, 8), (2, 9, 2), (-3, 2, 32), (1, 4, 1)])
def test_the_chance_of_spread_is_that_not_all_rollouts_of_a_group_are_alike(
    mean: float, variance: float, rollouts: int
) -> None:
    def density(eta: float) -> float:
        rate = 1.0 / (1.0 + math.exp(-eta))
        return (1 - rate**rollouts - (1 - rate) ** rollouts) * float(stats.norm.pdf(eta, mean, variance**0.5))

    exact = integrate.quad(density, mean - 30, mean + 30, limit=200)[0]
    found = chance_of_spread(np.array([float(mean)]), np.array([float(variance)]), rollouts)
    assert float(found[0]) == pytest.approx(exact, rel=0.03, abs=1e-9)
    assert (found == 0) == (rollouts == 1)


def test_gaussian_observations_are_ridge_regression_and_fading_weighs_them() -> None:
    rng = np.random.default_rng(1)
    x, z = rng.normal(size=(3, 40)), rng.normal(size=40)
    regression = LogisticFilter(np.array([1.0, 0.0, 0.0]), np.full(3, 2.0), fading=0.5, drift=0.0)
    regression.absorb(x[:, :20], np.full(20, 3.0), z[:20])
    regression.fade()
    regression.absorb(x[:, 20:], np.full(20, 3.0), z[20:])
    weight = np.repeat([1.5, 3.0], 20)
    precision = np.eye(3) / 2 + x * weight @ x.T
    assert np.allclose(regression.precision, precision)
    assert np.allclose(regression.mean, np.linalg.solve(precision, x * weight @ z + [0.5, 0, 0]))
    mean, variance = regression.predict(x[:, :2])
    assert np.allclose(mean, regression.mean @ x[:, :2])
    assert np.allclose(variance, np.diag(x[:, :2].T @ np.linalg.inv(precision) @ x[:, :2]))


def test_drift_widens_the_intercept_alone() -> None:
    regression = LogisticFilter(np.zeros(2), np.ones(2), fading=1.0, drift=0.7)
    regression.absorb(np.array([[1.0, 1.0], [0.5, -2.0]]), np.ones(2), np.ones(2))
    before, mean = np.linalg.inv(regression.precision), regression.mean
    regression.fade()
    assert np.allclose(np.linalg.inv(regression.precision), before + np.diag([0.7, 0.0]))
    assert np.allclose(regression.mean, mean)
