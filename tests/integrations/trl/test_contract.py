"""What the mixin takes for granted in TRL: a release that moves one of these fails here, by name, and not in a run."""

from __future__ import annotations

import ast
import inspect
import textwrap
from importlib.metadata import requires, version
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.trainer.utils import RepeatSampler, shuffle_sequence_dict, split_tensor_dict

from gainrl.integrations.trl import CurriculumArguments, GainRLMixin, GainRLTrainer
from gainrl.integrations.trl.backfill import _PER_ROLLOUT
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
    needs = [Requirement(text) for text in requires("gainrl") or []]
    pinned = {str(need.specifier) for need in needs if need.name == "trl"}
    assert pinned == {"<1.17,>=1.16"}, "what is tested here is what may be installed"


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("name", PARAMETERS)
def test_override_points_keep_their_parameters(trainer: Any, name: str) -> None:
    assert list(inspect.signature(getattr(trainer, name)).parameters) == PARAMETERS[name]


def test_overridden_names_exist_in_trl_or_transformers() -> None:
    halves = (GainRLMixin, SavingMixin)
    own = {name for half in halves for name, value in vars(half).items() if inspect.isfunction(value)}
    taken = {name for name in own if hasattr(Trainer, name) or hasattr(GRPOTrainer, name)} - {"__init__"}
    assert taken == {
        "_calculate_rewards", "_compute_loss", "_finalize_training", "_generate_and_score_completions",
        "_get_train_sampler", "_maybe_log_save_evaluate", "_push_from_checkpoint", "_save_checkpoint",
        "_set_signature_columns_if_needed", "evaluate", "num_examples", "train", "training_step",
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


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_loss_goes_through_the_decoder_whatever_head_follows(trainer: Any) -> None:
    """The fused head replaces the classification layer's forward, not the decoder that the tap listens to."""
    text = source(trainer._get_per_token_logps_and_entropies)
    assert "outputs = model(**model_inputs, labels=labels, fused_lm_head=True)" in text
    assert "for start in range(0, input_ids.size(0), batch_size):" in text, "in the batch's order"


@pytest.mark.parametrize("trainer", TRAINERS)
def test_rewards_are_those_of_all_ranks_and_groups_lie_one_after_another(trainer: Any) -> None:
    assert "rewards_per_func = gather(rewards_per_func)" in source(trainer._calculate_rewards)
    text = source(trainer._generate_and_score_completions)
    assert "view(-1, num_generations)" in text
    assert "self.accelerator.process_index * len(prompts)" in text


@pytest.mark.parametrize("trainer", TRAINERS)
def test_back_filling_knows_every_key_that_a_batch_of_text_has(trainer: Any) -> None:
    text = source(trainer._generate_and_score_completions)
    tree = ast.parse(text)
    keys = {
        node.value
        for assign in ast.walk(tree)
        if isinstance(assign, ast.Assign) and isinstance(assign.targets[0], ast.Name)
        if assign.targets[0].id == "output" and isinstance(assign.value, ast.Dict)
        for node in assign.value.keys
        if isinstance(node, ast.Constant)
    }
    added = {
        assign.targets[0].slice.value
        for assign in ast.walk(tree)
        if isinstance(assign, ast.Assign) and isinstance(assign.targets[0], ast.Subscript)
        if isinstance(assign.targets[0].value, ast.Name) and assign.targets[0].value.id == "output"
        if isinstance(assign.targets[0].slice, ast.Constant)
    }
    pictures_and_tools = {
        "pixel_values", "image_grid_thw", "pixel_attention_mask", "spatial_shapes", "image_sizes", "token_type_ids",
        "mm_token_type_ids", "image_position_ids", "num_images", "num_tiles", "tool_mask",
    }  # fmt: skip
    assert keys >= {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"}
    assert (keys | added) - pictures_and_tools <= _PER_ROLLOUT | {"num_items_in_batch"}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_nothing_of_the_curriculum_hides_an_attribute_of_trl(trainer: Any) -> None:
    """Attributes that the mixin sets must not be ones that a release of TRL begins to use."""
    own = {"_data", "_guard", "_rollouts", "_counts", "_scores", "_reranked", "_accuracy", "_prompt_roles",
           "_epoch_log", "_saved_step", "_save_deferred", "_batches_done", "navigator", "angle_tap"}  # fmt: skip
    text = inspect.getsource(inspect.getmodule(trainer)) + inspect.getsource(inspect.getmodule(Trainer))
    assert not [name for name in own if f"self.{name} " in text or f"self.{name}." in text]


def test_rotation_is_the_last_act_of_a_save() -> None:
    text = source(Trainer._save_checkpoint)
    assert text.index("save_to_json") < text.index("_push_from_checkpoint") < text.index("rotate_checkpoints")
    assert "save_total_limit=self.args.save_total_limit" in text
    assert "self.args.save_total_limit == 1" in source(Trainer._finalize_training)


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
