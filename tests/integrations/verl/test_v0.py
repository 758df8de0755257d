"""verl's V0 trainer with the curriculum, over the real `fit`, which saves before it hands a batch over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from verl_replaced import REPLACED_V0, replaced_in
from verl_support import epochs_of, expected_epochs, make_config, records_of, table_angle
from verl_v0 import Killed, v0_trainer

Configure = Callable[..., Any]


@pytest.fixture
def configure(dataset: Path, model: str, scores: Path, tmp_path: Path) -> Configure:
    def make(total: int, *overrides: str, save: int = 1, directory: str = "run") -> Any:
        settings = ("trainer.use_v1=false", "trainer.balance_batch=false", f"trainer.total_training_steps={total}")
        given = (*settings, f"trainer.save_freq={save}", *overrides)
        return make_config(tmp_path / directory, model, dataset, scores, *given)

    return make


def run(config: Any, *, kill_after: int | None = None) -> tuple[Any, list[str]]:
    trainer, prompts = v0_trainer(config, kill_after=kill_after)
    if kill_after is None:
        trainer.fit()
    else:
        with pytest.raises(Killed):
            trainer.fit()
    return trainer, prompts


def test_epochs_are_those_of_a_navigator_fed_with_the_same_rewards(
    configure: Configure, scores: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        _, prompts = run(configure(7, save=-1))
    assert "angle concentration from the table (the V0 trainer hands no measurement of its workers back)" in caplog.text
    assert epochs_of(prompts, 8)[:3] == expected_epochs(scores, 8, 3, table_angle(scores))
    assert [record["rollouts"] for record in records_of(tmp_path / "run")] == [16, 16, 16]


@pytest.mark.parametrize("killed", [1, 2, 3, 4], ids=["mid-epoch", "boundary", "second epoch", "second boundary"])
def test_a_killed_run_goes_on_as_if_it_had_not_been(configure: Configure, tmp_path: Path, killed: int) -> None:
    _, whole = run(configure(7, directory="whole"))
    _, first = run(configure(7), kill_after=killed)
    trainer, second = run(configure(7))
    assert trainer.global_steps == 8
    assert first + second == whole
    assert records_of(tmp_path / "run") == records_of(tmp_path / "whole")


def test_an_older_checkpoint_is_resumed_with_its_own_batch(configure: Configure, tmp_path: Path) -> None:
    _, first = run(configure(7), kill_after=4)
    resume = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={tmp_path}/run/global_step_2")
    _, second = run(configure(7, *resume))
    _, whole = run(configure(7, directory="whole"))
    assert first[:8] + second == whole


def test_a_checkpoint_of_another_run_is_resumed_with_its_own_batch(configure: Configure, tmp_path: Path) -> None:
    _, whole = run(configure(7, directory="whole"))
    for killed in (1, 2):  # in the middle of an epoch, and at its end, where verl does not load data.pt
        run(configure(7, directory=f"first{killed}"), kill_after=killed)
        folder = tmp_path / f"first{killed}" / f"global_step_{killed}"
        run(configure(5, directory=f"second{killed}"))  # which has records of its own
        own = records_of(tmp_path / f"second{killed}")
        resume = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={folder}")
        _, second = run(configure(7, *resume, directory=f"second{killed}"))
        assert second == whole[4 * killed :]
        there = tmp_path / f"second{killed}"
        (there / "epochs.jsonl").rename(tmp_path / f"new{killed}.jsonl")
        (there / "epochs-1.jsonl").rename(there / "epochs.jsonl")
        assert own
        assert records_of(there) == own
        (tmp_path / f"new{killed}.jsonl").replace(there / "epochs.jsonl")
        assert records_of(there) == records_of(tmp_path / "whole")


def test_the_last_epoch_has_a_record_of_what_was_handed_over(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run(configure(4, save=4))
    assert [record["rollouts"] for record in records_of(tmp_path / "run")] == [16, 8]
    assert "the record lacks its 4 prompts" in caplog.text
    run(configure(6, save=6))  # prolonged
    assert [record["epoch"] for record in records_of(tmp_path / "run")] == [0, 1, 2]


def test_only_what_is_listed_is_replaced(configure: Configure) -> None:
    trainer, _ = v0_trainer(configure(1))
    assert replaced_in(trainer) == set(REPLACED_V0)


def test_the_last_step_is_never_handed_over_and_a_longer_run_says_so(
    configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    _, first = run(configure(3))
    with caplog.at_level(logging.WARNING):
        trainer, second = run(configure(5))
    assert "4 prompts that were trained before the checkpoint was saved have not been observed" in caplog.text
    assert len(first) + len(second) == 20
    assert trainer.train_dataset.curriculum.navigator.epoch == 2


def test_a_batch_that_followed_another_state_is_not_taken_for_this_ones(configure: Configure, tmp_path: Path) -> None:
    run(configure(7), kill_after=1)
    kept = tmp_path / "run" / "global_step_1" / "curriculum_after.json"
    kept.write_text(kept.read_text().replace('{"state": "', '{"state": "0'))
    trainer, _ = v0_trainer(configure(7))
    trainer._load_checkpoint()
    next(iter(trainer.train_dataloader))
    assert trainer.train_dataset.curriculum.navigator.totals.rollouts == 0


def test_a_checkpoint_without_a_curriculum_begins_one(configure: Configure, caplog: pytest.LogCaptureFixture) -> None:
    import torch

    config = configure(7)
    run(config, kill_after=2)
    path = Path(config.trainer.default_local_dir) / "global_step_2" / "data.pt"
    saved = torch.load(path, weights_only=False)
    saved["dataset_state"] = None
    torch.save(saved, path)
    with caplog.at_level(logging.WARNING):
        run(configure(7))
    assert "has no state of a curriculum: it begins here" in caplog.text
