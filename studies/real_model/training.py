"""One run: an arm through gainrl's trainer, with exact accuracy on fresh problems along the way."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, TrainerCallback, set_seed

from gainrl.files import cache_directory
from gainrl.integrations.trl import GainRLConfig, GainRLTrainer
from gainrl.integrations.trl.script import stopping
from gainrl.models import load_tokenizer, resolve_model
from gainrl.scoring import AngleScorer, ScoringPrompt, Source, score_dataset
from gainrl.table import ScoreTable
from studies.generation import generate
from studies.real_model.problems import END, Accuracy, Protocol, right


class Trainer(GainRLTrainer):
    """GainRLTrainer whose update costs what the mixed groups cost."""

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        """The same loss and gradient (TRL's default loss divides by the whole batch's tokens), without the rows
        whose advantage is 0.  If angles are measured, all rows pass."""
        if self._tap is None:
            keep = inputs["advantages"] != 0
            keep[0] |= ~keep.any()
            inputs = {
                name: value[keep] if isinstance(value, torch.Tensor) and value.shape[:1] == keep.shape else value
                for name, value in inputs.items()
            }
        return super()._compute_loss(model, inputs)


def rollouts(prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
    """TRL's `rollout_func`."""
    group = trainer.num_generations
    asked, completions = generate(
        trainer.model, trainer.processing_class, prompts[::group], group, trainer.eos_token_ids,
        trainer.max_completion_length,
    )  # fmt: skip
    asked = [ids for ids in asked for _ in range(group)]
    return {"prompt_ids": asked, "completion_ids": completions, "logprobs": None}


class Progress(TrainerCallback):
    """Evaluates every so many steps."""

    def __init__(self, accuracy: Accuracy, protocol: Protocol) -> None:
        self.trainer: Any = None
        self.curve: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._accuracy, self._every, self._last = accuracy, protocol.evaluate_every, protocol.steps
        self._per_step = protocol.shape[0] * protocol.shape[1]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._evaluate(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self._every == 0 or state.global_step == self._last:
            self._evaluate(state.global_step)

    def _evaluate(self, step: int) -> None:
        started = time.perf_counter()
        found = self._accuracy(self.trainer.model)
        self.curve.append({"step": step, "rollouts": step * self._per_step, "accuracy": round(float(found.mean()), 5)})
        self.seconds += time.perf_counter() - started


def run(protocol: Protocol, arm: str, seed: int, rate: float) -> dict[str, Any]:
    """Train one arm; what came of it, as JSON types (without provenance)."""
    (prompts, group), rows = protocol.shape, protocol.rows(seed)
    tokenizer = load_tokenizer(protocol.model)
    tokenizer.padding_side = "left"
    longest = Accuracy(tokenizer, rows).longest
    progress = Progress(Accuracy(tokenizer, protocol.held_out()), protocol)
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = GainRLConfig(
            output_dir=directory, **protocol.arms[arm], max_steps=protocol.steps, seed=seed, num_generations=group,
            per_device_train_batch_size=prompts * group, gradient_accumulation_steps=1, learning_rate=rate,
            lr_scheduler_type="constant_with_warmup", warmup_steps=2, max_completion_length=longest + 1,
            temperature=1.0, gradient_checkpointing=False, save_strategy="no", logging_strategy="no", report_to=[],
            disable_tqdm=True,
        )  # fmt: skip
        set_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(
            resolve_model(protocol.model), dtype="bfloat16" if settings.bf16 else "float32"
        )
        table = score_table(model, tokenizer, protocol, rows)
        with stopping(model, tokenizer, [END]):
            trainer = Trainer(
                model, reward_funcs=right, args=settings, train_dataset=Dataset.from_list(rows), scores=table,
                processing_class=tokenizer, callbacks=[progress], peft_config=LoraConfig(**protocol.lora),
                rollout_func=rollouts,
            )  # fmt: skip
        progress.trainer = trainer
        started, cpu = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        draws = [json.loads(line) for line in Path(directory, "draws.jsonl").read_text().splitlines()]
    return {
        "model": protocol.model, "family": protocol.family, "arm": arm, "seed": seed,
        "rate": rate, "settings": protocol.arms[arm], "shape": protocol.shape, "steps": len(draws),
        "rollouts": sum(draw["rollouts"] for draw in draws), "tokens": sum(draw["tokens"] for draw in draws),
        "precision": "bf16" if settings.bf16 else "float32", "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "evaluation_seconds": round(progress.seconds, 1),
        **{name: [round(draw[name], 4) for draw in draws] for name in ("mixed", "all_right", "all_wrong")},
        "curve": progress.curve,
    }  # fmt: skip


def score_table(model: Any, tokenizer: Any, protocol: Protocol, rows: Sequence[dict[str, Any]]) -> ScoreTable:
    """The score table of these rows, made once by gainrl's scorer with the untrained model, and kept."""
    key = hashlib.sha256("\0".join([protocol.model, *(row["prompt"] for row in rows)]).encode()).hexdigest()[:16]
    path = cache_directory() / "real_model" / f"{key}.parquet"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        prompts = [ScoringPrompt(row["prompt"], row["question"]) for row in rows]
        scorer = AngleScorer(model.eval(), tokenizer, directions=True)
        score_dataset(scorer, prompts, path, Source(protocol.family), overwrite=True)
    return ScoreTable.read(path)
