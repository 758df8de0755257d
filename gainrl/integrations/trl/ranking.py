"""Ranking inside a training run: the model that is about to be trained scores the dataset, on the training's device."""

from __future__ import annotations

from typing import Any

import torch
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_enabled

from gainrl.errors import UserError
from gainrl.integrations.trl.run_config import RunConfig
from gainrl.scoring import (
    AngleScorer,
    ScoringPrompt,
    Source,
    model_identity,
    resolve_model,
    score_dataset,
)
from gainrl.scoring.journal import journal_paths
from gainrl.scoring.team import Team


def load_model(config: RunConfig) -> Any:
    """The model that `config` names, on the CPU unless its options say otherwise; UserError if it cannot be loaded."""
    from transformers import AutoModelForCausalLM

    options = {"dtype": "float32", **config.model_options}  # TRL's default: master weights in full precision
    try:
        return AutoModelForCausalLM.from_pretrained(resolve_model(config.model), **options)
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise UserError(f"cannot load the model {config.model!r} with {options}: {error}") from error


def require_whole_parameters(config: RunConfig, navigator: str) -> None:
    """UserError if the model's parameters are split over the processes as they are loaded: none could score with it."""
    if not (is_deepspeed_zero3_enabled() or is_fsdp_enabled()):  # type: ignore[no-untyped-call]
        return
    given = (("model", config.model), ("task", config.task), ("dataset", config.dataset), ("split", config.split))
    options = " ".join(f"--{name} {value}" for name, value in (*given, ("limit", config.limit)) if value is not None)
    options += " --directions" * _directions(config, navigator)
    raise UserError(
        "the model's parameters are split over the processes while they are loaded (ZeRO-3, or FSDP with RAM-efficient "
        f"loading), so the dataset cannot be ranked in this run: rank first: gainrl score {options} "
        "--output scores.parquet, then scores: scores.parquet in the config"
    )


def _directions(config: RunConfig, navigator: str) -> bool:
    """Whether the table is to have directions: for the navigator that learns from them, unless the config says."""
    return bool(config.scoring.get("directions", navigator == "probe"))


def make_scorer(config: RunConfig, model: Any, tokenizer: Any, device: torch.device, navigator: str) -> AngleScorer:
    """A scorer with the model, which is moved to `device` and stays there (the trainer wants it there, too).

    A model that was spread over devices, or quantised, stays where it was loaded.  UserError for options of the
    section `scoring` that do not exist.
    """
    if getattr(model, "hf_device_map", None) is None and not getattr(model, "is_quantized", False):
        model.to(device)
    options = {**config.scoring, "directions": _directions(config, navigator)}
    try:
        return AngleScorer(model, tokenizer, question_after=config.question_after, **options)
    except TypeError as error:
        raise UserError(f"section 'scoring': {error}") from error


def rank(
    config: RunConfig, rows: list[dict[str, Any]], scorer: AngleScorer, team: Team, *, overwrite: bool, progress: bool
) -> None:
    """Score the dataset, each process its share, and write the table; goes on where a run was cut short.

    With `overwrite`, a table that is there and results of an earlier run are replaced.
    """
    from tqdm.auto import tqdm

    begun = bool(team.gather(journal_paths(config.table_path))[0])
    prompts = [ScoringPrompt(row["prompt"], row.get("question")) for row in rows]
    source = Source(config.dataset or str(config.task), config.split, config.limit, len(rows), config.task)
    with tqdm(total=len(rows), desc="scoring", unit=" prompts", disable=not (progress and team.leads)) as bar:

        def advance(finished: int, tokens: int) -> None:
            bar.update(finished)

        score_dataset(
            scorer,
            prompts,
            config.table_path,
            source,
            model_name=config.model,
            model_hash=model_identity(config.model, scorer.model),
            overwrite=overwrite,
            resume=begun and not overwrite,
            team=team,
            progress=advance,
        )
