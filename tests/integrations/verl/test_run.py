"""verl's V1 trainers over the real `fit`, Ray and TransferQueue; verl_world lists what is replaced."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from verl_world import REPLACED, Agents, angle_of, reward_of, run_v1

from gainrl.curriculum import Outcomes
from gainrl.integrations.shared import DrawLog, load_navigator
from gainrl.table import ScoreTable
from tests.learners import AngleLearner, Learner, learnt

pytestmark = pytest.mark.full
Configure = Callable[..., Any]
HOOK = "actor_rollout_ref.model.external_lib=gainrl.integrations.verl.actor"
ANGLES = ("data.gainrl.navigator=angle-learner", HOOK)
FILTER = ("algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=acc")
ASYNC = "trainer.v1.trainer_mode=colocate_async"


@pytest.fixture(scope="module")
def transfer_queue() -> Iterator[Any]:
    """A local Ray of two CPUs, and on it a TransferQueue: its controller and one storage unit take one each."""
    import ray
    import transfer_queue as tq
    from omegaconf import OmegaConf

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
    yield tq
    tq.close()
    ray.shutdown()


@pytest.fixture(autouse=True)
def queue(transfer_queue: Any) -> Any:
    empty(transfer_queue)
    return transfer_queue


def empty(queue: Any) -> None:
    for partition, items in (queue.kv_list() or {}).items():
        if items:
            queue.kv_clear(keys=list(items), partition_id=partition)


def steps(count: int, *, save: int = 0) -> tuple[str, str]:
    return f"trainer.total_training_steps={count}", f"trainer.save_freq={save or -1}"


def expected_rows(dataset: Path, draws: int, kind: type[Learner]) -> list[int]:
    """The first draws of a navigator of its own, fed with what `reward_of` and `angle_of` say."""
    table = ScoreTable.read(dataset.with_name("scores.parquet"))
    navigator, rows = load_navigator(table, table.usable[:-1], kind.name), []
    for _ in range(draws):
        drawn = navigator.draw(4)
        rows += drawn.tolist()
        rewards = np.array([[reward_of(row, session) for session in range(2)] for row in drawn.tolist()])
        angles = [angle_of(row, session) for row in drawn.tolist() for session in range(2)]
        two, mixed = np.full(4, 2), rewards[:, 0] != rewards[:, 1]
        angle = float(np.mean(angles)) if kind.needs_angle else None
        navigator.observe(Outcomes(drawn, two, two, rewards.sum(1), mixed), angle)
    return rows


@pytest.mark.parametrize(("kind", "options"), [(Learner, ()), (AngleLearner, ANGLES)], ids=["rewards", "angles"])
def test_a_run_draws_what_a_navigator_fed_with_its_rewards_and_angles_draws(
    configure: Configure, dataset: Path, tmp_path: Path, kind: type[Learner], options: tuple[str, ...]
) -> None:
    trainer, agents = run_v1(configure(*steps(6, save=6), "data.gainrl.group_by=data_source", *options))
    own = {name for name, value in vars(trainer).items() if type(value).__module__ == "verl_world"}
    assert own | {name for name, value in vars(type(trainer)).items() if callable(value)} == REPLACED
    assert agents.rows == expected_rows(dataset, 6, kind)
    records = DrawLog(tmp_path / "run").read()
    assert [record["draw"] for record in records] == list(range(6))
    assert [record["step"] for record in records] == list(range(1, 7))
    assert [row for record in records for row in record["rows"]] == agents.rows
    for record in records:
        right = [[reward_of(row, session) for session in range(2)] for row in record["rows"]]
        assert record["accuracy"] == np.mean(right)
        assert record["outcome"] == [[2, sum(pair), pair[0] != pair[1]] for pair in right]
        assert record["tokens"] == 24
        assert set(record["sources"]) <= {"sums", "totals"}
        angles = [angle_of(row, session) for row in record["rows"] for session in range(2)]
        assert record["angle"] == (pytest.approx(np.mean(angles)) if options else None)
    logged = trainer.seen[-1]
    assert logged["curriculum/draws"] == 6
    assert logged["curriculum/accuracy"] == (records[-1] if not options else records[-2])["accuracy"]


@pytest.mark.parametrize("options", [(), ANGLES], ids=["rewards", "angles"])
def test_a_resumed_run_draws_what_the_whole_run_drew_and_data_pt_needs_no_pickle(
    configure: Configure, tmp_path: Path, options: tuple[str, ...]
) -> None:
    _, whole = run_v1(configure(*steps(7, save=7), *options, directory="whole"))
    _, first = run_v1(configure(*steps(3, save=3), *options))
    state = torch.load(tmp_path / "run" / "global_step_3" / "data.pt", weights_only=True)["dataset_state"]
    assert json.loads(json.dumps(state))["draws"] == 3
    trainer, second = run_v1(configure(*steps(7, save=7), *options))
    assert trainer.global_steps == 8
    assert first.rows + second.rows == whole.rows  # seven steps of four prompts: beyond an epoch of 23
    ours, theirs = (DrawLog(tmp_path / name).read() for name in ("run", "whole"))
    assert [{**record, "seconds": 0} for record in ours] == [{**record, "seconds": 0} for record in theirs]


def test_asynchronous_rollouts_are_observed_once_each_and_prompts_under_way_survive_a_restart(
    configure: Configure, queue: Any, tmp_path: Path
) -> None:
    _, first = run_v1(configure(*steps(3, save=3), ASYNC))
    empty(queue)
    trainer, second = run_v1(configure(*steps(6, save=6), ASYNC))
    assert (len(first.rows), len(second.rows)) == (4 + 12, 12)  # the warm-up batch came back with the checkpoint
    curriculum = trainer.train_dataset.curriculum
    trained = (first.rows + second.rows)[:24]
    earned = np.zeros(24)
    for row in trained:
        rewards = [reward_of(row, session) for session in range(2)]
        earned[row] += sum(rewards) / 2 + (rewards[0] != rewards[1])
    assert learnt(curriculum.navigator).tolist() == earned[:23].tolist()
    assert [record["draw"] for record in DrawLog(tmp_path / "run").read()] == list(range(6))


def test_groups_that_daps_filter_evicts_are_observed_too(configure: Configure, tmp_path: Path) -> None:
    trainer, agents = run_v1(configure(*steps(4), *FILTER, "data.gainrl.navigator=uniform"))
    assert any(step.get("training/filter_groups/evicted_samples", 0) > 0 for step in trainer.seen)
    assert len(agents.rows) > 16  # prompts were fetched for the evicted ones
    curriculum = trainer.train_dataset.curriculum
    seen = sum(record["rollouts"] for record in DrawLog(tmp_path / "run").read())
    seen += sum(len(draw.rollouts) for draw in curriculum._open)
    assert seen == 2 * len(agents.rows)


def test_failed_groups_are_refilled_and_never_count(configure: Configure) -> None:
    failed: set[int] = set()

    def fails(row: int) -> bool:
        new = row not in failed and len(failed) < 2
        failed.update([row] if new else [])
        return new

    refill = "trainer.v1.sampler.sync_refill_failed_groups=true"
    trainer, agents = run_v1(configure(*steps(3), refill), Agents(fails=fails))
    assert len(agents.rows) == 12 + 2
    assert trainer.global_steps == 4
