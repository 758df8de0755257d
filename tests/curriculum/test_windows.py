"""What windows can do besides moving on: follow a target back, let mastered prompts rest, name spares, be reranked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gainrl.curriculum import (
    FixedNavigator,
    GaussianNavigator,
    Navigator,
    PosteriorNavigator,
    Ranking,
    ShortestFirstNavigator,
    TargetNavigator,
    UniformNavigator,
    WindowSettings,
    draw_ranks,
)
from gainrl.errors import UserError

SIZE, N = 60, 10


def ranking(size: int = SIZE, sign: float = -1.0) -> Ranking:
    return Ranking([f"p{i:03d}" for i in range(size)], sign * np.arange(size, dtype=float), "data")


def outcomes(ids: list[str], correct: Any, copies: int = 2) -> list[dict[str, Any]]:
    return [
        {"id": name, "correct": c, "scored": c is not None, "angle": 0.5, "reward": 0.0, "tokens": 1}
        if c is not None
        else {"id": name, "correct": False, "scored": False, "angle": 0.5, "reward": None, "tokens": 1}
        for name in ids
        for c in [correct(name) if callable(correct) else correct]
        for _ in range(copies)
    ]


# The target window


def test_the_target_window_moves_by_its_formula_on_and_back() -> None:
    navigator = TargetNavigator(ranking(), N, WindowSettings(sigma=5.0, mean=30.0, beta=0.6))
    for accuracy in (1.0, 0.0, 0.6):
        before = navigator.mean
        navigator.observe(outcomes(navigator.draw(), accuracy))
        expected = before + N * math.tanh(2.0 * (accuracy - 0.6))
        assert navigator.metrics()["next_mean"] == pytest.approx(expected, rel=1e-9)
        navigator.draw()
        assert navigator.mean == pytest.approx(expected, rel=1e-9)
    assert navigator.metrics()["target"] == 0.6


def test_the_target_window_settles_where_its_accuracy_is_the_target() -> None:
    """Prompts up to rank 25 are solved, later ones are not: the window straddles them."""
    navigator = TargetNavigator(ranking(), N, WindowSettings(sigma=4.0, mean=0.0), seed=3)
    means, accuracies = [], []
    for _ in range(40):
        navigator.observe(outcomes(navigator.draw(), lambda name: float(int(name[1:]) < 25)))
        means.append(navigator.mean)
        accuracies.append(navigator.metrics()["accuracy"])
    assert 20 < np.mean(means[10:]) < 30
    assert abs(np.mean(accuracies[10:]) - 0.5) < 0.1
    assert min(np.diff(means[10:])) < 0


def test_the_target_window_stays_on_the_ranks_and_needs_no_angle() -> None:
    navigator = TargetNavigator(ranking(), N, WindowSettings(sigma=4.0))
    navigator.observe([{**record, "angle": None} for record in outcomes(navigator.draw(), 0.0)])
    assert navigator.metrics()["held"] is None
    navigator.draw()
    assert navigator.mean == 0.0
    for _ in range(20):
        navigator.observe(outcomes(navigator.draw(), 1.0))
    assert navigator.mean == SIZE - 1
    navigator.observe(outcomes(navigator.draw(), None))
    navigator.draw()
    navigator.observe(outcomes(navigator.ids, None))
    assert navigator.metrics()["held"] == "no scored rollout"


def test_the_target_window_has_no_end() -> None:
    with pytest.raises(
        UserError, match=r"at_end='restart': the navigator 'target' comes back .* leave at_end at 'stay'"
    ):
        TargetNavigator(ranking(), N, WindowSettings(at_end="restart"))


# Mastered prompts


def uniform(k: int = 2, rest: int = 3, n: int = N, size: int = SIZE, seed: int = 0) -> UniformNavigator:
    return UniformNavigator(ranking(size), n, seed=seed, skip_mastered=k, mastered_rest=rest)


def test_a_prompt_solved_in_full_k_times_in_a_row_rests_and_is_tried_again() -> None:
    k, rest = 2, 3
    navigator = uniform(k, rest, n=20)
    streak = dict.fromkeys(navigator.ranking.ids, 0)
    wakes = dict.fromkeys(navigator.ranking.ids, 0)
    again = 0
    for epoch in range(60):
        ids = navigator.draw()
        asleep = {name for name, until in wakes.items() if until > epoch}
        assert not asleep & set(ids)
        assert navigator.metrics()["resting"] == len(asleep)
        for name in ids:
            again += wakes[name] > 0
            full = int(name[1:]) % 2 == 0
            streak[name] = min(streak[name] + 1, k) if full else 0
            if streak[name] == k:
                wakes[name] = epoch + 1 + rest
        navigator.observe(outcomes(ids, lambda name: 1.0 if int(name[1:]) % 2 == 0 else 0.5))
    assert again > 20, "prompts come back after their rest"
    assert max(wakes.values()) > 50


@pytest.mark.parametrize("spoiled", [0.999, None], ids=["partial credit", "unscored"])
def test_only_a_full_solution_counts(spoiled: float | None) -> None:
    navigator = uniform(k=1, n=SIZE - 10)
    ids = navigator.draw()
    navigator.observe(outcomes(ids, 1.0, copies=3))
    navigator.observe(outcomes(ids[:5], spoiled, copies=1))
    drawn = set(navigator.draw())
    resting = set(navigator.ranking.ids) - drawn
    assert navigator.metrics()["resting"] == len(ids) - 5
    assert set(ids[:5]) <= drawn
    assert resting <= set(ids[5:])


def test_a_failure_begins_the_count_anew() -> None:
    navigator = uniform(k=3, n=SIZE, rest=9)
    for correct in (1.0, 1.0, 0.0, 1.0, 1.0):
        navigator.observe(outcomes(navigator.draw(), correct))
    navigator.draw()
    assert navigator.metrics()["resting"] == 0
    navigator.observe(outcomes(navigator.ids, 1.0))
    navigator.draw()
    assert navigator.metrics()["resting"] == SIZE


def test_where_too_few_are_awake_those_that_wake_soonest_are_drawn() -> None:
    navigator = uniform(k=1, rest=5, n=25)
    first = set(navigator.draw())
    navigator.observe(outcomes(navigator.ids, 1.0))
    second = set(navigator.draw())
    assert not first & second
    navigator.observe(outcomes(navigator.ids, 1.0))
    third = set(navigator.draw())
    awake = set(navigator.ranking.ids) - first - second
    assert len(third) == 25
    assert awake <= third
    assert third - awake <= first


def test_without_anybody_resting_the_draw_is_the_plain_one() -> None:
    plain, resting = UniformNavigator(ranking(), N, seed=8), uniform(seed=8)
    window = WindowSettings(sigma=7.0, mean=20.0)
    pairs: list[tuple[Navigator, Navigator]] = [
        (plain, resting),
        (GaussianNavigator(ranking(), N, window), GaussianNavigator(ranking(), N, window, skip_mastered=1)),
    ]
    for one, other in pairs:
        for _ in range(5):
            assert one.draw() == other.draw()
            for navigator in (one, other):
                navigator.observe(outcomes(navigator.ids, 0.5))


def test_the_law_over_those_awake_is_that_of_a_ranking_of_them_alone() -> None:
    """First picks of 4000 epochs with half of the ranks asleep, against the weights of the others."""
    counts = np.zeros(12)
    window = WindowSettings(sigma=3.0, mean=4.0)
    navigator = GaussianNavigator(ranking(12), 3, window, order="draw", skip_mastered=1, mastered_rest=60000)
    assert navigator._mastered is not None
    navigator._mastered._left[::2] = 60000
    for epoch in range(4000):
        navigator._epoch = epoch
        navigator._forget()
        counts[navigator.ranks[0]] += 1
    weights = np.exp(-((np.arange(12) - 4.0) ** 2) / 18.0)
    weights[::2] = 0.0
    expected = 4000 * weights / weights.sum()
    assert counts[::2].sum() == 0
    awake = expected > 0
    assert (((counts - expected)[awake] ** 2) / expected[awake]).sum() < 20.5, "chi-square, 5 degrees, p = 0.001"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"skip_mastered": 0}, "skip_mastered must be an integer from 1 to 255, got 0"),
        ({"skip_mastered": True}, "got True"),
        ({"skip_mastered": 2.0}, "got 2.0"),
        ({"skip_mastered": 2, "mastered_rest": 0}, "mastered_rest must be an integer from 1 to 65535, got 0"),
    ],
)
def test_impossible_rests_are_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        UniformNavigator(ranking(), N, **options)


# Spares

EVERY: list[Navigator] = [
    GaussianNavigator(ranking(), N, WindowSettings(sigma=6.0, mean=20.0)),
    TargetNavigator(ranking(), N, WindowSettings(sigma=6.0, mean=20.0), skip_mastered=1),
    UniformNavigator(ranking(), N),
    PosteriorNavigator(ranking(), N),
    FixedNavigator(ranking(), N),
    ShortestFirstNavigator(ranking(), N),
]


@pytest.mark.parametrize("navigator", EVERY, ids=lambda navigator: navigator.kind)
def test_spares_are_other_prompts_and_a_function_of_the_state(navigator: Navigator) -> None:
    ids = navigator.draw()
    spares = navigator.spares
    assert len(set(spares)) == N
    assert not set(spares) & set(ids)
    assert navigator.ids == ids, "asking for spares does not change the draw"
    navigator.observe(outcomes([*ids, *spares[:3]], 0.5))
    state = navigator.state_dict()
    navigator.load_state_dict(state)
    assert navigator.spares == spares
    navigator.draw()
    assert navigator.spares != spares


def test_spares_are_the_draw_going_on() -> None:
    """The (n+1)-th pick of successive sampling: over many epochs, weights of what is left after the first n."""
    weights = np.exp(-((np.arange(6) - 2.0) ** 2) / 8.0)
    navigator = GaussianNavigator(ranking(6), 3, WindowSettings(sigma=2.0, mean=2.0), order="draw")
    chi, freedom = 0.0, 0
    counts: dict[frozenset[int], np.ndarray] = {}
    for epoch in range(6000):
        navigator._epoch = epoch
        navigator._forget()
        picked = frozenset(navigator.ranks.tolist())
        first = navigator.ranking.rank_of(navigator.spares[0])
        counts.setdefault(picked, np.zeros(6))[first] += 1
    for picked, found in counts.items():
        left = np.array([r not in picked for r in range(6)])
        expected = found.sum() * weights * left / (weights * left).sum()
        if expected[left].min() >= 5:
            chi += float((((found - expected)[left] ** 2) / expected[left]).sum())
            freedom += 2
    assert freedom >= 20
    assert chi < freedom + 4 * math.sqrt(2 * freedom)


def test_a_draw_of_everything_has_no_spares_and_few_have_few() -> None:
    assert UniformNavigator(ranking(), SIZE).spares == []
    assert len(UniformNavigator(ranking(), SIZE - 4).spares) == 4
    assert len(PosteriorNavigator(ranking(), SIZE - 4).spares) == 4


def test_lots_of_one_epoch_are_independent() -> None:
    first = [draw_ranks(1, 2, 0.5, 1.0, seed=0, epoch=e)[0] for e in range(2000)]
    second = [draw_ranks(1, 2, 0.5, 1.0, seed=0, epoch=e, lot=1)[0] for e in range(2000)]
    assert abs(np.mean(first) - 0.5) < 0.05
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.08


# Another ranking of the same prompts


def test_reranking_keeps_the_mean_and_moves_the_prompts() -> None:
    window = WindowSettings(sigma=3.0, mean=10.0)
    navigator = GaussianNavigator(ranking(), N, window, skip_mastered=1, mastered_rest=9)
    ids = navigator.draw()
    navigator.observe(outcomes(ids, 1.0))
    expected = navigator.metrics()["next_mean"]
    turned = ranking(sign=1.0)
    navigator.rerank(turned)
    assert (navigator.epoch, navigator.mean) == (1, expected)
    assert navigator.totals.rollouts == 0
    assert not set(ids) & set(navigator.draw()), "who rests is remembered by prompt, not by rank"
    assert abs(np.median(navigator.ranks) - expected) < 6
    state = navigator.state_dict()
    assert state["ranking"]["order"] == turned.digest
    again = GaussianNavigator(turned, N, window, skip_mastered=1, mastered_rest=9)
    again.load_state_dict(state)
    assert again.ids == navigator.ids
    with pytest.raises(UserError, match="another ranking of this dataset"):
        GaussianNavigator(ranking(), N, window, skip_mastered=1, mastered_rest=9).load_state_dict(state)


def test_rankings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="must have the prompts of the old one"):
        GaussianNavigator(ranking(), N).rerank(ranking(SIZE - 1))
    for navigator in (UniformNavigator(ranking(), N), FixedNavigator(ranking(), N)):
        with pytest.raises(UserError, match=f"the navigator '{navigator.kind}' does not draw by score"):
            navigator.rerank(ranking(sign=1.0))
