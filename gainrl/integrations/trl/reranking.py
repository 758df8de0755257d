"""Ranking the dataset again between epochs, with the policy as it is, in the process that trains it.

The scoring pass (gainrl.scoring) runs over the loaded model itself, adapters included, in the weights' own dtype;
nothing is copied and nothing changed.  Each process scores its share of the prompts and all of them gather the scores,
so that every rank has the same ranking.  The scores travel with the checkpoints (`curriculum_scores.npy`, four bytes a
prompt): a resumed run goes on over the ranking that the interrupted one had.
"""

from __future__ import annotations

import datetime
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accelerate import Accelerator
from accelerate.utils import gather_object

from gainrl.curriculum import Ranking
from gainrl.errors import UserError
from gainrl.files import atomic_path
from gainrl.integrations.trl.data import ScoredDataset
from gainrl.integrations.trl.random_state import preserved_random_state
from gainrl.scoring import AngleScorer, ScoringPrompt
from gainrl.scoring.prompts import DEFAULT_DATE

logger = logging.getLogger(__name__)

SCORES_NAME = "curriculum_scores.npy"

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Reranked:
    """The ranking made for an epoch, its Spearman correlation with the one before, and what it took."""

    epoch: int
    correlation: float
    seconds: float


def score_again(data: ScoredDataset, model: Any, tokenizer: Any, accelerator: Accelerator) -> Scores:
    """(N,) float32 scores of the rows that can be drawn (`data.usable`), NaN where undefined; on every rank the same.

    A collective.  `model` is the unwrapped model, whole in every process.
    """
    made = data.table.metadata
    if hasattr(model, "get_base_model"):  # PEFT's adapters live inside the base model's layers
        model = model.get_base_model()
    definition = made.definition + ("" if made.diagonal else ",no-diagonal")
    day = datetime.date.fromisoformat(made.template_date) if made.template_date else DEFAULT_DATE
    rows = data.usable[accelerator.process_index :: accelerator.num_processes]
    prompts = [ScoringPrompt(row["prompt"], row.get("question")) for row in (data.dataset[index] for index in rows)]
    with preserved_random_state():
        scorer = AngleScorer(
            model, tokenizer, question_after=made.question_after, date=day, tap=made.tap, definition=definition
        )
        result = scorer.score(prompts)
    failed = sum(gather_object([result.status.count("failed")]))
    if failed and accelerator.is_main_process:
        logger.warning("ranking again: %d of %d prompts failed and are ranked last", failed, len(data.usable))
    weight = made.inter_weight
    own = result.intra + weight * result.inter if weight else result.intra
    parts = gather_object([own.astype(np.float32)])
    scores = np.empty(len(data.usable), dtype=np.float32)
    for rank, part in enumerate(parts):
        scores[rank :: accelerator.num_processes] = part
    return scores


def rerank(trainer: Any, data: ScoredDataset, navigator: Any) -> tuple[Scores, Reranked]:
    """Score again, hand the navigator the new ranking (which completes its pending move), and compare."""
    started = time.perf_counter()
    model = trainer.accelerator.unwrap_model(trainer.model)
    scores = score_again(data, model, trainer._tokenizer, trainer.accelerator)
    before, after = navigator.ranking, data.ranked(scores)
    correlation = spearman(before, after)
    navigator.rerank(after)
    return scores, Reranked(navigator.epoch, correlation, time.perf_counter() - started)


def spearman(one: Ranking, other: Ranking) -> float:
    """Spearman's correlation of two rankings of the same prompts: 1 − 6·Σd²/(N(N²−1)), ranks without ties."""
    size = len(one)
    if size < 2:
        return 1.0
    moved = [other.rank_of(name) - rank for rank, name in enumerate(one.ids)]
    return 1.0 - 6.0 * sum(step * step for step in moved) / (size * (size * size - 1))


def require_rerankable(data: ScoredDataset, every: int) -> None:
    """UserError if a new ranking could not be made as the table was."""
    if data.table.metadata.control != "none":
        raise UserError(
            f"rerank_every={every}: the score table is ranked with control = {data.table.metadata.control!r}, which is "
            "fitted to the whole dataset; score without it, or leave rerank_every out"
        )


def require_whole_model(accelerator: Accelerator, every: int) -> None:
    """UserError if a process holds only a part of the model, which cannot score by itself."""
    state: Any = accelerator.state
    plugin = getattr(state, "deepspeed_plugin", None)
    sharded = "FSDP" if getattr(state, "fsdp_plugin", None) is not None else None
    if plugin is not None and getattr(plugin, "zero_stage", 0) == 3:
        sharded = "DeepSpeed ZeRO-3"
    if sharded:
        raise UserError(
            f"rerank_every={every} scores with the model of each process, and {sharded} leaves only a part of it "
            "there: leave rerank_every out, or train with DDP or ZeRO-1/2"
        )


def save_scores(directory: Path, scores: Scores) -> None:
    """Write the scores of the present ranking into a checkpoint, whole or not at all."""
    with atomic_path(directory / SCORES_NAME) as temporary, open(temporary, "wb") as file:
        np.save(file, scores, allow_pickle=False)


def load_scores(directory: Path, size: int) -> Scores | None:
    """The scores in a checkpoint, (size,) float32; None if the run was not ranked again before it."""
    path = directory / SCORES_NAME
    if not path.exists():
        return None
    scores = np.load(path, allow_pickle=False)
    if scores.shape != (size,) or scores.dtype != np.float32:
        raise UserError(f"{path} holds {scores.dtype} {scores.shape}, not the scores of {size} prompts")
    return np.asarray(scores, dtype=np.float32)
