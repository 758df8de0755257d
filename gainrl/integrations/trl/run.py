"""A whole training run from a `RunConfig`: check, rank if need be, train, stop cleanly, resume.

Everything that can be wrong with the config, the dataset, the table and the output is refused before a model is loaded.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from transformers import TrainerCallback

from gainrl.errors import UserError
from gainrl.files import atomic_path, write_text
from gainrl.integrations.trl.adapters import lora_config, require_targets
from gainrl.integrations.trl.checkpoints import last_complete
from gainrl.integrations.trl.config import GainRLConfig
from gainrl.integrations.trl.data import ScoredDataset, require_dataset
from gainrl.integrations.trl.endings import failure_explained, graceful
from gainrl.integrations.trl.live_report import LiveReport
from gainrl.integrations.trl.navigation import build_navigator
from gainrl.integrations.trl.progress import RunProgress
from gainrl.integrations.trl.ranking import load_model, make_scorer, rank, require_whole_parameters
from gainrl.integrations.trl.run_config import RunConfig
from gainrl.integrations.trl.together import agreed, chosen_checkpoint, require_shared
from gainrl.integrations.trl.trainer import GainRLTrainer
from gainrl.parts import is_table
from gainrl.scoring import load_tokenizer, model_identity, resolve_model
from gainrl.scoring.journal import journal_path
from gainrl.scoring.prompts import template_hash, tokenizer_hash
from gainrl.scoring.team import Team
from gainrl.table import ScoreTable
from gainrl.tasks import load_task

logger = logging.getLogger(__name__)

OWN_FILES = ("config.yaml", "epochs.jsonl", "evals.jsonl", "report.html")
TABLE_FILES = ("scores.parquet", journal_path(Path("scores.parquet")).name)


@dataclass(frozen=True)
class TrainingRun:
    """What a run came to: its trainer (with the trained model), whether it finished, and where it can go on."""

    trainer: GainRLTrainer
    finished: bool
    step: int
    checkpoint: Path | None
    main: bool
    """Whether this is the process that speaks for all."""


def train(
    config: RunConfig, *, resume: bool = False, overwrite: bool = False, progress: bool = True, report: bool = False
) -> TrainingRun:
    """Run the training that `config` describes; `progress` shows a bar and a line per epoch, `report` keeps report.html
    in the run directory up to date.

    The first Ctrl-C (or SIGTERM) saves at the end of the generation batch under way and returns, a second one raises
    KeyboardInterrupt.  Raises UserError for everything that the user can mend.
    """
    with same_on_every_rank():
        rows, rewards, stop, settings, dataset, tokenizer, data = _checked(config, resume=resume, overwrite=overwrite)
        config = replace(config, curriculum={**config.curriculum, "prompts_per_epoch": settings.epoch_size})
        team = Team(settings.process_index, settings.world_size)
        if len(set(team.gather(data is None))) > 1:
            raise UserError(f"some processes see the score table {config.table_path}, others do not: share its folder")
        tokenizer.padding_side = tokenizer.truncation_side = "left"
        # all have looked at the output, and nothing is left to refuse, before anybody changes it
        model, scorer = agreed(team, lambda: _loaded(config, tokenizer, settings, ranks=data is None))
        if team.leads:
            if overwrite:
                _clear(config.directory)
            config.directory.mkdir(parents=True, exist_ok=True)
            config.table_path.parent.mkdir(parents=True, exist_ok=True)
            if not resume:
                write_text(config.directory / "config.yaml", config.dump())
        require_shared(config.directory, team)
        if scorer is not None:
            require_shared(config.table_path.parent, team)
    if scorer is not None:
        rank(config, rows, scorer, team, overwrite=overwrite, progress=progress)
    del rows, scorer
    if data is None:
        data = ScoredDataset(dataset, config.table_path)

    with _stopping(model, tokenizer, stop):
        trainer = GainRLTrainer(
            model,
            reward_funcs=rewards,
            args=settings,
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=lora_config(config.lora),
            scores=data,
        )
    data = None  # the trainer has it without the directions
    if progress:
        RunProgress.attach(trainer)
    if team.leads:
        trainer.add_callback(_Described(config))
    if report and team.leads:
        trainer.add_callback(LiveReport(trainer, config.directory))
    checkpoint = None
    if resume:
        with same_on_every_rank():
            checkpoint = chosen_checkpoint(Path(str(settings.output_dir)), team)
        if checkpoint is None:
            trainer.forget_epochs()
            logger.warning("no checkpoint yet: the run starts from the beginning")
    with failure_explained(settings), graceful(trainer):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    found, _ = last_complete(str(settings.output_dir))
    return TrainingRun(trainer, not trainer.stopped_early, trainer.state.global_step, found, team.leads)


class _Described(TrainerCallback):
    """Puts the config and the score table into the run directory once training begins.

    Not before: a resume that is refused leaves what describes the run as it was.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        directory, table = self._config.directory, self._config.table_path
        write_text(directory / "config.yaml", self._config.dump())
        kept = directory / "scores.parquet"
        if kept.resolve() != table.resolve():
            if table.is_dir():
                ScoreTable.read(table).write(kept)
                return
            with atomic_path(kept) as temporary:
                shutil.copyfile(table, temporary)


