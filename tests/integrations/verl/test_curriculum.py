"""The curriculum behind verl's dataset, by itself: what its calls from the trainers come to, without verl."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gainrl.errors import UserError
from gainrl.integrations.verl.curriculum import Curriculum, Rollout
from gainrl.integrations.verl.settings import Run, Settings
from gainrl.table import ScoreTable, TableMetadata
from tests.score_tables import score_table

SIZE, BATCH, N = 24, 4, 8
IDS = [f"p{index:02}" for index in range(SIZE)]
V1 = {"v1": True, "strategy": "fsdp", "trainer_mode": "sync"}
ASYNC = {**V1, "trainer_mode": "colocate_async", "warmup_batches": 1}


def table() -> ScoreTable:
    return score_table(IDS, np.linspace(1.0, 0.1, SIZE))


def curriculum(directory: Path, run: dict[str, Any] | None = None, **options: Any) -> Curriculum:
    options = {"prompts_per_epoch": N, "navigator": "gaussian", **options}
    given = Settings("s.parquet", Run(str(directory), **(V1 if run is None else run)), **options)
    return Curriculum(given, IDS, range(SIZE), table(), BATCH, "the data")


def fetch(made: Curriculum, start: int, count: int = BATCH) -> list[dict[str, Any]]:
    """Marks of the prompts at these positions, as verl's loader asks for them."""
    marks = []
    for index in range(start, start + count):
        made.place(index)
        marks.append(made.mark(index))
    return marks


def rollouts(marks: list[dict[str, Any]], correct: float | None = 1.0, angle: float | None = None) -> list[Rollout]:
    return [
        Rollout(
            mark["id"],
            mark["epoch"],
            f"{mark['id']}-{mark['epoch']}",
            str(session),
            correct,
            1.0,
            3,
            angle,
            asked=mark.get("angle", True),
        )
        for mark in marks
        for session in range(2)
    ]


def measured(given: list[Rollout], angle: float = 0.5) -> dict[str, float]:
    return {f"{rollout.group}_{rollout.session}": angle for rollout in given}


def records(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "epochs.jsonl").read_text().splitlines()]


def test_a_first_batch_without_angles_falls_back_to_the_table_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = curriculum(tmp_path)
    made.collect = dict  # the hook is not there
    assert made.angle_source == "actor"
    first = fetch(made, 0)
    assert first[0]["angle"] is True
    with caplog.at_level(logging.WARNING):
        made.hold(rollouts(first), BATCH)
        made.settle()
        second = fetch(made, 4)
        assert second[0]["angle"] is False
        made.hold(rollouts(second), BATCH)
        made.settle()
        fetch(made, 0)
    assert caplog.text.count("angle concentration from the table from now on") == 1
    assert "external_lib must be gainrl.integrations.verl.actor" in caplog.text
    assert "no measured angle" not in caplog.text
    scores = dict(zip(IDS, table().scores.tolist(), strict=True))
    (record,) = records(tmp_path)
    assert record["angle_source"] == "table"
    assert record["unmeasured"] == 0
    assert record["angle"] == pytest.approx(np.mean([scores[mark["id"]] for mark in first + second]))
    assert record["next_mean"] > 0


def test_asked_for_the_actor_alone_a_run_that_measures_nothing_stops(tmp_path: Path) -> None:
    made = curriculum(tmp_path, angle="actor")
    made.collect = dict
    made.hold(rollouts(fetch(made, 0)), BATCH)
    with pytest.raises(UserError, match=r"angle=actor, but the actor's workers measured none of the first batch's 8"):
        made.settle()


def test_single_rollouts_without_an_angle_are_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = curriculum(tmp_path)
    angles: dict[str, float] = {}
    made.collect = lambda: angles
    with caplog.at_level(logging.WARNING):
        for start in (0, 4):
            given = rollouts(fetch(made, start))
            angles = measured(given[:-1])
            made.hold(given, BATCH)
            made.settle()
        angles = {}  # and once a whole batch of them, later on
        given = rollouts(fetch(made, 0))
        made.hold(given, BATCH)
        made.settle()
    assert caplog.text.count("1 of 8 rollouts have no measured angle") == 1
    assert made.angle_source == "actor"
    assert records(tmp_path)[0]["unmeasured"] == 2
    assert made.metrics()["curriculum/unmeasured"] == 8


