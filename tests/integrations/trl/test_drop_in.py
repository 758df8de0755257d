"""What TRL offers stays usable: RLOO, a subclass of one's own, LoRA, checkpointed activations, TRL's other settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from trl import RLOOConfig, RLOOTrainer
from trl_support import DEFAULTS, epoch_records, losses, make_trainer, problems, recorded

from gainrl.integrations.trl import CurriculumArguments, GainRLMixin, GainRLTrainer


@dataclass
class CurriculumRLOOConfig(CurriculumArguments, RLOOConfig):
    """RLOO with the curriculum."""


class CurriculumRLOOTrainer(GainRLMixin, RLOOTrainer):
    """RLOO with the curriculum."""


def test_rloo_trains_measures_and_resumes(model: str, tmp_path: Path) -> None:
    settings = {**DEFAULTS, "save_strategy": "steps", "save_steps": 1, "steps_per_generation": 2, "beta": 0.0}
    runs = []
    for name, resume in (("whole", None), ("whole", str(tmp_path / "whole" / "checkpoint-2"))):
        config = CurriculumRLOOConfig(output_dir=str(tmp_path / name), **settings)
        trainer = make_trainer(model, tmp_path / name, kind=recorded(CurriculumRLOOTrainer), config=config)
        trainer.train(resume_from_checkpoint=resume)
        runs.append((trainer, epoch_records(tmp_path / name)))
    (whole, records), (resumed, after) = runs
    assert [record["rollouts"] for record in records] == [16, 16]
    assert all(0 < record["angle"] <= 1 for record in records)
    assert after == records
    assert resumed.seen == [batch for batch in whole.seen if batch["step"] >= 2]
    assert losses(resumed) == losses(whole)


def test_a_subclass_with_its_own_signature_works(model: str, tmp_path: Path) -> None:
    class Mine(GainRLTrainer):
        def __init__(self, *args: Any, extra: int = 0, **kwargs: Any) -> None:
            self.extra = extra
            super().__init__(*args, **kwargs)

    trainer = make_trainer(model, tmp_path, kind=Mine, trainer={"extra": 3}, num_train_epochs=1)
    trainer.train()
    assert trainer.extra == 3
    assert len(epoch_records(tmp_path)) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"activation_checkpointing": True, "remove_unused_columns": True},
        pytest.param({"bf16": True}, marks=pytest.mark.full),
        pytest.param({"loss_type": "grpo", "scale_rewards": "batch"}, marks=pytest.mark.full),
        pytest.param({"multi_objective_aggregation": "normalize_then_sum"}, marks=pytest.mark.full),
        pytest.param({"importance_sampling_level": "sequence"}, marks=pytest.mark.full),
        pytest.param({"top_entropy_quantile": 0.5}, marks=pytest.mark.full),
        pytest.param({"log_completions": True}, marks=pytest.mark.full),
    ],
    ids=str,
)
def test_settings_of_trl_do_not_change_what_is_drawn_and_measured(model: str, tmp_path: Path, settings: dict) -> None:
    make_trainer(model, tmp_path / "plain", num_train_epochs=1).train()
    make_trainer(model, tmp_path / "other", num_train_epochs=1, **settings).train()
    plain, other = epoch_records(tmp_path / "plain")[0], epoch_records(tmp_path / "other")[0]
    assert other["ranks"] == plain["ranks"]
    assert other["angle"] == pytest.approx(plain["angle"], abs=0.05)


def test_lora_is_measured_through_its_wrapper_and_resumes(model: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")

    def run(resume: Any = None) -> Any:
        lora = peft.LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
        trainer = make_trainer(
            model, tmp_path, kind=recorded(), trainer={"peft_config": lora}, save_strategy="steps", save_steps=1
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run()
    records = epoch_records(tmp_path)
    assert all(0 < record["angle"] <= 1 for record in records)
    resumed = run(str(tmp_path / "checkpoint-2"))
    assert resumed.seen == [batch for batch in whole.seen if batch["step"] >= 2]
    assert losses(resumed) == losses(whole)
    assert epoch_records(tmp_path) == records


def test_weighted_rewards_and_one_that_says_what_is_correct(model: str, tmp_path: Path) -> None:
    def correct(completions: list[str], **columns: Any) -> list[float]:
        return [float(len(text) % 2 == 0) for text in completions]

    def style(completions: list[str], **columns: Any) -> list[float]:
        return [0.1 * len(text) for text in completions]

    trainer = make_trainer(
        model, tmp_path, reward=[correct, style], accuracy_rewards=["correct"], reward_weights=[1.0, 0.5]
    )
    trainer.train()
    record = epoch_records(tmp_path)[0]
    assert 0 <= record["accuracy"] <= 1
    assert record["reward"] > record["accuracy"]


@pytest.mark.full
@pytest.mark.parametrize("navigator", ["target", "posterior", "uniform", "fixed", "shortest-first"])
def test_navigators_are_chosen_by_name(model: str, tmp_path: Path, navigator: str) -> None:
    trainer = make_trainer(model, tmp_path, curriculum_navigator=navigator)
    trainer.train()
    assert [record["navigator"] for record in epoch_records(tmp_path)] == [navigator] * 2
    assert len(trainer._data.ids) == len(problems())
