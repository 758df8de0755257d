"""One run: an arm through gainrl's own trainer, with accuracy on fresh problems along the way."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from gainrl.integrations.trl import GainRLConfig, GainRLTrainer
from gainrl.scoring import AngleScorer, ScoringPrompt, Source, score_dataset
from gainrl.table import ScoreTable
from studies.convergence.arms import ARMS, arm
from studies.convergence.bed import Bed, right_answers
from studies.convergence.navigators import Screening, Told, register
from studies.convergence.protocol import Protocol, Shape
from studies.generation import generate


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


def run(
    protocol: Protocol, family: str, name: str, seed: int, shape: Shape, *,
    trainer_class: Any = GainRLTrainer, prepare: Callable[[Bed, Any], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train one arm; what came of it, as JSON types (without provenance).

    For `bounds`: `name` may be a navigator that is no arm, and `prepare` gets the bed and the trainer.
    """
    register()
    bed = protocol.bed(family, seed)
    per_step = shape.prompts * shape.rollouts
    screening = {"screen": min(4, shape.rollouts), "group": shape.rollouts}
    progress = Progress(bed, protocol.evaluate_every, protocol.budget, per_step)
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = GainRLConfig(
            output_dir=directory, navigator=arm(name).navigator if name in ARMS else name,
            navigator_args=screening if name in ("speed", "greso") else _window(name, shape),
            baseline_rollouts=ARMS[name].baseline_rollouts if name in ARMS else 0.0,
            max_steps=protocol.budget // per_step * (1 if prepare is None else 2),  # Progress stops it
            seed=seed, num_generations=shape.rollouts,
            per_device_train_batch_size=per_step, gradient_accumulation_steps=1, learning_rate=shape.rate,
            lr_scheduler_type="constant_with_warmup", warmup_steps=4, max_completion_length=bed.longest_answer,
            temperature=1.0, use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
            logging_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = trainer_class(
            bed.model(), reward_funcs=right_answers, args=settings, train_dataset=bed.dataset,
            processing_class=bed.tokenizer, callbacks=[progress], scores=score_table(bed),
        )  # fmt: skip
        progress.trainer = trainer
        navigator: Any = trainer.navigator
        if isinstance(navigator, Told):
            navigator.pass_rates = lambda: _timed(progress, bed, trainer)[navigator.prompts.rows]
        if isinstance(navigator, Screening):
            navigator.sample = partial(_sample, bed, trainer)
            trainer.rollout_func = _rollouts
        if prepare is not None:
            prepare(bed, trainer)
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


def _sample(bed: Bed, trainer: Any, index: Any, count: int) -> tuple[list[list[list[int]]], Any]:
    """Rollouts that a navigator asks for: (by prompt, token ids), and how many of each prompt are right."""
    problems = [bed.problems[row] for row in trainer.navigator.prompts.rows[index]]
    prompts = [bed.family.prompt(problem) for problem in problems]
    _, ids = generate(
        trainer.model, bed.tokenizer, prompts, count, trainer.eos_token_ids, trainer.max_completion_length
    )
    texts = bed.tokenizer.batch_decode(ids, skip_special_tokens=True)
    answers = [problem.answers for problem in problems for _ in range(count)]
    right = np.array(right_answers(texts, answers)).reshape(-1, count).sum(axis=1)
    return [ids[at : at + count] for at in range(0, len(ids), count)], right.astype(np.int64)


def _rollouts(prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
    """TRL's `rollout_func`: the rollouts that the navigator has kept, and new ones up to the group's size."""
    group, navigator = trainer.num_generations, trainer.navigator
    kept = [navigator.kept.get(int(index), []) for index in navigator._last]
    more = max(group - min(map(len, kept)), 1)
    asked, new = generate(
        trainer.model, trainer.processing_class, prompts[::group], more, trainer.eos_token_ids,
        trainer.max_completion_length,
    )  # fmt: skip
    groups = [(old + new[at * more : (at + 1) * more])[:group] for at, old in enumerate(kept)]
    return {
        "prompt_ids": [ids for ids in asked for _ in range(group)],
        "completion_ids": [ids for one in groups for ids in one],
        "logprobs": None,
    }


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
    return ScoreTable.read(path) if path.is_file() else scored(bed.model(), bed, path)


def scored(model: Any, bed: Bed, path: Path) -> ScoreTable:
    """The bed's score table as this model gives it, written to `path`."""
    prompts = [ScoringPrompt(bed.family.prompt(problem), problem.question) for problem in bed.problems]
    training = model.training
    scorer = AngleScorer(model.eval(), bed.tokenizer, directions=True)
    score_dataset(scorer, prompts, path, Source(f"{bed.family.name}/{bed.seed}"), overwrite=True)
    model.train(training)
    return ScoreTable.read(path)