def test_prompts_under_way_that_no_actor_was_asked_for_are_no_sign_of_a_missing_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = curriculum(tmp_path, ASYNC, angle="table")
    under_way = fetch(before, 0)
    state = json.loads(json.dumps(before.state_dict()))
    made = curriculum(tmp_path, ASYNC, angle="actor")
    angles: dict[str, float] = {}
    made.collect = lambda: angles
    made.load_state_dict(state)
    with caplog.at_level(logging.WARNING):
        made.hold(rollouts(under_way), BATCH)  # a batch that no worker was to measure
        made.settle()
        assert made.metrics()["curriculum/unmeasured"] == 8
        given = rollouts(fetch(made, 4))
        angles = measured(given)
        made.hold(given, BATCH)
        made.settle()
    assert "measured" not in "".join(text for _, level, text in caplog.record_tuples if level == logging.WARNING)
    (record,) = records(tmp_path)
    assert (record["angle_source"], record["unmeasured"], record["angle"]) == ("actor", 8, 0.5)

    blind = curriculum(tmp_path, ASYNC, angle="actor")
    blind.collect = dict
    blind.load_state_dict(state)
    blind.hold(rollouts(under_way), BATCH)
    blind.settle()
    blind.hold(rollouts(fetch(blind, 4)), BATCH)  # the first that was to be measured
    with pytest.raises(UserError, match=r"measured none of the first batch's 8 rollouts"):
        blind.settle()


@pytest.mark.parametrize("navigator", ["posterior", "gaussian"])
def test_rollouts_of_an_earlier_epoch_teach_without_changing_this_ones_numbers(tmp_path: Path, navigator: str) -> None:
    rest = {"skip_mastered": 1} if navigator == "gaussian" else {}
    made = curriculum(tmp_path, ASYNC, angle="table", navigator=navigator, **rest)
    first = fetch(made, 0, N)
    made.hold(rollouts(first[:4], correct=1.0), 4)
    second = fetch(made, 0, 4)
    made.hold(rollouts(first[4:], correct=0.0), 4)
    made.observe(rollouts(second, correct=1.0), 4)
    assert made.navigator.totals.rollouts == 16
    third = made.metrics()
    assert third["curriculum/late"] == 8
    assert third["curriculum/late_accuracy"] == 0.0
    assert third["curriculum/accuracy"] == 1.0
    assert third["curriculum/rollouts"] == 8
    outcomes = made.navigator.state_dict()["outcomes"]
    assert (outcomes["size"], outcomes["late"]["size"]) == (4, 4)
    fetch(made, 4, 4)
    made.observe(rollouts([made.mark(index) for index in range(4, 8)], correct=0.0), 4)
    fetch(made, 0, 4)
    assert [record["late"] for record in records(tmp_path)] == [0, 8]  # each in its own epoch
    assert [record["rollouts"] for record in records(tmp_path)] == [8, 16]
    assert made.metrics()["curriculum/late"] == 0


def test_a_late_rollout_of_a_prompt_that_is_not_ranked_is_no_small_matter(tmp_path: Path) -> None:
    made = curriculum(tmp_path, ASYNC, angle="table", navigator="posterior")
    made.observe(rollouts(fetch(made, 0, N)), N)
    fetch(made, 0, 4)
    with pytest.raises(UserError, match="has no id 'stranger'"):
        made.observe(rollouts([{"id": "stranger", "epoch": 0}]), 1)


def test_what_was_out_at_the_draw_and_the_clock_survive_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    made = curriculum(tmp_path, ASYNC, angle="table")
    first = fetch(made, 0, N)
    made.observe(rollouts(first[:4]), 4)
    second = fetch(made, 0, 4)
    made.observe(rollouts(first[4:]), 4)
    now[0] += 7.0
    state = json.loads(json.dumps(made.state_dict()))
    assert (state["in_flight"], state["seconds"]) == (4, 7.0)

    now[0] += 1000.0  # nobody works
    again = curriculum(tmp_path, ASYNC, angle="table")
    again.load_state_dict(state)
    now[0] += 5.0
    third = fetch(again, 4, 4)
    again.observe(rollouts(second + third), 8)
    record = records(tmp_path)[1]
    assert record["in_flight"] == 4
    assert record["late"] == 8
    assert record["seconds"] == 12.0


def test_a_state_of_version_1_is_read(tmp_path: Path) -> None:
    made = curriculum(tmp_path)
    made.observe(rollouts(fetch(made, 0)), 4)
    state = json.loads(json.dumps(made.state_dict()))
    del state["seconds"], state["in_flight"]
    old = {**state, "version": 1, "late": 3, "batches": 1}
    again = curriculum(tmp_path)
    again.load_state_dict(old)
    assert again.navigator.state_dict() == made.navigator.state_dict()
    for wrong, said in (({**state, "version": 3}, "versions 1 to 2"), ({**old, "seen": None, "x": 1}, "unknown")):
        with pytest.raises(UserError, match=said):
            curriculum(tmp_path).load_state_dict(wrong)


@pytest.mark.parametrize(
    ("run", "most"),
    [
        (V1, 0),
        ({**V1, "refill_failed_groups": True}, 4),
        ({**V1, "filter_groups": True, "max_inflight_gen_batches": 3}, 16),
        (ASYNC, 8),
        ({**ASYNC, "warmup_batches": 1.5, "filter_groups": True, "max_inflight_gen_batches": 3}, 10),
        ({"v1": False}, 4),
    ],
)
def test_how_many_prompts_can_be_out_at_a_draw_is_said_for_each_trainer(run: dict[str, Any], most: int) -> None:
    assert Settings("s.parquet", Run(".", **run)).most_in_flight(BATCH) == most


