"""The curriculum as a mixin over TRL's group-based trainers: it picks an epoch's prompts and measures as they train.

What is taken over from TRL, and where (tests/integrations/trl/test_contract.py pins each of these):

    _get_train_sampler               n prompts drawn when the sampler is iterated, in TRL's repeat order
    _generate_and_score_completions  each rollout's number travels with it through TRL's shuffle and split; back-filling
    _calculate_rewards               accuracy, from the rewards that the user names; groups without variance
    _compute_loss                    angle concentration, from the loss's own forward pass
    training_step                    the rollouts of a finished pass are gathered over ranks and observed
    evaluate                         leaves the training's random numbers alone
    _maybe_log_save_evaluate, _save_checkpoint, _push_from_checkpoint, _finalize_training, train
                                     see gainrl.integrations.trl.saving

Every rank holds the same navigator and feeds it the same records, so that nothing needs to be sent before a draw.
"""

from __future__ import annotations

import inspect
import math
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Sampler

from gainrl.errors import UserError
from gainrl.integrations.epoch_log import EpochLog
from gainrl.integrations.trl.accuracy import Accuracy, RewardGuard
from gainrl.integrations.trl.backfill import backfill
from gainrl.integrations.trl.config import CurriculumArguments
from gainrl.integrations.trl.data import ROW, ScoredDataset
from gainrl.integrations.trl.groups import EpochCounts, zero_variance
from gainrl.integrations.trl.navigation import build_navigator, warn_of_a_short_run
from gainrl.integrations.trl.random_state import preserved_random_state
from gainrl.integrations.trl.reranking import require_whole_model, rerank
from gainrl.integrations.trl.rollouts import RolloutBatch, rollout_numbers
from gainrl.integrations.trl.sampler import EpochSampler
from gainrl.integrations.trl.saving import SavingMixin
from gainrl.integrations.trl.tap import AngleTap, PromptRoles
from gainrl.table import ScoreTable

if TYPE_CHECKING:
    _Trainer: Any
else:
    _Trainer = object

ROLLOUT = "curriculum_rollout"
ROLES = "curriculum_roles"


