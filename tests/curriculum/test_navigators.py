"""The contract that all navigators share, and what is special about each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gainrl.curriculum import (
    NAVIGATORS,
    ORDERS,
    FixedNavigator,
    GaussianNavigator,
    Navigator,
    PosteriorNavigator,
    ProbeNavigator,
    PromptFeatures,
    Ranking,
    ShortestFirstNavigator,
    TargetNavigator,
    Totals,
    UniformNavigator,
    WindowSettings,
)
from gainrl.errors import UserError

GOLDEN = Path(__file__).parent.parent / "golden"
SIZE, N = 200, 24


def ranking(size: int = SIZE, undefined: int = 3) -> Ranking:
    scores = [math.nan if i < undefined else math.sin(i) for i in range(size)]
    return Ranking([f"prompt-{i:04d}" for i in range(size)], scores, "fingerprint-of-the-data")


def gaussian(n: int = N, order: str = "rank", seed: int = 5, **window: Any) -> GaussianNavigator:
    return GaussianNavigator(ranking(), n, WindowSettings(**({"sigma": 20.0} | window)), order=order, seed=seed)


def probe(**options: Any) -> ProbeNavigator:
    prompts = ranking()
    directions = np.multiply.outer(np.arange(SIZE) + 3, np.arange(12) ** 2 + 5) % 31 / 8.0  # the same on every machine
    directions[5] = math.nan
    features = PromptFeatures(prompts, sorted(prompts.ids), directions, np.arange(SIZE) % 17 + 3, components=6)
    return ProbeNavigator(prompts, N, features, **options)


MAKE: dict[str, Callable[[], Navigator]] = {
    "gaussian": gaussian,
    "target": lambda: TargetNavigator(ranking(), N, WindowSettings(sigma=20.0, mean=30), order="rank", seed=5),
    "posterior": lambda: PosteriorNavigator(ranking(), N, seed=5, order="draw", memory=6),
    "probe": lambda: probe(seed=5, order="draw", explore=0.25),
    "uniform": lambda: UniformNavigator(ranking(), N, seed=5, order="draw"),
    "fixed": lambda: FixedNavigator(ranking(), N),
    "shortest-first": lambda: ShortestFirstNavigator(ranking(), N, order="shuffled"),
}
RESTING: dict[str, Callable[[], Navigator]] = {
    "gaussian, resting": lambda: GaussianNavigator(
        ranking(), N, WindowSettings(sigma=20.0), seed=5, skip_mastered=1, mastered_rest=2
    ),
    "target, resting": lambda: TargetNavigator(
        ranking(), N, WindowSettings(sigma=20.0), seed=5, order="draw", skip_mastered=2, mastered_rest=300
    ),
    "uniform, resting": lambda: UniformNavigator(ranking(), N, seed=5, skip_mastered=1),
}
each = pytest.mark.parametrize("make", (MAKE | RESTING).values(), ids=(MAKE | RESTING).keys())


def rollouts(ids: list[str], epoch: int, share: float = 1.0) -> list[dict[str, Any]]:
    """Made-up outcomes, two a prompt, that differ from epoch to epoch."""
    taken = ids[: round(share * len(ids))]
    return [
        {
            "id": name,
            "correct": (hash_of(name) + copy * (epoch % 2) + epoch) % 4 / 3,
            "scored": (hash_of(name) + copy) % 7 != 0,
            "angle": 0.1 + (hash_of(name) % 50) / 100,
            "reward": float(copy),
            "tokens": 5 + copy,
        }
        for name in taken
        for copy in range(2)
    ]


def hash_of(name: str) -> int:
    return sum(name.encode())


def run(navigator: Navigator, epochs: int) -> list[list[str]]:
    drawn = []
    for _ in range(epochs):
        drawn.append(navigator.draw())
        navigator.observe(rollouts(navigator.ids, navigator.epoch))
    return drawn


def through_json(state: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.dumps(state, allow_nan=False))
    return result


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
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_restored_run_draws_the_future_of_the_saved_one(make: Callable[[], Navigator], share: float) -> None:
    """Run, save in the middle of an epoch, compute the expected future, restore, compare."""
    navigator = make()
    run(navigator, 3)
    navigator.draw()
    records = rollouts(navigator.ids, navigator.epoch)
    cut = round(share * len(records))
    navigator.observe(records[:cut])
    state = through_json(navigator.state_dict())

    under_way = navigator.ids
    navigator.observe(records[cut:])
    metrics = navigator.metrics()
    future = run(navigator, 4)

    restored = make()
    restored.load_state_dict(state)
    assert restored.ids == under_way
    assert restored.epoch == 3
    assert restored.state_dict() == state
    restored.observe(records[cut:])
    assert restored.metrics() == metrics
    assert run(restored, 4) == future


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


# States


def changed(state: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one entry replaced; `value` None removes it."""
    state = through_json(state)
    *outer, name = path.split(".")
    inner = state
    for key in outer:
        inner = inner[key]
    if value is None:
        del inner[name]
    else:
        inner[name] = value
    return state


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "other", "no curriculum state"),
        ("version", 4, "version 4: this gainrl reads versions 1 to 3"),
        ("outcomes", {}, "outcomes per prompt belong to navigators that remember prompts"),
        ("settings.skip_mastered", 3, "skip_mastered was 3 and is now None"),
        ("version", None, "version None"),
        ("epoch", None, r"missing fields \['epoch'\]"),
        ("surprise", 1, r"unknown fields \['surprise'\]"),
        ("position.mean", None, r"position of the curriculum state .* missing fields \['mean'\]"),
        ("totals.extra", 1, r"totals of the curriculum state .* unknown fields \['extra'\]"),
        ("totals.tokens", 1.5, "tokens must be an integer"),
        ("late.tokens", None, r"late of the curriculum state .* missing fields \['tokens'\]"),
        ("late.rollouts", 3, "need 0 <= credit <= scored <= rollouts"),
        ("settings.beta", None, r"settings of the curriculum state .* missing fields \['beta'\]"),
        ("settings.sigma", 21.0, "sigma was 21.0 and is now 20.0"),
        ("settings.n", 25, "n was 25 and is now 24"),
        ("settings.seed", 6, "seed was 6 and is now 5"),
        ("navigator", "uniform", "state is of the navigator 'uniform', this run uses 'gaussian'"),
        ("ranking.dataset", "another", "another dataset: it has 200 prompts and fingerprint 'another'"),
        ("ranking.size", 201, "another dataset: it has 201 prompts"),
        ("ranking.order", "abc", "another ranking of this dataset: its order is 'abc'"),
        ("epoch", -1, r"epoch must be an integer in \[0, 2\^64\), got -1"),
        ("position.mean", 200.0, "mean must be a float from 0 to 199, got 200.0"),
        ("position.uniform", 1, "uniform must be true or false, got 1"),
        ("totals", [], "totals of the curriculum state must be a mapping, got list"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_by_name_and_changes_nothing(path: str, value: Any, message: str) -> None:
    navigator = gaussian()
    run(navigator, 2)
    before = navigator.state_dict()
    with pytest.raises(UserError, match=message):
        navigator.load_state_dict(changed(gaussian().state_dict(), path, value))
    assert navigator.state_dict() == before


def test_a_state_does_not_grow_with_the_ranking() -> None:
    large = UniformNavigator(ranking(size=20_000), 10_000)
    assert len(json.dumps(large.state_dict())) < 1000


def test_a_state_of_the_first_release_still_loads_and_draws_what_it_drew() -> None:
    golden = json.loads((GOLDEN / "curriculum_state_v1.json").read_text())
    for case in golden["cases"]:
        navigator = MAKE[case["state"]["navigator"]]()
        navigator.load_state_dict(case["state"])
        assert navigator.ids == case["ids"]
        assert navigator.draw() == case["next_ids"]
        expected = MAKE[case["state"]["navigator"]]()
        expected.load_state_dict(case["next_state"])
        assert navigator.state_dict() == expected.state_dict()
        assert navigator.state_dict()["position"] == case["next_state"]["position"]


def test_states_of_version_2_still_load_and_draw_what_they_drew() -> None:
    golden = json.loads((GOLDEN / "curriculum_state_v2.json").read_text())
    makers = MAKE | RESTING
    assert golden.keys() == makers.keys()
    old = golden.pop("probe")  # of its first model
    with pytest.raises(UserError, match="of model 1 of this navigator, this release has model 2"):
        makers["probe"]().load_state_dict(old["state"])
    for name, case in golden.items():
        navigator = makers[name]()
        navigator.load_state_dict(case["state"])
        assert navigator.ids == case["ids"]
        assert navigator.draw() == case["next_ids"]
        expected = makers[name]()
        expected.load_state_dict(case["next_state"])
        assert navigator.state_dict() == expected.state_dict()
        assert navigator.state_dict()["position"] == case["next_state"]["position"]


def test_states_of_version_3_still_load_and_draw_what_they_drew() -> None:
    """With rollouts that came late."""
    golden = json.loads((GOLDEN / "curriculum_state_v3.json").read_text())
    makers = MAKE | RESTING
    assert golden.keys() == makers.keys()
    for name, case in golden.items():
        navigator = makers[name]()
        navigator.load_state_dict(case["state"])
        assert navigator.late.rollouts == 4
        assert navigator.ids == case["ids"]
        assert navigator.draw() == case["next_ids"]
        assert navigator.state_dict() == case["next_state"]
