"""Prompts in order of score."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gainrl.curriculum import Ranking, shortest_first_ranking
from gainrl.errors import UserError


def test_highest_score_first_ties_by_id_and_missing_scores_last_by_id() -> None:
    ranking = Ranking(["e", "b", "a", "d", "c", "f", "g"], [0.5, math.nan, 0.9, 0.5, math.nan, -1.0, math.inf], "data")
    assert ranking.ids == ["a", "d", "e", "f", "b", "c", "g"]
    np.testing.assert_array_equal(ranking.scores, [0.9, 0.5, 0.5, -1.0, np.nan, np.nan, np.nan])
    assert ranking.undefined == 3
    assert len(ranking) == 7
    assert ranking.rank_of("e") == 2


def test_the_order_does_not_depend_on_the_order_of_the_rows() -> None:
    ids = [f"p{i:03d}" for i in range(200)]
    scores = np.random.default_rng(0).integers(0, 5, size=200) / 5.0
    shuffle = np.random.default_rng(1).permutation(200)
    other = Ranking([ids[i] for i in shuffle], scores[shuffle], "data")
    assert other.ids == Ranking(ids, scores, "data").ids
    assert other.digest == Ranking(ids, scores, "data").digest


def test_another_order_has_another_digest() -> None:
    assert Ranking(["a", "b"], [1.0, 0.0], "data").digest != Ranking(["a", "b"], [0.0, 1.0], "data").digest


def test_shortest_first_is_a_ranking_by_length() -> None:
    assert shortest_first_ranking(["a", "b", "c", "d"], [30, 7, 30, 12], "data").ids == ["b", "d", "a", "c"]


@pytest.mark.parametrize(
    ("ids", "scores", "message"),
    [
        ([], [], "empty dataset"),
        (["a", "b", "a", "b", "a"], [0.0] * 5, "2 ids occur more than once, first 'a'"),
        (["a", "b"], [0.0], r"2 ids need 2 scores, got an array of shape \(1,\)"),
        (["a", ""], [0.0, 1.0], "row 1 has an empty id"),
    ],
)
def test_impossible_rankings_are_refused(ids: list[str], scores: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Ranking(ids, scores, "data")


def test_an_unknown_id_is_named() -> None:
    with pytest.raises(UserError, match="ranking of 1 prompts has no id 'z'"):
        Ranking(["a"], [0.0], "data").rank_of("z")
