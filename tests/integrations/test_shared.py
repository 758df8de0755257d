"""What all integrations share: a navigator from a table, credit from rewards, the log of draws."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gainrl.errors import UserError
from gainrl.integrations.shared import DrawLog, accuracy_of, load_navigator

SIZE = 30


class Table:
    """The doors of `gainrl.table.ScoreTable` that are used: rows 3 and 8 are not usable, row 5 has no direction."""

    metadata = SimpleNamespace(fingerprint="f00d")
    usable = np.setdiff1d(np.arange(SIZE), [3, 8])

    def __init__(self, *, directions: bool = True) -> None:
        self.given = np.random.default_rng(0).normal(size=(SIZE, 4)).astype(np.float32) if directions else None

    def __len__(self) -> int:
        return SIZE

    def column(self, name: str) -> np.ndarray:
        return {"score": np.arange(SIZE, dtype=np.float32), "question_tokens": np.arange(SIZE, dtype=np.int32)}[name]

    def directions(self, batch: int = 4096) -> Iterator[tuple[np.ndarray, np.ndarray]] | None:
        if self.given is None:
            return None
        blocks = [np.setdiff1d(np.arange(start, start + 10), [5]) for start in range(0, SIZE, 10)]
        return ((rows, self.given[rows]) for rows in blocks)


def test_a_navigator_draws_the_usable_rows_of_the_run() -> None:
    navigator: Any = load_navigator(Table(), np.arange(20, 2, -1), "gaussian", {"sigma": 4.0}, seed=3)  # type: ignore[arg-type]
    assert sorted(navigator.draw(16).tolist()) == [4, 5, 6, 7, *range(9, 21)]
    assert (navigator.sigma, navigator.prompts.fingerprint) == (4.0, "f00d")
    assert navigator.draw(1).tolist()[0] > 8


def test_directions_are_those_of_the_rows() -> None:
    table: Any = Table()
    navigator: Any = load_navigator(table, np.arange(29, 1, -2))
    navigator.draw(13)
    alone: Any = load_navigator(Table(directions=False), np.arange(29, 1, -2))  # type: ignore[arg-type]
    assert (len(navigator.features), len(alone.features)) == (7, 3)
    assert navigator.prompts.rows[~navigator.known].tolist() == [5]
    unit = table.given / np.linalg.norm(table.given, axis=1, keepdims=True)
    rows = navigator.prompts.rows[navigator.known]
    from_features = np.linalg.norm(navigator.features[3:, navigator.known].T - navigator.features[3:, :1].T, axis=1)
    from_table = np.linalg.norm(unit[rows] - unit[29], axis=1)
    assert np.corrcoef(from_features, from_table)[0, 1] > 0.999


def test_the_log_says_once_that_probe_has_no_directions(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_navigator(Table(directions=False), np.arange(SIZE))  # type: ignore[arg-type]
        load_navigator(Table(directions=False), np.arange(SIZE), "uniform")  # type: ignore[arg-type]
    assert [record.message.split(":")[0] for record in caplog.records] == ["the score table has no directions"]


def test_sources_follow_their_rows() -> None:
    sources = ["odd" if row % 2 else "even" for row in range(SIZE)]
    navigator = load_navigator(Table(), np.arange(SIZE), "uniform", sources=sources, quota={"odd": 0.0})  # type: ignore[arg-type]
    assert not (navigator.draw(14) % 2).any()


def test_no_usable_row_is_an_error() -> None:
    with pytest.raises(UserError, match="there is no prompt to draw"):
        load_navigator(Table(), [3, 8], "uniform")  # type: ignore[arg-type]


# -- accuracy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewards", "accuracy_range", "expected"),
    [
        ([0.0, 1.0, 0.5, None, math.nan], None, [0, 1, 0.5, math.nan, math.nan]),
        ([-1.0, 1.0, 0.0], [-1, 1], [0, 1, 0.5]),
        ([[2.0], [4.0]], (2, 4), [[0], [1]]),
        ([1.0000001, -1e-8], None, [1, 0]),
    ],
)
def test_credit_is_the_place_of_a_reward_in_its_range(rewards: Any, accuracy_range: Any, expected: Any) -> None:
    np.testing.assert_allclose(accuracy_of(rewards, accuracy_range), np.array(expected, dtype=float))


@pytest.mark.parametrize(
    ("rewards", "accuracy_range", "said"),
    [
        ([0.0, 2.0], None, r"a reward of 2 lies outside accuracy_range=\[0, 1\]"),
        ([-0.5], [0, 2], r"a reward of -0.5 lies outside accuracy_range=\[0, 2\]"),
        ([1.0], [1, 0], r"accuracy_range=\[1, 0\] must be finite, with low below high"),
        ([1.0], [0, math.inf], "must be finite"),
        ([1.0], [1], r"accuracy_range=\[1\] is not a pair"),
        ([1.0], "no", "accuracy_range='no' is not a pair"),
    ],
)
def test_rewards_outside_their_range_and_impossible_ranges_are_refused(
    rewards: Any, accuracy_range: Any, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        accuracy_of(rewards, accuracy_range)


# -- the log of draws ---------------------------------------------------------------------------------------


def test_records_are_read_back_as_json_types(tmp_path: Path) -> None:
    log = DrawLog(tmp_path / "run")
    assert log.read() == []
    log.append({"draw": 0, "rows": np.arange(3), "accuracy": np.float64("nan"), "metrics": {"mean": np.float32(2.5)}})
    log.append({"draw": 1, "outcome": [(8, 3.0, True)], "angle": None})
    assert log.read() == [
        {"draw": 0, "rows": [0, 1, 2], "accuracy": None, "metrics": {"mean": 2.5}},
        {"draw": 1, "outcome": [[8, 3.0, True]], "angle": None},
    ]
    assert len((tmp_path / "run" / "draws.jsonl").read_text().splitlines()) == 2


def test_a_resume_keeps_the_draws_that_its_checkpoint_knows(tmp_path: Path) -> None:
    log = DrawLog(tmp_path)
    log.keep(0)
    for draw in range(5):
        log.append({"draw": draw})
    with open(log.path, "a") as file:
        file.write('{"draw": 5, "ro')
    assert [record["draw"] for record in log.read()] == [0, 1, 2, 3, 4]
    log.keep(3)
    log.append({"draw": 3})
    assert [record["draw"] for record in log.read()] == [0, 1, 2, 3]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    log = DrawLog(tmp_path)
    log.path.write_text(json.dumps({"draw": 0}) + "\nnonsense\n" + json.dumps({"draw": 2}) + "\n")
    with pytest.raises(UserError, match=r"draws.jsonl, line 2, is no record of a draw"):
        log.keep(1)
