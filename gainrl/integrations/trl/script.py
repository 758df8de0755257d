"""A whole training run: dataset or task, ranking, trainer, checkpoints, report (`gainrl train`).

The trainer is built before anything is scored, so that settings which only TRL or a missing package refuses cost
nothing but the model's loading.
"""

from __future__ import annotations

import errno
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_enabled
from trl import get_peft_config, get_quantization_config

from gainrl import scoring
from gainrl.errors import UserError
from gainrl.files import write_text
from gainrl.integrations.trl.callbacks import newest_checkpoint
from gainrl.integrations.trl.config import described
from gainrl.integrations.trl.trainer import GainRLTrainer, agreed
from gainrl.scoring.prompts import template_hash, tokenizer_hash
from gainrl.table import ScoreTable, as_written
from gainrl.tasks import load_task

logger = logging.getLogger(__name__)


@dataclass
class RunArguments:
    """What a run has besides the fields of the trainer's and the model's config."""

    task: str | None = described("Task by name (`gsm8k`, `arithmetic:size=600`): dataset, prompts and reward.")
    dataset: str | None = described("Hub id or local file with a column `prompt`; with a task, its rows' source.")
    split: str | None = described("Split to train on (the task's first, or train).")
    limit: int | None = described("Train on the first rows alone.")
    question_after: str | None = described("Plain text: the question follows the last occurrence of this text.")
    rewards: list[str] | None = described("Reward functions: package.module.function or file.py:function.")
    stop: list[str] | None = described("Texts that end a completion (the task's own if left out).")
    resume: bool = described("Continue from the newest whole checkpoint.", False)
    overwrite: bool = described("Replace the run that is there, but not its ranking.", False)
    report: bool = described("Keep report.html in the run directory up to date.", True)


def train(run: RunArguments, settings: Any, model: Any, given: Mapping[str, Any], callbacks: Any = None) -> Any:
    """Train as the settings say: a `GainRLConfig` and TRL's `ModelConfig`; `given` is what `config.yaml` records.

    `run.rewards` holds functions.  Returns the `GainRLTrainer`.  Raises UserError for what the user can mend.
    """
    directory = Path(settings.output_dir).expanduser()
    settings.output_dir = str(directory)
    if not model.model_name_or_path:
        raise UserError("model_name_or_path is missing: give a hub id, a directory, or smollm2-135m")
    if settings.use_liger_kernel and find_spec("liger_kernel") is None:  # transformers looks for it only once it trains
        raise UserError("use_liger_kernel needs a package that is not installed: pip install liger-kernel")
    rows, rewards, stop = load_rows(run)
    if run.task and settings.accuracy_rewards is None:
        settings.accuracy_rewards = [rewards[0].__name__]
    dataset = as_dataset(rows)
    table = Path(settings.scores or directory / "scores.parquet").expanduser()
    if not (scored := agreed(table.exists)) and (is_deepspeed_zero3_enabled() or is_fsdp_enabled()):  # type: ignore[no-untyped-call]
        raise UserError(
            "the model's parameters are split over the processes, so the dataset cannot be ranked in this run: rank it "
            f"first with `gainrl score --output {table}`, then train with scores: {table}"
        )
    tokenizer, network = load(model, settings)
    if scored:
        check_table(table, tokenizer, settings, model.model_name_or_path)
    _say(settings, f"building the trainer ({len(dataset):,} prompts)")
    with refused("these settings"), stopping(network, tokenizer, stop):
        trainer: Any = GainRLTrainer(
            network, rewards, args=settings, train_dataset=dataset, processing_class=tokenizer, callbacks=callbacks,
            peft_config=get_peft_config(model),
            scores=table if scored else lambda built: rank(built, rows, run, table),
        )  # fmt: skip
    checkpoint = None
    if run.resume:
        checkpoint = agreed(lambda: newest_checkpoint(directory, trainer.navigator.prompts.fingerprint))
    if trainer.accelerator.is_main_process:
        if run.overwrite:
            clear(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / "config.yaml", yaml.safe_dump({**given, "scores": str(table)}, sort_keys=False))
        if run.resume:
            _say(settings, f"continuing from {checkpoint or 'the beginning: there is no whole checkpoint yet'}")
    if checkpoint and Path(checkpoint).name == f"checkpoint-{settings.max_steps}":
        trainer.state.global_step = settings.max_steps  # nothing is left to do, and transformers would train a step
        return trainer
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except (OSError, RuntimeError) as error:  # safetensors and torch wrap the system's error
        if getattr(error, "errno", 0) not in (errno.ENOSPC, errno.EDQUOT) and "No space left" not in str(error):
            raise
        raise UserError(f"the disk of {directory} is full: make room, then go on with --resume") from error
    return trainer


def load_rows(run: RunArguments) -> tuple[list[dict[str, Any]], list[Callable[..., Any]], list[str]]:
    """The training rows, the reward functions, and the texts that end a completion; `run.split` is filled in."""
    rewards: list[Any] = list(run.rewards or [])
    if run.task:
        task = load_task(run.task)
        run.split = run.split or task.splits[0]
        rows = task.load(run.split, source=run.dataset, limit=run.limit)
        return rows, [task.reward_function(), *rewards], list(task.stop if run.stop is None else run.stop)
    if not run.dataset:
        raise UserError("name what to train on: a task, or a dataset with rewards")
    if not rewards:
        raise UserError("a dataset needs reward functions: give rewards: [package.module.function]")
    rows = [dict(row) for row in scoring.open_rows(run.dataset, split=run.split, limit=run.limit)]
    return rows, rewards, run.stop or []