class GainRLMixin(SavingMixin, _Trainer):  # type: ignore[misc]
    """Goes in front of a TRL trainer class: `class MyTrainer(GainRLMixin, GRPOTrainer)`.

    Takes what that class takes, with `args` a config that has `CurriculumArguments`, and `scores`: the dataset's
    score table or its path (default: `args.scores`), or both together as checked before.  Raises UserError, before a
    model is loaded, for a dataset and a table that do not belong together or settings that do not fit them.
    """

    def __init__(
        self, *args: Any, scores: ScoredDataset | ScoreTable | str | os.PathLike[str] | None = None, **kwargs: Any
    ) -> None:
        given = self._arguments(args, kwargs)
        config = given.get("args")
        if not isinstance(config, CurriculumArguments):
            raise UserError(
                f"args is a {type(config).__name__}, which has no curriculum: use gainrl.GainRLConfig "
                "(or put gainrl.integrations.trl.CurriculumArguments in front of your config class)"
            )
        if isinstance(scores, ScoredDataset) and scores.dataset is given.get("train_dataset"):
            self._data: ScoredDataset = scores
        else:
            found = scores.table if isinstance(scores, ScoredDataset) else scores
            self._data = ScoredDataset(given.get("train_dataset"), found if found is not None else config.scores)
        self.navigator = build_navigator(config, self._data)
        warn_of_a_short_run(config, len(self._data.usable))
        self._data = self._data.without_directions()  # those that learn from them never rank again
        given["train_dataset"] = self._data.with_rows()
        if config.backfill:
            _require_plain_rollouts(given, self._data)
        self._guard = RewardGuard()
        given["reward_funcs"] = self._guard.wrap(given.get("reward_funcs"))

        # What follows is set before super().__init__, which may already ask for a sampler or a log.
        self._batches_per_epoch = config.epoch_size // config.prompts_per_generation
        self._batches_done = self._batches_per_epoch  # no epoch is under way: the first iteration draws
        self._epoch_seconds = 0.0  # of the epoch under way, up to the last save
        self._epoch_started = time.monotonic()
        self._rollouts: RolloutBatch | None = None
        self._backfilled = 0  # groups of the batch under way
        self._counts = EpochCounts()
        self._scores = None  # of the ranking under way, where it is not the score table's
        self._reranked = None
        self._save_deferred = False
        self._stop_requested = False
        self._saved_step = -1
        self.curriculum_seconds = 0.0
        """Seconds spent drawing, gathering and observing so far; measuring is in `angle_tap.seconds`, ranking again in
        the epoch records."""

        super().__init__(**given)

        if config.rerank_every is not None:
            require_whole_model(self.accelerator, config.rerank_every)
        self._accuracy = Accuracy(
            self.reward_func_names, config.accuracy_rewards, config.accuracy_range, config.accuracy_threshold
        )
        self.angle_tap = AngleTap(self.model)
        self._prompt_roles: PromptRoles | None = None
        self._angle_of: dict[str, Any] = {}
        if config.curriculum_angle == "prompt":
            table = self._data.table.metadata
            self._prompt_roles = PromptRoles(
                self._tokenizer, question_after=table.question_after, date=table.template_date
            )
            self._angle_of = {"inter_weight": table.inter_weight, "diagonal": table.diagonal}
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
            ranking_seconds = self._rerank_if_due()
            ids = self.navigator.draw()  # completes the pending move, if there is one
            self._batches_done = 0
            self._counts = EpochCounts()
            self._epoch_seconds = 0.0
            self._epoch_started = time.monotonic()
            started += ranking_seconds
        rows = [self._data.row_of[name] for name in ids]
        self.curriculum_seconds += time.perf_counter() - started
        return rows

    def _rerank_if_due(self) -> float:
        """Rank the dataset again if the epoch that begins asks for it; seconds that it took."""
        every, finished = self.args.rerank_every, self.epochs_finished
        if every is None or finished % every or not self.navigator.totals.rollouts:
            return 0.0
        self._scores, self._reranked = rerank(self, self._data, self.navigator)
        return self._reranked.seconds

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
        self._rollouts = RolloutBatch()
        output = self._generated(inputs)
        self._backfilled = 0
        if self.args.backfill:
            output, self._backfilled = backfill(
                output,
                self._rollouts.flat_groups(self.num_generations),
                self._spare_rows(),
                lambda rows: self._generated_spares(rows, inputs[0]),
                group=self.num_generations,
                pad_token=self._tokenizer.pad_token_id,
                accelerator=self.accelerator,
            )
        return output

    def _generated(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Rollouts of these rows as TRL makes them, each with its number."""
        assert self._rollouts is not None
        start = len(self._rollouts)
        self._row_numbers = [row[ROW] for row in inputs]
        output: dict[str, Any] = super()._generate_and_score_completions(
            [{key: value for key, value in row.items() if key != ROW} for row in inputs]
        )
        prompt_ids = output["prompt_ids"]
        rank = self.accelerator.process_index
        output[ROLLOUT] = rollout_numbers(rank, start, len(inputs), prompt_ids.device)
        if self._prompt_roles is not None:
            roles = self._prompt_roles(inputs, prompt_ids, output["prompt_mask"])
            if start == 0 and not roles.any():
                raise UserError(
                    "curriculum_angle='prompt': the trainer tokenises prompts in another way than the scoring pass "
                    "(chat_template_kwargs, tools, or a template with a date?); use curriculum_angle='sequence'"
                )
            output[ROLES] = roles
        return output

    def _generated_spares(self, rows: Sequence[int], like: dict[str, Any]) -> tuple[dict[str, Any], list[bool]]:
        """A group for each of these dataset rows, with the columns of `like`, and which have no variance."""
        examples = [self.train_dataset[row] for row in rows]
        output = self._generated([
            {key: example[key] for key in like} for example in examples for _ in range(self.num_generations)
        ])  # fmt: skip
        assert self._rollouts is not None
        return output, self._rollouts.flat_groups(self.num_generations)

    def _spare_rows(self) -> list[int]:
        """Dataset rows that may take places in the generation batch under way: its share of the epoch's spares."""
        spares = self.navigator.spares
        ranks = self.accelerator.num_processes  # which use them one each at a time
        start, end = (len(spares) // ranks * at // self._batches_per_epoch * ranks
                      for at in (self._batches_done, self._batches_done + 1))  # fmt: skip
        mine = spares[start:end]
        return [self._data.row_of[name] for name in mine]

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        self._guard.take_errors()  # those of an evaluation are none of the epoch's
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._guard.require_working(rewards, self.reward_func_names)
        if self.model.training:
            assert self._rollouts is not None
            first = self.accelerator.process_index * len(prompts)
            own = slice(first, first + len(prompts))
            known = rewards.cpu().double()  # of all ranks; not every device has float64
            correct = self._accuracy(known)  # judged before they are cut up: every rank raises, or none
            weighted = known * self.reward_weights.cpu()
            total = weighted.nansum(dim=1).masked_fill(known.isnan().all(dim=1), math.nan)
            apart = getattr(self, "multi_objective_aggregation", "") == "normalize_then_sum"
            flat = zero_variance(weighted if apart else total, self.num_generations)
            self._rollouts.add(
                self._row_numbers,
                correct[own],
                total[own],
                [len(ids) for ids in completion_ids_list],
                flat.repeat_interleave(self.num_generations)[own],
                self._guard.take_errors(),
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
        with self.angle_tap.listening(roles, **self._angle_of) as measured:
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
        gathered = self._rollouts.gather(self._data.ids, self.accelerator)
        self._rollouts = None
        self.navigator.observe(gathered.records)
        self._counts.add(
            reward_errors=gathered.reward_errors,
            groups=len(gathered.records) // self.num_generations,
            zero_variance=gathered.flat // self.num_generations,
            backfilled=self._backfilled,
        )
        metrics = self._epoch_metrics()
        metrics["unscored"] = metrics["rollouts"] - metrics["scored"]
        for name, value in metrics.items():  # of the epoch so far; TRL logs the latest ones
            if isinstance(value, int | float):
                self._metrics["train"][f"curriculum/{name}"] = [float(value)]
        self.curriculum_seconds += time.perf_counter() - started

    def _epoch_metrics(self) -> dict[str, Any]:
        """The navigator's metrics of the epoch under way, and what was counted besides."""
        metrics = {**self.navigator.metrics(), **self._counts.as_dict()}
        if self.args.rerank_every is not None:
            made = self._reranked if self._reranked and self._reranked.epoch == metrics["epoch"] else None
            metrics["rerank_correlation"] = made.correlation if made else None
            metrics["rerank_seconds"] = made.seconds if made else None
        return metrics

    def _finish_epoch(self) -> None:
        if self.is_world_process_zero():
            self._epoch_log.append({**self._epoch_metrics(), "seconds": self._seconds()})

    def _seconds(self) -> float:
        """Wall-clock seconds of the epoch under way, over all the processes that worked on it."""
        return float(self._epoch_seconds + time.monotonic() - self._epoch_started)

    @property
    def epochs_finished(self) -> int:
        """Epochs whose every rollout has been observed."""
        over = self._batches_done == self._batches_per_epoch and self.navigator.totals.rollouts > 0
        return int(self.navigator.epoch + over)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's `evaluate`, which samples: the training's random numbers go on as if it had not been called."""
        with preserved_random_state():
            return super().evaluate(*args, **kwargs)


def _require_plain_rollouts(given: dict[str, Any], data: ScoredDataset) -> None:
    """UserError if rollouts are more than a prompt and a completion, which back-filling could not put together."""
    extras = [name for name in ("tools", "environment_factory", "rollout_func") if given.get(name)]
    extras += [f"the column {name!r}" for name in ("image", "images") if name in data.dataset.column_names]
    if extras:
        raise UserError(f"backfill: true cannot be combined with {extras[0]}: leave one of them out")
