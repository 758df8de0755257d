"""The probe: where the draws go, what is reported, the state."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from probe_world import SIZE, N, World, outcome, ranking
from scipy import stats

from gainrl.curriculum import ProbeNavigator, UniformNavigator
from gainrl.curriculum.arrays import floats_to_text
from gainrl.curriculum.probe import REST
from gainrl.errors import UserError


def useful(world: World, navigator: Any, epochs: int = 12) -> float:
    """Mean p(1 − p) of the prompts of the second half of the epochs."""
    return float(np.mean([world.epoch(navigator) for _ in range(epochs)][epochs // 2 :]))


def test_prompts_never_tried_are_found_by_their_directions() -> None:
    probe, uniform = (
        useful(world, make(world))
        for world, make in (
            (World(1), lambda world: world.probe(seed=1)),
            (World(1), lambda world: UniformNavigator(world.ranking, N, seed=1)),
        )
    )
    assert probe > 1.7 * uniform


def test_kinds_in_no_order_of_difficulty_are_found_by_whether_their_groups_spread() -> None:
    """A logistic model of pass rates cannot say "between": of ten kinds two are, and these are what is drawn."""
    probe, other = World.of_kinds(1), World.of_kinds(1)
    navigator = probe.probe(seed=1)
    found = useful(probe, navigator)
    assert found > 2.5 * useful(other, UniformNavigator(other.ranking, N, seed=1))
    assert navigator.metrics()["by_pass_rate"] < 0.2
    assert navigator.metrics()["useful"] > 0.5


def test_difficulty_by_degrees_is_left_to_the_model_of_pass_rates() -> None:
    world = World(2)
    world.logits = world.rng.normal(0.0, 6.0, SIZE)
    world.directions = 0.05 * world.rng.normal(size=(SIZE, 48))
    world.directions[:, :2] = np.stack([0.03 * world.logits, np.ones(SIZE)], axis=1)
    navigator = world.probe(seed=2)
    for _ in range(14):
        world.epoch(navigator)
    navigator.draw()
    assert navigator.metrics()["by_pass_rate"] > 0.9


def test_groups_of_one_rollout_teach_pass_rates_alone() -> None:
    navigator = World().probe()
    for name in navigator.draw():
        navigator.observe(outcome(name, 1, tried=1))
    navigator.draw()
    assert all(not each.mean.any() for each in navigator._spread)
    assert navigator.metrics()["by_pass_rate"] == 1.0
    assert np.ptp(navigator._usefulness(slice(None))) > 0.01, "they still tell prompts apart"


def test_equal_partial_credit_is_not_taken_for_spread() -> None:
    """Eight times half a point: no advantages, though neither all right nor all wrong."""
    navigator = World().probe()
    for _ in range(4):
        for name in navigator.draw():
            navigator.observe([{**record, "correct": 0.5} for record in outcome(name, 0)])
        other = World().probe()
        other.load_state_dict(json.loads(json.dumps(navigator.state_dict())))
    for each in (navigator, other):
        each.draw()
        assert each.metrics()["by_pass_rate"] == 1.0


def test_the_group_is_the_usual_one_whatever_came_late_or_alone() -> None:
    navigator = World().probe()
    first = navigator.draw()
    navigator.observe([record for name in first[1:] for record in outcome(name, 2, tried=4)])
    navigator.observe(outcome(first[0], 3, tried=24))
    navigator.draw()
    assert navigator._group == 4
    navigator.observe([{**record, "scored": False} for name in navigator.ids for record in outcome(name, 1)])
    navigator.observe_late(outcome(first[0], 1, tried=1))
    navigator.draw()
    assert navigator._group == 4


def test_what_was_drawn_rests_though_it_has_not_come_back() -> None:
    navigator = World().probe(explore=0.0)
    first = navigator.draw()
    navigator.observe(outcome(first[0], 3))
    assert not set(first) & set(navigator.draw())


def test_directions_that_tell_nothing_leave_it_no_worse_than_uniform() -> None:
    found = []
    for seed in range(2):
        one, other = World(seed, telling=False), World(seed, telling=False)
        uniform = UniformNavigator(other.ranking, N, seed=seed)
        found.append(useful(one, one.probe(seed=seed)) / useful(other, uniform))
    assert np.mean(found) > 1.0
    assert min(found) > 0.9


def test_a_drawn_prompt_rests_unless_too_few_others_are_left() -> None:
    world = World(3)
    navigator = world.probe(explore=0.0)
    drawn: list[set[int]] = []
    for _ in range(8):
        navigator.draw()
        drawn.append(set(navigator.ranks.tolist()))
        world.epoch(navigator)
    assert REST == 4
    assert all(not drawn[i] & drawn[j] for i in range(8) for j in range(i) if i - j <= 4)
    assert len(set.union(*drawn)) < 8 * N, "and then it is drawn again if it is useful"
    crowded = ProbeNavigator(world.ranking, SIZE // 2, world.features())
    world.epoch(crowded)
    crowded.draw()
    assert not crowded._resting.any()


def test_the_explored_share_is_uniform_and_counted() -> None:
    navigator = World().probe(explore=0.5, order="draw")
    assert navigator.metrics()["explored"] == 0.5
    taken: list[int] = []
    for epoch in range(200):
        navigator._epoch = epoch
        navigator._forget()
        taken += navigator.ranks[N // 2 :].tolist()
    counts = np.bincount(np.array(taken) // 60, minlength=10)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_epochs_too_small_for_a_whole_explored_prompt_explore_now_and_then() -> None:
    """n = 4 and explore = 0.1: two prompts in five epochs."""
    world = World()
    navigator = ProbeNavigator(world.ranking, 4, world.features(), explore=0.1)
    shares = []
    for _ in range(10):
        navigator.draw()
        shares.append(navigator.metrics()["explored"])
        world.epoch(navigator)
    assert sorted(set(shares)) == [0.0, 0.25]
    assert shares.count(0.25) == 4


def test_a_tried_prompt_keeps_its_distance_as_the_policy_improves() -> None:
    """What it did is remembered relative to the prediction, which rises with the others."""
    world = World(4)
    navigator = world.probe(seed=4)
    for _ in range(8):
        world.epoch(navigator)
    navigator.draw()
    tried = np.flatnonzero(navigator._own)
    before = navigator._logits(tried)[0]
    world.logits += 3.0
    for _ in range(8):
        world.epoch(navigator)
    navigator.draw()
    still = np.setdiff1d(tried, np.flatnonzero(navigator._own > 200))
    after = navigator._logits(tried)[0]
    assert len(still)
    assert np.mean(after - before) > 1.0


def test_predictions_are_compared_with_what_came() -> None:
    world = World(5)
    navigator = world.probe(seed=5, explore=1.0)
    assert navigator.metrics()["correlation"] is None
    for _ in range(12):
        world.epoch(navigator)
        report = navigator.metrics()
    assert report["correlation"] > 0.5
    assert report["log_loss"] < report["constant_log_loss"]
    assert report["tried"] > 100
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_unscored_rollouts_teach_nothing() -> None:
    navigator = World().probe()
    navigator.observe([{**record, "scored": False} for name in navigator.draw() for record in outcome(name, 3)])
    before = [each.mean.copy() for each in navigator._filters]
    assert navigator.metrics()["log_loss"] is None
    navigator.draw()
    assert navigator.epoch == 1
    assert not navigator._own.any()
    assert all(np.allclose(each.mean, mean) for each, mean in zip(navigator._filters, before, strict=True))


# -- options and state ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"explore": 1.5}, r"explore must be a share of the epoch, in \[0, 1\], got 1.5"),
        ({"explore": True}, "got True"),
    ],
)
def test_impossible_options_are_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        World().probe(**options)


def test_features_of_another_ranking_are_refused() -> None:
    with pytest.raises(UserError, match="features of 600 prompts for a ranking of 500"):
        ProbeNavigator(ranking(500), N, World().features())


def test_a_state_of_other_directions_is_refused_by_name() -> None:
    world = World()
    state = world.probe().state_dict()
    world.directions[7, 0] += 0.25
    with pytest.raises(UserError, match=r"features was '[0-9a-f]{32}' and is now '[0-9a-f]{32}'"):
        world.probe().load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"own": "?"}, "own is damaged"),
        ({"evidence": "AAAA"}, "evidence holds 3 bytes, 12 numbers need 96"),
        ({"weights": []}, "weights must be a list of 6"),
        ({"weights": 0.0}, "not positive definite"),
        ({"weights": math.nan}, "not finite"),
        ({"spread": "AAAA"}, "spread holds 3 bytes, 5 numbers need 40"),
        ({"group": 0}, "groups of 0 rollouts"),
        ({"swap": True}, "a prompt without rollouts of its own has a residual"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(change: dict[str, Any], said: str) -> None:
    world = World()
    navigator = world.probe()
    world.epoch(navigator)
    navigator.draw()
    state = json.loads(json.dumps(navigator.state_dict()))
    other = world.probe()
    before = other.state_dict()
    if change.pop("swap", False):
        state["position"]["own"] = before["position"]["own"]
    if isinstance(change.get("weights"), float):
        size = navigator._filters[0].size
        change["weights"] = [floats_to_text(np.full(size, change["weights"]))] * 6
    state["position"] |= change
    with pytest.raises(UserError, match=said):
        other.load_state_dict(state)
    assert other.state_dict() == before
