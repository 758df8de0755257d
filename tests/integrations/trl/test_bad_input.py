"""What cannot work is refused before a model is loaded, in words that name the value and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, IterableDataset
from trl import GRPOConfig
from trl_support import make_config, make_table, parity, problems

from gainrl.errors import UserError
from gainrl.integrations.trl import GainRLConfig, GainRLTrainer
from gainrl.integrations.trl.data import ScoredDataset

NO_MODEL = "there-is-no/such-model"
"""A trainer that gets as far as loading this raises OSError, not UserError."""
PROBE = {"curriculum_navigator": "probe"}


def build(tmp_path: Path, **changes: Any) -> Any:
    rows = problems()
    given: dict[str, Any] = {
        "reward_funcs": parity,
        "args": make_config(tmp_path),
        "train_dataset": Dataset.from_list(rows),
        "scores": make_table(rows),
    }
    return GainRLTrainer(NO_MODEL, **{**given, **changes})


def test_with_everything_in_order_the_model_is_the_next_thing_looked_for(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"connect|such-model"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompts_per_epoch": 10}, r"10 is not a multiple of the 4 prompts .*\(generation_batch_size 8.*use 8 or 12"),
        ({"prompts_per_epoch": 3}, "use 4$"),
        ({"prompts_per_epoch": 0}, "use 4$"),
        ({"prompts_per_epoch": 8.0}, "prompts_per_epoch=8.0 is not an integer"),
        ({"curriculum_sigma": 0.0}, "sigma must be a positive finite number, got 0.0"),
        ({"curriculum_sigma": -3.0}, "sigma must be a positive finite number, got -3.0"),
        ({"curriculum_sigma": 4.0, "curriculum_sigma_fraction": 0.1}, "not both"),
        ({"curriculum_alpha": float("nan")}, "alpha must be a positive finite number"),
        ({"curriculum_mean": -1.0}, "at least 0"),
        ({"curriculum_at_end": "stop"}, "at_end must be one of stay, restart, uniform"),
        ({"curriculum_order": "random"}, "curriculum_order='random': choose one of rank, draw, shuffled"),
        ({"curriculum_angle": "answer"}, "curriculum_angle='answer': choose one of sequence, prompt"),
        ({"shuffle_dataset": True}, "curriculum_order='shuffled'"),
        ({"ignore_data_skip": True}, "ignore_data_skip"),
        ({"sync_ref_model": True, "beta": 0.1}, "sync_ref_model=True: .*leave it off"),
        ({"torch_compile": True}, "torch_compile is not supported: .*leave it off"),
        ({"torch_compile_mode": "default"}, "torch_compile is not supported"),
        ({"save_strategy": "best", "load_best_model_at_end": False}, "save_strategy='best'"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches"),
        ({"accuracy_threshold": 0.0}, "accuracy_threshold=0.0"),
        (
            {
                "steps_per_generation": 4,
                "gradient_accumulation_steps": 1,
                "load_best_model_at_end": True,
                "save_strategy": "steps",
                "eval_strategy": "steps",
                "save_steps": 6,
                "eval_steps": 6,
                "metric_for_best_model": "reward",
            },
            "every 4 steps only .* use 4 or 8",
        ),
    ],
    ids=str,
)
def test_settings_that_cannot_work(tmp_path: Path, settings: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_config(tmp_path, **settings)


def test_without_a_size_an_epoch_is_a_generation_batch_for_probe_and_about_1024_prompts_for_others(
    tmp_path: Path,
) -> None:
    def size(navigator: str, batch: int) -> int:
        made = make_config(
            tmp_path, prompts_per_epoch=None, curriculum_navigator=navigator, per_device_train_batch_size=batch
        )
        again = type(made)(**{name: made.to_dict()[name] for name in ("output_dir", "use_cpu", "prompts_per_epoch")})
        assert again.prompts_per_epoch == made.prompts_per_epoch == made.epoch_size
        return made.epoch_size

    # of two rollouts each, in two steps: `batch` prompts
    assert [size("probe", batch) for batch in (4, 24, 2048)] == [4, 24, 2048]
    assert [size("gaussian", batch) for batch in (4, 24, 2048)] == [1024, 1032, 2048]


def test_more_prompts_than_the_dataset_holds(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prompts_per_epoch=28, but 24 prompts of the dataset can be drawn: at most 24"):
        build(tmp_path, args=make_config(tmp_path, prompts_per_epoch=28))


def test_a_starting_mean_beyond_the_last_rank(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"24\.0 lies beyond the last rank, 23"):
        build(tmp_path, args=make_config(tmp_path, curriculum_mean=24.0))


def test_a_navigator_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'gausian': the nearest name is 'gaussian'"):
        build(tmp_path, args=make_config(tmp_path, curriculum_navigator="gausian"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"skip_mastered": 2, "curriculum_navigator": "fixed"},
            "skip_mastered=2 works with .*gaussian, target, uniform",
        ),
        ({"skip_mastered": 2, "curriculum_navigator": "posterior"}, "not with 'posterior'"),
        ({"curriculum_alpha": 3.0, **PROBE}, r"\(the default\): leave it out, or choose curriculum_navigator='gaussi"),
        ({"curriculum_beta": 0.1, **PROBE}, "curriculum_beta=0.1 works with .* gaussian, target, posterior, not with"),
        ({"skip_mastered": 3, **PROBE}, "skip_mastered=3 works with the navigators gaussian, target, uniform, not"),
        ({"rerank_every": 2, **PROBE}, "rerank_every=2 works with .* gaussian, target, posterior, not with 'probe'"),
        (
            {"curriculum_memory": 9},
            "curriculum_memory=9 works with the navigator posterior, not with 'gaussian': leave",
        ),
        ({"skip_mastered": 0}, "skip_mastered must be an integer from 1 to 255, got 0"),
        ({"skip_mastered": 1, "mastered_rest": -1}, "mastered_rest must be an integer from 1 to 65535, got -1"),
        ({"curriculum_navigator": "posterior", "curriculum_beta": 1.0}, r"must lie in \(0, 1\), got 1.0"),
        ({"curriculum_navigator": "posterior", "curriculum_memory": 300}, "memory must be .* got 300"),
        ({"curriculum_navigator": "target", "curriculum_at_end": "uniform"}, "leave at_end at 'stay'"),
    ],
    ids=str,
)
def test_options_that_a_navigator_does_not_have(tmp_path: Path, settings: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(tmp_path, args=make_config(tmp_path, **settings))


def test_settings_of_another_navigator_are_refused_before_anything_is_ranked(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^curriculum_sigma=1000 works with .* gaussian, target, not with 'probe' \(the"
    ):
        GainRLConfig(output_dir=str(tmp_path), use_cpu=True, activation_checkpointing=False, curriculum_sigma=1000)


def test_a_setting_that_says_what_its_default_means_belongs_to_nobody(tmp_path: Path) -> None:
    make_config(tmp_path, curriculum_sigma_fraction=1000 / 7500, curriculum_alpha=2, **PROBE)


def test_a_config_without_a_curriculum(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"args is a GRPOConfig, which has no curriculum: use gainrl\.GainRLConfig"):
        build(tmp_path, args=GRPOConfig(output_dir=str(tmp_path), use_cpu=True, activation_checkpointing=False))


def test_no_score_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs the dataset's score table"):
        build(tmp_path, scores=None)
    with pytest.raises(UserError, match="no such file"):
        build(tmp_path, scores=tmp_path / "scores.parquet")


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (None, "train_dataset is None"),
        (IterableDataset.from_generator(lambda: iter(problems())), "of the type IterableDataset: a streamed dataset"),
        (Dataset.from_list([{"question": "1 + 1 ="}]), "no column 'prompt'; it has question"),
        (Dataset.from_list([]), "is empty"),
        (Dataset.from_list([{**row, "gainrl_row": 1} for row in problems()]), "rename it"),
    ],
    ids=["none", "iterable", "no prompt", "empty", "taken name"],
)
def test_a_dataset_that_cannot_be_drawn_from(tmp_path: Path, dataset: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(tmp_path, train_dataset=dataset)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [*rows, {**rows[0], "prompt": "new"}], "of 25 prompts of .*, 1 are not in the table"),
        (lambda rows: rows[:-1], "of 24 rows of the table .* 1 are not in the dataset"),
        (lambda rows: rows[::-1], "in another order"),
        (lambda rows: [*rows[:-1], rows[0]], "1 are not in the table"),
    ],
    ids=["prompt absent from the table", "table with more prompts", "other order", "a repeated prompt"],
)
def test_a_table_that_was_made_for_another_dataset(tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(tmp_path, train_dataset=Dataset.from_list(change(problems())))


def test_a_table_with_repeated_ids(tmp_path: Path) -> None:
    import pyarrow as pa

    table = make_table(problems())
    ids = table.ids
    doubled = pa.array([ids[0], *ids[:-1]])
    columns = table.columns.set_column(0, table.columns.schema.field("id"), doubled)
    with pytest.raises(UserError, match="1 repeated ids"):
        build(tmp_path, scores=type(table)(columns, table.metadata))


def test_repeated_prompts_are_told_apart_and_each_is_drawn(tmp_path: Path) -> None:
    rows = problems(12) * 2
    data = ScoredDataset(Dataset.from_list(rows), make_table(rows))
    assert len(data.ranking) == 24
    assert sorted(data.row_of.values()) == list(range(24))


def test_prompts_that_could_not_be_scored_are_never_drawn() -> None:
    import pyarrow as pa

    rows = problems()
    table = make_table(rows)
    status = ["skipped" if i == 3 else "failed" if i == 5 else "undefined" if i == 7 else "ok" for i in range(24)]
    score = np.where(np.isin(np.arange(24), [3, 5, 7]), np.nan, table.scores).astype(np.float32)
    columns = table.columns.set_column(2, table.columns.schema.field("status"), pa.array(status))
    columns = columns.set_column(6, columns.schema.field("score"), pa.array(score))
    data = ScoredDataset(Dataset.from_list(rows), type(table)(columns, table.metadata))
    assert len(data.ranking) == 22
    assert data.ranking.ids[-1] == data.ids[7], "undefined is ranked last"
    assert not {data.ids[3], data.ids[5]} & set(data.ranking.ids)
