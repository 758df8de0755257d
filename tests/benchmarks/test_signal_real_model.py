"""The real-model study: its figures, its tasks, and its plan."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks

from benchmarks import real_model
from gainrl.tasks import load_task


def curve(*accuracies: float) -> list[dict[str, float]]:
    return [{"step": i, "rollouts": 100 * i, "accuracy": a} for i, a in enumerate(accuracies)]


def test_rollouts_to_a_level_lie_on_the_line_between_two_measurements() -> None:
    assert real_model._rollouts_to(0.3, curve(0.1, 0.2, 0.4)) == pytest.approx(150)
    assert real_model._rollouts_to(0.05, curve(0.1, 0.2)) == 0
    assert real_model._rollouts_to(0.5, curve(0.1, 0.2)) is None


def test_area_is_the_mean_accuracy_over_the_rollouts() -> None:
    assert real_model.area(curve(0.0, 0.2, 0.2)) == pytest.approx(0.15)


def test_every_arm_of_a_comparison_comes_before_the_next_comparison() -> None:
    names = [(job.family, job.seed) for job in real_model.jobs("gpu")]
    assert len(names) == len(set(names)) * len(real_model.ARMS)
    assert all(len(set(names[i : i + 5])) == 1 for i in range(0, len(names), 5))


@pytest.mark.parametrize("scale", real_model.SCALES)
def test_every_run_is_a_config_that_the_trainer_takes(scale: str) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    from gainrl.integrations.trl.run_config import RunConfig

    for job in real_model.jobs(scale):
        if job.seed == 0:
            RunConfig.from_dict(real_model.config_of(job, "data/gsm8k")).trainer_settings()


@pytest.mark.parametrize("name", ["Letters", "Chains", "Divisors"])
def test_worked_examples_are_never_among_the_problems(name: str) -> None:
    task = load_task(f"benchmarks.real_model_tasks.{name}")
    rows = task.load("train") + task.load("test")
    shown = {question for question, _ in task.examples}
    assert len(rows) > 500
    assert not shown & {row["question"] for row in rows}
    assert all(isinstance(row["prompt"], str) and row["prompt"].endswith("\nAnswer:") for row in rows)
    assert task.grade_many([" " + row["answer"] for row in rows[:3]], rows[:3])[0].correct