# -- checks, before anything is loaded -----------------------------------------------------------------------


@contextmanager
def same_on_every_rank() -> Iterator[None]:
    """Marks errors that every process of a run raises alike, so that one of them can speak for all."""
    try:
        yield
    except UserError as error:
        error.on_every_rank = True  # type: ignore[attr-defined]
        raise


def _checked(config: RunConfig, *, resume: bool, overwrite: bool) -> tuple[Any, ...]:
    """Rows, rewards, stop texts, settings, dataset, tokenizer and, if there is a table, the scored dataset."""
    check_output(config, resume=resume, overwrite=overwrite)
    rows, rewards, stop = load_rows(config)
    settings = _trainer_config(config)
    if settings.accuracy_rewards is None and config.task is not None:
        settings.accuracy_rewards = [rewards[0].__name__]
    dataset = require_dataset(_as_dataset(rows))
    tokenizer = load_tokenizer(config.model, revision=config.model_options.get("revision"))
    if (adapter := lora_config(config.lora)) is not None:
        require_targets(adapter, config.model, config.model_options)
    data = _scored(config, dataset, tokenizer, overwrite=overwrite)
    if data is None:
        require_whole_parameters(config, settings.curriculum_navigator)
    if data is not None:
        build_navigator(settings, data, directions=False)
    elif settings.epoch_size > len(dataset):
        raise UserError(f"prompts_per_epoch={settings.epoch_size}, but the training dataset has {len(dataset)} prompts")
    return rows, rewards, stop, settings, dataset, tokenizer, data


def check_output(config: RunConfig, *, resume: bool, overwrite: bool) -> None:
    """UserError if the run directory is in the way, or is not there to resume."""
    directory = config.directory
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other: go on, or start anew")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"output {config.output!r} is a file: name a directory")
    there = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    ours = [name for name in there if name in (*OWN_FILES, *TABLE_FILES, "checkpoints")]
    if resume:
        if "config.yaml" not in ours:
            raise UserError(f"there is no run to resume in {config.output!r}: leave out --resume")
    elif there and not ours:
        raise UserError(f"output {config.output!r} holds other files ({there[0]!r}, ...): name a directory of its own")
    elif {"config.yaml", "epochs.jsonl", "checkpoints"} & set(ours) and not overwrite:
        raise UserError(
            f"output {config.output!r} holds a run and is kept: go on with --resume, replace it with --overwrite, or "
            "name another directory"
        )


def load_rows(config: RunConfig) -> tuple[list[dict[str, Any]], list[Callable[..., Any]], list[str]]:
    """The training rows, the reward functions, and the texts that end a completion."""
    rewards: list[Callable[..., Any]] = []
    stop = config.stop
    if config.task is not None:
        task = load_task(config.task)
        rows = task.load(config.split or task.splits[0], source=config.dataset, limit=config.limit)
        rewards.append(task.reward_function())
        stop = list(task.stop) if stop is None else stop
    else:
        from gainrl.scoring import open_rows

        assert config.dataset is not None
        rows = [dict(row) for row in open_rows(config.dataset, split=config.split, limit=config.limit)]
    rewards += [_import_reward(path) for path in config.rewards]
    for number, row in enumerate(rows):
        prompt = row.get("prompt")
        if "prompt" not in row:
            raise UserError(f"row {number} of the dataset has no column 'prompt', only {sorted(row)}")
        if not isinstance(prompt, type(rows[0]["prompt"])) or not isinstance(prompt, str | list) or not prompt:
            raise UserError(
                f"row {number} of the dataset: prompt is {_shown(prompt)}; every row needs plain text, or every row a "
                "chat (list of role and content)"
            )
    return rows, rewards, stop or []


def _as_dataset(rows: list[dict[str, Any]]) -> Dataset:
    """UserError naming the first column whose values are not of one type."""
    try:
        return Dataset.from_list(rows)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        for name in rows[0]:
            try:
                Dataset.from_list([{name: row.get(name)} for row in rows])
            except (pa.ArrowException, TypeError, OverflowError) as why:
                raise UserError(
                    f"column {name!r} of the dataset cannot be one column ({why}): give every row a value of the same "
                    "type there, or leave the column out"
                ) from error
        raise


