"""What the probe knows of a prompt: its features."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from probe_world import SIZE, N, World, ranking

from gainrl.curriculum import ProbeNavigator, PromptFeatures, Ranking, portable
from gainrl.errors import UserError


def test_components_are_the_principal_ones_with_their_signs_and_common_scale() -> None:
    rng = np.random.default_rng(3)
    plain = rng.normal(size=(SIZE, 40)) * 0.8 ** np.arange(40) + np.eye(40)[7]
    plain = (plain / np.linalg.norm(plain, axis=1, keepdims=True)).astype(np.float32)
    prompts = ranking()
    found = PromptFeatures(prompts, sorted(prompts.ids), plain, components=6)
    rows = np.array([int(name[1:]) for name in prompts.ids])
    centred = (plain - plain.mean(axis=0))[rows].astype(np.float64)
    _, _, basis = np.linalg.svd(centred, full_matrices=False)
    basis = basis[:6] * np.where(np.take_along_axis(basis, np.abs(basis).argmax(1)[:, None], 1)[:6] < 0, -1.0, 1.0)
    expected = basis @ centred.T
    expected *= math.sqrt(6 / (expected**2).mean(axis=1).sum())
    assert found.values.shape == (9, SIZE)
    assert np.abs(found.values[3:] - expected).max() < 0.01
    assert (found.values[0] == 1).all()
    assert found.values[1, 0] == pytest.approx(3**0.5, rel=0.01)
    assert np.abs(found.values[2]).max() == 0, "no lengths given"


def test_features_do_not_depend_on_the_order_given_nor_on_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    ids = sorted(world.ranking.ids)
    first = world.features()
    turned = PromptFeatures(world.ranking, ids[::-1], world.directions[::-1], np.full(SIZE, 9))
    assert turned.digest == first.digest
    assert np.array_equal(turned.values, first.values)

    def backwards(left: Any, right: Any) -> Any:
        """A product that sums in another order, as another BLAS or number of threads would."""
        half = left.shape[1] // 2
        return left[:, half:] @ right[half:] + left[:, :half] @ right[:half]

    monkeypatch.setattr(portable, "exact_product", backwards)
    assert np.array_equal(world.features().values, first.values)


def test_prompts_without_a_direction_have_the_mean_and_are_drawn_in_the_uniform_share_alone() -> None:
    world = World()
    world.directions[::2, 3] = math.nan
    found = world.features()
    even = np.array([int(name[1:]) % 2 == 0 for name in world.ranking.ids])
    assert np.array_equal(found.known, ~even)
    assert (found.values[3:, even] == 0).all()
    assert np.isfinite(found.values).all()
    navigator = ProbeNavigator(world.ranking, N, found, explore=0.0)
    assert found.known[navigator.ranks].all()
    explored = ProbeNavigator(world.ranking, N, found, explore=1.0)
    assert 0 < found.known[explored.ranks].sum() < N
    for _ in range(3):
        world.epoch(explored)
    explored.draw()
    explored.explore = 0.0
    explored._forget()
    rest = explored._own[explored.ranks] > 0
    assert (found.known[explored.ranks] | rest).all(), "once tried, its own rollouts speak for it"


def test_without_directions_ranking_and_length_are_what_is_known() -> None:
    world = World()
    lengths = np.arange(1, SIZE + 1)
    found = PromptFeatures(world.ranking, sorted(world.ranking.ids), None, lengths)
    whole = PromptFeatures(world.ranking, sorted(world.ranking.ids), world.directions, lengths)
    assert found.components == 0
    assert found.known.all()
    assert np.array_equal(found.values, whole.values[:3])
    assert found.digest != PromptFeatures(world.ranking, sorted(world.ranking.ids), None).digest
    navigator = ProbeNavigator(world.ranking, N, found)
    for _ in range(3):
        world.epoch(navigator)
    again = ProbeNavigator(world.ranking, N, found)
    again.load_state_dict(json.loads(json.dumps(navigator.state_dict())))
    assert again.draw() == navigator.draw()


def test_prompts_without_a_score_have_no_place_in_the_ranking() -> None:
    prompts = Ranking(["a", "b", "c", "d"], [math.nan, 2.0, 1.0, math.nan], "data")
    found = PromptFeatures(prompts, list("abcd"), np.eye(4), [1, 2, 3, 4])
    assert found.values[1].tolist() == pytest.approx([3**0.5 / 2, -(3**0.5) / 2, 0.0, 0.0])
    assert found.components == 3, "four prompts differ in three dimensions"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"components": 0}, "components must be an integer from 1 to 128, got 0"),
        ({"components": 2.0}, "got 2.0"),
        ({"directions": np.zeros(4)}, r"directions must be \(N, D\) floating, got float64 \(4,\)"),
        ({"directions": np.zeros((3, 2))}, "3 directions for 4 ids"),
        ({"directions": np.full((4, 2), math.nan)}, "no prompt has a direction"),
        ({"ids": ["a", "b", "c", "a"]}, "repeat: 'd' is not among them"),
        ({"ids": ["a", "b", "c", "x"]}, "has no id 'x'"),
        ({"question_tokens": [1, 2]}, r"question_tokens must be \(4,\) numbers of tokens"),
    ],
)
def test_what_does_not_fit_the_ranking_is_refused(change: dict[str, Any], said: str) -> None:
    prompts = Ranking(list("abcd"), [4.0, 3.0, 2.0, 1.0], "data")
    given: dict[str, Any] = {"ids": list("abcd"), "directions": np.eye(4), **change}
    with pytest.raises(UserError, match=said):
        PromptFeatures(prompts, **given)
