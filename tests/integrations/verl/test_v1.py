"""verl's V1 trainers with the curriculum, over the real `fit`; verl_replaced lists what is."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from verl_replaced import REPLACED, Agents, angle_of, replaced_in, reward_of
from verl_support import epochs_of, expected_epochs, make_config, records_of, run_v1, table_angle, v1_trainer

Configure = Callable[..., Any]


@pytest.fixture
def configure(queue: Any, dataset: Path, model: str, scores: Path, tmp_path: Path) -> Configure:
    """`configure(*overrides)`: a run in `tmp_path / "run"` over an empty TransferQueue."""

    def make(*overrides: str, directory: str = "run") -> Any:
        return make_config(tmp_path / directory, model, dataset, scores, *overrides)

    return make


def steps(count: int, *, save: int = 0) -> tuple[str, str]:
    return f"trainer.total_training_steps={count}", f"trainer.save_freq={save or -1}"


def test_only_what_is_listed_is_replaced(configure: Configure) -> None:
    trainer, _ = run_v1(configure(*steps(1)))
    assert replaced_in(trainer) == set(REPLACED)


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


def test_where_no_worker_measures_the_table_is_taken_from_the_first_batch_on(
    configure: Configure, scores: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where `external_lib` is another module, which does not import the hook."""
    with caplog.at_level(logging.WARNING):
        _, agents = run_v1(configure(*steps(6)), measures=False)
    assert epochs_of(agents.prompts, 8) == expected_epochs(scores, 8, 3, table_angle(scores))
    assert caplog.text.count("angle concentration from the table from now on") == 1
    assert [record["angle_source"] for record in records_of(tmp_path / "run")] == ["table"] * 3


def test_asked_for_the_actors_angles_alone_a_run_that_measures_none_stops(configure: Configure) -> None:
    with pytest.raises(ValueError, match=r"angle=actor, but the actor's workers measured none.*external_lib"):
        run_v1(configure(*steps(6), "data.gainrl.angle=actor"), measures=False)


