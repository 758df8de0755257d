"""The window: its law by enumeration, its moves, and both against what the old code did (fixtures/README.md)."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gainrl.curriculum import Navigator, Outcomes, Prompts, make_navigator
from tests.curriculum.navigator_support import groups, set_chances

FROZEN = json.loads((Path(__file__).parent / "fixtures" / "gaussian.json").read_text())


def window(size: int, seed: int = 0, **args: Any) -> Navigator:
    """Over rows in the order of the ranking."""
    prompts = Prompts(np.arange(size), -np.arange(size), np.ones(size, dtype=int))
    return make_navigator("gaussian", prompts, args, seed=seed)


def at(mean: float, size: int, sigma: float, seed: int = 0) -> Navigator:
    """A window that stands at `mean`."""
    navigator = window(size, seed, sigma=sigma)
    navigator.load_state_dict({**navigator.state_dict(), "mean": mean})
    return navigator


def drawn_sets(navigator: Navigator, n: int, draws: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(sorted(navigator.draw(n).tolist())) for _ in range(draws))


def p_value(found: dict[tuple[int, ...], int], chances: dict[tuple[int, ...], float]) -> float:
    """Of a chi-square test; sets that are expected fewer than 5 times are put together."""
    draws = sum(found.values())
    often = [key for key, chance in chances.items() if chance * draws >= 5]
    observed = [found.get(key, 0) for key in often]
    expected = [chances[key] * draws for key in often]
    if (rest := draws - sum(expected)) > 1e-6:
        observed, expected = [*observed, draws - sum(observed)], [*expected, rest]
    return float(stats.chisquare(observed, expected).pvalue)


@pytest.mark.parametrize("frozen", FROZEN["draws"], ids=lambda one: f"{one['n']} of {one['prompts']}")
def test_draws_are_one_by_one_without_replacement_by_the_gaussian_weights(frozen: dict[str, Any]) -> None:
    size, n, mean, sigma = (frozen[name] for name in ("prompts", "n", "mean", "sigma"))
    chances = set_chances(np.exp(-((np.arange(size) - mean) ** 2) / (2 * sigma**2)), n)
    assert p_value(drawn_sets(at(mean, size, sigma), n, 6000), chances) > 1e-3
    old = {tuple(map(int, key.split())): times for key, times in frozen["sets"].items()}
    assert p_value(old, chances) > 1e-3


@pytest.mark.parametrize("frozen", FROZEN["binned"], ids=lambda one: f"{one['n']} of {one['prompts']}")
def test_positions_are_drawn_as_often_as_by_the_old_code(frozen: dict[str, Any]) -> None:
    size, n, draws = frozen["prompts"], frozen["n"], frozen["draws"]
    navigator = at(frozen["mean"], size, frozen["sigma"])
    rows = np.concatenate([navigator.draw(n) for _ in range(draws)])
    found, old = np.bincount(rows * 20 // size, minlength=20), np.array(frozen["bins"])
    usual = found + old >= 10
    table = np.stack([found[usual], old[usual]])
    assert usual.sum() > 4
    assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("frozen", FROZEN["moves"], ids=lambda one: f"{one['n']} of {one['prompts']}")
def test_the_window_moves_as_the_old_one(frozen: dict[str, Any]) -> None:
    n, rollouts = frozen["n"], frozen["rollouts"]
    navigator = window(frozen["prompts"], alpha=frozen["alpha"], beta=frozen["beta"], prompts_per_move=n)
    assert navigator.metrics() == {"draws": 0, "mean": 0.0, "sigma": frozen["sigma"], "since_move": 0}
    for correct, angle, mean in zip(frozen["correct"], frozen["angle"], frozen["mean"], strict=True):
        rows = navigator.draw(n)
        accuracy = np.full(n, correct // n) + (np.arange(n) < correct % n)
        navigator.observe(groups(rows, accuracy, rollouts), angle)
        navigator.draw(1)
        assert navigator.metrics()["mean"] == pytest.approx(mean, rel=1e-9)


def test_a_move_follows_from_the_means_over_all_draws_since_the_last_one() -> None:
    navigator = window(500, prompts_per_move=24)
    for correct, angle in ((2, 0.1), (8, 0.3), (5, 0.8)):
        assert navigator.metrics()["mean"] == 0.0
        rows = navigator.draw(8)
        navigator.observe(groups(rows, correct), angle)
    navigator.draw(8)
    move = 12 * (math.tanh(2 * (5 / 8 - 0.5)) + math.tanh(2 * 0.4))
    assert navigator.metrics()["mean"] == pytest.approx(move)
    assert navigator.metrics()["since_move"] == 0


def test_angles_are_weighted_by_rollouts_and_accuracy_by_scored_rollouts() -> None:
    navigator = window(500, prompts_per_move=2)
    navigator.observe(groups([3], 4, rollouts=4), 0.2)
    navigator.observe(groups([4], 0, rollouts=12, scored=1), 0.6)
    navigator.draw(1)
    expected = math.tanh(2 * (4 / 5 - 0.5)) + math.tanh(2 * (4 * 0.2 + 12 * 0.6) / 16)
    assert navigator.metrics()["mean"] == pytest.approx(expected)


@pytest.mark.parametrize("angle", [None, math.nan, math.inf])
def test_groups_without_an_angle_move_nothing_and_are_not_counted(angle: float | None) -> None:
    navigator = window(100, prompts_per_move=8)
    navigator.observe(groups(np.arange(8), 8), angle)
    navigator.draw(4)
    assert (navigator.metrics()["mean"], navigator.metrics()["since_move"]) == (0.0, 0)
    navigator.observe(groups(np.arange(8), 8), 0.5)
    navigator.draw(4)
    assert navigator.metrics()["mean"] > 4


def test_the_window_stays_on_the_ranking_and_never_moves_back() -> None:
    navigator = window(40, prompts_per_move=10, alpha=5.0)
    means = []
    for correct in (8, 0, 8, 8, 8, 8, 0, 8):
        rows = navigator.draw(10)
        navigator.observe(groups(rows, correct), 0.0 if correct == 0 else 1.0)
        navigator.draw(10)
        means.append(navigator.metrics()["mean"])
    assert means == sorted(means)
    assert means[0] == means[1] == pytest.approx(10, rel=0.01)
    assert means[-1] == 39.0


def test_rows_come_in_the_order_of_the_ranking() -> None:
    scores = np.random.default_rng(3).normal(size=50)
    navigator = make_navigator("gaussian", Prompts(np.arange(50), scores, np.ones(50, dtype=int)))
    drawn = scores[navigator.draw(20)]
    assert drawn.tolist() == sorted(drawn, reverse=True)


def test_a_window_far_narrower_than_a_draw_takes_the_nearest_positions() -> None:
    assert at(30.2, 100, 1e-3).draw(5).tolist() == [28, 29, 30, 31, 32]


def test_uniform_draws_every_set_equally_often() -> None:
    prompts = Prompts(np.arange(5), np.zeros(5), np.ones(5, dtype=int))
    found = drawn_sets(make_navigator("uniform", prompts), 2, 5000)
    assert p_value(found, set_chances(np.ones(5), 2)) > 1e-3


def test_outcomes_of_several_draws_at_once_are_one_move() -> None:
    navigator = window(500, prompts_per_move=8)
    rows = np.arange(40)
    navigator.observe(Outcomes(rows, rows * 0 + 4, rows * 0 + 4, np.full(40, 4.0), np.zeros(40, dtype=bool)), 3.0)
    navigator.draw(8)
    assert navigator.metrics()["mean"] == pytest.approx(20 * (math.tanh(1.0) + math.tanh(6.0)))
