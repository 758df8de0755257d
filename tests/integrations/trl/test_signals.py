"""What is measured while training: accuracy from the named rewards, angles from the loss's forward pass."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer
from trl_support import epoch_records, losses, make_model, make_trainer, parity, problems, recorded

from gainrl.angle.reference import angle_concentration_reference
from gainrl.errors import UserError
from gainrl.integrations.trl import GainRLTrainer, accuracy
from gainrl.integrations.trl.accuracy import Accuracy, RewardGuard
from gainrl.integrations.trl.rollouts import RolloutBatch


def observing(trainer: Any) -> list[dict[str, Any]]:
    """The records that the trainer's navigator will be handed, in order."""
    kept: list[dict[str, Any]] = []
    plain = trainer.navigator.observe
    trainer.navigator.observe = lambda records: kept.extend(records) or plain(records)
    return kept


def oracle(model: Any, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    """Whole-sequence angle concentration of padded rollouts, one unpadded sequence at a time, in float64."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1).bool()
    values = []
    was_training = model.training
    model.eval()
    for row, used in zip(ids, mask, strict=True):
        with torch.no_grad():
            hidden = model.model(input_ids=row[used][None]).last_hidden_state[0]
        roles = torch.full((len(hidden),), 2, dtype=torch.int8)
        values.append(angle_concentration_reference(hidden, torch.tensor([0, len(hidden)]), roles).whole[0])
    model.train(was_training)
    return np.array(values)


@pytest.mark.parametrize("kind", ["qwen2", pytest.param("llama", marks=pytest.mark.full)])
@pytest.mark.parametrize(
    "settings",
    [{"gradient_accumulation_steps": 1}, {"steps_per_generation": 4}, {"num_iterations": 2}, {"beta": 0.1}],
    ids=str,
)
def test_angles_are_those_of_each_sequence_under_the_policy_of_its_first_pass(
    tmp_path: Path, kind: str, settings: dict
) -> None:
    class Checked(GainRLTrainer):
        """Recomputes the angle of every rollout right before its first loss, with the weights of that moment."""

        expected: dict[tuple[int, int], float]
        batch = -1

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            self.batch += 1
            return output

        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            for rollout, angle in zip(inputs["curriculum_rollout"].tolist(), oracle(self.model, inputs), strict=True):
                self.expected.setdefault((self.batch, rollout), angle)
            return super()._compute_loss(model, inputs)

    trainer = make_trainer(make_model(tmp_path / "model", kind=kind), tmp_path / "run", kind=Checked, **settings)
    trainer.expected = {}
    records = observing(trainer)
    trainer.train()
    assert len(records) == len(trainer.expected) == 2 * 8 * 2
    expected = [trainer.expected[key] for key in sorted(trainer.expected)]
    np.testing.assert_allclose([record["angle"] for record in records], expected, rtol=0, atol=2e-6)


def test_accuracy_reward_and_tokens_are_those_of_the_rollouts(model: str, tmp_path: Path) -> None:
    calls: list[tuple[list[float], list[int]]] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        values = parity(completions)
        calls.append((values, [len(ids) for ids in completion_ids]))
        return values

    trainer = make_trainer(model, tmp_path, reward=reward)
    records = observing(trainer)
    trainer.train()
    assert [record["reward"] for record in records] == [value for values, _ in calls for value in values]
    assert [record["correct"] for record in records] == [value == 1 for values, _ in calls for value in values]
    assert [record["tokens"] for record in records] == [count for _, counts in calls for count in counts]
    assert all(record["scored"] for record in records)
    for epoch, record in enumerate(epoch_records(tmp_path)):
        batches = calls[2 * epoch : 2 * epoch + 2]
        assert record["accuracy"] == pytest.approx(np.mean([values for values, _ in batches]))
        assert record["tokens"] == sum(sum(counts) for _, counts in batches)
        assert record["rollouts"] == record["scored"] == 16


@pytest.mark.parametrize("settings", [{}, {"steps_per_generation": 4, "num_iterations": 2, "beta": 0.05}], ids=str)
def test_losses_with_and_without_measurement_are_equal_to_the_bit(
    model: str, tmp_path: Path, settings: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = make_trainer(model, tmp_path / "measured", kind=recorded(), **settings)
    measured.train()
    plain = make_trainer(model, tmp_path / "plain", kind=recorded(), **settings)
    plain.angle_tap.handle.remove()
    monkeypatch.setattr(type(plain), "_compute_loss", GRPOTrainer._compute_loss)
    monkeypatch.setattr(type(plain), "_observe", lambda self: self.navigator.observe(_angles_of(measured, self)))
    plain.train()
    assert losses(plain) == losses(measured)
    assert plain.seen == measured.seen
    for name, weight in measured.model.state_dict().items():
        assert torch.equal(weight, plain.model.state_dict()[name]), name


def _angles_of(measured: Any, plain: Any) -> list[dict[str, Any]]:
    """The rollouts of an unmeasured trainer with the mean angle that the measured one saw, so that both draw alike."""
    records = plain._rollouts.gather(plain._data.ids, plain.accelerator).records
    angle = epoch_records(measured.args.output_dir)[plain.navigator.epoch]["angle"]
    return [{**record, "angle": angle} for record in records]


def test_the_tap_listens_to_the_losss_forward_alone(model: str, tmp_path: Path) -> None:
    trainer = make_trainer(
        model,
        tmp_path,
        trainer={"eval_dataset": Dataset.from_list(problems(4, seed=5))},
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=4,
        beta=0.1,
        num_iterations=2,
        steps_per_generation=4,
    )
    passes = []
    trainer.model.model.register_forward_hook(lambda *given: passes.append(trainer.angle_tap._roles is not None))
    trainer.train()
    assert sum(passes) == 2 * 4, "two epochs of four slices, in their first iteration"
    assert len(passes) > 100, "generation, old and reference log-probs and evaluation ran through the same module"


def test_a_completion_masked_out_of_the_loss_has_no_angle(model: str, tmp_path: Path) -> None:
    trainer = make_trainer(model, tmp_path, mask_truncated_completions=True, num_train_epochs=1)
    records = observing(trainer)
    trainer.train()
    assert all(record["tokens"] == 4 and record["angle"] is None for record in records)
    assert epoch_records(tmp_path)[0]["held"] == "no rollout with an angle"


def test_unscored_rollouts_are_counted_and_left_out_never_wrong(model: str, tmp_path: Path) -> None:
    def reward(completions: list[str], **columns: Any) -> list[float | None]:
        return [None if i % 4 == 0 else math.nan if i % 4 == 1 else 1.0 for i in range(len(completions))]

    trainer = make_trainer(model, tmp_path, reward=reward)
    records = observing(trainer)
    trainer.train()
    assert [record["scored"] for record in records[:4]] == [False, False, True, True]
    assert [record["reward"] for record in records[:4]] == [None, None, 1.0, 1.0]
    assert epoch_records(tmp_path)[0] | {"accuracy": 1.0, "scored": 8, "rollouts": 16} == epoch_records(tmp_path)[0]
    logged = [entry for entry in trainer.state.log_history if "curriculum/unscored" in entry]
    assert logged[-1]["curriculum/unscored"] == 8


def test_an_epoch_without_any_score_leaves_the_mean_and_says_so(model: str, tmp_path: Path) -> None:
    trainer = make_trainer(model, tmp_path, reward=lambda completions, **columns: [None] * len(completions))
    trainer.train()
    assert [record["mean"] for record in epoch_records(tmp_path)] == [0.0, 0.0]
    assert epoch_records(tmp_path)[0]["held"] == "no scored rollout"


@pytest.mark.parametrize("style", ["function", "async"])
def test_a_reward_that_raises_costs_only_its_rows(model: str, tmp_path: Path, style: str) -> None:
    def grade(completions: list[str], prompts: list[str]) -> list[float]:
        if any("0" in prompt.splitlines()[1] for prompt in prompts):
            raise ZeroDivisionError("cannot grade a zero")
        return [1.0] * len(completions)

    def fragile(completions: list[str], prompts: list[str], **columns: Any) -> list[float]:
        return grade(completions, prompts)

    async def fragile_async(completions: list[str], prompts: list[str], **columns: Any) -> list[float]:
        return grade(completions, prompts)

    trainer = make_trainer(model, tmp_path, reward=fragile if style == "function" else fragile_async)
    records = observing(trainer)
    trainer.train()
    zeros = {name for name, row in zip(trainer._data.ids, problems(), strict=True) if "0" in row["question"]}
    assert {record["id"] for record in records if not record["scored"]} == {r["id"] for r in records} & zeros
    errors = sum(record["reward_errors"] for record in epoch_records(tmp_path))
    assert errors == sum(not record["scored"] for record in records) > 0


def test_errors_while_evaluating_are_none_of_the_epochs(model: str, tmp_path: Path) -> None:
    def fragile(completions: list[str], prompts: list[str], **columns: Any) -> list[float]:
        if any("EVAL" in prompt for prompt in prompts[:1] + prompts[-1:]) and not all("EVAL" in p for p in prompts):
            raise ZeroDivisionError
        if "EVAL 0" in prompts[0]:
            raise ZeroDivisionError
        return [1.0] * len(completions)

    held_out = [{**row, "prompt": f"EVAL {i % 2}\n{row['prompt']}"} for i, row in enumerate(problems(4, seed=5))]
    trainer = make_trainer(
        model, tmp_path, reward=fragile, trainer={"eval_dataset": Dataset.from_list(held_out)}, eval_strategy="steps",
        eval_steps=1, per_device_eval_batch_size=4, num_train_epochs=1,
    )  # fmt: skip
    raised = []
    plain = trainer._guard._finish
    trainer._guard._finish = lambda *given: raised.append(len(given[2])) or plain(*given)
    trainer.train()
    assert sum(raised) > 0
    assert epoch_records(tmp_path)[0]["reward_errors"] == 0


def test_a_reward_that_raises_on_every_row_is_a_mistake_and_stops_the_run(model: str, tmp_path: Path) -> None:
    def broken(completions: list[str], **columns: Any) -> list[float]:
        raise KeyError("anwser")

    with pytest.raises(KeyError, match="anwser"):
        make_trainer(model, tmp_path, reward=broken).train()


@pytest.mark.parametrize("style", ["function", "async"])
def test_a_reward_that_has_worked_may_fail_on_a_whole_batch(model: str, tmp_path: Path, style: str) -> None:
    calls: list[int] = []

    def grade(completions: list[str]) -> list[float]:
        calls.append(len(completions))
        if len(calls) > 1 and len(calls) <= 6:  # the second batch, whole and then row by row
            raise TimeoutError("the judge is away")
        return parity(completions)

    def judge(completions: list[str], **columns: Any) -> list[float]:
        return grade(completions)

    async def judge_async(completions: list[str], **columns: Any) -> list[float]:
        return grade(completions)

    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "prompts_per_epoch": 8}
    trainer = make_trainer(model, tmp_path, reward=judge if style == "function" else judge_async, **settings)
    trainer.train()
    first, second = epoch_records(tmp_path)
    assert calls[:7] == [4, 4, 1, 1, 1, 1, 4]
    assert (first["reward_errors"], first["rollouts"] - first["scored"]) == (4, 4)
    assert (second["reward_errors"], second["scored"]) == (0, 16)


def test_no_rank_ends_a_run_over_a_function_that_works_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(completions: list[str]) -> list[float]:
        raise KeyError("anwser")

    guard = RewardGuard()
    guarded = guard.wrap(broken)
    nothing = torch.full((4, 1), math.nan)
    for others, raises in (([True, False], False), ([True, True], True)):
        assert guarded(completions=["a", "b"]) == [None, None]
        monkeypatch.setattr(accuracy, "gather_object", lambda own, all_ranks=others: all_ranks)
        with pytest.raises(KeyError, match="anwser") if raises else nullcontext():
            guard.require_working(nothing, ["broken"])
    assert guarded(completions=["a", "b"]) == [None, None]
    guard.require_working(torch.tensor([[math.nan], [math.nan], [0.0], [1.0]]), ["broken"])  # another rank's rows
    assert guarded(completions=["a", "b"]) == [None, None]
    guard.require_working(nothing, ["broken"])


def test_rewards_are_judged_over_all_ranks_alike(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(model, tmp_path)
    plain = GRPOTrainer._calculate_rewards

    def gathered(self: Any, *given: Any) -> torch.Tensor:
        own = plain(self, *given)
        return torch.cat([own, torch.full_like(own, 7.0)])  # what another rank's function returned

    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", gathered)
    monkeypatch.setattr(trainer, "_rollouts", RolloutBatch())
    trainer._row_numbers = [0, 0]
    trainer.model.train()
    with pytest.raises(UserError, match="'parity' returned 7, which says neither wrong"):
        trainer._calculate_rewards([{}, {}], ["a", "a"], ["b", "cd"], [[1], [1, 2]])


def signed(completions: list[Any], **columns: Any) -> list[float]:
    return [2 * value - 1 for value in parity(completions)]


def test_a_declared_range_gives_the_same_accuracy_as_the_binary_reward(model: str, tmp_path: Path) -> None:
    make_trainer(model, tmp_path / "binary").train()
    make_trainer(model, tmp_path / "signed", reward=signed, accuracy_range=[-1, 1]).train()
    assert [record["accuracy"] for record in epoch_records(tmp_path / "signed")] == [
        record["accuracy"] for record in epoch_records(tmp_path / "binary")
    ]


def test_a_reward_outside_its_range_is_named(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'signed' returned -1, which says neither wrong"):
        make_trainer(model, tmp_path / "a", reward=signed).train()
    with pytest.raises(UserError, match=r"'signed' returned -1, outside its declared accuracy_range \[0, 5\]"):
        make_trainer(model, tmp_path / "b", reward=signed, accuracy_range=[0, 5]).train()


def test_accuracy_reads_the_named_rewards_only() -> None:
    rewards = torch.tensor([[1.0, 0.3, 10.0], [0.0, 0.9, 10.0], [math.nan, 0.1, 5.0], [math.nan, 0.5, math.nan]])
    assert Accuracy(["a", "b", "c"], ["a"])(rewards).tolist()[:2] == [1.0, 0.0]
    both = Accuracy(["a", "b", "c"], ["a", "c"], {"c": [0, 10]})(rewards)
    assert both.tolist()[:3] == [1.0, 0.5, 0.5]
    assert math.isnan(both[3])
    strict = Accuracy(["a", "b", "c"], ["b"], [0, 1], threshold=0.5)(rewards)
    assert strict.tolist() == [0.0, 1.0, 0.0, 1.0]


def test_a_declared_range_gives_partial_credit() -> None:
    rewards = torch.tensor([[-1.0], [0.5], [3.0], [math.nan]])
    assert Accuracy(["a"], None, [-1, 3])(rewards).tolist()[:3] == [0.0, 0.375, 1.0]
    assert Accuracy(["a"], None, [-1, 3])(rewards)[3].isnan()


@pytest.mark.parametrize("bounds", [[0, 0.9], [0.1, 0.7], [-0.3, 1e-3]], ids=str)
def test_the_ends_of_a_range_are_in_it_although_rewards_are_float32(bounds: list[float]) -> None:
    rewards = torch.tensor(bounds, dtype=torch.float32)[:, None].double()
    assert Accuracy(["a"], None, bounds)(rewards).tolist() == [0.0, 1.0]
    assert Accuracy(["a"], None, bounds, threshold=1.0)(rewards).tolist() == [0.0, 1.0]


def test_partial_credit_moves_the_mean_and_is_recorded(model: str, tmp_path: Path) -> None:
    def share(completions: list[str], **columns: Any) -> list[float]:
        return [[-2.0, -1.0, 0.5, 2.0][i % 4] for i in range(len(completions))]

    trainer = make_trainer(model, tmp_path, reward=share, accuracy_range=[-2, 2])
    records = observing(trainer)
    trainer.train()
    assert [record["correct"] for record in records[:4]] == [0.0, 0.25, 0.625, 1.0]
    first, second = epoch_records(tmp_path)
    assert first["accuracy"] == 1.875 / 4
    assert second["mean"] == pytest.approx(
        4 * (math.tanh(2 * (1.875 / 4 - 0.5)) + math.tanh(2 * first["angle"])), rel=1e-9
    )


def test_several_rewards_without_a_name_are_refused() -> None:
    with pytest.raises(UserError, match="2 reward functions"):
        Accuracy(["a", "b"], None)
    with pytest.raises(UserError, match=r"\['x'\]: choose from the reward functions \['a', 'b'\]"):
        Accuracy(["a", "b"], ["x"])


def test_the_prompts_own_score_can_be_the_angle(model: str, tmp_path: Path) -> None:
    from gainrl.scoring import AngleScorer, ScoringPrompt

    trainer = make_trainer(
        model, tmp_path, curriculum_angle="prompt", learning_rate=0.0, num_train_epochs=1, prompts_per_epoch=24,
        per_device_train_batch_size=12, gradient_accumulation_steps=4,
    )  # fmt: skip
    records = observing(trainer)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    scores = AngleScorer(loaded, trainer.processing_class).score(
        ScoringPrompt(row["prompt"], row["question"]) for row in problems()
    )
    trainer.train()
    expected = dict(zip(trainer._data.ids, scores.score, strict=True))
    np.testing.assert_allclose(
        [record["angle"] for record in records], [expected[record["id"]] for record in records], rtol=0, atol=5e-6
    )


def test_chat_prompts_train_as_well(model: str, tmp_path: Path) -> None:
    rows = [{**row, "prompt": [{"role": "user", "content": row["question"]}]} for row in problems()]
    trainer = make_trainer(model, tmp_path, rows=rows, curriculum_angle="prompt", num_train_epochs=1)
    records = observing(trainer)
    trainer.train()
    assert len(records) == 16
    assert all(0 < record["angle"] <= 2 for record in records)
