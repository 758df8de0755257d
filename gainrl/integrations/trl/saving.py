"""Checkpoints that a run resumes from exactly: what is saved with them, when, and how a run goes on.

The half of `GainRLMixin` that deals with disk; the other half (gainrl.integrations.trl.mixin) is the curriculum itself.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

import gainrl
from gainrl.curriculum import Navigator
from gainrl.errors import UserError
from gainrl.integrations.navigation import require_navigator
from gainrl.integrations.trl.checkpoints import (
    checkpoints,
    last_complete,
    read_state,
    require_settings,
    rotate_checkpoints,
    saved_step,
    seal,
    step_of,
    unseal,
)
from gainrl.integrations.trl.config import called
from gainrl.integrations.trl.groups import EpochCounts
from gainrl.integrations.trl.navigation import build_navigator
from gainrl.integrations.trl.reranking import Reranked, Scores, load_scores, save_scores

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    _Trainer: Any
else:
    _Trainer = object


class SavingMixin(_Trainer):  # type: ignore[misc]
    """Saves at the end of generation batches, marks whole checkpoints, and resumes from them."""

    navigator: Navigator
    _scores: Scores | None
    _reranked: Reranked | None
    _counts: EpochCounts
    _saved_step: int

    @property
    def stopped_early(self) -> bool:
        """Whether the run was asked to stop."""
        return self._stop_requested

    def request_stop(self) -> None:
        """Save and stop at the end of the generation batch under way."""
        self._stop_requested = True

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        inside = self.inside_generation_batch
        if inside and self.control.should_save and not self.control.should_training_stop:
            self.control.should_save, self._save_deferred = False, True
        if not inside:
            if self._stop_agreed():
                self.control.should_save = self.control.should_training_stop = True
            self.control.should_save |= self._save_deferred
            self._save_deferred = False
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _stop_agreed(self) -> bool:
        """Whether any rank was asked to stop: signals reach ranks at different steps, which must stop together."""
        if self.accelerator.num_processes == 1:
            return self._stop_requested
        asked = torch.tensor([float(self._stop_requested)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, reduction="sum").item())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._saved_step == self.state.global_step:
            return  # whole already: writing it again would only open a gap in which it is not
        directory = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            unseal(directory)
        self.accelerator.wait_for_everyone()
        try:
            with self._no_rotation():  # it comes after the seal
                super()._save_checkpoint(model, trial)
            self._seal(directory)
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(directory, ignore_errors=True)  # gives the room back if the disk was full
            raise
        if self.args.should_save:
            rotate_checkpoints(directory, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        with self._no_rotation():  # with a limit of 1, HF deletes all but the best here: also what --resume needs
            return super()._finalize_training(*args, **kwargs)

    @contextmanager
    def _no_rotation(self) -> Iterator[None]:
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            yield
        finally:
            self.args.save_total_limit = limit

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        self._seal(Path(checkpoint_folder))  # what is pushed is whole, too
        super()._push_from_checkpoint(checkpoint_folder)

    def _seal(self, directory: Path) -> None:
        if self._saved_step == self.state.global_step:
            return
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            if self._scores is not None:
                save_scores(directory, self._scores)
            seal(directory, self._state())
        self._saved_step = self.state.global_step

    def _state(self) -> dict[str, Any]:
        return {
            "gainrl_version": gainrl.__version__,
            "settings": self._settings(),
            "progress": {
                "micro_steps": self._step,
                "batches_done": self._batches_done,
                "seconds": self._seconds(),
                "counts": self._counts.as_dict(),
                "reranked": None if self._reranked is None else asdict(self._reranked),
            },
            "navigator": self.navigator.state_dict(),
            "resumable": not (self.inside_generation_batch or self.args.save_only_model),
        }

    def _settings(self) -> dict[str, Any]:
        """What a resumed run must share with the one that saved."""
        args = self.args
        return {
            "dataset": self._data.ranking.fingerprint,
            "prompts_per_epoch": args.prompts_per_epoch,
            "generation_batch_size": args.generation_batch_size,
            "num_generations": self.num_generations,
            "num_iterations": self._iterations,
            "rollouts_per_optimizer_step": self._train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "curriculum_angle": args.curriculum_angle,
            "accuracy_rewards": self._accuracy.names,
            "accuracy_ranges": [
                list(r) if (r := self._accuracy.ranges[name]) else None for name in self._accuracy.names
            ],
            "accuracy_threshold": self._accuracy.threshold,
            "backfill": args.backfill,
            "rerank_every": args.rerank_every,
        }

    # -- runs ------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """TRL's `train`; `True` resumes from the last whole checkpoint, passing over incomplete ones.

        Raises UserError if there is none, or if the checkpoint was saved under other settings.
        """
        self._step, self._buffered_inputs = 0, None
        self._save_deferred = self._stop_requested = False
        self._saved_step = -1
        if resume_from_checkpoint:
            directory = self._resume_directory(resume_from_checkpoint)
            self._restore(directory)
            return super().train(resume_from_checkpoint=str(directory), **kwargs)
        if self.is_world_process_zero():
            self._epoch_log.begin()
        self._use_scores(None)
        self.navigator.load_state_dict(self._initial_navigator)
        self._batches_done = self._batches_per_epoch
        self._counts, self._reranked = EpochCounts(), None
        return super().train(resume_from_checkpoint=None, **kwargs)

    def _resume_directory(self, wanted: str | bool) -> Path:
        if wanted is not True:
            return Path(str(wanted))
        found, passed = last_complete(self.args.output_dir)
        for name, why in passed.items():
            logger.warning("passing over %s: %s", name, why)
        if found is None:
            raise UserError(f"no checkpoint to resume from in {self.args.output_dir}{_listed(passed)}")
        return found

    def _restore(self, directory: Path) -> None:
        state = read_state(directory)
        require_navigator(state["navigator"], self.navigator.kind, called)
        require_settings(state["settings"], self._settings(), directory)
        self._use_scores(load_scores(directory, len(self._data.usable)))
        self.navigator.load_state_dict(state["navigator"])
        progress = state["progress"]
        self._step = progress["micro_steps"]
        self._batches_done = progress["batches_done"]
        self._counts = EpochCounts(**progress["counts"])
        self._reranked = None if progress["reranked"] is None else Reranked(**progress["reranked"])
        self._epoch_seconds, self._epoch_started = progress["seconds"], time.monotonic()
        self._saved_step = saved_step(directory)
        self.accelerator.wait_for_everyone()  # every rank has chosen its checkpoint
        if self.args.should_save:
            for newer in checkpoints(self.args.output_dir):
                if step_of(newer) > self._saved_step:
                    unseal(newer)  # this run goes another way from here: `True` must never pick what it left behind
        if self.is_world_process_zero():
            self._epoch_log.keep(self.epochs_finished)

    def _use_scores(self, scores: Scores | None) -> None:
        """Draw from the ranking by these scores, (N,) float32 as in a checkpoint; None: by the score table."""
        if scores is None and self._scores is None:
            return
        self._scores = scores
        ranking = None if scores is None else self._data.ranked(scores)
        self.navigator = build_navigator(self.args, self._data, ranking)

    def forget_epochs(self) -> None:
        """Drop the epoch records of a run that begins anew."""
        if self.is_world_process_zero():
            self._epoch_log.keep(0)


def _listed(passed: dict[str, str]) -> str:
    return "".join(f"; {name}: {why}" for name, why in passed.items())
