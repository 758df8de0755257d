"""TRL's group-based trainers with the curriculum: a navigator draws the prompts each time TRL generates.

Three methods of TRL are overridden; their presence and parameters are checked when a trainer is built:

    _generate_and_score_completions    rank 0 draws rows and broadcasts them; they replace the loader's examples
    _calculate_rewards                 accuracy, and groups whose rewards differ, from the gathered rewards
    _compute_loss                      angle concentration, in the first pass over a generation batch, if wanted

The public method `log` adds `curriculum/...` to TRL's metrics.  Everything else is TRL's and transformers' own.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, DatasetDict
from torch import Tensor, nn
from transformers import ProgressCallback
from trl import GRPOTrainer, RLOOTrainer

from gainrl.angle import angle_concentration
from gainrl.curriculum import NAVIGATORS, Navigator, advantages_over, navigator_settings
from gainrl.errors import UserError
from gainrl.integrations.groups import Draw
from gainrl.integrations.shared import DrawLog, accuracy_of, load_navigator
from gainrl.integrations.trl.callbacks import NAME, CurriculumState, StageBar
from gainrl.integrations.trl.config import CurriculumArguments
from gainrl.models import decoder_of
from gainrl.table import ScoreTable

_Trainer: Any = object
logger = logging.getLogger(__name__)
T = TypeVar("T")

DOORS = {
    "_generate_and_score_completions": ["inputs"],
    "_calculate_rewards": ["inputs", "prompts", "completions", "completion_ids_list"],
    "_compute_loss": ["model", "inputs"],
}
"""The overridden methods of TRL and their parameters."""


class GainRLMixin(_Trainer):  # type: ignore[misc]
    """Goes in front of a TRL trainer class: `class MyTrainer(GainRLMixin, GRPOTrainer)`.

    Takes what that class takes, with `args` a config that has `CurriculumArguments`, and `scores`: the dataset's score
    table, its path (default: `args.scores`), or a function that makes one from this trainer once it is built.  Raises,
    before a model is loaded, UserError for a dataset, table and settings that do not belong together, and RuntimeError
    for a TRL release whose methods have changed.
    """

    def __init__(self, *args: Any, scores: Any = None, **kwargs: Any) -> None:
        passed = _arguments(self, args, kwargs)
        config: Any = passed.get("args")
        if not issubclass(type(config), CurriculumArguments):
            raise UserError(
                f"args is a {type(config).__name__}, which has no curriculum: use gainrl.GainRLConfig (or put "
                "gainrl.integrations.trl.CurriculumArguments in front of your config class)"
            )
        dataset = require_dataset(passed.get("train_dataset"))
        scores = config.scores if scores is None else scores
        if scores is None:
            raise UserError("the curriculum needs the dataset's score table: give scores=PATH (made by `gainrl score`)")
        navigator_settings(config.navigator, config.navigator_args)
        self._prior = float(getattr(config, "baseline_rollouts", 0.0))
        if self._prior and NAVIGATORS[config.navigator].expected_accuracy is Navigator.expected_accuracy:
            raise UserError(f"baseline_rollouts: {config.navigator!r} predicts no pass rates; choose navigator: probe")
        accuracy_of([], config.accuracy_range)  # refuses what is no range
        if config.quota and config.group_by is None:
            raise UserError("quota needs the source of each prompt: name the dataset's column in group_by")
        if config.group_by is not None and config.group_by not in dataset.column_names:
            raise UserError(f"group_by={config.group_by!r}: the dataset has the columns {dataset.column_names}")
        _require_enough(len(dataset), "the dataset", config)
        self.navigator: Navigator | None = None
        """What decides the draws, on rank 0; None on the others."""
        self.drawn: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        """(n,) dataset indices of the prompts drawn last, in the order of the groups; on every rank."""
        self.draws, self.curriculum_seconds = 0, 0.0
        """Draws of the run so far, and the seconds that this process spent drawing and observing."""
        self._open: Draw | None = None  # the draw that is not observed yet, on rank 0
        self._unobserved = False  # whether there is one, on every rank
        self._passes = self._micro_batches = 0  # since the last generation, since the last optimizer step
        self._since_log: dict[str, list[float]] = {}
        self._draw_log = DrawLog(config.output_dir)
        if not callable(scores):
            agreed(lambda: self._navigate(scores, dataset, config))

        super().__init__(*args, **kwargs)

        names, given = list(self.reward_func_names), config.accuracy_rewards or []
        chosen = [given] if isinstance(given, str) else given
        if (len(names) > 1 and not chosen) or set(chosen) - set(names):
            raise UserError(f"accuracy_rewards={chosen}: choose those of the rewards {names} that tell what is correct")
        self._accuracy_columns = [names.index(name) for name in chosen or names]
        if self._prior and len(set(self._accuracy_columns)) < len(names):
            raise UserError(f"baseline_rollouts: the predicted pass rate tells nothing of the rewards beyond {chosen}")
        angles = config.log_angle or NAVIGATORS[config.navigator].needs_angle
        if angles and getattr(self, "use_liger_kernel", False):
            raise UserError("use_liger_kernel computes the loss past the angle measurement: leave it out")
        self._tap = AngleTap(self.model, self.accelerator.device) if angles else None
        self._bar = StageBar()
        for bar in [callback for callback in self.callback_handler.callbacks if type(callback) is ProgressCallback]:
            self.remove_callback(bar)
            self.add_callback(self._bar)
        self.add_callback(type(NAME, (CurriculumState,), {"trainer": self})())
        if callable(scores):
            table = scores(self)
            agreed(lambda: self._navigate(table, dataset, config))

    def _navigate(self, scores: Any, dataset: Dataset, config: Any) -> None:
        table = scores if isinstance(scores, ScoreTable) else ScoreTable.read(scores)
        plain = dataset.with_format(None)
        rows = table.join(plain["prompt"])
        self._index_of = np.argsort(rows)
        sources = None if config.group_by is None else [str(source) for source in plain[config.group_by]]
        self.navigator = load_navigator(
            table, rows, config.navigator, config.navigator_args, sources=sources, quota=config.quota,
            seed=config.seed if config.data_seed is None else config.data_seed,
        )  # fmt: skip
        _require_enough(len(self.navigator.prompts), "the usable part of the score table", config)

    # -- the three methods of TRL --------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        self._observe()
        self.drawn = self._draw(len(inputs) * self.accelerator.num_processes // self.num_generations)
        self._passes = 0
        first = len(inputs) * self.accelerator.process_index
        own = np.repeat(self.drawn, self.num_generations)[first : first + len(inputs)].tolist()
        columns = inputs[0].keys()  # remove_unused_columns may have left some out
        examples = [{k: v for k, v in self.train_dataset[index].items() if k in columns} for index in own]
        self._bar.tell("generating")
        output = super()._generate_and_score_completions(examples)
        if self._prior:
            advantages = torch.from_numpy(self._advantages[first : first + len(inputs)])
            output["advantages"] = advantages.to(output["advantages"])
        return output

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        if self.model.training:
            self._bar.tell("grading")
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.model.training:
            lengths = torch.tensor([len(ids) for ids in completion_ids_list], device=self.accelerator.device)
            self._grade(rewards.cpu().double().numpy(), self.accelerator.gather(lengths).cpu().numpy())
            if self._tap is None:
                self._observe()
        return rewards

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        if not self.model.training:
            return super()._compute_loss(model, inputs)
        self._passes += 1
        self._micro_batches += 1
        self._bar.tell("updating", f"micro-batch {self._micro_batches} of {self.args.gradient_accumulation_steps}")
        if self._tap is None or self._passes > self.args.steps_per_generation:
            return super()._compute_loss(model, inputs)
        # a completion masked out of the loss (mask_truncated_completions) was not seen by the model
        seen = inputs["completion_mask"].bool()
        mask = torch.cat([inputs["prompt_mask"].bool(), seen], dim=1) & seen.any(dim=1, keepdim=True)
        with self._tap.listening(mask):
            return super()._compute_loss(model, inputs)

    # -- draws and outcomes --------------------------------------------------------------------------------------

    def _draw(self, n: int) -> npt.NDArray[np.int64]:
        """(n,) dataset indices, on every rank those that rank 0 drew."""
        started = time.perf_counter()

        def draw() -> tuple[npt.NDArray[np.int64], Any]:
            assert self.navigator is not None
            rows = self.navigator.draw(n)
            self._open = Draw(self.draws, rows, self.navigator)
            return self._index_of[rows], self.navigator.expected_accuracy(rows) if self._prior else None

        drawn, self._expected = agreed(draw)
        self.draws, self._drawn_at, self._unobserved = self.draws + 1, self.state.global_step, True
        self.curriculum_seconds += time.perf_counter() - started
        return drawn

    def _grade(self, rewards: npt.NDArray[np.float64], tokens: npt.NDArray[np.int64]) -> None:
        """Add to the draw under way (R, F) rewards of all ranks, NaN where there is none, and (R,) generated tokens."""
        accuracy = accuracy_of(rewards[:, self._accuracy_columns], self.args.accuracy_range)
        scores = (~np.isnan(accuracy)).sum(axis=1)
        accuracy = np.where(scores > 0, np.nansum(accuracy, axis=1) / np.maximum(scores, 1), np.nan)
        if self._prior:
            scale = getattr(self.args, "scale_rewards", "none") != "none"
            groups = accuracy.reshape(len(self.drawn), -1)
            self._advantages = advantages_over(self._expected, groups, self._prior, scale)
        total = np.nansum(rewards * self.reward_weights.cpu().numpy(), axis=1)
        total[np.isnan(rewards).all(axis=1)] = np.nan
        if self._open is not None:
            self._open.add(np.arange(len(rewards)) // self.num_generations, accuracy, total, np.nan, tokens)

    def _observe(self) -> None:
        """Hand the draw under way to the navigator and to the log; collective if angles are measured."""
        if not self._unobserved:
            return
        started, self._unobserved, angle = time.perf_counter(), False, None
        if self._tap is not None:
            total, count = self.accelerator.reduce(self._tap.take(), "sum").tolist()
            angle = total / count if count else None
        draw, self._open = self._open, None
        if self.navigator is None or draw is None:
            return
        self.navigator.observe(draw.outcomes(), angle=angle)
        record = {**draw.record(self._drawn_at, self.navigator), "angle": angle}
        self._draw_log.append(record)
        shown = {name: record[name] for name in ("accuracy", "mixed", "all_right", "all_wrong", "angle")}
        shown |= {"unscored": record["rollouts"] - record["scored"], **record["metrics"]}
        for source, numbers in record["sources"].items():
            shown |= {f"{name}/{source}": value for name, value in numbers.items()}
        for name, value in shown.items():
            if isinstance(value, int | float) and np.isfinite(value):
                self._since_log.setdefault(f"curriculum/{name}", []).append(float(value))
        self.curriculum_seconds += time.perf_counter() - started

    def end_step(self, *, last: bool = False) -> None:
        """Observe if the first pass over the generation batch is complete, or with `last` in any case."""
        self._micro_batches = 0
        if last or self._passes >= self.args.steps_per_generation:
            self._observe()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As in TRL, with the means over the draws since the last call under `curriculum/...`."""
        if self.model.training:
            logs.update({name: sum(values) / len(values) for name, values in self._since_log.items()})
            self._since_log.clear()
        super().log(logs, *args, **kwargs)

    # -- state ---------------------------------------------------------------------------------------------------

    def curriculum_state(self) -> dict[str, Any]:
        """What a resumed run continues from: plain values and arrays; empty on ranks other than 0."""
        if self.navigator is None:
            return {}
        whole = self._passes % (self.args.steps_per_generation * self.num_iterations) == 0
        draws = self.draws - self._unobserved
        return {"draws": draws, "whole": whole, "navigator": self.navigator.state_dict()}

    def restore_curriculum(self, saved: dict[str, Any] | None) -> None:
        """Continue from what `curriculum_state` gave (None: a run that begins).

        Raises UserError, on every rank, for the state of another navigator or table, and for none.
        """
        self._open, self._unobserved = None, False
        self.draws = agreed(lambda: self._restore(saved))

    def _restore(self, saved: dict[str, Any] | None) -> int:
        if saved == {}:
            raise UserError("the checkpoint holds no curriculum: it was saved by a run without gainrl")
        if saved:
            assert self.navigator is not None
            self.navigator.load_state_dict(saved["navigator"])
            if not saved["whole"]:
                logger.warning(
                    "the checkpoint lies within a generation batch: TRL generates anew, so the next draw is a new one "
                    "(for an exact resume, save_steps x gradient_accumulation_steps must be a multiple of "
                    "steps_per_generation x num_iterations)"
                )
        draws = int(saved["draws"]) if saved else self.draws
        self._draw_log.keep(draws)
        return draws


