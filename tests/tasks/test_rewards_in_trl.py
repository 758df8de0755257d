"""A training step of TRL's own GRPOTrainer, and of GainRLTrainer, with a task's reward function and real completions.

The tiny model is taught the answers until it is right about half of the time, so that rewards vary within a group.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

pytest.importorskip("trl", reason="trl is not installed")

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from gainrl.integrations.trl import GainRLConfig, GainRLTrainer
from gainrl.scoring import AngleScorer, ScoringPrompt, Source, load_model, load_tokenizer, score_dataset
from gainrl.tasks import load_task
from gainrl.tasks.sandbox import isolation
from tests.tiny_models import make_model, teach

pytestmark = [pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*is deprecated:FutureWarning")]

GSM8K = [{"question": f"What is {n} plus {4 - n}?", "answer": f"It is 4.\n#### {4}"} for n in range(4)]
HUMANEVAL = [
    {
        "task_id": f"Made/{n}",
        "prompt": f'def four{n}():\n    """The number 4, way {n}."""\n',
        "entry_point": f"four{n}",
        "canonical_solution": "    return 4\n",
        "test": "def check(candidate):\n    assert candidate() == 4\n",
    }
    for n in range(4)
]
# records, split, a right completion and a wrong one
TASKS = {
    "gsm8k": (GSM8K, "train", "\\boxed{4}", "\\boxed{5}"),
    "humaneval": (HUMANEVAL, "test", "    return 4", "    return 5"),
}
SHORT: dict[str, Any] = {
    "num_generations": 8,
    "per_device_train_batch_size": 32,
    "max_completion_length": 12,
    "max_steps": 1,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "seed": 3,
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Per task: the task, its rows from a file, a model that is right half of the time, and a score table."""

    @functools.cache
    def prepare(name: str) -> tuple[Any, list[dict[str, Any]], str, Path]:
        if name == "humaneval" and isolation() != "ok":
            pytest.skip(f"bubblewrap: {isolation()}")
        folder = tmp_path_factory.mktemp(name)
        records, split, right, wrong = TASKS[name]
        (folder / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        task = load_task(name)
        rows = task.load(split, folder / "rows.jsonl")
        texts = [json.dumps(row["prompt"]) for row in rows] * 4 + [right, wrong] * 8
        model = make_model(folder / "model", texts=texts, context=1024)
        teach(model, [(row["prompt"], answer) for row in rows for answer in (right, wrong)], steps=60)
        scorer = AngleScorer(load_model(model), load_tokenizer(model))
        prompts = [ScoringPrompt(row["prompt"], row["question"]) for row in rows]
        score_dataset(scorer, prompts, folder / "scores.parquet", Source("rows"))
        return task, rows, model, folder / "scores.parquet"

    return prepare


@pytest.mark.parametrize("name", TASKS)
def test_a_step_of_trls_own_trainer_learns_from_the_tasks_reward(name: str, taught: Any, tmp_path: Path) -> None:
    task, rows, model, _ = taught(name)
    reward = task.reward_function()
    trainer = GRPOTrainer(
        model,
        reward_funcs=[reward],
        args=GRPOConfig(output_dir=str(tmp_path / "out"), **SHORT),
        train_dataset=Dataset.from_list(rows),
    )
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.state.global_step == 1
    assert reward.counts.total() == 32
    assert set(reward.counts) == {"right", "wrong"}, "the tiny model should be right sometimes and wrong sometimes"
    log = trainer.state.log_history[0]
    assert log[f"rewards/{name}_reward/mean"] == pytest.approx(reward.counts["right"] / 32)
    assert log["grad_norm"] > 0
    assert any(not value.equal(before[name]) for name, value in trainer.model.named_parameters())


def first_draw(model: str, reward: Any, rows: list[dict[str, Any]], scores: Path, folder: Path) -> dict[str, Any]:
    """The record of one draw of 4 prompts x 8 rollouts."""
    trainer = GainRLTrainer(
        model,
        reward_funcs=[reward],
        args=GainRLConfig(output_dir=str(folder), **SHORT),
        train_dataset=Dataset.from_list(rows),
        scores=scores,
    )
    trainer.train()
    record: dict[str, Any] = json.loads((folder / "draws.jsonl").read_text().splitlines()[0])
    return record


@pytest.mark.parametrize("name", TASKS)
def test_a_step_of_the_curriculum_trainer_knows_the_tasks_accuracy(name: str, taught: Any, tmp_path: Path) -> None:
    task, rows, model, scores = taught(name)
    reward = task.reward_function()
    draw = first_draw(model, reward, rows, scores, tmp_path / "out")
    assert draw["rollouts"] == draw["scored"] == 32
    assert draw["accuracy"] == pytest.approx(reward.counts["right"] / 32)
    assert 0 < draw["accuracy"] < 1


def test_unscorable_completions_are_left_out_of_reward_and_accuracy(taught: Any, tmp_path: Path) -> None:
    task, rows, model, scores = taught("gsm8k")
    rows = [{**rows[0], "answer": ""}, *rows[1:]]  # a row without a gold answer
    reward = task.reward_function(max_unscorable_share=0.5)
    draw = first_draw(model, reward, rows, scores, tmp_path / "out")
    assert (draw["rollouts"], draw["scored"]) == (32, 24)
    assert reward.counts["unscorable"] == 8
    assert draw["accuracy"] == pytest.approx(reward.counts["right"] / 24)
