"""What the mixin takes for granted in TRL: a release that moves one of these fails here, by name, and not in a run."""

from __future__ import annotations

import ast
import inspect
import textwrap
from importlib.metadata import version
from typing import Any

import pytest
import torch
from packaging.version import Version
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.trainer.utils import RepeatSampler, shuffle_sequence_dict, split_tensor_dict

from gainrl.integrations.trl import CurriculumArguments, GainRLMixin, GainRLTrainer
from gainrl.integrations.trl.saving import SavingMixin

TRAINERS = [GRPOTrainer, RLOOTrainer]

PARAMETERS = {
    "_get_train_sampler": ["self", "dataset"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_compute_loss": ["self", "model", "inputs"],
    "_prepare_inputs": ["self", "generation_batch"],
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_set_signature_columns_if_needed": ["self"],
}


def source(function: Any) -> str:
    return textwrap.dedent(inspect.getsource(function))


def calls(function: Any) -> set[str]:
    """Names of the methods of `self` that a function calls."""
    return {
        node.func.attr
        for node in ast.walk(ast.parse(source(function)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "self"
    }


def test_the_release_of_trl_is_in_the_supported_range() -> None:
    assert Version("1.16") <= Version(version("trl")) < Version("1.17")


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("name", PARAMETERS)
def test_override_points_keep_their_parameters(trainer: Any, name: str) -> None:
    assert list(inspect.signature(getattr(trainer, name)).parameters) == PARAMETERS[name]


def test_overridden_names_exist_in_trl_or_transformers() -> None:
    halves = (GainRLMixin, SavingMixin)
    own = {name for half in halves for name, value in vars(half).items() if inspect.isfunction(value)}
    taken = {name for name in own if hasattr(Trainer, name) or hasattr(GRPOTrainer, name)} - {"__init__"}
    assert taken == {
        "_calculate_rewards", "_compute_loss", "_generate_and_score_completions", "_get_train_sampler",
        "_maybe_log_save_evaluate", "_push_from_checkpoint", "_save_checkpoint", "_set_signature_columns_if_needed",
        "evaluate", "num_examples", "train", "training_step",
    }  # fmt: skip
    assert GainRLTrainer.__mro__.index(GainRLMixin) < GainRLTrainer.__mro__.index(GRPOTrainer)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_trainer_calls_them_where_it_did(trainer: Any) -> None:
    assert "_generate_and_score_completions" in calls(trainer._prepare_inputs)
    assert "_calculate_rewards" in calls(trainer._generate_and_score_completions)
    assert "_compute_loss" in calls(trainer.compute_loss)
    assert "_get_per_token_logps_and_entropies" in calls(trainer._compute_loss)
    assert "sampler_fn=self._get_train_sampler" in source(trainer.get_train_dataloader)
    assert {"_save_checkpoint"} <= calls(Trainer._maybe_log_save_evaluate)
    assert {"training_step", "_maybe_log_save_evaluate"} <= calls(Trainer._run_epoch)
    assert "_push_from_checkpoint" in calls(Trainer._save_checkpoint)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_steps_are_counted_after_the_loss(trainer: Any) -> None:
    text = source(trainer.training_step)
    assert text.index("super().training_step") < text.index("self._step += 1")
    generation = source(trainer._prepare_inputs)
    assert "generate_every = self.args.steps_per_generation * self.num_iterations" in generation
    assert "self._step % generate_every == 0 or self._buffered_inputs is None" in generation
    assert "self._buffered_inputs[self._step % self.args.steps_per_generation]" in generation


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_loss_makes_one_forward_of_the_whole_sequence(trainer: Any) -> None:
    text = source(trainer._compute_loss)
    assert text.count("self._get_per_token_logps_and_entropies(") == 1
    assert "torch.cat([prompt_ids, completion_ids], dim=1)" in text
    assert "torch.cat([prompt_mask, completion_mask], dim=1)" in text


def test_rotation_is_the_last_act_of_a_save() -> None:
    text = source(Trainer._save_checkpoint)
    assert text.index("save_to_json") < text.index("_push_from_checkpoint") < text.index("rotate_checkpoints")
    assert "save_total_limit=self.args.save_total_limit" in text


def test_a_column_of_the_output_follows_its_rollout_through_shuffle_and_split() -> None:
    batch = {"prompt_ids": torch.arange(8)[:, None], "curriculum_rollout": torch.arange(8), "num": torch.tensor(3)}
    for chunk in split_tensor_dict(shuffle_sequence_dict(batch), 4):
        assert chunk["prompt_ids"][:, 0].tolist() == chunk["curriculum_rollout"].tolist()


def test_the_repeat_sampler_needs_only_a_length() -> None:
    sampler = RepeatSampler(range(4), mini_repeat_count=2, batch_size=2, repeat_count=2, shuffle=False)
    assert list(sampler) == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]


@pytest.mark.parametrize("config", [GRPOConfig, RLOOConfig])
def test_no_field_of_the_curriculum_hides_one_of_trl(config: Any) -> None:
    own = set(CurriculumArguments.__dataclass_fields__) - {"shuffle_dataset"}
    assert not own & set(config.__dataclass_fields__)
