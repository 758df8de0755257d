"""What navigators read: ranking, rows, outcomes, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gainrl.curriculum import Outcomes, Prompts
from gainrl.errors import UserError

COLUMNS: dict[str, Any] = {"rows": [4, 7, 9], "score": [0.5, 0.1, 0.2], "tokens": [5, 6, 7]}


def test_positions_go_by_score_then_by_row_and_prompts_without_a_score_come_last() -> None:
    prompts = Prompts([9, 4, 7, 2, 5], [0.1, np.nan, 0.7, np.inf, 0.1], [1, 1, 1, 1, 1])
    assert prompts.position.tolist() == [2, 4, 0, 3, 1]


def test_rows_are_found_whatever_their_order() -> None:
    prompts = Prompts([9, 4, 7], [0.1, 0.2, 0.3], [1, 1, 1])
    assert prompts.index([7, 9, 9, 4]).tolist() == [2, 0, 0, 1]
    for row in (0, 5, 10**9, -1):
        with pytest.raises(UserError, match=f"row {row} is not among the 3 prompts that can be drawn"):
            prompts.index([7, row])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": [], "score": [], "tokens": []}, "there is no prompt to draw"),
        ({"rows": [4, 7, 4]}, "row 4 occurs twice"),
        ({"rows": [4, 7, -9]}, "must not be negative"),
        ({"rows": [4.0, 7.0, 9.0]}, "rows must be one-dimensional and integer, got float64"),
        ({"score": [0.5, 0.1]}, "3 rows need as many entries in score, got 2"),
        ({"tokens": [5, 6]}, "3 rows need as many entries in tokens, got 2"),
        ({"directions": np.ones((4, 2))}, "3 rows need as many entries in directions, got 4"),
        ({"sources": ["a"]}, "3 rows need as many entries in sources, got 1"),
    ],
)
def test_columns_that_do_not_fit_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Prompts(**(COLUMNS | change))


def test_outcomes_are_arrays_whatever_they_were_given_as() -> None:
    outcomes = Outcomes([3, 3], (8, 4), [8, 0], [2, 0], [1, 0])
    assert len(outcomes) == 2
    assert [getattr(outcomes, name).dtype.kind for name in ("row", "scored", "correct", "mixed")] == list("iifb")
    assert outcomes[outcomes.scored > 0].rollouts.tolist() == [8]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (([3], [8, 8], [8], [1.0], [True]), r"equal lengths, got \{'row': 1, 'rollouts': 2"),
        (([3, 5], [8, 8], [8, 9], [1.0, 1.0], [True, True]), "row 5: .* got 1, 9, 8"),
        (([3], [8], [4], [4.5], [True]), "row 3: a group needs 0 <= correct <= scored <= rollouts, got 4.5, 4, 8"),
        (([3], [8], [4], [-1.0], [True]), "row 3: .* got -1, 4, 8"),
        (([3], [8], [4], [np.nan], [True]), "row 3: .* got nan, 4, 8"),
        (([3], [8], [-1], [0.0], [True]), "row 3: .* got 0, -1, 8"),
        (([3.0], [8], [4], [1.0], [True]), "row must be one-dimensional and integer"),
    ],
)
def test_groups_that_contradict_themselves_are_refused_by_row(columns: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Outcomes(*columns)
