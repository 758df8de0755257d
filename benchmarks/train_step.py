"""What the curriculum costs a training step: drawing and observing, and measuring angles.

    python benchmarks/train_step.py [--steps 6] [--rollouts 32] [--completion 16] [--navigator gaussian]

Trains the packaged SmolLM2-135M on arithmetic with random scores for a few steps, prints the share of the steps' time,
and writes `benchmarks/results/train_step.json`.  Angles are timed at the op, the curriculum at its two calls.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from harness import write_result
from transformers import AutoModelForCausalLM

from gainrl.integrations.trl import GainRLConfig, GainRLTrainer
from gainrl.integrations.trl import trainer as trainers
from gainrl.scoring import load_tokenizer, resolve_model
from gainrl.table import SCHEMA, ScoreTable, TableMetadata, content_ids, fingerprint, positions
from gainrl.tasks import load_task


def table_of(rows: list[dict[str, Any]]) -> ScoreTable:
    """A table with random scores: which prompts are drawn does not matter here."""
    ids = content_ids([row["prompt"] for row in rows])
    scores = np.random.default_rng(0).uniform(0.2, 1.8, len(rows)).astype(np.float32)
    columns = {
        "id": ids, "row": np.arange(len(rows)), "status": ["ok"] * len(rows), "reason": [None] * len(rows),
        "intra": scores / 2, "inter": scores / 2, "score": scores, "position": positions(scores),
        "prefix_tokens": np.ones(len(rows), np.int32), "question_tokens": np.ones(len(rows), np.int32),
    }  # fmt: skip
    metadata = TableMetadata("random", "", "", "", "arithmetic", "train", None, fingerprint(ids), len(rows))
    return ScoreTable(pa.table(columns, schema=SCHEMA), metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rollouts", type=int, default=32, help="of one step; a multiple of 4")
    parser.add_argument("--completion", type=int, default=16, help="most tokens of a completion")
    parser.add_argument("--navigator", default="gaussian")
    options = parser.parse_args()
    measured = 0.0
    op = trainers.angle_concentration

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal measured
        started = time.perf_counter()
        found = op(*args, **kwargs)
        measured += time.perf_counter() - started
        return found

    trainers.angle_concentration = timed
    rows = load_task("arithmetic").load("train")
    with tempfile.TemporaryDirectory() as directory:
        trainer = GainRLTrainer(
            AutoModelForCausalLM.from_pretrained(resolve_model("smollm2-135m"), dtype="float32"),
            reward_funcs=load_task("arithmetic").reward_function(),
            args=GainRLConfig(
                directory, num_generations=4, per_device_train_batch_size=options.rollouts, max_steps=options.steps,
                gradient_accumulation_steps=1, max_completion_length=options.completion, navigator=options.navigator,
                log_angle=True, save_strategy="no", report_to=[], disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(rows), processing_class=load_tokenizer("smollm2-135m"),
            scores=table_of(rows),
        )  # fmt: skip
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    shares = {"measuring": measured / seconds, "curriculum": trainer.curriculum_seconds / seconds}
    for name, share in shares.items():
        print(f"{name:<12} {share:.3%} of a step of {seconds / options.steps:.2f} s")
    write_result("train_step", [{"navigator": options.navigator, "step_s": seconds / options.steps, **shares}])


if __name__ == "__main__":
    main()
