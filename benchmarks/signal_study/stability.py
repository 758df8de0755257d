"""The ranking as training goes on: rank correlations of later scores with those of the model before training.

A tiny case is trained here, by gainrl's own trainer on uniformly drawn prompts with the convergence study's protocol,
and ranked again every few steps; for SmolLM2 name the checkpoints of a run.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.signal_study.cases import Problems, find
from benchmarks.signal_study.measure import score
from benchmarks.signal_study.results import write_result
from benchmarks.signal_study.statistics import length_controlled, spearman_interval
from gainrl.errors import UserError
from gainrl.scoring import load_model, load_tokenizer

COMPARED = ("score", "score_no_diagonal", "length_controlled", "inter", "nll", "pass_rate")
EVERY = 10
"""Steps from one ranking of a tiny model to the next."""

Measured = Callable[[Any, str], None]


def run(name: str, after: Sequence[str]) -> None:
    """Rank the case's prompts before and after; writes benchmarks/results/signal_stability_CASE.json."""
    missing = [path for path in after if not Path(path, "config.json").is_file()]
    if missing:
        raise UserError(f"{missing[0]!r} is no model directory: name checkpoints of a run")
    if not after and not name.startswith("tiny-"):
        raise UserError(f"case {name!r} is not trained here: give --after with checkpoints of a run")
    case = find(name)
    problems = case.open(case.prompts)
    tokenizer = load_tokenizer(problems.model)
    first: dict[str, Any] = {}
    table: list[dict[str, Any]] = []

    def rank(model: Any, when: str) -> None:
        found = _columns(problems, model, tokenizer)
        if not first:
            first.update(found)
            return
        row: dict[str, Any] = {"case": name, "after": when, "prompts": len(problems.rows)}
        row |= {signal: spearman_interval(first[signal], found[signal]) for signal in COMPARED if signal in found}
        if "pass_rate" in found:
            row["mean_pass_rate"] = [float(first["pass_rate"].mean()), float(found["pass_rate"].mean())]
            row["c_with_pass_rate"] = [
                spearman_interval(one["score"], one["pass_rate"]) for one in (first, found)
            ]  # fmt: skip
        table.append(row)

    if after:
        for path in (problems.model, *after):
            rank(load_model(path, dtype="float32"), Path(path).name)
    else:
        _train(name.removeprefix("tiny-"), rank)
    write_result(f"signal_stability_{name.replace('-', '_')}", table)


def _columns(problems: Problems, model: Any, tokenizer: Any) -> dict[str, np.ndarray]:
    rows = list(problems.rows)
    training = model.training
    model.eval()
    found = score(model, tokenizer, rows)
    found["length_controlled"] = length_controlled(found["score"], found["question_tokens"])
    if problems.exact is not None:
        found["pass_rate"] = problems.exact(model, rows)
    model.train(training)
    return found


def _train(family: str, rank: Measured) -> None:
    """Train the family's bed (seed 0) with uniform draws, and call `rank` before and every few steps."""
    from transformers import TrainerCallback

    from benchmarks.convergence.bed import right_answers
    from benchmarks.convergence.protocol import load
    from benchmarks.convergence.rankings import score_table
    from benchmarks.convergence.training import settings_for
    from gainrl.integrations.trl import GainRLTrainer

    protocol = load()
    bed = protocol.bed(family, 0)
    table, _ = score_table(bed)

    class Ranking(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            rank(trainer.model, "0 steps")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % EVERY == 0 or state.global_step == state.max_steps:
                rank(trainer.model, f"{state.global_step} steps")

    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = GainRLTrainer(
            bed.model(),
            reward_funcs=right_answers,
            args=settings_for(protocol, "uniform", bed, directory),
            train_dataset=bed.dataset,
            processing_class=bed.tokenizer,
            callbacks=[Ranking()],
            scores=table,
        )
        trainer.train()
