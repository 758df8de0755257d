"""How correct a rollout is, by what verl's reward functions report."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gainrl.errors import UserError
from gainrl.integrations.verl.rewards import Grader
from gainrl.integrations.verl.settings import Run, Settings


def grader(**options: Any) -> Grader:
    return Grader(Settings("s.parquet", Run("."), **options))


def test_acc_is_taken_where_it_is_reported_and_else_the_reward() -> None:
    assert grader().credits([1.0, 0.0], [{"acc": False}, {"acc": True}], whole=True) == [0.0, 1.0]
    assert grader().credits([1.0, 0.0], [{}, {"format": 3}], whole=True) == [1.0, 0.0]
    assert grader(accuracy="reward").credits([1.0], [{"acc": 0.0}], whole=True) == [1.0]


@pytest.mark.parametrize("named", [None, "acc"])
def test_one_rollout_that_does_not_report_it_is_unscored_and_said_once(
    named: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    grade = grader(accuracy=named)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):  # -1: what a reward function gives where it gave up, which is no accuracy
            assert grade.credits([1.0, -1.0, 0.0], [{"acc": 1}, {}, {"acc": 0}], whole=True) == [1.0, None, 0.0]
    assert caplog.text.count("1 of 3 rollouts do not report 'acc'") == 1


def test_a_whole_batch_that_does_not_report_it_is_an_error_that_names_what_there_is() -> None:
    grade = grader(accuracy="correct")
    with pytest.raises(
        UserError, match=r"accuracy='correct', but no rollout of a whole batch.*acc, length: choose one"
    ):
        grade.credits([1.0, 0.0], [{"acc": 1}, {"length": 2}], whole=True)
    assert grade.credits([1.0], [{"acc": 1}], whole=False) == [None]  # a group that verl puts away, failed perhaps
    late = grader()
    late.credits([1.0], [{"acc": 1}], whole=True)
    with pytest.raises(UserError, match=r"accuracy is not set and earlier rollouts reported .acc., but .*nothing"):
        late.credits([1.0, 1.0], [{}, {}], whole=True)


def test_what_is_none_or_nan_is_unscored_and_the_rest_has_a_range() -> None:
    assert grader().credits([None, float("nan")], [{}, {}], whole=True) == [None, None]
    ranged = grader(accuracy="score", accuracy_range=(-1.0, 1.0))
    assert ranged.credits([0.0] * 3, [{"score": -1}, {"score": 0.5}, {"score": None}], whole=True) == [0.0, 0.75, None]
    strict = grader(accuracy="score", accuracy_range=(-1.0, 1.0), accuracy_threshold=0.8)
    assert strict.credits([0.0] * 2, [{"score": 0.5}, {"score": 0.7}], whole=True) == [0.0, 1.0]
    with pytest.raises(UserError, match=r"'score' of a rollout is 2, outside data\.gainrl\.accuracy_range=\[-1, 1\]"):
        ranged.credits([0.0], [{"score": 2}], whole=True)
    with pytest.raises(UserError, match=r"'reward' of a rollout is 0\.5, which says neither.*accuracy_range"):
        grader().credits([0.5], [{}], whole=True)
