"""The batch that verl's V0 trainer hands over after it has saved: kept in the checkpoint that it belongs to.

    global_step_N/curriculum_after.json    its rollouts, and a digest of the state that they follow

The V0 trainer saves a step before it calls `on_batch_end`, so that the state in `data.pt` lacks that batch.  In the
checkpoint's own folder the batch goes wherever the checkpoint goes: to a run that resumes from another directory, and
away with it.  verl's pruning leaves all of a checkpoint but the weights; this file is then taken away as well.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gainrl.errors import UserError
from gainrl.files import write_text
from gainrl.integrations.verl.extension import extension_point
from gainrl.integrations.verl.settings import Run

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))  # as verl's own modules do

AFTER = "curriculum_after.json"
DATA = "data.pt"
_DATASET_STATE = "dataset_state"  # where torchdata's StatefulDataLoader keeps the dataset's state
_WEIGHTS = "actor"


def resumed_from(run: Run) -> Path | None:
    """The checkpoint folder that this run resumes from, as verl chooses it; None for a new run."""
    if run.resume_mode == "disable":
        return None
    if run.resume_mode == "resume_path":
        folder = run.resume_from_path
    else:
        find = extension_point("verl.utils.checkpoint.checkpoint_manager", "find_latest_ckpt_path")
        folder = find(os.path.abspath(run.directory))
    return None if folder is None else Path(os.path.abspath(folder))


def resumes_elsewhere(run: Run) -> bool:
    """Whether the checkpoint that this run resumes from is that of a run in another directory."""
    if run.resume_mode != "resume_path" or run.resume_from_path is None:
        return False
    return Path(run.resume_from_path).resolve().parent != Path(run.directory).resolve()


def state_in(folder: Path) -> dict[str, Any] | None:
    """The curriculum's state in a checkpoint folder; None where there is none."""
    if not (folder / DATA).exists():
        return None
    saved = torch.load(folder / DATA, weights_only=False)  # verl's own file, which verl reads in the same way
    state = saved.get(_DATASET_STATE) if isinstance(saved, dict) else None
    return state or None


class LateBatches:
    """The batches that were handed over after the checkpoint which they belong to."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def write(self, state: Mapping[str, Any], rollouts: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rollouts that followed the `state` just saved."""
        folder = self._folder_of(state)
        if folder is None:
            logger.warning(
                "no checkpoint in %s holds the curriculum's last state: a run that resumes from it lacks the batch "
                "trained before it was saved",
                self._run.directory,
            )
            return
        write_text(folder / AFTER, json.dumps({"state": _digest(state), "rollouts": list(rollouts)}))
        for other in folder.parent.glob(f"global_step_*/{AFTER}"):
            if other.parent != folder and not (other.parent / _WEIGHTS).exists():
                other.unlink(missing_ok=True)

    def read(self, state: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """The rollouts that followed the state resumed from; None where none were handed over, or after another."""
        folder = None if self._run.v1 else resumed_from(self._run)
        if folder is None or not (folder / AFTER).exists():
            return None
        try:
            content = json.loads((folder / AFTER).read_text(encoding="utf-8"))
            rollouts: list[dict[str, Any]] = content["rollouts"]
            return rollouts if content["state"] == _digest(state) else None
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{folder / AFTER} is damaged ({error}): it holds the batch trained before the checkpoint was saved; "
                "remove it to go on without that batch"
            ) from error

    def _folder_of(self, state: Mapping[str, Any]) -> Path | None:
        """The folder of the newest checkpoint, if that is the one with this state."""
        written = list(Path(self._run.directory).glob(f"global_step_*/{DATA}"))
        if not written:
            return None
        folder = max(written, key=lambda path: path.stat().st_mtime_ns).parent
        found = state_in(folder)
        return folder if found is not None and _digest(found) == _digest(state) else None


def _digest(state: Mapping[str, Any]) -> str:
    """Of what the state says; the clock aside, which goes on while it is written."""
    known = {name: value for name, value in state.items() if name != "seconds"}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]
