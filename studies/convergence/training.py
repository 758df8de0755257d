"""One run: an arm through gainrl's own trainer, with accuracy on fresh problems along the way."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from gainrl.integrations.trl import GainRLConfig, GainRLTrainer
from gainrl.scoring import AngleScorer, ScoringPrompt, Source, score_dataset
from gainrl.table import ScoreTable
from studies.convergence.arms import arm
from studies.convergence.bed import Bed, right_answers
from studies.convergence.navigators import Told, register
from studies.convergence.protocol import Protocol, Shape


class Progress(TrainerCallback):
    """Evaluates every so many rollouts, and stops when the budget is spent."""

    def __init__(self, bed: Bed, every: int, budget: int, per_step: int) -> None:
        self.trainer: Any = None
        self.curve: list[dict[str, Any]] = []
        self.seconds_elsewhere = 0.0
        self._bed, self._every, self._budget, self._per_step = bed, every, budget, per_step
        self._evaluated = 0
        self._levels = np.array([problem.level for problem in bed.held_out])

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._evaluate(0, 0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        rollouts = state.global_step * self._per_step + getattr(self.trainer.navigator, "extra", 0)
        spent = rollouts >= self._budget
        if spent or rollouts >= self._evaluated + self._every:
            self._evaluate(state.global_step, rollouts)
            self._evaluated = rollouts - rollouts % self._every
        control.should_training_stop |= spent

    def _evaluate(self, step: int, rollouts: int) -> None:
        started = time.perf_counter()
        passes = self._bed.pass_rates(self.trainer.model, self._bed.held_out)
        by_level = [round(float(passes[self._levels == level].mean()), 4) for level in np.unique(self._levels)]
        accuracy = round(float(passes.mean()), 5)
        self.curve.append({"step": step, "rollouts": rollouts, "accuracy": accuracy, "by_level": by_level})
        self.seconds_elsewhere += time.perf_counter() - started


def run(protocol: Protocol, family: str, name: str, seed: int, shape: Shape) -> dict[str, Any]:
    """Train one arm; what came of it, as JSON types (without provenance)."""
    register()
    bed = protocol.bed(family, seed)
    per_step = shape.prompts * shape.rollouts
    screening = {"screen": min(4, shape.rollouts), "group": shape.rollouts}
    progress = Progress(bed, protocol.evaluate_every, protocol.budget, per_step)
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = GainRLConfig(
            output_dir=directory, navigator=arm(name).navigator,
            navigator_args=screening if name in ("speed", "greso") else _window(name, shape),
            max_steps=protocol.budget // per_step, seed=seed, num_generations=shape.rollouts,
            per_device_train_batch_size=per_step, gradient_accumulation_steps=1, learning_rate=shape.rate,
            lr_scheduler_type="constant_with_warmup", warmup_steps=4, max_completion_length=bed.longest_answer,
            temperature=1.0, use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
            logging_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = GainRLTrainer(
            bed.model(), reward_funcs=right_answers, args=settings, train_dataset=bed.dataset,
            processing_class=bed.tokenizer, callbacks=[progress], scores=score_table(bed),
        )  # fmt: skip
        progress.trainer = trainer
        navigator: Any = trainer.navigator
        if isinstance(navigator, Told):
            navigator.pass_rates = lambda: _timed(progress, bed, trainer)[navigator.prompts.rows]
        started, cpu = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        draws = [json.loads(line) for line in Path(directory, "draws.jsonl").read_text().splitlines()]
    return {
        "family": family, "arm": name, "seed": seed, "shape": list(shape), "usual": _usual(protocol, name, shape),
        "base": weights_hash(bed), "steps": len(draws), "rollouts": progress.curve[-1]["rollouts"],
        "tokens": sum(draw["tokens"] for draw in draws), "groups": sum(len(draw["rows"]) for draw in draws),
        "mixed": sum(outcome[2] for draw in draws for outcome in draw["outcome"]),
        "all_right": round(sum(draw["all_right"] * len(draw["rows"]) for draw in draws)),
        "all_wrong": round(sum(draw["all_wrong"] * len(draw["rows"]) for draw in draws)),
        "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1),
        "evaluation_seconds": round(progress.seconds_elsewhere, 1), "threads": torch.get_num_threads(),
        "levels": [level.name for level in bed.family.levels], "curve": progress.curve,
    }  # fmt: skip


def _usual(protocol: Protocol, name: str, shape: Shape) -> bool:
    return name == "uniform" and shape == protocol.usual


def _window(name: str, shape: Shape) -> dict[str, Any] | None:
    """GAIN-RL moves its window with every draw here: an epoch of the paper's 1,024 prompts would be a run of ours."""
    return {"prompts_per_move": shape.prompts} if name == "gainrl" else None


def _timed(progress: Progress, bed: Bed, trainer: Any) -> Any:
    started = time.perf_counter()
    found = bed.pass_rates(trainer.model, bed.problems)
    progress.seconds_elsewhere += time.perf_counter() - started
    return found


def weights_hash(bed: Bed) -> str:
    """Of the base's weights: a run belongs to them."""
    return hashlib.sha256((bed.directory / "model.safetensors").read_bytes()).hexdigest()[:12]


def score_table(bed: Bed) -> ScoreTable:
    """The bed's score table, made by gainrl's scorer with the base; kept beside it."""
    problems = "\n".join(bed.dataset["prompt"])
    path = bed.directory / f"scores-{hashlib.sha256(problems.encode()).hexdigest()[:12]}.parquet"
    if not path.is_file():
        prompts = [ScoringPrompt(bed.family.prompt(problem), problem.question) for problem in bed.problems]
        scorer = AngleScorer(bed.model().eval(), bed.tokenizer, directions=True)
        score_dataset(scorer, prompts, path, Source(f"{bed.family.name}/{bed.seed}"), overwrite=True)
    return ScoreTable.read(path)
