"""The curriculum as a mixin over TRL's group-based trainers: it picks an epoch's prompts and measures as they train.

What is taken over from TRL, and where (tests/integrations/trl/test_contract.py pins each of these):

    _get_train_sampler               n prompts drawn when the sampler is iterated, in TRL's repeat order
    _generate_and_score_completions  the dataset row of each rollout travels with it through TRL's shuffle and split
    _calculate_rewards               accuracy, from the rewards that the user names
    _compute_loss                    angle concentration, from the loss's own forward pass
    training_step                    the rollouts of a finished pass are gathered over ranks and observed
    _maybe_log_save_evaluate         a save inside a generation batch waits for the batch's end
    _save_checkpoint, _push_from_checkpoint   state into the checkpoint, before older ones rotate away
    train, evaluate                  resume; evaluation leaves the training's random numbers alone

Every rank holds the same navigator and feeds it the same records, so that nothing needs to be sent before a draw.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Sampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

import gainrl
from gainrl.errors import UserError
from gainrl.integrations.trl.accuracy import Accuracy, RewardGuard
from gainrl.integrations.trl.checkpoints import last_complete, read_state, require_settings, seal, step_of, unseal
from gainrl.integrations.trl.config import CurriculumArguments
from gainrl.integrations.trl.data import ROW, ScoredDataset
from gainrl.integrations.trl.navigation import build_navigator
from gainrl.integrations.trl.random_state import preserved_random_state
from gainrl.integrations.trl.records import EpochLog
from gainrl.integrations.trl.rollouts import RolloutBatch
from gainrl.integrations.trl.sampler import EpochSampler
from gainrl.integrations.trl.tap import AngleTap, PromptRoles
from gainrl.table import ScoreTable

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    _Trainer: Any
else:
    _Trainer = object

ROLLOUT = "curriculum_rollout"
ROLES = "curriculum_roles"


class GainRLMixin(_Trainer):  # type: ignore[misc]
    """Goes in front of a TRL trainer class: `class MyTrainer(GainRLMixin, GRPOTrainer)`.

    Takes what that class takes, with `args` a config that has `CurriculumArguments`, and `scores`: the dataset's
    score table or its path (default: `args.scores`).  Raises UserError, before a model is loaded, for a dataset
    and a table that do not belong together or settings that do not fit them.
    """

    def __init__(self, *args: Any, scores: ScoreTable | str | os.PathLike[str] | None = None, **kwargs: Any) -> None:
        given = self._arguments(args, kwargs)
        config = given.get("args")
        if not isinstance(config, CurriculumArguments):
            raise UserError(
                f"args is a {type(config).__name__}, which has no curriculum: use gainrl.GainRLConfig "
                "(or put gainrl.integrations.trl.CurriculumArguments in front of your config class)"
            )
        self._data = ScoredDataset(given.get("train_dataset"), scores if scores is not None else config.scores)
        self.navigator = build_navigator(config, self._data)
        given["train_dataset"] = self._data.with_rows()
        self._guard = RewardGuard()
        given["reward_funcs"] = self._guard.wrap(given.get("reward_funcs"))

        # What follows is set before super().__init__, which may already ask for a sampler or a log.
        self._batches_per_epoch = config.prompts_per_epoch // config.prompts_per_generation
        self._batches_done = self._batches_per_epoch  # no epoch is under way: the first iteration draws
        self._epoch_seconds = 0.0  # of the epoch under way, up to the last save
        self._epoch_started = time.monotonic()
        self._rollouts: RolloutBatch | None = None
        self._save_deferred = False
        self._stop_requested = False
        self._saved_step = -1
        self.curriculum_seconds = 0.0
        """Seconds spent drawing, gathering and observing so far; measuring is in `angle_tap.seconds`."""

        super().__init__(**given)

        self._accuracy = Accuracy(
            self.reward_func_names, config.accuracy_rewards, config.accuracy_range, config.accuracy_threshold
        )
        self.angle_tap = AngleTap(self.model)
        self._prompt_roles: PromptRoles | None = None
        if config.curriculum_angle == "prompt":
            table = self._data.table.metadata
            self._prompt_roles = PromptRoles(
                self._tokenizer, question_after=table.question_after, date=table.template_date
            )
            self._angle_field = table.definition
        else:
            self._angle_field = "whole"
        self._epoch_log = EpochLog(config.run_dir or self.args.output_dir)
        self._initial_navigator = self.navigator.state_dict()

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, as the first class behind this one that names its dataset takes them."""
        for behind in type(self).__mro__[type(self).__mro__.index(GainRLMixin) + 1 :]:
            signature = inspect.signature(behind.__init__)  # type: ignore[misc]
            if "train_dataset" in signature.parameters:
                bound = signature.bind(self, *args, **kwargs).arguments
                return {**{name: value for name, value in bound.items() if name not in ("self", "kwargs")},
                        **bound.get("kwargs", {})}  # fmt: skip
        raise TypeError(f"{type(self).__name__} has no TRL trainer behind GainRLMixin")

    # -- the order of the prompts ----------------------------------------------------------------------------

    @property
    def _generate_every(self) -> int:
        """Forward passes from one generation to the next."""
        return int(self.args.steps_per_generation * self._iterations)

    @property
    def _iterations(self) -> int:
        return int(self.num_iterations)

    @property
    def inside_generation_batch(self) -> bool:
        """Whether rollouts that were generated still wait for a pass; TRL cannot resume from here."""
        return bool(self._step % self._generate_every)

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        positions = super()._get_train_sampler(range(self.args.prompts_per_epoch))
        return EpochSampler(
            self._begin_epoch,
            positions,
            prompts=self.args.prompts_per_epoch,
            repeats=self.num_generations * self._generate_every,
        )

    def _begin_epoch(self) -> Sequence[int]:
        """Dataset rows of the epoch that starts here, or of the one that a resumed run is in the middle of."""
        started = time.perf_counter()
        if 0 < self._batches_done < self._batches_per_epoch:
            ids = self.navigator.ids
        else:
            ids = self.navigator.draw()  # completes the pending move, if there is one
            self._batches_done = 0
            self._epoch_seconds = 0.0
            self._epoch_started = time.monotonic()
        rows = [self._data.row_of[name] for name in ids]
        self.curriculum_seconds += time.perf_counter() - started
        return rows

    def num_examples(self, dataloader: Any) -> int:
        """Prompts per epoch, for HF's throughput figures (the dataset itself is larger than a draw)."""
        batches: Any = getattr(dataloader, "batch_sampler", None)
        while hasattr(batches, "batch_sampler"):  # accelerate's shards and skips wrap torch's
            batches = batches.batch_sampler
        draws = isinstance(getattr(batches, "sampler", None), EpochSampler)
        return int(self.args.prompts_per_epoch if draws else super().num_examples(dataloader))

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if ROW not in self._signature_columns:
            self._signature_columns.append(ROW)

    # -- the signals -----------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any]
        if not self.model.training:
            output = super()._generate_and_score_completions(inputs)
            return output
        if ROW not in inputs[0]:
            raise UserError("the training dataset has a transform that drops columns it does not know: remove it")
        self._row_numbers = [row[ROW] for row in inputs]
        output = super()._generate_and_score_completions(
            [{key: value for key, value in row.items() if key != ROW} for row in inputs]
        )
        prompt_ids = output["prompt_ids"]
        output[ROLLOUT] = torch.arange(len(inputs), device=prompt_ids.device)
        if self._prompt_roles is not None:
            roles = self._prompt_roles(inputs, prompt_ids, output["prompt_mask"])
            if not roles.any():
                raise UserError(
                    "curriculum_angle='prompt': the trainer tokenises prompts in another way than the scoring pass "
                    "(chat_template_kwargs, tools, or a template with a date?); use curriculum_angle='sequence'"
                )
            output[ROLES] = roles
        return output

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.model.training:
            first = self.accelerator.process_index * len(prompts)
            mine = rewards[first : first + len(prompts)].double()
            weights = self.reward_weights.to(mine)
            total = (mine * weights).nansum(dim=1).masked_fill(mine.isnan().all(dim=1), math.nan)
            self._rollouts = RolloutBatch(
                self._row_numbers, self._accuracy(mine), total, [len(ids) for ids in completion_ids_list]
            )
        return rewards

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        first_pass = self._step % self._generate_every < self.args.steps_per_generation
        if not (self.model.training and first_pass):
            return super()._compute_loss(model, inputs)
        completion_mask = inputs["completion_mask"]
        if ROLES in inputs:
            prompt_roles = inputs[ROLES]
            nothing = prompt_roles.new_zeros(completion_mask.shape)
            roles = torch.cat([prompt_roles, nothing], dim=1)
        else:
            roles = torch.cat([inputs["prompt_mask"], completion_mask], dim=1).bool()
            # a completion masked out of the loss (mask_truncated_completions) was not seen by the model
            roles = roles & completion_mask.any(dim=1, keepdim=True)
        with self.angle_tap.listening(roles, self._angle_field) as measured:
            loss = super()._compute_loss(model, inputs)
        assert self._rollouts is not None
        self._rollouts.add_angles(inputs[ROLLOUT], torch.cat(measured))
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)  # TRL counts _step up in here
        passed = self._step % self._generate_every
        if passed == self.args.steps_per_generation % self._generate_every:
            self._observe()
        if passed == 0:
            self._batches_done += 1
            if self._batches_done == self._batches_per_epoch:
                self._finish_epoch()
        return loss

    def _observe(self) -> None:
        """Hand the rollouts of one generation batch, of all ranks, to the navigator and to the logs."""
        started = time.perf_counter()
        assert self._rollouts is not None
        records = self._rollouts.records(self._data.ids, self.accelerator)
        self._rollouts = None
        self.navigator.observe(records)
        metrics = self.navigator.metrics()
        metrics["unscored"] = metrics["rollouts"] - metrics["scored"]
        metrics["reward_errors"] = self._guard.errors
        for name, value in metrics.items():  # of the epoch so far; TRL logs the latest ones
            if isinstance(value, int | float):
                self._metrics["train"][f"curriculum/{name}"] = [float(value)]
        self.curriculum_seconds += time.perf_counter() - started

    def _finish_epoch(self) -> None:
        if self.is_world_process_zero():
            self._epoch_log.append({**self.navigator.metrics(), "seconds": self._seconds()})

    def _seconds(self) -> float:
        """Wall-clock seconds of the epoch under way, over all the processes that worked on it."""
        return self._epoch_seconds + time.monotonic() - self._epoch_started

    @property
    def epochs_finished(self) -> int:
        """Epochs whose every rollout has been observed."""
        return int(self.navigator.epoch) + (self._batches_done == self._batches_per_epoch)

    # -- checkpoints -----------------------------------------------------------------------------------------

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
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # rotation comes after the seal
        try:
            super()._save_checkpoint(model, trial)
            self._seal(directory)
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(directory, ignore_errors=True)  # gives the room back if the disk was full
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(
                output_dir=str(directory.parent), save_total_limit=limit, best_model_checkpoint=best, use_mtime=True
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        self._seal(Path(checkpoint_folder))  # what is pushed is whole, too
        super()._push_from_checkpoint(checkpoint_folder)

    def _seal(self, directory: Path) -> None:
        if self._saved_step == self.state.global_step:
            return
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
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
                "reward_errors": self._guard.errors,
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
        self.navigator.load_state_dict(self._initial_navigator)
        self._batches_done = self._batches_per_epoch
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
        require_settings(state["settings"], self._settings(), directory)
        self.navigator.load_state_dict(state["navigator"])
        progress = state["progress"]
        self._step = progress["micro_steps"]
        self._batches_done = progress["batches_done"]
        self._guard.errors = progress["reward_errors"]
        self._epoch_seconds, self._epoch_started = progress["seconds"], time.monotonic()
        self._saved_step = step_of(directory)
        if self.is_world_process_zero():
            self._epoch_log.keep(self.epochs_finished)

    def forget_epochs(self) -> None:
        """Drop the epoch records of a run that begins anew."""
        if self.is_world_process_zero():
            self._epoch_log.keep(0)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's `evaluate`, which samples: the training's random numbers go on as if it had not been called."""
        with preserved_random_state():
            return super().evaluate(*args, **kwargs)


def _listed(passed: dict[str, str]) -> str:
    return "".join(f"; {name}: {why}" for name, why in passed.items())
