"""The trainer's two callbacks: the curriculum's state inside `trainer_state.json`, and a bar that names the stage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from transformers import ProgressCallback, TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

from gainrl.errors import UserError
from gainrl.integrations.groups import from_json, to_json

NAME = "CurriculumState"  # the key in `trainer_state.json`, under `stateful_callbacks`


class CurriculumState(TrainerCallback, ExportableState):
    """Saves and restores the curriculum of `trainer`, and observes at the end of a step.

    transformers may make a new instance without arguments from a checkpoint, so each trainer has a subclass of its own.
    """

    trainer: ClassVar[Any]

    def state(self) -> dict[str, Any]:
        """What transformers writes into `trainer_state.json`."""
        return {"args": {}, "attributes": {"curriculum": to_json(self.trainer.curriculum_state())}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Continue from the checkpoint that transformers has read, if it has."""
        self.trainer.restore_curriculum(saved_curriculum(state.stateful_callbacks) if state.global_step else None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """On every rank, before a checkpoint is saved."""
        self.trainer.end_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """On every rank."""
        self.trainer.end_step(last=True)


def saved_curriculum(callbacks: Mapping[str, Any]) -> dict[str, Any]:
    """The curriculum among a checkpoint's `stateful_callbacks`; empty if there is none."""
    return dict(from_json(callbacks.get(NAME, {}).get("attributes", {}).get("curriculum", {})))


def newest_checkpoint(directory: Path, fingerprint: str) -> str | None:
    """The newest checkpoint whose `trainer_state.json`, which is written last, parses and names this score table.

    None if there is no whole checkpoint; UserError if there are only those of another table.
    """
    other = None
    found = [(int(p.name.rpartition("-")[2]), p) for p in directory.glob("checkpoint-*") if p.name[11:].isdecimal()]
    for _, path in sorted(found, reverse=True):
        try:
            state = TrainerState.load_from_json(str(path / "trainer_state.json"))
            saved = saved_curriculum(state.stateful_callbacks)
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if saved.get("navigator", {}).get("fingerprint") == fingerprint:
            return str(path)
        other = other or path
    if other:
        raise UserError(f"{other} belongs to another score table: give that one, or start anew with --overwrite")
    return None


class StageBar(ProgressCallback):
    """transformers' bar, which also tells what the step under way does."""

    _stage, _shown = "", 0.0

    def tell(self, stage: str, detail: str = "") -> None:
        """Show the stage; a new detail of the same stage at most once a second."""
        bar: Any = self.training_bar
        now = time.monotonic()
        if bar is not None and (stage != self._stage or now - self._shown > 1):
            bar.set_postfix_str(f"{stage} {detail}".strip())
            self._stage, self._shown = stage, now
