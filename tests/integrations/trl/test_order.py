"""Which prompts reach TRL, in which order: the draw's, in whole groups, drawn when the sampler is iterated."""

from __future__ import annotations

from pathlib import Path

import pytest
from trl_support import make_trainer, problems, recorded

from gainrl.errors import UserError
from gainrl.integrations.trl.sampler import EpochSampler


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"steps_per_generation": 1, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
        pytest.param({"steps_per_generation": 4}, marks=pytest.mark.full),
        pytest.param({"num_iterations": 2}, marks=pytest.mark.full),
        {"num_generations": 4, "steps_per_generation": 2, "num_iterations": 3},
        {"curriculum_order": "shuffled"},
        {"dataloader_num_workers": 2, "prompts_per_epoch": 12},
    ],
    ids=str,
)
def test_each_epoch_trains_on_its_draw_in_order_and_in_whole_groups(model: str, tmp_path: Path, settings: dict) -> None:
    trainer = make_trainer(model, tmp_path, kind=recorded(), **settings)
    draws, observed = [], []
    draw, observe = trainer.navigator.draw, trainer.navigator.observe
    trainer.navigator.draw = lambda: draws.append(draw()) or draws[-1]
    trainer.navigator.observe = lambda records: observed.extend(r["id"] for r in records) or observe(records)

    trainer.train()

    assert len(draws) == 2
    assert draws[0] != draws[1]
    groups = [name for drawn in draws for name in drawn for _ in range(trainer.num_generations)]
    assert observed == groups
    rows = problems()
    seen = [prompt for batch in trainer.seen for prompt in batch["prompts"]]
    assert seen == [rows[trainer._data.row_of[name]]["prompt"] for name in groups]
    per_batch = trainer.args.generation_batch_size
    assert [len(batch["prompts"]) for batch in trainer.seen] == [per_batch] * (len(groups) // per_batch)


def test_asking_for_a_length_never_draws(model: str, tmp_path: Path) -> None:
    trainer = make_trainer(model, tmp_path)
    drawn: list[int] = []
    plain = trainer.navigator.draw
    trainer.navigator.draw = lambda: (drawn.append(1), plain())[1]
    loader = trainer.get_train_dataloader()
    assert len(loader) == 4
    assert trainer.num_examples(loader) == 8
    assert len(trainer._get_train_sampler()) == 8 * 2 * 2
    assert drawn == []
    next(iter(loader))
    next(iter(loader))
    assert len(drawn) == 2
    assert trainer.navigator.epoch == 0, "iterating again before anything was observed must give the same epoch"


def test_a_sampler_that_drops_rows_is_refused() -> None:
    with pytest.raises(UserError, match="14 rows of an epoch of 8 prompts × 2"):
        EpochSampler(list, range(14), prompts=8, repeats=2)  # type: ignore[arg-type]


def test_reward_functions_see_the_datasets_own_columns_only(model: str, tmp_path: Path) -> None:
    columns: set[str] = set()

    def reward(completions: list[str], **given: object) -> list[float]:
        columns.update(given)
        return [0.0] * len(completions)

    make_trainer(model, tmp_path, reward=reward, num_train_epochs=1).train()
    assert columns >= {"prompts", "completion_ids", "question", "answer"}
    assert "gainrl_row" not in columns
