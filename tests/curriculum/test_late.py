"""Rollouts that come back after their epoch: they teach, and leave the numbers of the epoch under way alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gainrl.curriculum import (
    FixedNavigator,
    GaussianNavigator,
    Navigator,
    PosteriorNavigator,
    ProbeNavigator,
    PromptFeatures,
    Ranking,
    TargetNavigator,
    UniformNavigator,
    WindowSettings,
)
from gainrl.curriculum.arrays import from_text
from gainrl.errors import UserError

SIZE, N = 60, 12


def ranking() -> Ranking:
    return Ranking([f"p{index:03}" for index in range(SIZE)], [-float(index) for index in range(SIZE)], "f")


def probe() -> ProbeNavigator:
    prompts = ranking()
    directions = np.random.default_rng(0).normal(size=(SIZE, 6)).astype(np.float32)
    return ProbeNavigator(prompts, N, PromptFeatures(prompts, prompts.ids, directions, components=3), seed=1)


MAKE: dict[str, Callable[[], Navigator]] = {
    "gaussian": lambda: GaussianNavigator(ranking(), N, WindowSettings(sigma=9.0), seed=1),
    "target": lambda: TargetNavigator(ranking(), N, WindowSettings(sigma=9.0, mean=20.0), seed=1),
    "uniform": lambda: UniformNavigator(ranking(), N, seed=1),
    "fixed": lambda: FixedNavigator(ranking(), N),
    "posterior": lambda: PosteriorNavigator(ranking(), N, seed=1),
    "probe": probe,
    "resting": lambda: UniformNavigator(ranking(), N, seed=1, skip_mastered=1, mastered_rest=3),
}
each = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())


def records(ids: list[str], correct: float, copies: int = 2) -> list[dict[str, Any]]:
    return [
        {"id": name, "correct": correct, "scored": True, "angle": 0.5, "reward": correct, "tokens": 3}
        for name in ids
        for _ in range(copies)
    ]


@each
def test_the_epochs_own_numbers_are_without_them(make: Callable[[], Navigator]) -> None:
    navigator = make()
    first = navigator.draw()
    navigator.observe(records(first[:6], 1.0))
    second = navigator.draw()
    navigator.observe(records(second[:3], 1.0))
    before = navigator.metrics()
    navigator.observe_late(records(first[6:], 0.0))
    after = navigator.metrics()
    for name in ("epoch", "accuracy", "angle", "reward", "rollouts", "scored", "tokens"):
        assert after[name] == before[name], name
    assert (navigator.late.rollouts, navigator.late.accuracy) == (12, 0.0)
    assert (navigator.totals.rollouts, navigator.totals.accuracy) == (18, 6 / 18)
    assert navigator.ids == second
    navigator.draw()
    assert navigator.late.rollouts == 0


@each
def test_what_is_saved_among_them_goes_on_alike(make: Callable[[], Navigator]) -> None:
    navigator = make()
    first = navigator.draw()
    navigator.observe(records(first[:6], 1.0))
    second = navigator.draw()
    navigator.observe(records(second[:8], 1.0))
    navigator.observe_late(records(first[6:9], 0.0))
    state = json.loads(json.dumps(navigator.state_dict(), allow_nan=False))
    restored = make()
    restored.load_state_dict(state)
    assert restored.state_dict() == state
    assert restored.metrics() == navigator.metrics()
    for one in (navigator, restored):
        one.observe_late(records(first[9:], 0.0))
    assert restored.draw() == navigator.draw()
    assert restored.state_dict() == navigator.state_dict()


@each
def test_neither_their_order_nor_their_split_matters(make: Callable[[], Navigator]) -> None:
    one, other = make(), make()
    for navigator in (one, other):
        navigator.observe(records(navigator.draw()[:4], 1.0))
    late, now = records(one.ids[4:], 0.5), records(one.draw(), 0.0)
    other.draw()
    one.observe_late(late)
    one.observe(now)
    other.observe(now[::2])
    other.observe_late(late[1::2])
    other.observe(now[1::2][::-1])
    other.observe_late(late[::2])
    assert one.state_dict() == other.state_dict()


@each
def test_a_prompt_that_is_not_ranked_is_refused_and_nothing_is_counted(make: Callable[[], Navigator]) -> None:
    navigator = make()
    navigator.observe(records(navigator.draw(), 1.0))
    navigator.draw()
    before = navigator.state_dict()
    with pytest.raises(UserError, match="has no id 'stranger'"):
        navigator.observe_late([*records(navigator.ranking.ids[:1], 1.0), *records(["stranger"], 1.0)])
    assert navigator.state_dict() == before


def test_the_window_moves_by_all_that_came_since_its_last_move() -> None:
    """An order by rank puts the hard end of an epoch last: without its late part, the window would run ahead."""
    navigator = GaussianNavigator(ranking(), N, WindowSettings(sigma=9.0), seed=1)
    first = navigator.draw()
    navigator.observe(records(first[:6], 1.0))
    second = navigator.draw()
    navigator.observe(records(second[:6], 1.0))
    navigator.observe_late(records(first[6:], 0.0))
    moved = navigator.metrics()["next_mean"] - navigator.metrics()["mean"]
    assert moved == pytest.approx(N / 2 * (math.tanh(0.0) + math.tanh(2 * 0.5)))


def tried(navigator: Navigator) -> dict[str, int]:
    counts = from_text(navigator.state_dict()["position"]["tried"], "<u1", SIZE, "tried")
    return {navigator.ranking.ids[rank]: count for rank, count in enumerate(counts.tolist()) if count}


def test_posterior_counts_every_rollout_of_every_prompt_once() -> None:
    navigator = PosteriorNavigator(ranking(), N, seed=1)
    seen: dict[str, int] = {}
    late: list[str] = []
    for _ in range(5):
        ids = navigator.draw()
        for name in (*late, *ids[:7]):
            seen[name] = seen.get(name, 0) + 2
        navigator.observe_late(records(late, 0.5))
        navigator.observe(records(ids[:7], 0.5))
        late = ids[7:]
    navigator.draw()
    assert tried(navigator) == seen


def test_a_prompt_solved_late_and_again_in_time_was_solved_in_two_epochs() -> None:
    def navigator(times: int) -> UniformNavigator:
        return UniformNavigator(ranking(), SIZE, seed=1, skip_mastered=times, mastered_rest=3)

    for times, resting in ((2, 1), (3, 0)):
        two = navigator(times)
        first = two.draw()
        two.observe(records(first[1:], 0.0))
        two.draw()
        two.observe_late(records(first[:1], 1.0))
        two.observe(records(first[:1], 1.0) + records(first[1:], 0.0))
        two.draw()
        assert two.metrics()["resting"] == resting
    failed = navigator(1)
    first = failed.draw()
    failed.observe(records(first[1:], 0.0))
    failed.draw()
    failed.observe_late(records(first[:1], 0.0))
    failed.observe(records(first[:1], 1.0))
    failed.draw()
    assert failed.metrics()["resting"] == 1  # the later epoch has the last word


@pytest.mark.parametrize("kind", ["posterior", "resting"])
def test_a_prompt_that_was_mastered_late_is_not_drawn_again_at_once(kind: str) -> None:
    navigator = MAKE[kind]()
    first = navigator.draw()
    navigator.observe(records(first[:1], 0.0))
    navigator.draw()
    navigator.observe_late(records(first[1:], 1.0, copies=64))  # nothing more to learn there
    navigator.observe(records([name for name in navigator.ids if name not in first][:1], 0.5))
    third = navigator.draw()
    assert not set(third) & set(first[1:])


def test_late_outcomes_that_contradict_themselves_are_refused() -> None:
    navigator = PosteriorNavigator(ranking(), N, seed=1)
    first = navigator.draw()
    navigator.observe(records(first[:6], 1.0))
    navigator.draw()
    navigator.observe_late(records(first[6:], 0.0))
    state = json.loads(json.dumps(navigator.state_dict()))
    state["outcomes"]["late"]["extra"] = 1
    with pytest.raises(UserError, match="late outcomes need the fields"):
        PosteriorNavigator(ranking(), N, seed=1).load_state_dict(state)
    state["outcomes"]["late"] = None
    del state["outcomes"]["size"]
    with pytest.raises(UserError, match="outcomes of the epoch need the fields"):
        PosteriorNavigator(ranking(), N, seed=1).load_state_dict(state)
