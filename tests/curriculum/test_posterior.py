"""Posterior sampling: what is counted, what is sampled, what is predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from gainrl.curriculum import Navigator, Prompts, make_navigator
from tests.curriculum.navigator_support import groups


def posterior(size: int = 10, **args: Any) -> Navigator:
    prompts = Prompts(np.arange(size), -np.arange(size), np.ones(size, dtype=int))
    return make_navigator("posterior", prompts, args)


def chosen_share(navigator: Navigator, row: int, draws: int = 3000) -> float:
    return float(np.mean([navigator.draw(1)[0] == row for _ in range(draws)]))


def test_the_prompt_whose_sampled_rate_is_nearest_to_the_target_is_drawn() -> None:
    """Of two prompts by quadrature: the chance that |θ₀ − ½| < |θ₁ − ½| under the posteriors."""
    navigator = posterior(2)
    navigator.observe(groups([0, 1], [7, 2]))
    navigator.draw(1)
    grid = (np.arange(4000) + 0.5) / 4000
    first, second = stats.beta(3 + 7, 1 + 1), stats.beta(1 + 2, 3 + 6)
    distance = np.abs(grid - 0.5)
    farther = 1 - (second.cdf(0.5 + distance) - second.cdf(0.5 - distance))
    expected = float((first.pdf(grid) * farther).mean())
    assert chosen_share(navigator, 0) == pytest.approx(expected, abs=0.03)


def test_prompts_near_the_target_are_preferred_once_they_are_known() -> None:
    navigator = posterior(10, memory=128)
    for _ in range(8):
        navigator.observe(groups(np.arange(10), [0, 8, 0, 8, 4, 8, 0, 8, 0, 8]))
        navigator.draw(1)
    assert chosen_share(navigator, 4, 300) > 0.95


def test_the_prior_is_the_ranking() -> None:
    navigator = posterior(4, prior_strength=2.0, target=0.9)
    assert navigator.draw(4).shape == (4,)
    drawn = np.bincount([navigator.draw(1)[0] for _ in range(2000)], minlength=4)
    assert drawn.tolist() == sorted(drawn.tolist(), reverse=True)


def test_old_rollouts_lose_their_weight() -> None:
    navigator = posterior(2, memory=16)
    for correct in [0] * 10 + [8] * 10:
        navigator.observe(groups([0], correct))
        navigator.draw(1)
    state = navigator.state_dict()
    assert state["tried"].tolist() == [16, 0]
    assert state["solved"][0] > 15.5


def test_the_predicted_chance_is_that_of_a_beta_binomial() -> None:
    navigator = posterior(2)
    navigator.observe(groups([0, 1], [1.5, 4], rollouts=4))
    navigator.draw(2)
    for row, shapes in enumerate([(3 + 1.5, 1 + 2.5), (1 + 4, 3 + 0)]):
        outcomes = stats.betabinom(4, *shapes)
        assert navigator.predicted([row])[0] == pytest.approx(1 - outcomes.pmf(0) - outcomes.pmf(4))  # type: ignore[index]
