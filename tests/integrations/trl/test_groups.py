"""Groups without variance: found in spite of float noise, counted over the epoch, and back-filled by choice."""

from __future__ import annotations

import math
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import RLOOConfig
from trl_support import DEFAULTS, check_rest, epoch_records, make_config, make_trainer, problems, recorded

from gainrl.errors import UserError
from gainrl.integrations.trl import CurriculumArguments, GainRLMixin, GainRLTrainer
from gainrl.integrations.trl import backfill as backfilling
from gainrl.integrations.trl.groups import zero_variance
from gainrl.integrations.trl.rollouts import rollout_numbers

NAN = math.nan


@pytest.mark.parametrize(
    ("rewards", "flat"),
    [
        ([1.0, 1.0, 0.0, 1.0], [True, False]),
        ([0.1 + 0.2, 0.3, 0.1 * 3, 0.30001], [True, False]),
        ([1e4, 1e4 + 1e-3, 1e4, 1e4 + 1.0], [True, False]),
        ([NAN, NAN, NAN, 1.0], [True, True]),
        ([1e-3, 2e-3, 0.0, 1e-8], [False, True]),
    ],
    ids=str,
)
def test_groups_whose_rewards_are_equal_within_float_noise(rewards: list[float], flat: list[bool]) -> None:
    assert zero_variance(torch.tensor(rewards, dtype=torch.float64), 2).tolist() == flat


def test_one_reward_that_varies_is_enough() -> None:
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.5, 0.5], [0.5, 0.5]])
    assert zero_variance(rewards, 2).tolist() == [False, True]


def by_question(easy: int) -> Any:
    """A reward that is always 1 for prompts whose left operand is a multiple of `easy`, and varies for the others."""

    def reward(completions: list[str], question: list[str], **columns: Any) -> list[float]:
        return [
            1.0 if int(text.split()[0]) % easy == 0 else float(i % 2)
            for i, text in enumerate(question)
        ]  # fmt: skip

    return reward


def left(record: dict[str, Any], trainer: Any) -> int:
    row = trainer._data.row_of[record["id"]]
    return int(problems()[row]["question"].split()[0])


