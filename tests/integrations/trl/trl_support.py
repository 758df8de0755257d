"""What the trainer's tests share: a tiny random model with a real tokenizer, problems, a score table, a reward.

Everything is built here from seeds; nothing is fetched.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from gainrl.integrations.trl import GainRLConfig, GainRLTrainer
from gainrl.integrations.trl.checkpoints import checkpoints, step_of
from gainrl.table import ScoreTable, content_ids

sys.path.insert(0, str(Path(__file__).parents[2]))  # also where scripts of this folder run by themselves

from score_tables import score_table
from tiny_models import make_tokenizer

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def problems(count: int = 24, *, seed: int = 0) -> list[dict[str, str]]:
    """Plain-text problems of varying length."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        left, right = rng.randrange(10 ** rng.randrange(1, 5)), rng.randrange(10)
        question = f"{left} + {right} ="
        rows.append({"prompt": f"1 + 1 = 2\n{question}", "question": question, "answer": str(left + right)})
    return rows


def make_model(directory: Path, *, kind: str = "qwen2", **changes: int) -> str:
    """Save a random two-layer model and a byte-level BPE tokenizer to `directory`; returns its path.

    `changes` are fields of its configuration.
    """
    texts = [row["prompt"] for row in problems(200, seed=1)]
    fast = make_tokenizer(texts, size=320, chat_template=CHAT_TEMPLATE)
    sizes = {
        "vocab_size": len(fast),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": fast.pad_token_id,
        "eos_token_id": fast.eos_token_id,
        "bos_token_id": None,
        **changes,
    }
    torch.manual_seed(0)
    if kind == "qwen2":
        model: Any = Qwen2ForCausalLM(Qwen2Config(**sizes))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    return str(directory)


def make_table(rows: list[dict[str, Any]], *, seed: int = 0, **metadata: Any) -> ScoreTable:
    """A score table for these rows with random scores."""
    scores = np.random.default_rng(seed).uniform(0.2, 1.8, len(rows)).astype(np.float32)
    columns = {
        "intra": scores / 2,
        "inter": scores / 2,
        "prefix_tokens": [5] * len(rows),
        "question_tokens": [7] * len(rows),
    }
    given = {"model": "tiny", "dataset": "problems", "split": "train", "tokenizer_hash": "", **metadata}
    return score_table(content_ids([row["prompt"] for row in rows]), scores, columns, **given)


def parity(completions: list[Any], **columns: Any) -> list[float]:
    """A reward that varies within groups: 1 for completions with an even number of characters."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [float(len(text) % 2 == 0) for text in texts]


DEFAULTS: dict[str, Any] = {
    "prompts_per_epoch": 8,
    "num_generations": 2,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 2,
    "max_completion_length": 4,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "seed": 7,
}
WINDOW: dict[str, Any] = {"curriculum_navigator": "gaussian", "curriculum_sigma": 4.0}


def make_config(directory: Path | str, **settings: Any) -> GainRLConfig:
    """A config for short runs on the CPU, with a Gaussian window unless `settings` name another navigator."""
    window = WINDOW if settings.get("curriculum_navigator", "gaussian") in ("gaussian", "target") else {}
    return GainRLConfig(output_dir=str(directory), **{**DEFAULTS, **window, **settings})


def make_trainer(
    model: str, directory: Path | str, *, rows: list[dict[str, Any]] | None = None, kind: Any = GainRLTrainer,
    reward: Any = parity, table: ScoreTable | None = None, config: Any = None, trainer: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:  # fmt: skip
    """A trainer over `rows` (default: 24 problems) with a random ranking."""
    rows = problems() if rows is None else rows
    return kind(
        model,
        reward_funcs=reward,
        args=config or make_config(directory, **settings),
        train_dataset=Dataset.from_list(rows),
        scores=make_table(rows) if table is None else table,
        **(trainer or {}),
    )


def recorded(kind: Any = GainRLTrainer) -> Any:
    """A trainer class that keeps what passed through it: prompts, completions, losses, and the mean of each epoch."""

    class Recorded(kind):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.seen: list[dict[str, Any]] = []
            super().__init__(*args, **kwargs)

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            if self.model.training:
                self.seen.append(
                    {
                        "step": self.state.global_step,
                        "prompts": [row["prompt"] for row in inputs],
                        "completions": output["completion_ids"].tolist(),
                    }
                )
            return output

    return Recorded


def losses(trainer: Any) -> dict[int, float]:
    """Loss of each optimizer step, as logged."""
    return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}


def epoch_records(
    directory: Path | str, *, without: tuple[str, ...] = ("seconds", "rerank_seconds")
) -> list[dict[str, Any]]:
    """The lines of epochs.jsonl, timing left out."""
    lines = (Path(directory) / "epochs.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in without} for line in lines]


def copy_up_to(source: Path, target: Path, step: int) -> Path:
    """The run directory as a kill right after the checkpoint of `step` leaves it (or a little later)."""
    shutil.copytree(source, target)
    for directory in checkpoints(target):
        if step_of(directory) > step:
            shutil.rmtree(directory)
    return target


def check_rest(resumed: Any, whole: Any, step: int) -> None:
    """A run resumed at `step` was the rest of the whole one: batches, losses, and where the curriculum is in the end.

    Both are of `recorded` classes.
    """
    assert resumed.seen == [batch for batch in whole.seen if batch["step"] >= step]
    assert losses(resumed) == losses(whole)
    assert resumed.navigator.state_dict() == whole.navigator.state_dict()