def test_failed_groups_of_a_first_batch_are_no_reason_to_stop(tmp_path: Path) -> None:
    made = curriculum(tmp_path, {**V1, "refill_failed_groups": True}, angle="table")
    fetch(made, 0, N)
    made.observe([], 1)  # verl puts a group without trajectories away, and asks for another prompt
    fetch(made, 0, 1)
    assert made.navigator.epoch == 0


@pytest.mark.parametrize("angle", ["actor", "table"])
def test_an_epoch_whose_last_batch_had_a_failed_group_has_a_record(tmp_path: Path, angle: str) -> None:
    made = curriculum(tmp_path, angle=angle)
    angles: dict[str, float] = {}
    made.collect = lambda: angles
    given = rollouts(fetch(made, 0))
    made.hold(given, 4)
    angles = measured(given)
    last = fetch(made, 4)
    given = rollouts(last[:3])  # nothing came of the fourth
    made.hold(given, 4)
    angles = measured(given)
    made.settle()  # the run's last step: no epoch follows
    (record,) = records(tmp_path)
    assert (record["rollouts"], record["unmeasured"]) == (14, 0)
    fetch(made, 0)
    assert len(records(tmp_path)) == 1  # and once


def test_an_epoch_with_a_failed_group_waits_for_those_that_are_out(tmp_path: Path) -> None:
    made = curriculum(tmp_path, ASYNC, angle="table")
    marks = fetch(made, 0, N)
    made.hold(rollouts(marks[:3]), 4)
    made.observe(rollouts(marks[4:7]), 3)
    assert not (tmp_path / "epochs.jsonl").exists()
    made.observe(rollouts(marks[7:]), 1)
    assert [record["rollouts"] for record in records(tmp_path)] == [14]


def test_a_checkpoint_of_another_directory_leaves_the_records_here_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def finish_epochs(directory: str, count: int) -> Curriculum:
        made = curriculum(tmp_path / directory, angle="table")
        for _ in range(count):
            made.observe(rollouts(fetch(made, 0, N)), N)
        return made

    state = json.loads(json.dumps(finish_epochs("other", 1).state_dict()))
    finish_epochs("here", 3)
    resume = {"resume_mode": "resume_path", "resume_from_path": str(tmp_path / "other" / "global_step_2")}
    made = curriculum(tmp_path / "here", {**V1, **resume}, angle="table")
    with caplog.at_level(logging.WARNING):
        made.load_state_dict(state)
    assert "they are in" in caplog.text
    made.observe(rollouts(fetch(made, 0, N)), N)
    assert [record["epoch"] for record in records(tmp_path / "here")] == [1]
    kept = (tmp_path / "here" / "epochs-1.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in kept] == [0, 1, 2]

    curriculum(tmp_path / "other", {**V1, **resume}, angle="table").load_state_dict(state)
    assert [record["epoch"] for record in records(tmp_path / "other")] == [0]


def test_a_run_that_begins_sets_the_records_of_another_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        made = curriculum(tmp_path, angle="table")
        with caplog.at_level(logging.WARNING):
            made.observe(rollouts(fetch(made, 0, N)), N)
        assert len(records(tmp_path)) == 1
    assert "they are in" in caplog.text
    assert len((tmp_path / "epochs-1.jsonl").read_text().splitlines()) == 1


def test_v0s_last_epoch_has_a_record_though_its_last_batch_never_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = curriculum(tmp_path, {"total_epochs": 2})
    with caplog.at_level(logging.INFO):
        for start in (0, 4, 0):
            made.end_batch(rollouts(fetch(made, start)))
    assert [record["rollouts"] for record in records(tmp_path)] == [16, 8]
    assert "the record lacks its 4 prompts" in caplog.text
    state = json.loads(json.dumps(made.state_dict()))
    made.end_batch(rollouts(fetch(made, 4)))  # other trainers of this kind do hand it over
    assert [record["rollouts"] for record in records(tmp_path)] == [16, 16]
    prolonged = curriculum(tmp_path, {"total_epochs": 3})
    prolonged.load_state_dict(state)
    assert [record["rollouts"] for record in records(tmp_path)] == [16]


def test_angles_of_the_table_are_scores_whatever_the_prompts_are_ranked_by(tmp_path: Path) -> None:
    by_length = table()
    residual = pa.array(np.linspace(-9.0, 9.0, SIZE), pa.float32())
    columns = by_length.columns.append_column("residual", residual)
    fields = {**vars(by_length.metadata), "control": "length", "control_fit": [0.0, 0.0, 0.0]}
    given = Settings("s.parquet", Run(str(tmp_path)), prompts_per_epoch=N, navigator="fixed")
    made = Curriculum(given, IDS, range(SIZE), ScoreTable(columns, TableMetadata(**fields)), BATCH, "the data")
    marks = fetch(made, 0, N)
    assert marks[0]["id"] == IDS[-1]
    made.observe(rollouts(marks), N)
    assert records(tmp_path)[0]["angle"] == pytest.approx(np.mean(by_length.scores[-N:]), abs=1e-6)
