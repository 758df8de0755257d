"""What all integrations share: a navigator from a table, accuracy from rewards, the log of draws."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gainrl.errors import UserError
from gainrl.integrations.shared import DrawLog, accuracy_of, load_navigator
from gainrl.table import ScoreTable
from tests.score_tables import score_table

SIZE = 30
UNIT = np.random.default_rng(0).normal(size=(SIZE, 4)).astype(np.float32)
UNIT /= np.linalg.norm(UNIT, axis=1, keepdims=True)


def table(*, directions: bool = True) -> ScoreTable:
    """Rows 3 and 8 have no score, row 5 has no direction."""
    scores = np.arange(SIZE, dtype=np.float32)
    scores[[3, 8]] = np.nan
    columns: dict[str, Any] = {"question_tokens": np.arange(SIZE) + 2}
    if directions:
        columns["direction"] = [None if row == 5 else UNIT[row] for row in range(SIZE)]
    return score_table([f"{row:02d}" for row in range(SIZE)], scores, columns)


def test_a_navigator_draws_the_usable_rows_of_the_run() -> None:
    navigator: Any = load_navigator(table(), np.arange(20, 2, -1), "gaussian", {"sigma": 4.0}, seed=3)
    assert sorted(navigator.draw(16).tolist()) == [4, 5, 6, 7, *range(9, 21)]
    assert (navigator.sigma, navigator.prompts.fingerprint) == (4.0, table().metadata.fingerprint)
    assert navigator.draw(1).tolist()[0] > 8


def test_directions_are_those_of_the_rows_and_stream_from_the_file(tmp_path: Path) -> None:
    table().write(tmp_path / "scores.parquet")
    columns = ["id", "status", "score", "question_tokens"]
    navigator: Any = load_navigator(ScoreTable.read(tmp_path / "scores.parquet", columns), np.arange(29, 0, -2))
    assert navigator.prompts.rows[~navigator.known].tolist() == [5]
    rows = navigator.prompts.rows[navigator.known]
    components = navigator.features[3:, navigator.known].T
    distances = np.linalg.norm(components - components[0], axis=1)
    assert np.corrcoef(distances, np.linalg.norm(UNIT[rows] - UNIT[rows[0]], axis=1))[0, 1] > 0.999


def test_the_log_says_once_that_probe_has_no_directions(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        navigator: Any = load_navigator(table(directions=False), np.arange(SIZE))
        load_navigator(table(directions=False), np.arange(SIZE), "uniform")
    assert [record.message.split(":")[0] for record in caplog.records] == ["the score table has no directions"]
    assert len(navigator.features) == 3


def test_sources_follow_their_rows() -> None:
    sources = ["odd" if row % 2 else "even" for row in range(SIZE)]
    navigator = load_navigator(table(), np.arange(SIZE), "uniform", sources=sources, quota={"odd": 0.0})
    assert not (navigator.draw(14) % 2).any()
    with pytest.raises(UserError, match="there is no prompt to draw"):
        load_navigator(table(), [3, 8], "uniform")


# -- accuracy -----------------------------------------------------------------------------------------------


def test_accuracy_is_where_a_reward_lies_in_its_range() -> None:
    np.testing.assert_equal(accuracy_of([0.0, 1.0000001, -1e-8, 0.5, None, math.nan]), [0, 1, 0, 0.5, np.nan, np.nan])
    np.testing.assert_equal(accuracy_of([[-1.0, 1.0], [0.0, None]], [-1, 1]), [[0, 1], [0.5, np.nan]])


@pytest.mark.parametrize(
    ("rewards", "accuracy_range", "said"),
    [
        ([0.0, 2.0], None, r"a reward of 2 lies outside accuracy_range=\[0, 1\]"),
        ([-0.5], [0, 2], r"a reward of -0.5 lies outside accuracy_range=\[0, 2\]"),
        ([1.0], [1, 0], r"accuracy_range=\[1, 0\] must be finite, with low below high"),
        ([1.0], [1], r"accuracy_range=\[1\] is not a pair"),
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
    log.append({"draw": 0, "rows": np.arange(3), "accuracy": np.float64("nan"), "outcome": [(8, 3.0, True)]})
    log.append({"draw": 1, "predicted": np.array([0.5, np.inf]), "metrics": {"mean": np.float32(2.5)}, "angle": None})
    assert log.read() == [
        {"draw": 0, "rows": [0, 1, 2], "accuracy": None, "outcome": [[8, 3.0, True]]},
        {"draw": 1, "predicted": [0.5, None], "metrics": {"mean": 2.5}, "angle": None},
    ]


def test_a_resume_keeps_the_draws_that_its_checkpoint_knows(tmp_path: Path) -> None:
    log = DrawLog(tmp_path)
    for draw in range(5):
        log.append({"draw": draw})
    with open(log.path, "a") as file:
        file.write('{"draw": 5, "ro')
    assert [record["draw"] for record in log.read()] == [0, 1, 2, 3, 4]
    log.keep(3)
    log.append({"draw": 3})
    assert [record["draw"] for record in log.read()] == [0, 1, 2, 3]
    log.path.write_text('{"draw": 0}\nnonsense\n{"draw": 2}\n')
    with pytest.raises(UserError, match=r"draws.jsonl, line 2, is no record of a draw"):
        log.keep(1)