def _shown(prompt: Any) -> str:
    return "empty" if not prompt else f"a {type(prompt).__name__}"


def _import_reward(path: str) -> Callable[..., Any]:
    """A reward function by dotted path, `package.module.function` or `package.module:function`."""
    module, _, name = path.replace(":", ".").rpartition(".")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # console scripts do not search the working directory
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError) as error:
        raise UserError(f"reward {path!r}: cannot import {module!r}: {error}") from error
    except AttributeError as error:
        raise UserError(f"reward {path!r}: module {module!r} has no {name!r}") from error
    if not callable(found):
        raise UserError(f"reward {path!r} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def _trainer_config(config: RunConfig) -> GainRLConfig:
    settings = config.trainer_settings()
    if not torch.accelerator.is_available():
        settings.setdefault("use_cpu", True)  # without it transformers refuses bf16 where there is no GPU
        settings.setdefault("dataloader_pin_memory", False)
    try:
        made = GainRLConfig(**settings)
    except UserError:
        raise
    except (ValueError, TypeError) as error:  # TRL and transformers refuse combinations in these words
        raise UserError(f"section 'training': {error}") from error
    if made.n_gpu > 1:  # TRL wants a process for each
        raise UserError(
            f"{made.n_gpu} GPUs are visible to one process: start one process for each (accelerate launch "
            f"--num_processes {made.n_gpu} -m gainrl train ...), or let it see one (CUDA_VISIBLE_DEVICES=0)"
        )
    return made


def _scored(config: RunConfig, dataset: Dataset, tokenizer: Any, *, overwrite: bool) -> ScoredDataset | None:
    """The dataset with its table, checked against dataset, model and template; None if the table is to be made.

    With `overwrite`, a table of the run directory itself that does not fit is made again.
    """
    path = config.table_path
    if not is_table(path):
        return None
    try:
        data = ScoredDataset(dataset, path)
        if config.scored_with == "same":
            _require_same_model(config, data, tokenizer)
    except UserError:
        if overwrite and config.scores is None:
            return None
        raise
    return data


def _require_same_model(config: RunConfig, data: ScoredDataset, tokenizer: Any) -> None:
    made = data.table.metadata
    if Path(resolve_model(config.model)).is_dir() and made.model_hash != (own := model_identity(config.model)):
        raise UserError(
            f"{config.table_path} was made with the model {made.model!r} ({made.model_hash}), but {config.model!r} "
            f"({own}) is to be trained: score with it, or say scored_with: any"
        )
    if tokenizer_hash(tokenizer) != made.tokenizer_hash:
        raise UserError(f"{config.table_path} was made with another tokenizer: score again")
    chat = not isinstance(data.dataset[0]["prompt"], str)
    if chat and template_hash(tokenizer) != made.chat_template_hash:
        raise UserError(f"{config.table_path} was made with another chat template: score again")


# -- what the trainer is built with --------------------------------------------------------------------------


def _loaded(config: RunConfig, tokenizer: Any, settings: GainRLConfig, *, ranks: bool) -> tuple[Any, Any]:
    """The model and, if the run is to rank the dataset, a scorer with it."""
    model = load_model(config)
    if not ranks:
        return model, None
    return model, make_scorer(config, model, tokenizer, settings.device, settings.curriculum_navigator)


def stop_token_ids(tokenizer: Any, stop: list[str]) -> list[int]:
    """Ids of all tokens whose text contains one of `stop`, so that generation ends there whatever is around it.

    Raises UserError for a text that is longer than a token.
    """
    texts = [tokenizer.decode([index]) for index in range(len(tokenizer))]
    found: set[int] = set()
    for text in stop:
        ids = {index for index, token in enumerate(texts) if text in token}
        if not ids:
            raise UserError(f"stop: {text!r} is in no token of the tokenizer, and generation can stop at tokens only")
        found |= ids
    return sorted(found)


@contextmanager
def _stopping(model: Any, tokenizer: Any, stop: list[str]) -> Iterator[None]:
    """While the trainer is built, let the model declare the stop tokens: TRL ends completions at what it declares.

    The declaration is taken back, so that saved models end where they always did.
    """
    generation = model.generation_config
    declared = generation.eos_token_id
    if stop:
        plain = [] if declared is None else [declared] if isinstance(declared, int) else list(declared)
        generation.eos_token_id = [*plain, *(i for i in stop_token_ids(tokenizer, stop) if i not in plain)]
    try:
        yield
    finally:
        generation.eos_token_id = declared


# -- how a run ends ------------------------------------------------------------------------------------------


def _clear(directory: Path) -> None:
    """Remove a run's own files, and nothing else; the score table stays if it fits."""
    for name in OWN_FILES:
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