def _require_enough(prompts: int, what: str, config: Any) -> None:
    needed = config.generation_batch_size // config.num_generations
    if prompts < needed:
        counted = f"{config.generation_batch_size} / {config.num_generations}"
        raise UserError(f"a draw needs {needed} prompts ({counted}), but {what} has {prompts}: lower the batch size")


class GainRLTrainer(GainRLMixin, GRPOTrainer):  # type: ignore[misc]
    """`GRPOTrainer` whose prompts a navigator draws from the ranking.

        GainRLTrainer(model, reward_funcs=..., args=GainRLConfig(scores="scores.parquet", ...), train_dataset=...)

    Takes everything that `GRPOTrainer` takes, and `scores`: the score table, if it is not in `args`.
    """


class GainRLRLOOTrainer(GainRLMixin, RLOOTrainer):  # type: ignore[misc]
    """`RLOOTrainer` whose prompts a navigator draws from the ranking; `args` is a `GainRLRLOOConfig`."""


class AngleTap:
    """Sums ‖U‖²/L², the angle concentration of a whole sequence, over the sequences of the loss's forward passes.

    A hook on the decoder, whose output is that of the final norm.  The decoder also runs in generation and evaluation,
    so the hook does nothing outside `listening`.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._mask: Tensor | None = None
        self._done = 0
        self._sums = torch.zeros(2, device=device)
        decoder_of(model).register_forward_hook(self._read)

    @contextmanager
    def listening(self, mask: Tensor) -> Iterator[None]:
        """Measure the sequences of `mask` (B, S), bool, True for a token.  RuntimeError if the decoder does not run."""
        self._mask, self._done = mask, 0
        try:
            yield
        finally:
            self._mask = None
        if self._done != len(mask):
            raise RuntimeError(
                f"the loss passed {self._done} of {len(mask)} sequences through the decoder, so angle concentration "
                "cannot be measured: choose a navigator without angles (navigator: probe)"
            )

    def take(self) -> Tensor:
        """(2,) float32: the sum and the number of finite angles of this process since the last call."""
        taken, self._sums = self._sums, torch.zeros_like(self._sums)
        return taken

    def _read(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._mask is None:
            return
        hidden = (output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]).detach()
        mask = self._mask[self._done : self._done + len(hidden)]
        self._done += len(hidden)
        angle = angle_concentration(hidden, None, mask).whole
        finite = angle.isfinite()
        self._sums += torch.stack([angle.where(finite, 0).sum(), finite.sum()])


def agreed(decide: Callable[[], T]) -> T:
    """What rank 0 decides, a plain value, on every rank; its exception is raised on all."""
    process = PartialState()
    failure: Exception | None = None
    decided: list[Any] = [None, None, None]  # the value, or an error's text and whether it is the user's
    if process.is_main_process:
        try:
            decided[0] = decide()
        except Exception as error:
            failure, decided[1:] = error, [str(error) or repr(error), isinstance(error, UserError)]
    if process.num_processes > 1:
        broadcast_object_list(decided)
    value, text, users = decided
    if text is not None:
        raise failure or (UserError(text) if users else RuntimeError(f"rank 0 failed: {text}"))
    return value  # type: ignore[no-any-return]


def require_dataset(dataset: Any) -> Dataset:
    """UserError unless `dataset` is a map-style dataset with a column `prompt`."""
    if isinstance(dataset, DatasetDict):
        raise UserError(
            f"train_dataset has the splits {list(dataset)}: choose one, as in dataset[{next(iter(dataset))!r}]"
        )
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"train_dataset is a {type(dataset).__name__}: drawing prompts by row needs a map-style datasets.Dataset "
            "(streaming=False)"
        )
    if "prompt" not in dataset.column_names:
        raise UserError(f"the training dataset has no column 'prompt', only {dataset.column_names}")
    return dataset


def _arguments(trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name, as TRL's class behind the mixin takes them; its three methods are checked."""
    order = type(trainer).__mro__
    behind = order[order.index(GainRLMixin) + 1 :]
    for name, wanted in DOORS.items():
        method = next((vars(base)[name] for base in behind if name in vars(base)), None)
        if method is None or list(inspect.signature(method).parameters)[1:] != wanted:
            raise RuntimeError(
                f"{behind[0].__name__}.{name}({', '.join(wanted)}), which the curriculum overrides, is missing or has "
                "other parameters in this TRL release: install a release that gainrl supports"
            )
    inits = [inspect.signature(vars(base)["__init__"]) for base in behind if "__init__" in vars(base)]
    takes = next(init for init in inits if "train_dataset" in init.parameters)
    return dict(takes.bind(trainer, *args, **kwargs).arguments)