def test_rollouts_without_an_angle_are_counted_and_the_others_move_the_window(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run_v1(configure(*steps(4)), measures=lambda name, session: session == 0)
    assert caplog.text.count("4 of 8 rollouts have no measured angle") == 1
    first = records_of(tmp_path / "run")[0]
    assert (first["unmeasured"], first["angle_source"]) == (8, "actor")
    assert first["next_mean"] > 0


def test_the_last_epoch_has_its_record_without_a_save(configure: Configure, tmp_path: Path) -> None:
    run_v1(configure(*steps(4), directory="unsaved"))
    run_v1(configure(*steps(4, save=4), directory="saved"))
    assert records_of(tmp_path / "unsaved") == records_of(tmp_path / "saved")
    assert [record["rollouts"] for record in records_of(tmp_path / "unsaved")] == [16, 16]


def test_a_fresh_start_sets_earlier_records_aside(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_v1(configure(*steps(4)))
    kept = (tmp_path / "run" / "epochs.jsonl").read_text()
    with caplog.at_level(logging.WARNING):
        run_v1(configure(*steps(2)))  # nothing was saved to go on from
    assert "epoch records of an earlier run were in the way" in caplog.text
    assert (tmp_path / "run" / "epochs-1.jsonl").read_text() == kept
    assert len(records_of(tmp_path / "run")) == 1


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
    assert all(record["rollouts"] <= 16 for record in records)
    assert "prompts of earlier epochs not yet observed (at most 8)" in caplog.text
    assert records[-1]["late"] > 0
    assert len(agents.prompts) == 44  # one warm-up batch, ten steps
    # Every rollout counts exactly once, in the epoch in which it came back.
    assert sum(map(came_back, records)) + unrecorded(curriculum) == 2 * 4 * 10
    epochs = epochs_of(agents.prompts, 8)
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)


@pytest.mark.parametrize("navigator", ["posterior", "gaussian"])
def test_asynchronous_rollouts_that_come_late_are_remembered_too(configure: Configure, navigator: str) -> None:
    """A quarter to a half of all, and always the end of an epoch's order."""
    rest = ["data.gainrl.skip_mastered=1"] if navigator == "gaussian" else []
    options = [f"data.gainrl.navigator={navigator}", *rest, "trainer.v1.trainer_mode=colocate_async"]
    trainer = v1_trainer(configure(*steps(9), *options))
    made = trainer.train_dataset.curriculum.navigator
    move = made._move
    seen: dict[str, int] = {}
    late = 0

    def counting(totals: Any, outcomes: Any) -> None:
        nonlocal late
        ranks, rollouts, *_ = outcomes.columns()
        for rank, count in zip(ranks.tolist(), rollouts.tolist(), strict=True):
            name = made.ranking.ids[rank]
            seen[name] = seen.get(name, 0) + count
        late += int(outcomes.late()[1].sum())
        move(totals, outcomes)

    made._move = counting
    agents = Agents(2)
    trainer.fit(agents)
    made.draw()  # the last move
    trained = agents.prompts[: 4 * 9]
    assert seen == {name: 2 * trained.count(name) for name in trained}
    assert late >= 2 * 4 * 3


def came_back(record: dict[str, Any]) -> int:
    """Rollouts that were observed in this epoch."""
    return int(record["rollouts"] + record["late"])


def unrecorded(curriculum: Any) -> int:
    """Rollouts of an epoch that has no record yet."""
    under_way = curriculum.navigator.epoch >= curriculum._logged
    return int(curriculum.navigator.totals.rollouts) if under_way else 0


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
    assert sum(map(came_back, records_of(tmp_path / "run"))) + unrecorded(curriculum) == 2 * len(agents.prompts)


def test_prompts_that_are_out_while_daps_filter_refills_are_bounded_as_it_is_said(
    configure: Configure, tmp_path: Path
) -> None:
    filters = ("algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=acc")
    more = "+algorithm.filter_groups.max_inflight_gen_batches=2"
    trainer, _ = run_v1(configure(*steps(8), *filters, more, "data.gainrl.prompts_per_epoch=4"))
    assert trainer.train_dataset.curriculum.most_in_flight == 12
    out = [record["in_flight"] for record in records_of(tmp_path / "run")]
    assert max(out) <= 12
    assert max(out) > 0


def test_a_first_batch_of_failures_is_refilled_even_where_it_is_the_whole_epoch(configure: Configure) -> None:
    refill = ("trainer.v1.sampler.sync_refill_failed_groups=true", "data.gainrl.prompts_per_epoch=4")
    failed: set[str] = set()

    def fails(name: str) -> bool:
        first = not failed
        failed.add(name)
        return first

    trainer, agents = run_v1(configure(*steps(2), *refill), Agents(2, fails=fails))
    assert trainer.global_steps == 3
    assert len(agents.prompts) == 4 + 1 + 4


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
    assert sum(map(came_back, records_of(tmp_path / "run"))) + unrecorded(curriculum) == 2 * 12


def test_a_rollout_whose_accuracy_is_not_reported_is_unscored_and_training_goes_on(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    silent: set[tuple[str, int]] = set()

    def once(name: str, session: int) -> bool:
        if not silent:
            silent.add((name, session))
        return (name, session) in silent

    with caplog.at_level(logging.WARNING):
        run_v1(configure(*steps(2), "data.gainrl.accuracy=acc"), Agents(2, silent=once))
    assert "1 of 8 rollouts do not report 'acc'" in caplog.text
    (record,) = records_of(tmp_path / "run")
    assert (record["rollouts"], record["scored"], record["unscored"]) == (16, 15, 1)


def test_a_batch_in_which_no_rollout_reports_its_accuracy_ends_training(configure: Configure) -> None:
    config = configure(*steps(2), "data.gainrl.accuracy=acc")
    with pytest.raises(ValueError, match=r"accuracy='acc', but no rollout of a whole batch reports it"):
        run_v1(config, Agents(2, silent=lambda name, session: True))


def test_probe_draws_what_a_navigator_fed_with_the_same_rewards_draws(
    configure: Configure, scores_with_directions: Path, tmp_path: Path
) -> None:
    from gainrl.curriculum.building import NavigatorSettings
    from gainrl.integrations.navigation import build_navigator
    from gainrl.table import ScoreTable

    options = ("data.gainrl.navigator=probe", "data.gainrl.components=3", "data.gainrl.explore=0.25")
    given = f"data.gainrl.scores={scores_with_directions}"
    _, agents = run_v1(configure(*steps(6), *options, given, "data.gainrl.angle=table"))
    table = ScoreTable.read(scores_with_directions)
    settings = NavigatorSettings(navigator="probe", components=3, explore=0.25)
    navigator = build_navigator(settings, table, table.usable, 8)
    for epoch in epochs_of(agents.prompts, 8):
        assert epoch == navigator.draw()
        navigator.observe(
            {"id": name, "correct": reward_of(name, s), "scored": True, "angle": None, "reward": 0.0, "tokens": 3}
            for name in epoch
            for s in range(2)
        )
    assert [record["explored"] for record in records_of(tmp_path / "run")] == [0.25] * 3


def test_a_reward_that_is_neither_right_nor_wrong_names_the_setting(configure: Configure) -> None:
    config = configure(*steps(1), "data.gainrl.accuracy=reward")
    with pytest.raises(ValueError, match=r"'reward' of a rollout is 0\.25.*data\.gainrl\.accuracy_range"):
        run_v1(config, Agents(2, lambda name, session: 0.25))
    ranged = configure(*steps(1), "data.gainrl.accuracy=reward", "data.gainrl.accuracy_range=[0,0.5]")
    trainer, _ = run_v1(ranged, Agents(2, lambda name, session: 0.25))
    trainer.train_dataset.curriculum.settle()
    assert trainer.train_dataset.curriculum.navigator.totals.accuracy == 0.5
