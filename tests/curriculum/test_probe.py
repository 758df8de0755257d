"""The probe: its predictions against the old code's, where its draws go, what it makes of directions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gainrl.curriculum import Navigator, Outcomes, Prompts, make_navigator
from gainrl.curriculum.components import principal_components
from gainrl.errors import UserError
from tests.curriculum.navigator_support import groups, make_prompts, set_chances

FIXTURES = Path(__file__).parent / "fixtures"
SIZE, N, GROUP = 600, 24, 8


@pytest.mark.parametrize("case", ["telling", "kinds", "bare", "small"])
def test_predictions_on_the_frozen_observations_are_those_of_the_old_code(case: str) -> None:
    """Several sizes, with and without directions, groups of 4 to 16, prompts that repeat (fixtures/README.md)."""
    with np.load(FIXTURES / f"probe_{case}.npz") as file:
        frozen = dict(file)
    rows = np.arange(len(frozen["score"]))
    navigator: Any = make_navigator("probe", Prompts(rows, frozen["score"], frozen["tokens"], frozen.get("directions")))
    for draw in range(frozen["draw"].max() + 1):
        row, scored, correct = (frozen[name][frozen["draw"] == draw] for name in ("row", "scored", "correct"))
        rollouts, mixed = np.full(len(row), frozen["rollouts"]), (correct > 0) & (correct < scored)
        navigator.observe(Outcomes(row, rollouts, scored, correct, mixed))
        navigator.draw(int(frozen["n"]))
        for at in np.flatnonzero(frozen["after"] == draw + 1):
            for name, found in (("rate", navigator.expected_accuracy(rows)), ("mixed", navigator.predicted(rows))):
                assert np.corrcoef(found, frozen[name][at])[0, 1] > 0.999
                assert np.abs(found - frozen[name][at]).max() < 0.02
            assert navigator.metrics()["pass_rate_weight"] == pytest.approx(frozen["share"][at], abs=1e-3)


# -- where the draws go -------------------------------------------------------------------------------------


class World:
    """Prompts whose difficulty shows in their directions, or not, and a policy of fixed pass rates."""

    def __init__(self, seed: int = 0, *, telling: bool = True, kinds: bool = False) -> None:
        rng = self.rng = np.random.default_rng(seed)
        logits = rng.normal(-3.0, 3.0, SIZE)
        self.directions = rng.normal(size=(SIZE, 48))
        if telling:
            self.directions[:, 0] += logits
        if kinds:
            kind = np.arange(SIZE) % 10
            logits = np.array([6.0, -9, 6, -9, 0.3, 6, -9, -0.5, 6, -9])[kind] + rng.normal(0, 0.3, SIZE)
            self.directions = rng.normal(size=(10, 48))[kind] + 0.5 * rng.normal(size=(SIZE, 48))
        self.rates = 1.0 / (1.0 + np.exp(-logits))

    def navigator(self, name: str = "probe", seed: int = 0, **args: Any) -> Navigator:
        scores = np.random.default_rng(7).normal(size=SIZE)
        return make_navigator(
            name, Prompts(np.arange(SIZE), scores, np.full(SIZE, 9), self.directions), args, seed=seed
        )

    def mixed(self, navigator: Navigator, draws: int = 12) -> float:
        """Mean chance of a mixed group over the second half of the draws."""
        found = []
        for _ in range(draws):
            rows = navigator.draw(N)
            navigator.observe(groups(rows, self.rng.binomial(GROUP, self.rates[rows])))
            rate = self.rates[rows]
            found.append((1 - rate**GROUP - (1 - rate) ** GROUP).mean())
        return float(np.mean(found[draws // 2 :]))


def test_prompts_never_tried_are_found_by_their_directions() -> None:
    probe, uniform = (World(1).mixed(World(1).navigator(name)) for name in ("probe", "uniform"))
    assert probe > 1.5 * uniform


def test_kinds_in_no_order_of_difficulty_are_found_by_whether_their_groups_are_mixed() -> None:
    world = World(1, kinds=True)
    navigator = world.navigator()
    assert world.mixed(navigator) > 2.5 * world.mixed(world.navigator("uniform"))
    metrics = navigator.metrics()
    assert metrics["pass_rate_weight"] < 0.2
    assert metrics["expected_mixed"] > 0.5


def test_directions_that_tell_nothing_leave_it_no_worse_than_uniform() -> None:
    worlds = [World(seed, telling=False) for seed in range(3)]
    ratios = [world.mixed(world.navigator()) / world.mixed(world.navigator("uniform")) for world in worlds]
    assert np.mean(ratios) > 1.0
    assert min(ratios) > 0.9


def test_predicted_chances_are_those_of_the_policy() -> None:
    world = World(5)
    navigator = world.navigator(explore=1.0)
    world.mixed(navigator, draws=30)
    navigator.draw(N)
    truth = 1 - world.rates**GROUP - (1 - world.rates) ** GROUP
    predicted = navigator.predicted(np.arange(SIZE))
    assert predicted is not None
    assert np.corrcoef(predicted, truth)[0, 1] > 0.6
    assert abs(predicted.mean() - truth.mean()) < 0.1


def test_draws_are_one_by_one_without_replacement_by_usefulness() -> None:
    prompts = Prompts(np.arange(6), np.arange(6.0), np.array([3, 50, 4, 90, 7, 20]))
    navigator = make_navigator("probe", prompts, {"explore": 0.0})
    navigator.observe(groups(np.arange(6), [8, 0, 8, 1, 4, 8]))
    navigator.draw(3)
    weights = np.asarray(navigator.predicted(np.arange(6))) ** 1.5
    chances = set_chances(weights, 2)
    found = Counter(tuple(sorted(navigator.draw(2).tolist())) for _ in range(4000))
    assert np.ptp(weights) > 0.1
    assert stats.chisquare([found[key] for key in chances], [4000 * p for p in chances.values()]).pvalue > 1e-3


def test_a_drawn_prompt_rests_for_four_draws_unless_too_few_others_are_left() -> None:
    navigator = World(3).navigator(explore=0.0)
    drawn = [set(navigator.draw(N).tolist()) for _ in range(40)]
    assert all(not drawn[i] & drawn[j] for i in range(40) for j in range(max(0, i - 4), i))
    assert any(drawn[i] & drawn[i - 5] for i in range(5, 40))
    navigator.draw(SIZE // 2)
    assert not navigator.state_dict()["resting"][navigator.draw(SIZE // 2)].any()


@pytest.mark.parametrize(("n", "explore", "expected"), [(24, 0.5, [0.5] * 10), (4, 0.1, [0, 0, 0.25, 0, 0.25] * 2)])
def test_the_explored_share_is_kept_over_the_draws(n: int, explore: float, expected: list[float]) -> None:
    navigator = World().navigator(explore=explore)
    found = []
    for _ in range(10):
        navigator.draw(n)
        found.append(navigator.metrics()["explored"])
    assert sum(found) == pytest.approx(sum(expected))
    assert set(found) == set(expected)


def test_what_is_explored_is_uniform() -> None:
    navigator = World().navigator(explore=1.0)
    counts = np.bincount(np.concatenate([navigator.draw(24) for _ in range(200)]) // 60, minlength=10)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_groups_of_one_rollout_teach_pass_rates_alone() -> None:
    navigator = World().navigator()
    navigator.observe(groups(navigator.draw(N), np.arange(N) % 2, rollouts=1))
    navigator.draw(N)
    assert navigator.metrics()["pass_rate_weight"] == 1.0
    assert np.ptp(np.asarray(navigator.predicted(np.arange(SIZE)))) > 0.01


def test_a_tried_prompt_is_judged_by_its_own_rollouts() -> None:
    navigator: Any = World(telling=False).navigator()
    before = navigator.expected_accuracy([0, 1, 2])
    for _ in range(4):
        navigator.observe(groups([0, 1], [8, 0]))
        navigator.draw(N)
    after = navigator.expected_accuracy([0, 1, 2])
    assert after[0] - before[0] > 0.25 > 0.15 > abs(after[2] - before[2])
    assert after[1] - before[1] < -0.15


# -- directions ---------------------------------------------------------------------------------------------


def test_streamed_directions_are_those_of_an_array_whatever_the_blocks() -> None:
    given = make_prompts(60).directions
    assert isinstance(given, np.ndarray)
    passes = []

    def blocks() -> Iterator[tuple[Any, np.ndarray]]:
        passes.append(1)
        yield slice(0, 7), given[:7].astype(np.float16).astype(np.float32)
        order = np.arange(59, 6, -1)
        for start in range(0, len(order), 20):
            yield order[start : start + 20], given[order[start : start + 20]]

    exact, _ = principal_components(make_prompts(60), 4)
    streamed, known = principal_components(make_prompts(60, directions=blocks), 4)
    assert np.flatnonzero(~known).tolist() == [4, 9]
    assert np.abs(streamed - exact).max() < 2e-3
    assert len(passes) == 2


def test_components_are_the_principal_ones_of_unit_directions() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(300, 20)) * (1.0 + np.arange(20)) ** -1.0
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    _, values, _ = np.linalg.svd(unit - unit.mean(axis=0))
    found, _ = principal_components(make_prompts(300, directions=directions), 5)
    assert np.linalg.norm(found, axis=1) == pytest.approx(values[:5], rel=1e-3)
    scaled, _ = principal_components(make_prompts(300, directions=7 * directions), 5)
    assert np.abs(scaled - found).max() < 1e-5


def test_prompts_without_a_direction_are_drawn_in_the_explored_share_until_they_were_tried() -> None:
    prompts = make_prompts(60)
    navigator = make_navigator("probe", prompts, {"explore": 0.0})
    without = set(prompts.rows[[4, 9]].tolist())
    assert not without & {row for _ in range(30) for row in navigator.draw(4).tolist()}
    navigator.observe(groups(sorted(without), 4))
    assert without <= {row for _ in range(200) for row in navigator.draw(4).tolist()}


def test_directions_that_are_all_undefined_are_refused() -> None:
    with pytest.raises(UserError, match="no prompt has a direction"):
        make_navigator("probe", make_prompts(directions=np.full((60, 4), np.nan)))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_handful_of_prompts_is_enough(size: int) -> None:
    navigator = make_navigator("probe", make_prompts(size, directions=np.eye(size, 3) + 1.0))
    for _ in range(3):
        rows = navigator.draw(size)
        navigator.observe(groups(rows, 3))
    assert sorted(navigator.draw(size).tolist()) == sorted(navigator.prompts.rows.tolist())