def as_dataset(rows: list[dict[str, Any]]) -> Dataset:
    """The rows as a Dataset that gives each row as it was: Arrow fills up dictionaries of unequal keys with null."""

    def written(batch: dict[str, Any]) -> Any:
        found = as_written(batch)
        for message in (one for prompt in found.get("prompt", ()) if isinstance(prompt, list) for one in prompt):
            message.setdefault("content", "")  # null beside tool calls, and TRL reads it
        return found

    try:
        return Dataset.from_list(rows).with_transform(written)
    except Exception as error:  # Arrow's, or of half a surrogate pair
        text = f" ({error.object[:80]!r})" if isinstance(error, UnicodeEncodeError) else ""
        raise UserError(f"the rows cannot be one dataset: {' '.join(str(error).split())}{text}") from error


def load(model: Any, settings: Any) -> tuple[Any, Any]:
    """The tokenizer and the model that TRL's `ModelConfig` names, on the CPU.  UserError if they cannot be loaded."""
    path, name = scoring.resolve_model(model.model_name_or_path), model.model_name_or_path
    trust = bool(getattr(model, "trust_remote_code", False) or getattr(settings, "trust_remote_code", False))
    _say(settings, f"loading {name}")
    tokenizer: Any = scoring.load_tokenizer(name, revision=model.model_revision, trust_remote_code=trust)
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    with refused(f"the model {name!r}"):
        options = {
            "dtype": model.dtype, "revision": model.model_revision, "trust_remote_code": trust,
            "attn_implementation": model.attn_implementation, "quantization_config": get_quantization_config(model),
            **(settings.model_init_kwargs or {}),
        }  # fmt: skip
        settings.model_init_kwargs = None  # TRL takes them for a model that it loads itself
        network = AutoModelForCausalLM.from_pretrained(path, **{k: v for k, v in options.items() if v is not None})
    return tokenizer, network


def rank(trainer: Any, rows: list[dict[str, Any]], run: RunArguments, output: Path) -> Path:
    """Score the dataset with the model that is about to be trained, on its device; every process takes its share."""
    scorer = scoring.AngleScorer(
        trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class, question_after=run.question_after,
        directions=trainer.args.navigator == "probe", chat_template_kwargs=trainer.args.chat_template_kwargs,
    )  # fmt: skip
    source = scoring.Source(run.dataset or str(run.task), run.split, run.limit, len(rows), run.task)
    prompts = list(scoring.scoring_prompts(rows))
    output.parent.mkdir(parents=True, exist_ok=True)
    quiet = trainer.args.disable_tqdm or not trainer.accelerator.is_main_process
    bar: Any = tqdm(total=len(rows), desc="ranking", unit=" prompts", disable=quiet)
    with bar:
        scoring.score_dataset(
            scorer, prompts, output, source, resume=True, progress=lambda finished, tokens: bar.update(finished)
        )
    return output


def check_table(path: Path, tokenizer: Any, settings: Any, name: str) -> None:
    """UserError for a table of prompts that were rendered otherwise; a warning if another model made it."""
    made = ScoreTable.describe(path)[0]
    templates = "", template_hash(tokenizer)
    if made.tokenizer_hash != tokenizer_hash(tokenizer) or made.chat_template_hash not in templates:
        raise UserError(f"{path} was made with another tokenizer or chat template (of {made.model!r}): score again")
    theirs, ours = made.chat_template_kwargs, settings.chat_template_kwargs or {}
    if made.chat_template_hash and theirs != ours:
        raise UserError(f"{path} was made with chat_template_kwargs {theirs}, not {ours}: score again")
    if Path(scoring.resolve_model(name)).is_dir() and made.model_hash != scoring.model_identity(name):
        logger.warning("%s was made with another model, %s", path, made.model)


@contextmanager
def refused(what: str) -> Iterator[None]:
    """What TRL, transformers or PEFT refuses, as one sentence of ours."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        raise UserError(f"{what} cannot work: {' '.join(str(error).split())}") from error


@contextmanager
def stopping(model: Any, tokenizer: Any, stop: list[str]) -> Iterator[None]:
    """While the trainer is built, the model declares as end tokens those whose text contains one of `stop`.

    TRL ends completions at what the model declares; a saved model declares what it always did.  Raises UserError for a
    text that is in no token.
    """
    generation = model.generation_config
    declared = generation.eos_token_id
    ends = [] if declared is None else [declared] if isinstance(declared, int) else list(declared)
    texts = [tokenizer.decode([index]) for index in range(len(tokenizer))] if stop else []
    for text in stop:
        found = [index for index, token in enumerate(texts) if text in token]
        if not found:
            raise UserError(f"stop: {text!r} is in no token of the tokenizer, and generation stops at tokens alone")
        ends += [index for index in found if index not in ends]
    generation.eos_token_id = ends if stop else declared
    try:
        yield
    finally:
        generation.eos_token_id = declared


def clear(directory: Path) -> None:
    """Remove a run's own files, and nothing else."""
    for name in ("config.yaml", "draws.jsonl", "evals.jsonl", "report.html"):
        (directory / name).unlink(missing_ok=True)
    for path in directory.glob("checkpoint-*"):
        if path.is_dir() and path.name[11:].isdecimal():
            shutil.rmtree(path)


def _say(settings: Any, text: str) -> None:
    if settings.process_index == 0:
        print(text, file=sys.stderr)
