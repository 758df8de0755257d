"""The batch that follows a save: kept in the checkpoint that it belongs to, and taken away with it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from gainrl.errors import UserError
from gainrl.integrations.verl.journal import AFTER, LateBatches
from gainrl.integrations.verl.settings import Run

ROLLOUTS = [{"id": "a-0", "correct": 1.0}, {"id": "b-0", "correct": None}]


def state(batches: int) -> dict[str, Any]:
    return {"format": "gainrl-verl", "batches": batches, "seconds": 0.25 * batches, "navigator": {"epoch": 0}}


def save(run: Path, step: int, saved: Any) -> Path:
    """What verl writes."""
    folder = run / f"global_step_{step}"
    (folder / "actor").mkdir(parents=True)
    torch.save({"_num_yielded": 4, "dataset_state": saved}, folder / "data.pt")
    return folder


def resuming(run: Path, folder: Path) -> LateBatches:
    return LateBatches(Run(str(run), resume_mode="resume_path", resume_from_path=str(folder)))


def test_another_runs_checkpoint_brings_its_batch_along(tmp_path: Path) -> None:
    first = save(tmp_path / "one", 1, state(0))
    LateBatches(Run(str(tmp_path / "one"))).write({**state(0), "seconds": 9.0}, ROLLOUTS)
    assert resuming(tmp_path / "two", first).read(state(0)) == ROLLOUTS
    shutil.copytree(first, tmp_path / "three" / "global_step_1")
    assert resuming(tmp_path / "two", tmp_path / "three" / "global_step_1").read(state(0)) == ROLLOUTS
    assert resuming(tmp_path / "two", first).read(state(1)) is None  # it follows another state
    assert resuming(tmp_path / "two", tmp_path / "two" / "global_step_9").read(state(0)) is None


def test_checkpoints_whose_weights_verl_has_pruned_keep_no_batch(tmp_path: Path) -> None:
    late, folders = LateBatches(Run(str(tmp_path))), []
    for step in (1, 2, 3):
        folders.append(save(tmp_path, step, state(step)))
        late.write(state(step), ROLLOUTS)
        if step == 2:
            shutil.rmtree(folders[0] / "actor")  # max_actor_ckpt_to_keep: the rest of the checkpoint stays
    assert [(folder / AFTER).exists() for folder in folders] == [False, True, True]


@pytest.mark.parametrize("saved", [None, state(7)])
def test_a_batch_without_its_checkpoint_is_said_to_be_lost(
    saved: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if saved is not None:
        save(tmp_path, 1, saved)
    with caplog.at_level(logging.WARNING):
        LateBatches(Run(str(tmp_path))).write(state(1), ROLLOUTS)
    assert "lacks the batch trained before it was saved" in caplog.text
    assert not list(tmp_path.glob(f"*/{AFTER}"))


def test_a_damaged_batch_is_refused_by_name(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, state(0))
    (folder / AFTER).write_text('{"state": "')
    with pytest.raises(UserError, match=r"curriculum_after\.json is damaged .*remove it to go on without that batch"):
        resuming(tmp_path, folder).read(state(0))
