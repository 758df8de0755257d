"""What the trainer's tests share: a tiny model, problems, a score table, a reward; also run by itself in processes."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[3]))  # where a launcher starts this file

from gainrl.integrations.trl import GainRLConfig, GainRLTrainer
from gainrl.table import ScoreTable, content_ids
from tests.score_tables import score_table
from tests.tiny_models import make_model

DEFAULTS: dict[str, Any] = {
    "num_generations": 2,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_steps": 4,
    "max_completion_length": 4,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "seed": 7,
    "navigator": "gaussian",
    "navigator_args": {"sigma": 4.0, "prompts_per_move": 4},
}


def problems(count: int = 24) -> list[dict[str, Any]]:
    """Rows with a chat, the row's number and one of three sources."""
    return [
        {"prompt": [{"role": "user", "content": f"{n} plus {n * n} is"}], "number": n, "source": "abc"[n % 3]}
        for n in range(count)
    ]


def tiny_model(directory: Path) -> str:
    return make_model(directory, texts=[row["prompt"][0]["content"] for row in problems()], context=128)


def make_table(rows: list[dict[str, Any]], **metadata: Any) -> ScoreTable:
    """Random scores; a random direction in each row."""
    rng = np.random.default_rng(0)
    columns = {"question_tokens": rng.integers(3, 9, len(rows))}
    return score_table(
        content_ids([row["prompt"] for row in rows]), rng.uniform(0.2, 1.8, len(rows)), columns, **metadata
    )


def chance(*key: Any) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    return int(hashlib.sha256(repr(key).encode()).hexdigest()[:8], 16) / 2**32


def rollout_reward(completions: list[Any], number: list[int], **columns: Any) -> list[float]:
    """Depends on the row and the rollout's index in the batch alone, so that no draw depends on the model's bits."""
    first = len(number) * PartialState().process_index
    return [float(chance(row, (first + index) % 4) < 0.5) for index, row in enumerate(number)]


def make_config(directory: Path | str, kind: Any = GainRLConfig, **settings: Any) -> Any:
    return kind(output_dir=str(directory), **{**DEFAULTS, **settings})


class Recorded:
    """Goes in front of a trainer class: `seen` has what TRL trained in each generation batch of this process."""

    seen: list[dict[str, Any]]

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: Any) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, completions, ids)  # type: ignore[misc]
        if self.model.training:  # type: ignore[attr-defined]
            seen = {"numbers": [row["number"] for row in inputs], "prompts": prompts, "rewards": rewards.tolist()}
            self.__dict__.setdefault("seen", []).append({**seen, "columns": sorted(inputs[0]), "ids": ids})
        return rewards


class RecordedTrainer(Recorded, GainRLTrainer):
    """GainRLTrainer with `seen`."""


def make_trainer(
    model: Any, directory: Path | str, *, rows: Any = None, kind: Any = RecordedTrainer, reward: Any = rollout_reward,
    table: Any = None, config: Any = None, **settings: Any,
) -> Any:  # fmt: skip
    """A trainer over `rows` (default: 24 problems); `settings` are the config's fields, or the trainer's arguments."""
    rows = problems() if rows is None else rows
    given = {name: settings.pop(name) for name in ("eval_dataset", "peft_config", "callbacks") if name in settings}
    return kind(
        model,
        reward_funcs=reward,
        args=config or make_config(directory, **settings),
        train_dataset=Dataset.from_list(rows) if isinstance(rows, list) else rows,
        scores=make_table(rows) if table is None else table,
        **given,
    )


def draws(directory: Path | str) -> list[dict[str, Any]]:
    """The lines of draws.jsonl without times."""
    lines = (Path(directory) / "draws.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "tokens")} for line in lines]


def settled(directory: Path | str) -> list[dict[str, Any]]:
    """What of each draw depends on draws and rewards alone, not on the model's bits."""
    kept = ("draw", "step", "navigator", "rows", "outcome", "accuracy", "mixed", "rollouts", "scored")
    return [{name: line[name] for name in kept} for line in draws(directory)]


def hand_angle(model: str, batches: list[dict[str, Any]]) -> float:
    """Mean over rollouts of |U|^2 / L^2 over prompt and completion, with the model as it is saved."""
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    found = []
    for prompt, completion in [pair for batch in batches for pair in zip(batch["prompts"], batch["ids"], strict=True)]:
        text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        ids = torch.tensor([tokenizer(text)["input_ids"] + completion])
        with torch.no_grad():
            hidden = network(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].double()
        unit = hidden / hidden.norm(dim=1, keepdim=True)
        found.append(float(unit.mean(dim=0).square().sum()))
    return float(np.mean(found))
