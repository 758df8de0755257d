"""Posterior sampling: the variates, the counts, and where the draws go."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gainrl.curriculum import PosteriorNavigator, Ranking
from gainrl.curriculum.beta import beta
from gainrl.errors import UserError


def ranking(size: int = 400) -> Ranking:
    return Ranking([f"p{i:04d}" for i in range(size)], -np.arange(size, dtype=float), "data")


def outcome(name: str, correct: float, copies: int = 4, scored: bool = True) -> list[dict[str, Any]]:
    one = {"id": name, "correct": correct, "scored": scored, "angle": 0.5, "reward": correct, "tokens": 1}
    return [one] * copies


@pytest.mark.parametrize(("a", "b"), [(0.02, 3.98), (0.5, 0.5), (1.0, 1.0), (2.5, 1.5), (4.0, 60.0), (200.0, 59.0)])
def test_variates_follow_the_beta_law(a: float, b: float) -> None:
    size = 20_000
    found = beta(np.full(size, a), np.full(size, b), seed=3, epoch=1)
    assert stats.kstest(found, stats.beta(a, b).cdf).pvalue > 1e-3
    assert np.isfinite(found).all()


def test_variates_are_independent_of_their_neighbours_and_differ_by_epoch_and_seed() -> None:
    a, b = np.linspace(0.1, 9.0, 500), np.linspace(5.0, 0.2, 500)
    found = beta(a, b, seed=1, epoch=2)
    assert np.array_equal(beta(a[:100], b[:100], seed=1, epoch=2), found[:100])
    for seed, epoch in ((2, 2), (1, 3)):
        other = beta(a, b, seed=seed, epoch=epoch)
        assert not np.isin(found, other).any()
    centred = [stats.beta(a, b).cdf(beta(a, b, seed=s, epoch=0)) for s in range(200)]
    assert abs(np.corrcoef(np.array(centred).T[:30]) - np.eye(30)).max() < 0.4


def test_before_anything_was_tried_the_middle_of_the_ranking_is_preferred() -> None:
    navigator = PosteriorNavigator(ranking(), 100, prior_strength=50.0, seed=2)
    ranks = navigator.ranks
    assert 180 < np.median(ranks) < 220
    assert np.ptp(ranks) < 250
    easier = PosteriorNavigator(ranking(), 100, target=0.9, prior_strength=50.0, seed=2)
    assert np.median(easier.ranks) < 80


def test_prompts_turn_out_certain_and_are_left_for_informative_ones() -> None:
    """The ranking is wrong: its middle is always or never solved, its first quarter is half solved."""
    navigator = PosteriorNavigator(ranking(), 80, seed=4)
    informative: list[float] = []
    for _ in range(20):
        ids = navigator.draw()
        informative.append(float(np.mean(navigator.ranks < 100)))
        for name in ids:
            rank = navigator.ranking.rank_of(name)
            for copy in range(4):
                navigator.observe(outcome(name, copy % 2 if rank < 100 else rank % 2, copies=1))
    assert np.mean(informative[:2]) < 0.35
    assert np.mean(informative[-5:]) > 0.7
    assert navigator.metrics()["tried"] > 300
    assert navigator.metrics()["expected"] == pytest.approx(0.5, abs=0.05)


def test_counts_are_the_rollouts_credit_and_hold_the_memory() -> None:
    navigator = PosteriorNavigator(ranking(4), 4, memory=6, prior_strength=2.0)
    navigator.draw()
    navigator.observe(outcome("p0000", 1.0) + outcome("p0001", 0.25) + outcome("p0002", 1.0, scored=False))
    navigator.draw()
    assert navigator._tried.tolist() == [4, 4, 0, 0]
    assert navigator._solved.tolist() == [4 * 256, 256, 0, 0]
    navigator.observe(outcome("p0000", 0.0))
    navigator.draw()
    assert navigator._tried.tolist() == [6, 4, 0, 0], "8 rollouts tried count as 6"
    assert navigator._solved.tolist() == [3 * 256, 256, 0, 0], "4 of 8 solved count as 3 of 6"
    a, b = navigator._shapes(np.arange(4))
    assert a.tolist() == [2 * 0.875 + 3, 2 * 0.625 + 1, 2 * 0.375, 2 * 0.125]
    assert (a + b).tolist() == [8, 6, 2, 2]


def test_counts_follow_their_prompt_into_a_new_ranking() -> None:
    navigator = PosteriorNavigator(ranking(6), 3)
    name = navigator.draw()[0]
    navigator.observe(outcome(name, 1.0))
    turned = Ranking(navigator.ranking.ids, np.arange(6, dtype=float), "data")
    navigator.rerank(turned)
    assert navigator.epoch == 1
    assert navigator._tried[turned.rank_of(name)] == 4 == navigator._tried.sum()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": 1.0}, r"target pass rate must lie in \(0, 1\), got 1.0"),
        ({"target": "half"}, "got 'half'"),
        ({"prior_strength": 0.0}, "prior_strength must be a positive finite number of rollouts, got 0.0"),
        ({"prior_strength": math.inf}, "got inf"),
        ({"memory": 0}, "memory must be an integer from 1 to 255 rollouts, got 0"),
        ({"memory": 2.5}, "got 2.5"),
    ],
)
def test_impossible_options_are_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        PosteriorNavigator(ranking(), 10, **options)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tried": "?"}, "tried is damaged"),
        ({"tried": "eJwDAAAAAAE="}, "tried holds 0 bytes, 400 prompts need 400"),
        ({"swap": True}, "solved more often than tried"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(change: dict[str, Any], said: str) -> None:
    navigator = PosteriorNavigator(ranking(), 10)
    navigator.observe(outcome(navigator.draw()[0], 1.0))
    navigator.draw()
    state = json.loads(json.dumps(navigator.state_dict()))
    other = PosteriorNavigator(ranking(), 10)
    before = other.state_dict()
    if change.pop("swap", False):
        state["position"]["tried"] = before["position"]["tried"]
    state["position"] |= change
    with pytest.raises(UserError, match=said):
        other.load_state_dict(state)
    assert other.state_dict() == before


def test_metrics_cost_what_the_epoch_holds_and_not_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    navigator = PosteriorNavigator(ranking(), 8)
    for _ in range(2):
        navigator.observe([record for name in navigator.draw() for record in outcome(name, 1.0)])
    navigator.draw()
    first = navigator.metrics()
    assert first["tried"] == int(np.count_nonzero(navigator._tried)) > 0
    sizes: list[int] = []
    shapes = navigator._shapes

    def watched(ranks: Any) -> Any:
        sizes.append(len(ranks))
        return shapes(ranks)

    monkeypatch.setattr(navigator, "_shapes", watched)
    monkeypatch.setattr(np, "count_nonzero", lambda values: sizes.append(len(values)) or 0)
    assert {**navigator.metrics(), "undefined_drawn": 0} == first
    assert max(sizes) == 8
