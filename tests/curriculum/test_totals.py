"""Sums over rollouts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gainrl.curriculum import Totals
from gainrl.errors import UserError


def record(**changes: Any) -> dict[str, Any]:
    return {"id": "a", "correct": True, "scored": True, "angle": 0.25, "reward": 1.0, "tokens": 10} | changes


def test_means_are_over_the_rollouts_that_have_the_value() -> None:
    totals = Totals.from_records(
        [
            record(angle=0.5),
            record(correct=False, reward=-1.0),
            record(scored=False, correct=True, reward=None, angle=math.nan),  # unscored is neither right nor wrong
            record(correct=0, reward=math.nan, angle=0.75, tokens=5),
        ]
    )
    assert (totals.rollouts, totals.scored, totals.credit_units, totals.tokens) == (4, 3, 2**32, 35)
    assert totals.accuracy == 1 / 3
    assert totals.angle == 0.5
    assert totals.reward == 0.0


def test_partial_credit_counts_by_its_share() -> None:
    totals = Totals.from_records([record(correct=c) for c in (0.25, 1, 0.0, True)] + [record(correct=0.9, scored=0)])
    assert totals.accuracy == 2.25 / 4
    assert Totals.from_records([record(correct=1 / 3)] * 3).accuracy == pytest.approx(1 / 3, abs=2.0**-33)


def test_credit_of_0_or_1_gives_the_exact_share() -> None:
    for scored in range(1, 60):
        for right in range(scored + 1):
            totals = Totals(rollouts=scored, scored=scored, credit_units=right * 2**32)
            assert totals.accuracy == right / scored


def test_means_over_nothing_are_none() -> None:
    totals = Totals.from_records([record(scored=False, angle=None, reward=None)])
    assert (totals.accuracy, totals.angle, totals.reward) == (None, None, None)


def test_totals_do_not_depend_on_order_or_on_how_rollouts_are_split() -> None:
    generator = np.random.default_rng(0)
    records = [
        record(angle=float(a), reward=float(r), correct=float(c))
        for a, r, c in zip(
            generator.normal(size=500), generator.normal(size=500) * 1e3, generator.uniform(size=500), strict=True
        )
    ]
    whole = Totals.from_records(records)
    assert Totals.from_records(records[::-1]) == whole
    parts = [Totals.from_records(records[i::3]) for i in range(3)]
    assert parts[2] + parts[0] + parts[1] == whole
    summed = np.sum([part.as_list() for part in parts], axis=0, dtype=np.int64)  # as an all-reduce does
    assert Totals.from_list(summed.tolist()) == whole
    assert whole.angle == pytest.approx(np.mean([r["angle"] for r in records]), abs=2.0**-33)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correct": 1.01}, r"correct must lie in \[0, 1\], got 1.01"),
        ({"correct": -0.5}, r"correct must lie in \[0, 1\], got -0.5"),
        ({"correct": math.nan}, "correct must lie in"),
        ({"correct": None}, "correct must lie in"),
        ({"scored": None}, "scored must be true or false, got None"),
        ({"angle": math.inf}, "angle must be finite, got inf"),
        ({"reward": -math.inf}, "reward must be finite"),
        ({"tokens": -1}, "tokens must be at least 0, got -1"),
        ({"extra": 1}, r"missing \[\], unknown \['extra'\]"),
    ],
)
def test_malformed_records_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Totals.from_records([record(), record(**changes)])


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UserError, match=r"missing \['angle'\]"):
        Totals.from_records([{key: value for key, value in record().items() if key != "angle"}])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rollouts": 2, "scored": 3}, "0 <= credit <= scored <= rollouts"),
        ({"rollouts": 3, "scored": 1, "credit_units": 2**32 + 1}, "0 <= credit"),
        ({"tokens": -1}, "0 <= credit"),
        ({"rollouts": 1, "angles": 2}, "2 angles and 0 rewards of 1 rollouts"),
        ({"tokens": 1.5}, "tokens must be an integer, got 1.5"),
    ],
)
def test_impossible_totals_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Totals(**values)
    with pytest.raises(UserError, match="8 values, got 2"):
        Totals.from_list([1, 2])
