"""The contract that all navigators share, and what is special about each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from navigator_support import MAKE, SIZE, N, each, gaussian, ranking, rollouts, run, through_json

from gainrl.curriculum import (
    NAVIGATORS,
    ORDERS,
    FixedNavigator,
    Navigator,
    Totals,
    UniformNavigator,
)
from gainrl.errors import UserError


def test_every_navigator_is_tested_here() -> None:
    assert MAKE.keys() == NAVIGATORS.keys()
    assert all(type(make()) is NAVIGATORS[name] for name, make in MAKE.items())


@each
def test_a_draw_is_n_distinct_prompts_and_the_same_until_something_is_observed(make: Callable[[], Navigator]) -> None:
    navigator = make()
    ids = navigator.draw()
    assert len(set(ids)) == N
    assert navigator.draw() == navigator.ids == ids
    assert navigator.epoch == 0
    navigator.observe([])  # nothing
    assert navigator.draw() == ids
    navigator.observe(rollouts(ids, 0, share=0.1))
    assert navigator.ids == ids  # reading never moves
    assert navigator.epoch == 0
    assert navigator.draw() != ids
    assert navigator.epoch == 1


@each
def test_equal_navigators_draw_the_same_whatever_the_order_and_split_of_the_observations(
    make: Callable[[], Navigator],
) -> None:
    one, other = make(), make()
    for _ in range(4):
        assert one.draw() == other.draw()
        records = rollouts(one.ids, one.epoch)
        one.observe(records)
        if one._remembers:
            with pytest.raises(UserError, match="hand the records themselves to observe"):
                other.observe_totals(Totals.from_records(records[1::2]))
            other.observe(records[1::2])
        else:
            other.observe_totals(Totals.from_records(records[1::2]))
        other.observe(records[::2][::-1])
        assert one.state_dict() == other.state_dict()


@each
def test_metrics_are_plain_json(make: Callable[[], Navigator]) -> None:
    navigator = make()
    assert through_json(navigator.metrics())["accuracy"] is None
    run(navigator, 1)
    metrics = navigator.metrics()
    assert through_json(metrics) == metrics
    assert metrics["epoch"] == 0
    assert metrics["prompts"] == N
    assert metrics["rollouts"] == 2 * N
    assert metrics["tokens"] == 11 * N
    assert metrics["reward"] == 0.5
    ranks = metrics["ranks"]
    assert 0 <= ranks["min"] <= ranks["p10"] <= ranks["median"] <= ranks["p90"] <= ranks["max"] < SIZE


@each
def test_a_prompt_outside_the_epoch_is_refused_and_nothing_is_counted(make: Callable[[], Navigator]) -> None:
    navigator = make()
    ids = navigator.draw()
    stranger = next(name for name in navigator.ranking.ids if name not in ids)
    with pytest.raises(UserError, match=f"'{stranger}' was observed but is not part of epoch 0"):
        navigator.observe(rollouts([ids[0], stranger], 0))
    assert navigator.totals == Totals()


def test_orders_hold_the_same_prompts() -> None:
    drawn = {order: gaussian(order=order).draw() for order in ORDERS}
    assert len({frozenset(ids) for ids in drawn.values()}) == 1
    ranks = {order: [ranking().rank_of(name) for name in ids] for order, ids in drawn.items()}
    assert ranks["rank"] == sorted(ranks["rank"])
    assert len({tuple(value) for value in ranks.values()}) == 3


def test_the_mean_moves_by_the_published_formula() -> None:
    navigator = gaussian()
    ids = navigator.draw()
    navigator.observe(
        [
            {"id": ids[0], "correct": True, "scored": True, "angle": 0.25, "reward": 1.0, "tokens": 3},
            {"id": ids[1], "correct": False, "scored": True, "angle": 0.5, "reward": 0.0, "tokens": 4},
            {"id": ids[2], "correct": True, "scored": True, "angle": 0.75, "reward": 1.0, "tokens": 5},
        ]
    )
    expected = 12.0 * (math.tanh(2.0 * (2 / 3 - 0.5)) + math.tanh(2.0 * 0.5))
    assert navigator.metrics()["next_mean"] == pytest.approx(expected, rel=1e-12)
    assert navigator.metrics()["held"] is None
    assert navigator.mean == 0.0
    navigator.draw()
    assert navigator.mean == pytest.approx(expected, rel=1e-12) == pytest.approx(12.9976, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "held"),
    [({"scored": False}, "no scored rollout"), ({"angle": math.nan}, "no rollout with an angle")],
)
def test_an_epoch_that_says_nothing_leaves_the_mean_and_says_so(changes: dict[str, Any], held: str) -> None:
    navigator = gaussian(mean=50.0)
    ids = navigator.draw()
    navigator.observe([record | changes for record in rollouts(ids, 0)])
    assert navigator.metrics()["held"] == held
    assert navigator.metrics()["next_mean"] == 50.0
    assert navigator.draw() != ids  # the epoch is over all the same
    assert (navigator.mean, navigator.epoch) == (50.0, 1)


@pytest.mark.parametrize("at_end", ["stay", "restart", "uniform"])
def test_the_window_reaches_the_last_rank_and_does_what_was_asked(at_end: str) -> None:
    navigator = gaussian(at_end=at_end, sigma=2.0, mean=100)
    means, medians = [], []
    for _ in range(14):
        ids = navigator.draw()
        means.append(navigator.mean)
        medians.append(navigator.metrics()["ranks"]["median"])
        navigator.observe([record | {"correct": True, "scored": True} for record in rollouts(ids, 0)])
    assert max(means) == SIZE - 1
    last = means.index(SIZE - 1)
    if at_end == "restart":
        assert means[last + 1] == 100.0
        assert 100.0 < means[last + 2] < 120.0
    else:
        assert means[last:] == [SIZE - 1.0] * (14 - last)
        assert navigator.metrics()["uniform"] is (at_end == "uniform")
    assert (medians[last + 1] > SIZE - 30) is (at_end == "stay")


def test_fixed_order_goes_round() -> None:
    navigator = FixedNavigator(ranking(size=10, undefined=0), 4, order="draw")
    seen = [navigator.ranks.tolist()]
    for _ in range(3):
        navigator.observe(rollouts(navigator.ids, 0))
        navigator.draw()
        seen.append(navigator.ranks.tolist())
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1], [2, 3, 4, 5]]


def test_undefined_prompts_in_a_draw_are_counted() -> None:
    assert UniformNavigator(ranking(undefined=3), SIZE).metrics()["undefined_drawn"] == 3


def test_uniform_draws_are_spread_over_all_ranks() -> None:
    counts = np.zeros(SIZE)
    navigator = UniformNavigator(ranking(), N, seed=1)
    for _ in range(400):
        counts[navigator.ranks] += 1
        navigator.observe(rollouts(navigator.ids[:1], 0))
        navigator.draw()
    assert abs(counts - 400 * N / SIZE).max() < 5 * math.sqrt(400 * N / SIZE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": SIZE + 1}, f"cannot draw n = {SIZE + 1} distinct prompts of the {SIZE} in the ranking"),
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": 8.0}, "n must be an integer, got 8.0"),
        ({"seed": -1}, r"seed must be in \[0, 2\^64\), got -1"),
        ({"seed": "x"}, "seed must be an integer, got 'x'"),
        ({"order": "random"}, "order must be one of rank, draw, shuffled, got 'random'"),
        ({"mean": SIZE}, f"starting mean {SIZE} lies beyond the last rank, {SIZE - 1}"),
    ],
)
def test_impossible_settings_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        gaussian(**arguments)
