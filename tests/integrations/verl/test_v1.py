"""verl's V1 trainers with the curriculum, over the real `fit`; verl_support lists what is replaced."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from verl_support import (
    REPLACED,
    Agents,
    angle_of,
    epochs_of,
    expected_epochs,
    make_config,
    records_of,
    run_v1,
    table_angle,
    v1_trainer,
)

Configure = Callable[..., Any]


@pytest.fixture
def configure(queue: Any, dataset: Path, model: str, scores: Path, tmp_path: Path) -> Configure:
    """`configure(*overrides)`: a run in `tmp_path / "run"` over an empty TransferQueue."""

    def make(*overrides: str, directory: str = "run") -> Any:
        return make_config(tmp_path / directory, model, dataset, scores, *overrides)

    return make


def steps(count: int, *, save: int = 0) -> tuple[str, str]:
    return f"trainer.total_training_steps={count}", f"trainer.save_freq={save or -1}"


def test_only_what_is_listed_is_replaced() -> None:
    assert REPLACED == ("actor worker group", "agent loop", "weight syncing", "resource pool")


def test_epochs_are_those_of_a_navigator_fed_with_the_same_rewards_and_measured_angles(
    configure: Configure, scores: Path, tmp_path: Path
) -> None:
    trainer, agents = run_v1(configure(*steps(6, save=6)))
    assert epochs_of(agents.prompts, 8) == expected_epochs(scores, 8, 3, angle_of)
    records = records_of(tmp_path / "run")
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert all(record["rollouts"] == 16 and record["angle_source"] == "actor" for record in records)
    logged = trainer.seen[-1]
    assert logged["curriculum/epoch"] == 2
    assert logged["curriculum/angle_from_actor"] == 1
    assert logged["curriculum/mean"] == pytest.approx(records[2]["mean"])


def test_angles_come_from_the_table_where_it_is_asked_for(
    configure: Configure, scores: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        _, agents = run_v1(configure(*steps(6), "data.gainrl.angle=table"))
    assert "angle concentration from the table (data.gainrl.angle=table)" in caplog.text
    assert epochs_of(agents.prompts, 8) == expected_epochs(scores, 8, 3, table_angle(scores))


def test_angles_that_no_worker_measured_are_missed_in_the_log_and_the_window_waits(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run_v1(configure(*steps(4, save=4)), measures=False)
    assert "8 of 8 rollouts have no measured angle" in caplog.text
    first = records_of(tmp_path / "run")[0]
    assert first["angle"] is None
    assert first["next_mean"] == 0.0


@pytest.mark.parametrize("saved", [1, 2, 3], ids=["mid-epoch", "epoch boundary", "second epoch"])
def test_a_resumed_run_draws_what_the_whole_run_drew(configure: Configure, tmp_path: Path, saved: int) -> None:
    _, whole = run_v1(configure(*steps(6, save=6), directory="whole"))
    _, first = run_v1(configure(*steps(saved, save=saved)))
    trainer, second = run_v1(configure(*steps(6, save=6)))
    assert trainer.global_steps == 7
    assert first.prompts + second.prompts == whole.prompts
    assert records_of(tmp_path / "run") == records_of(tmp_path / "whole")


def test_the_checkpoint_holds_the_state_in_verls_file_and_as_json(configure: Configure, tmp_path: Path) -> None:
    run_v1(configure(*steps(3, save=3)))
    folder = tmp_path / "run" / "global_step_3"
    saved = torch.load(folder / "data.pt", weights_only=False)["dataset_state"]
    written = json.loads((folder / "curriculum.json").read_text())
    assert written.pop("global_step") == 3
    assert written == json.loads(json.dumps(saved))
    assert saved["navigator"]["epoch"] == 1
    assert saved["handed"] == saved["seen"] == 4
    assert saved["fetched"] == saved["settled"] == 12


def test_a_checkpoint_of_other_settings_is_refused_by_name(configure: Configure) -> None:
    run_v1(configure(*steps(1, save=1)))
    with pytest.raises(ValueError, match="alpha"):
        run_v1(configure(*steps(2, save=1), "data.gainrl.alpha=3.0"))


def test_one_fetch_carries_ids_and_epoch_with_verls_rows(configure: Configure, scores: Path) -> None:
    trainer = v1_trainer(configure())
    batch = trainer._fetch_one_gen_batch()
    marks = [info["gainrl"] for info in batch["extra_info"]]
    assert [mark["id"] for mark in marks] == expected_epochs(scores, 8, 1, angle_of)[0][:4]
    assert {mark["epoch"] for mark in marks} == {0}
    assert len(trainer.train_dataset) == 8
    assert trainer.steps_per_epoch == 2
    assert len(trainer.val_dataset) == 24  # the same file: RLHFDataset and no more
    assert "gainrl" not in trainer.val_dataset[0]["extra_info"]


def test_asynchronous_prompts_ahead_are_bounded_by_the_warm_up_and_logged(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure(*steps(10, save=10), "trainer.v1.trainer_mode=colocate_async")
    with caplog.at_level(logging.INFO):
        trainer, agents = run_v1(config)
    curriculum = trainer.train_dataset.curriculum
    assert curriculum.most_in_flight == 8  # one warm-up batch and the one that is being fetched
    records = records_of(tmp_path / "run")
    assert len(records) >= 4
    assert all(0 < record["in_flight"] <= 8 for record in records[1:])
    assert "prompts of earlier epochs not yet observed (warm-up and batch: 8)" in caplog.text
    assert records[-1]["late"] > 0
    assert len(agents.prompts) == 44  # one warm-up batch, ten steps
    # Every rollout counts exactly once, in the epoch in which it came back.
    observed = sum(record["rollouts"] for record in records) + curriculum.navigator.totals.rollouts
    assert observed == 2 * 4 * 10
    epochs = epochs_of(agents.prompts, 8)
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)


def test_asynchronous_prompts_under_way_survive_a_restart(configure: Configure, queue: Any, tmp_path: Path) -> None:
    mode = "trainer.v1.trainer_mode=colocate_async"
    _, first = run_v1(configure(*steps(3, save=3), mode))
    for partition, items in (queue.kv_list() or {}).items():
        if items:
            queue.kv_clear(keys=list(items), partition_id=partition)
    trainer, second = run_v1(configure(*steps(6, save=6), mode))
    assert len(first.prompts) == 4 + 12
    assert len(second.prompts) == 12  # the warm-up batch came back with the checkpoint
    state = trainer.train_dataset.state_dict()
    assert state["settled"] == 24
    assert state["fetched"] == 28


def test_groups_that_daps_filter_evicts_are_observed_too(configure: Configure, tmp_path: Path) -> None:
    filters = ("algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=acc")
    trainer, agents = run_v1(configure(*steps(4, save=4), *filters, "data.gainrl.angle=table"))
    curriculum = trainer.train_dataset.curriculum
    assert any(step.get("training/filter_groups/evicted_samples", 0) > 0 for step in trainer.seen)
    assert len(agents.prompts) > 16  # prompts were fetched for the evicted ones
    observed = sum(record["rollouts"] for record in records_of(tmp_path / "run"))
    current = curriculum.navigator.totals.rollouts if curriculum.navigator.epoch >= curriculum._logged else 0
    assert observed + current == 2 * len(agents.prompts)


def test_failed_groups_are_refilled_and_never_count(configure: Configure, tmp_path: Path) -> None:
    refill = "trainer.v1.sampler.sync_refill_failed_groups=true"
    failed: set[str] = set()

    def fails(name: str) -> bool:
        if len(failed) < 2 and name not in failed:
            failed.add(name)
            return True
        return False

    trainer, agents = run_v1(configure(*steps(3, save=3), refill), Agents(2, fails=fails))
    assert len(agents.prompts) == 12 + 2
    curriculum = trainer.train_dataset.curriculum
    observed = sum(record["rollouts"] for record in records_of(tmp_path / "run"))
    current = curriculum.navigator.totals.rollouts if curriculum.navigator.epoch >= curriculum._logged else 0
    assert observed + current == 2 * 12


def test_a_reward_that_is_neither_right_nor_wrong_names_the_setting(configure: Configure) -> None:
    config = configure(*steps(1), "data.gainrl.accuracy=reward")
    with pytest.raises(ValueError, match=r"'reward' of a rollout is 0\.25.*data\.gainrl\.accuracy_range"):
        run_v1(config, Agents(2, lambda name, session: 0.25))
    ranged = configure(*steps(1), "data.gainrl.accuracy=reward", "data.gainrl.accuracy_range=[0,0.5]")
    trainer, _ = run_v1(ranged, Agents(2, lambda name, session: 0.25))
    trainer.train_dataset.curriculum.settle()
    assert trainer.train_dataset.curriculum.navigator.totals.accuracy == 0.5