class Watched(GainRLTrainer):
    """Keeps what is trained on: prompts, numbers, advantages; and the records that are observed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.batches: list[dict[str, Any]] = []
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            texts = self.processing_class.batch_decode(output["prompt_ids"], skip_special_tokens=True)
            self.batches.append({"prompts": texts, **{key: value.clone() for key, value in output.items()}})
        return output


SETTINGS = {"prompts_per_epoch": 8, "num_generations": 2, "gradient_accumulation_steps": 2}


def observed(trainer: Any) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    plain = trainer.navigator.observe
    trainer.navigator.observe = lambda records: kept.extend(records) or plain(records)
    return kept


def test_groups_without_variance_are_counted_and_logged(model: str, tmp_path: Path) -> None:
    trainer = make_trainer(model, tmp_path, reward=by_question(2), **SETTINGS)
    records = observed(trainer)
    trainer.train()
    even = [left(record, trainer) % 2 == 0 for record in records[::2]]
    lines = epoch_records(tmp_path)
    assert [line["groups"] for line in lines] == [8, 8]
    assert [line["zero_variance"] for line in lines] == [sum(even[:8]), sum(even[8:])]
    assert [line["backfilled"] for line in lines] == [0, 0]
    logged = [entry["curriculum/zero_variance"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged[1] == sum(even[:8])


@pytest.mark.parametrize("shape", [{}, {"num_iterations": 2}, {"steps_per_generation": 4, "beta": 0.1}], ids=str)
def test_flat_groups_make_room_for_spare_prompts_and_no_finished_group_is_dropped(
    model: str, tmp_path: Path, shape: dict
) -> None:
    trainer = make_trainer(
        model, tmp_path, kind=Watched, reward=by_question(2), backfill=True, curriculum_sigma=8.0, **SETTINGS, **shape
    )
    records = observed(trainer)
    draws: list[tuple[list[str], list[str]]] = []
    plain = trainer.navigator.draw
    trainer.navigator.draw = lambda: (plain(), draws.append((trainer.navigator.ids, trainer.navigator.spares)))[0]
    trainer.train()
    rows = problems()
    lines = epoch_records(tmp_path)
    assert sum(line["backfilled"] for line in lines) > 4
    names = [record["id"] for record in records[::2]]
    assert len(names) == sum(line["groups"] for line in lines)
    per_epoch = [names[: lines[0]["groups"]], names[lines[0]["groups"] :]]
    trained = [prompt for batch in trainer.batches for prompt in batch["prompts"][::2]]
    flat_trained = 0
    for epoch, (ids, spares) in enumerate(draws):
        generated = per_epoch[epoch]
        assert len(set(generated)) == len(generated), "no prompt twice in an epoch"
        assert set(ids) <= set(generated) <= set(ids) | set(spares)
        mine = trained[epoch * 8 : (epoch + 1) * 8]
        varied = {
            rows[trainer._data.row_of[name]]["prompt"]
            for name in generated
            if left({"id": name}, trainer) % 2
        }  # fmt: skip
        assert varied <= set(mine), "every group that varies is trained on"
        assert len(set(mine)) == 8
        flat_trained += len(set(mine) - varied)
        line = lines[epoch]
        assert line["zero_variance"] == sum(left({"id": name}, trainer) % 2 == 0 for name in generated)
        assert len(generated) == line["groups"] == line["rollouts"] // 2
    assert flat_trained == sum(line["zero_variance"] - line["groups"] + 8 for line in lines)


def test_a_back_filled_batch_is_whole_groups_with_their_own_advantages(model: str, tmp_path: Path) -> None:
    trainer = make_trainer(model, tmp_path, kind=Watched, reward=by_question(2), backfill=True, **SETTINGS)
    records = observed(trainer)
    trainer.train()
    for batch in trainer.batches:
        assert Counter(batch["prompts"]).most_common()[-1][1] == 2
        assert len(batch["prompts"]) == 8
        assert batch["prompt_mask"][:, -1].all(), "prompts stay padded on the left"
        assert (batch["completion_mask"][:, 0] == 1).all()
        for group in range(4):
            odd = int(batch["prompts"][2 * group].splitlines()[1].split()[0]) % 2
            expected = [-0.7070, 0.7070] if odd else [0.0, 0.0]
            assert batch["advantages"][2 * group : 2 * group + 2].tolist() == pytest.approx(expected, abs=1e-3)
        assert batch["num_items_in_batch"] == batch["completion_mask"].sum()
    angles = sum(record["angle"] is not None for record in records)
    assert angles == 2 * 8 * 2, "what was replaced is observed without an angle"
    assert len(records) > angles


def test_a_group_that_has_no_place_on_its_own_rank_moves_with_all_that_belongs_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two ranks as threads: rank 0 has two flat groups of three, rank 1 none; each generates one spare."""
    ranks, group = 2, 2
    meeting = threading.Barrier(ranks)
    shared: dict[int, list[Any]] = {}
    here = threading.local()

    def gather_object(own: list[Any]) -> list[Any]:
        shared[here.rank] = own
        meeting.wait()
        everything = [item for rank in range(ranks) for item in shared[rank]]
        meeting.wait()
        return everything

    monkeypatch.setattr(backfilling, "gather_object", gather_object)
    made: dict[int, list[int]] = {0: [], 1: []}

    def output(rank: int, first: int, groups: int, width: int) -> dict[str, Any]:
        rows = group * groups
        return {
            "prompt_ids": torch.full((rows, width), 10 * rank + first),
            "prompt_mask": torch.ones(rows, width, dtype=torch.long),
            "completion_ids": torch.full((rows, width + 1), 100 + 10 * rank + first),
            "completion_mask": torch.ones(rows, width + 1, dtype=torch.long),
            "advantages": torch.arange(rows) + 10.0 * rank,
            "num_items_in_batch": torch.tensor(-1),
            "curriculum_rollout": rollout_numbers(rank, first, rows, torch.device("cpu")),
        }

    results: dict[int, tuple[dict[str, Any], int]] = {}

    def work(rank: int) -> None:
        here.rank = rank

        def generate(rows: Any) -> tuple[dict[str, Any], list[bool]]:
            made[rank] += rows
            return output(rank, 6, len(rows), width=3 + rank), [False] * len(rows)

        accelerator: Any = SimpleNamespace(
            num_processes=ranks, process_index=rank, device=torch.device("cpu"), gather=lambda tensor: tensor
        )
        results[rank] = backfilling.backfill(
            output(rank, 0, 3, width=3), [rank == 0, False, rank == 0], [70, 71, 72, 73], generate,
            group=group, pad_token=5, accelerator=accelerator,
        )  # fmt: skip

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert made == {0: [70], 1: [71]}, "no more than there are places"
    (first, filled), (second, same) = results[0], results[1]
    assert filled == same == 2
    whole = 2**32
    assert first["curriculum_rollout"].tolist() == [6, 7, 2, 3, whole + 6, whole + 7]
    assert first["prompt_ids"].tolist()[::2] == [[5, 6, 6, 6], [5, 0, 0, 0], [16, 16, 16, 16]], "padded on the left"
    assert first["prompt_mask"].tolist()[0] == [0, 1, 1, 1]
    assert first["completion_ids"].tolist()[0] == [106, 106, 106, 106, 5], "padded on the right"
    assert first["advantages"].tolist() == [0, 1, 2, 3, 10, 11]
    assert first["num_items_in_batch"] == first["completion_mask"].sum() == 4 * 2 + 4 * 2 + 5 * 2
    assert second["curriculum_rollout"].tolist() == [whole + i for i in range(6)]


