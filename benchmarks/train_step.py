"""What share of a training step do the angle measurement and the curriculum take?

    python benchmarks/train_step.py [--model smollm2-135m] [--steps 4] [--rollouts 16] [--completion 5]
                                    [--navigator gaussian] [--rerank-every K]

A real GRPO training of the model on graded arithmetic (plain text behind four worked examples).  `measure` is the
time inside the hook that reads the loss's activations, `curriculum` that of drawing, gathering and observing; both are
given per optimizer step and as shares of the time of all steps (generation, rewards, loss, backward, update).
`rerank` is the time of one pass that ranks the whole dataset again between epochs, where that is asked for.
The step is timed around `training_step` plus the optimizer, from one step's begin to the next one's.

Times on a shared machine drift; the shares do not, because both sides slow down together.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from harness import table, write_result
from transformers import AutoModelForCausalLM, TrainerCallback

from gainrl.integrations.trl import GainRLConfig, GainRLTrainer
from gainrl.scoring import load_tokenizer, resolve_model
from gainrl.table import SCHEMA, ScoreTable, TableMetadata, content_ids, fingerprint, ranks
from gainrl.tasks import load_task


class StepClock(TrainerCallback):
    """Seconds of each optimizer step, and of what is measured inside it."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.rows: list[dict[str, float]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at = time.perf_counter(), self.trainer.angle_tap.seconds, self.trainer.curriculum_seconds

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter(), self.trainer.angle_tap.seconds, self.trainer.curriculum_seconds
        step, measure, curriculum = (after - before for after, before in zip(now, self._at, strict=True))
        self.rows.append({"step_s": step, "measure_s": measure, "curriculum_s": curriculum})


def table_of(rows: list[dict[str, Any]]) -> ScoreTable:
    """A table with random scores: which prompts are drawn does not matter here."""
    ids = content_ids([row["prompt"] for row in rows])
    scores = np.random.default_rng(0).uniform(0.2, 1.8, len(rows)).astype(np.float32)
    columns = {
        "id": ids, "row": np.arange(len(rows)), "status": ["ok"] * len(rows), "reason": [None] * len(rows),
        "intra": scores / 2, "inter": scores / 2, "score": scores, "rank": ranks(ids, scores),
        "prefix_tokens": np.ones(len(rows), np.int32), "question_tokens": np.ones(len(rows), np.int32),
    }  # fmt: skip
    metadata = TableMetadata("random", "", "", "", "arithmetic", "train", None, fingerprint(ids), len(rows))
    return ScoreTable(pa.table(columns, schema=SCHEMA), metadata)


def measure(
    model_name: str, steps: int, rollouts: int, completion: int, bf16: bool, navigator: str, rerank_every: int | None
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Seconds of each step, and of the two kinds of work over the whole run (draws lie between the steps)."""
    task = load_task("arithmetic")
    rows = task.load("train")
    tokenizer = load_tokenizer(model_name)
    tokenizer.padding_side = "left"
    clock = StepClock()
    with tempfile.TemporaryDirectory() as directory:
        trainer = GainRLTrainer(
            AutoModelForCausalLM.from_pretrained(resolve_model(model_name), dtype="float32"),
            reward_funcs=task.reward_function(),
            args=GainRLConfig(
                output_dir=directory, prompts_per_epoch=rollouts // 4, num_generations=4, bf16=bf16, use_cpu=True,
                per_device_train_batch_size=rollouts, num_train_epochs=steps, max_completion_length=completion,
                activation_checkpointing=False, save_strategy="no", report_to=[], disable_tqdm=True,
                dataloader_pin_memory=False, curriculum_navigator=navigator, rerank_every=rerank_every,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[clock],
            scores=table_of(rows),
        )  # fmt: skip
        clock.trainer = trainer
        trainer.train()
        records = [json.loads(line) for line in Path(directory, "epochs.jsonl").read_text().splitlines()]
        reranks = [record["rerank_seconds"] for record in records if record.get("rerank_seconds")]
        shares = {
            "measure": trainer.angle_tap.seconds,
            "curriculum": trainer.curriculum_seconds,
            "rerank_s": statistics.median(reranks) if reranks else 0.0,
        }
    return clock.rows, shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rollouts", type=int, default=16, help="of one step; a multiple of 4")
    parser.add_argument("--completion", type=int, default=5, help="most tokens of a completion")
    parser.add_argument("--navigator", default="gaussian")
    parser.add_argument("--rerank-every", type=int)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    results = []
    for dtype in arguments.dtype:
        rows, whole = measure(
            arguments.model, arguments.steps, arguments.rollouts, arguments.completion, dtype == "bfloat16",
            arguments.navigator, arguments.rerank_every,
        )  # fmt: skip
        total = sum(row["step_s"] for row in rows)
        results.append(
            {
                "case": f"{arguments.model} {dtype}, {arguments.rollouts} rollouts, {arguments.navigator}",
                "step_s": statistics.median(row["step_s"] for row in rows),
                "measure_s": statistics.median(row["measure_s"] for row in rows),
                "curriculum_s": statistics.median(row["curriculum_s"] for row in rows),
                "measure_share": whole["measure"] / total,
                "curriculum_share": whole["curriculum"] / total,
                "rerank_s": whole["rerank_s"],
                "steps": len(rows),
            }
        )
    print(table(results))
    write_result("train_step", results)


if __name__ == "__main__":
    main()