def test_back_filling_resumes_as_if_nothing_had_happened(model: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "backfill": True, "save_strategy": "steps", "save_steps": 1, "reward": by_question(2)}
    whole = make_trainer(model, tmp_path, kind=recorded(), **settings)
    whole.train()
    records = epoch_records(tmp_path)
    assert sum(record["backfilled"] for record in records) > 0
    for step in (1, 2):
        resumed = make_trainer(model, tmp_path, kind=recorded(), **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        check_rest(resumed, whole, step)
        assert epoch_records(tmp_path) == records


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scale_rewards": "batch"}, "cannot be combined with scale_rewards='batch'"),
        (
            {"multi_objective_aggregation": "normalize_then_sum"},
            "with multi_objective_aggregation='normalize_then_sum'",
        ),
        (
            {"num_generations": 8, "per_device_train_batch_size": 4, "steps_per_generation": 2, "backfill": True},
            None,
        ),
        (
            {"num_generations": 8, "per_device_train_batch_size": 4, "steps_per_generation": 3},
            r"12 rollouts a generation batch .* are not a multiple of num_generations=8: use 8 or 16",
        ),
        ({"backfill": "yes"}, "backfill='yes' must be true or false"),
    ],
    ids=str,
)
def test_settings_that_back_filling_cannot_serve(tmp_path: Path, settings: dict, said: str | None) -> None:
    if said is None:
        make_config(tmp_path, **{"backfill": True, **settings})
        return
    with pytest.raises(ValueError, match=said if "12 rollouts" not in said else f"{said}|divisible"):
        make_config(tmp_path, **{"backfill": True, **settings})


def test_what_back_filling_cannot_put_together_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    missing = "there-is-no/such-model"
    with pytest.raises(UserError, match="backfill: true cannot be combined with tools"):
        make_trainer(missing, tmp_path, backfill=True, trainer={"tools": [len]})
    with pytest.raises(UserError, match="cannot be combined with the column 'image'"):
        make_trainer(missing, tmp_path, backfill=True, rows=[{**row, "image": "x"} for row in problems()])
    with pytest.raises(UserError, match="needs prompts beyond the epoch's own, but prompts_per_epoch=24 are all"):
        make_trainer(missing, tmp_path, backfill=True, prompts_per_epoch=24)


def test_advantages_normalised_over_the_batch_exclude_back_filling(tmp_path: Path) -> None:
    @dataclass
    class Config(CurriculumArguments, RLOOConfig):
        pass

    with pytest.raises(UserError, match="normalize_advantages=True"):
        Config(output_dir=str(tmp_path), backfill=True, normalize_advantages=True, **DEFAULTS)


@pytest.mark.parametrize(("spares", "ranks", "shares"), [(3, 1, [0, 1, 1, 1]), (7, 2, [0, 2, 2, 2]), (8, 1, [2] * 4)])
def test_few_spares_are_dealt_out_to_the_batches_one_by_one(spares: int, ranks: int, shares: list[int]) -> None:
    names = [f"p{index}" for index in range(spares)]
    trainer = SimpleNamespace(
        navigator=SimpleNamespace(spares=names),
        accelerator=SimpleNamespace(num_processes=ranks),
        _batches_per_epoch=4,
        _data=SimpleNamespace(row_of={name: row for row, name in enumerate(names)}),
    )
    dealt = [GainRLMixin._spare_rows(SimpleNamespace(**vars(trainer), _batches_done=done)) for done in range(4)]
    assert [len(rows) for rows in dealt] == shares
    assert [row for rows in dealt for row in rows] == list(range(spares // ranks * ranks))


def test_evaluation_is_not_back_filled(model: str, tmp_path: Path) -> None:
    trainer = make_trainer(
        model, tmp_path, reward=by_question(1), backfill=True, per_device_eval_batch_size=4, **SETTINGS,
        trainer={"eval_dataset": Dataset.from_list(problems(4, seed=5))},
    )  # fmt: skip
    assert "eval_loss" in trainer.evaluate()
    assert trainer.navigator.totals.rollouts == 0
