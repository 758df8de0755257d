"""The trainer at its public doors: what was drawn is what TRL trained, and what is observed is what came of it."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from trl import GRPOTrainer

from gainrl.curriculum import NAVIGATORS, Navigator
from gainrl.errors import UserError
from gainrl.integrations.trl import GainRLConfig, GainRLMixin, GainRLRLOOConfig, GainRLRLOOTrainer, GainRLTrainer
from tests.integrations.trl.support import (
    Recorded,
    RecordedTrainer,
    draws,
    hand_angle,
    make_config,
    make_table,
    make_trainer,
    problems,
    rollout_reward,
    settled,
)

FREE = {"navigator": "uniform", "navigator_args": None}


class RecordedRLOO(Recorded, GainRLRLOOTrainer):
    """RLOO with `seen`."""


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "one generation a step": dict,
    "a generation over two steps": lambda: {"steps_per_generation": 4, "max_steps": 6},
    "two iterations": lambda: {"num_iterations": 2, "max_steps": 6},
    "two generations a step": lambda: {"steps_per_generation": 1},
    "evaluation": lambda: {
        "eval_strategy": "steps", "eval_steps": 1, "eval_dataset": Dataset.from_list(problems(4)),
        "per_device_eval_batch_size": 4,
    },
    "epochs": lambda: {"max_steps": -1, "num_train_epochs": 2},
    "lora": lambda: {"peft_config": lora()},
    "rloo": lambda: {"kind": RecordedRLOO, "config": GainRLRLOOConfig},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_logged_as_drawn_is_what_trl_trained(case: str, model: str, tmp_path: Path) -> None:
    settings = CASES[case]()
    if "config" in settings:
        settings["config"] = make_config(tmp_path, settings["config"])
    trainer = make_trainer(model, tmp_path, **settings)
    trainer.train()
    lines = draws(tmp_path)
    args, batch = trainer.args, trainer.args.generation_batch_size
    micro_batches = trainer.state.global_step * args.gradient_accumulation_steps
    assert len(lines) == len(trainer.seen) == math.ceil(micro_batches / args.steps_per_generation / args.num_iterations)
    assert [line["draw"] for line in lines] == list(range(len(lines)))
    for line, seen in zip(lines, trainer.seen, strict=True):
        assert seen["numbers"] == np.repeat(line["rows"], 2).tolist()
        assert len(set(line["rows"])) == batch // 2
        assert seen["columns"] == ["number", "prompt", "source"]
        rewards = np.array(seen["rewards"]).reshape(-1, 2)
        assert line["outcome"] == [[2, sum(group), group[0] != group[1]] for group in rewards.tolist()]
        assert line["accuracy"] == pytest.approx(rewards.mean())
        assert line["mixed"] == (rewards[:, 0] != rewards[:, 1]).mean()
        assert line["rollouts"] == line["scored"] == batch
        assert 0 < line["angle"] <= 1
    logged = [entry["curriculum/accuracy"] for entry in trainer.state.log_history if "curriculum/accuracy" in entry]
    per_log = len(lines) // len(logged)  # the mean over the draws since the last log
    assert logged[0] == pytest.approx(np.mean([line["accuracy"] for line in lines[:per_log]]))
    assert trainer.navigator.draws == len(lines)
    if case == "epochs":
        assert len(lines) == 2 * 24 // 4, "an epoch is as many prompts as the dataset has"


def test_accuracy_and_angle_are_those_computed_by_hand(model: str, tmp_path: Path) -> None:
    trainer = make_trainer(model, tmp_path, learning_rate=0.0, max_steps=2)
    trainer.train()
    for line, seen in zip(draws(tmp_path), trainer.seen, strict=True):
        assert line["accuracy"] == pytest.approx(np.mean(rollout_reward([], seen["numbers"])))
        assert line["angle"] == pytest.approx(hand_angle(model, [seen]), rel=1e-4)
    assert trainer.state.log_history[0]["curriculum/angle"] == pytest.approx(draws(tmp_path)[0]["angle"])


def test_angles_are_measured_only_if_asked_for(model: str, tmp_path: Path) -> None:
    make_trainer(model, tmp_path / "without", max_steps=1, **FREE).train()
    make_trainer(model, tmp_path / "with", max_steps=1, log_angle=True, **FREE).train()
    without, with_angle = draws(tmp_path / "without")[0], draws(tmp_path / "with")[0]
    assert without["angle"] is None
    assert with_angle["angle"] > 0
    assert without["rows"] == with_angle["rows"], "measuring changes no draw"


def test_the_predicted_pass_rate_takes_part_in_the_baseline(model: str, tmp_path: Path) -> None:
    expected, said = {}, []

    class Told(RecordedTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            said.append(output["advantages"].double().numpy())
            return output

    def reward(completions: list[Any], number: list[int], **columns: Any) -> list[float | None]:
        found = rollout_reward(completions, number)
        return [None if index == 3 else right for index, right in enumerate(found)]

    settings = {"navigator": "probe", "navigator_args": None, "baseline_rollouts": 3.0, "num_generations": 4}
    trainer = make_trainer(model, tmp_path, kind=Told, reward=reward, max_steps=2, **settings)
    draw = trainer.navigator.draw
    trainer.navigator.draw = lambda n: (rows := draw(n), expected.update(
        {len(expected): trainer.navigator.expected_accuracy(rows)}))[0]  # fmt: skip
    trainer.train()
    assert len(said) == 2
    for number, (seen, advantages) in enumerate(zip(trainer.seen, said, strict=True)):
        for at, (rate, group) in enumerate(zip(expected[number], np.reshape(seen["rewards"], (-1, 4)), strict=True)):
            known = [index for index in range(4) if not math.isnan(group[index])]
            for index in range(4):
                mates = [group[other] for other in known if other != index]
                b = (3.0 * rate + sum(mates)) / (3.0 + len(mates))
                by_hand = (group[index] - b) / math.sqrt(max(b * (1 - b), 0.05)) if index in known else 0.0
                assert advantages[4 * at + index] == pytest.approx(by_hand, rel=1e-5)
    with pytest.raises(UserError, match="'uniform' predicts no pass rates"):
        make_trainer(model, tmp_path, navigator="uniform", navigator_args=None, baseline_rollouts=3.0)
    with pytest.raises(UserError, match="baseline_rollouts must be a number, at least 0"):
        make_trainer(model, tmp_path, baseline_rollouts=-1.0)


def test_a_reward_that_is_none_or_nan_is_unscored_and_never_wrong(model: str, tmp_path: Path) -> None:
    calls = []

    def half(completions: Any, number: list[int], **columns: Any) -> list[float | None]:
        calls.append(len(completions))
        return [1.0, None, float("nan"), None, 1.0, 0.0, 0.0, 0.0]

    make_trainer(model, tmp_path, reward=half, max_steps=1, group_by="source").train()
    line = draws(tmp_path)[0]
    assert sum(source["groups"] for source in line["sources"].values()) == 4, "an unscored group was drawn, too"
    assert calls == [8], "a reward is called once per batch"
    assert line["outcome"] == [[1, 1.0, False], [0, 0.0, False], [2, 1.0, True], [2, 0.0, False]]
    assert (line["rollouts"], line["scored"], line["accuracy"]) == (8, 5, 2 / 5)
    assert (line["all_right"], line["all_wrong"], line["mixed"]) == (1 / 3, 1 / 3, 1 / 3), (
        "of the groups that are scored"
    )


def test_a_reward_that_raises_ends_the_run_with_its_error(model: str, tmp_path: Path) -> None:
    calls = []

    def broken(completions: Any, **columns: Any) -> list[float]:
        calls.append(1)
        raise ZeroDivisionError("in the reward")

    with pytest.raises(ZeroDivisionError, match="in the reward"):
        make_trainer(model, tmp_path, reward=broken).train()
    assert calls == [1]


def test_accuracy_comes_from_the_named_rewards_and_their_range(model: str, tmp_path: Path) -> None:
    def right(completions: Any, **columns: Any) -> list[float]:
        return [-1.0, 3.0] * (len(completions) // 2)

    def length(completions: Any, **columns: Any) -> list[float]:
        return [7.0] * len(completions)

    settings: dict[str, Any] = {"reward": [right, length], "max_steps": 1}
    make_trainer(model, tmp_path, accuracy_rewards="right", accuracy_range=[-1, 3], **settings).train()
    assert draws(tmp_path)[0]["outcome"] == [[2, 1.0, True]] * 4
    assert draws(tmp_path)[0]["reward"] == 8.0
    with pytest.raises(UserError, match="accuracy_rewards"):
        make_trainer(model, tmp_path, **settings)
    with pytest.raises(UserError, match=r"accuracy_rewards=\['wrong'\]"):
        make_trainer(model, tmp_path, accuracy_rewards=["wrong"], **settings)
    with pytest.raises(UserError, match="outside accuracy_range"):
        make_trainer(model, tmp_path, accuracy_rewards=["right"], **settings).train()


def test_sources_are_counted_and_a_quota_bounds_them(model: str, tmp_path: Path) -> None:
    quota = '{"a": 0.25, "b": 0.5}'
    trainer = make_trainer(model, tmp_path, group_by="source", quota=quota, max_steps=4, **FREE)
    trainer.train()
    for line, seen in zip(draws(tmp_path), trainer.seen, strict=True):
        sources = line["sources"]
        assert {name: numbers["groups"] for name, numbers in sources.items()} == {
            name: sum("abc"[row % 3] == name for row in line["rows"]) for name in sources
        }
        assert sources.get("a", {"groups": 0})["groups"] <= 1
        assert sources.get("b", {"groups": 0})["groups"] <= 2
        own = [reward[0] for reward, row in zip(seen["rewards"], seen["numbers"], strict=True) if row % 3 == 2]
        assert sources["c"]["accuracy"] == pytest.approx(np.mean(own))
    assert "curriculum/accuracy/c" in trainer.state.log_history[0]


def test_a_navigator_of_ones_own_is_one_class_and_one_line(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InOrder(Navigator):
        """The first prompts, always."""

        name = "in-order"
        heard: ClassVar[list[Any]] = []

        def race(self, n: int) -> Any:
            return self.prompts.rows.astype(float)

        def observe(self, outcomes: Any, angle: float | None = None) -> None:
            self.heard.append((outcomes, angle))

    monkeypatch.setitem(NAVIGATORS, "in-order", InOrder)
    make_trainer(model, tmp_path, navigator="in-order", navigator_args=None, max_steps=2).train()
    assert [line["rows"] for line in draws(tmp_path)] == [[0, 1, 2, 3]] * 2
    outcomes, angle = InOrder.heard[0]
    assert (outcomes.row.tolist(), outcomes.rollouts.tolist(), angle) == ([0, 1, 2, 3], [2] * 4, None)


def test_the_bar_tells_what_a_step_does(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(model, tmp_path, disable_tqdm=False, max_steps=1).train()
    shown = re.sub(r"\s+", " ", capsys.readouterr().err)
    stages = [shown.index(stage) for stage in ("generating", "grading", "updating micro-batch 1 of 2")]
    assert stages == sorted(stages)


# -- resume ----------------------------------------------------------------------------------------------------------

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}


@pytest.mark.parametrize("more", [{}, {"restore_callback_states_from_checkpoint": True}])
@pytest.mark.parametrize("navigator", ["gaussian", "probe"])
def test_a_resumed_run_makes_the_draws_of_the_uninterrupted_one(
    navigator: str, more: dict[str, Any], model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**SAVING, **more, **({"navigator": navigator, "navigator_args": None} if navigator == "probe" else {})}
    make_trainer(model, tmp_path / "whole", **settings).train()
    make_trainer(model, tmp_path / "cut", **settings).train()
    resumed = make_trainer(model, tmp_path / "cut", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    assert settled(tmp_path / "cut") == settled(tmp_path / "whole")
    assert len(resumed.seen) == 2
    assert "within a generation batch" not in caplog.text


def test_a_checkpoint_within_a_generation_batch_is_legal_and_warned_of_once(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**SAVING, "steps_per_generation": 4, "max_steps": 4}
    make_trainer(model, tmp_path, **settings).train()
    before = settled(tmp_path)
    with caplog.at_level(logging.WARNING, "gainrl"):
        make_trainer(model, tmp_path, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert caplog.text.count("within a generation batch") == 1
    after = settled(tmp_path)
    assert [line["draw"] for line in after] == list(range(len(after)))
    assert after[0] == before[0]


def test_a_state_that_does_not_fit_is_refused_by_name(model: str, tmp_path: Path) -> None:
    make_trainer(model, tmp_path / "ours", **SAVING, max_steps=1).train()
    checkpoint = str(tmp_path / "ours" / "checkpoint-1")
    with pytest.raises(UserError, match="save_only_model"):
        make_trainer(model, tmp_path / "m", **SAVING, max_steps=1, save_only_model=True)
    with pytest.raises(UserError, match="'gaussian', this run uses 'uniform'"):
        make_trainer(model, tmp_path / "n", **FREE).train(resume_from_checkpoint=checkpoint)
    rows = problems(30)
    with pytest.raises(UserError, match="another score table"):
        make_trainer(model, tmp_path / "t", rows=rows).train(resume_from_checkpoint=checkpoint)
    args = make_config(tmp_path / "plain", **SAVING | {"max_steps": 1})
    plain = GRPOTrainer(model, rollout_reward, args=args, train_dataset=Dataset.from_list(problems()))
    plain.train()
    with pytest.raises(UserError, match="a run without gainrl"):
        make_trainer(model, tmp_path / "p").train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-1"))


# -- what is refused ---------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a stream": ({"rows": Dataset.from_list(problems()).to_iterable_dataset()}, "streaming=False"),
    "splits": ({"rows": DatasetDict(train=Dataset.from_list(problems()))}, r"dataset\['train'\]"),
    "no prompt": ({"rows": Dataset.from_dict({"text": ["a"] * 24})}, "no column 'prompt'"),
    "another dataset": ({"table": make_table(problems(25))}, "made for another dataset"),
    "too few": ({"rows": problems(3), "table": make_table(problems(3))}, "needs 4 prompts .* the dataset has 3"),
    "navigator": ({"navigator": "gausian"}, "gaussian"),
    "argument": ({"navigator_args": {"sigmas": 3}}, "sigma"),
    "not JSON": ({"navigator_args": "{sigma"}, "not JSON"),
    "column": ({"group_by": "origin"}, "origin"),
    "quota alone": ({"quota": {"a": 0.5}}, "group_by"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(what: str, tmp_path: Path) -> None:
    settings, message = WRONG[what]
    with pytest.raises(UserError, match=message):
        make_trainer("no/such-model", tmp_path, **{"table": make_table(problems()), **settings})


def test_scores_and_config_are_needed(tmp_path: Path) -> None:
    dataset = Dataset.from_list(problems())
    with pytest.raises(UserError, match="score table"):
        GainRLTrainer("no/such-model", rollout_reward, args=make_config(tmp_path), train_dataset=dataset)
    with pytest.raises(UserError, match="NoneType, which has no curriculum"):
        GainRLTrainer("no/such-model", rollout_reward, train_dataset=dataset)


def test_equal_prompts_are_told_apart(model: str, tmp_path: Path) -> None:
    rows = problems(6) + problems(6)
    trainer = make_trainer(model, tmp_path, rows=rows, max_steps=3, **FREE)
    trainer.train()
    assert all(len(set(line["rows"])) == 4 for line in draws(tmp_path))
    assert max(row for line in draws(tmp_path) for row in line["rows"]) > 5


def test_a_trl_whose_methods_have_changed_is_named(model: str, tmp_path: Path) -> None:
    class Renamed(GRPOTrainer):
        _calculate_rewards = None

    class Changed(GRPOTrainer):
        def _compute_loss(self, model: Any, inputs: Any, extra: Any) -> Any:
            """Takes more than it did."""

    with pytest.raises(RuntimeError, match=r"Renamed\._calculate_rewards\("):
        make_trainer(model, tmp_path, kind=type("Ours", (GainRLMixin, Renamed), {}))
    with pytest.raises(RuntimeError, match=r"Changed\._compute_loss\(model, inputs\)"):
        make_trainer(model, tmp_path, kind=type("Ours", (GainRLMixin, Changed), {}))


def test_precision_left_out_is_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gainrl.integrations.trl.config.mixed_precision", lambda device: "no")
    assert GainRLConfig(str(tmp_path)).bf16 is False
    monkeypatch.setattr("gainrl.integrations.trl.config.mixed_precision", lambda device: "bf16")
    assert GainRLConfig(str(tmp_path)).bf16 is True
    assert GainRLConfig(str(tmp_path), bf16=False).bf16 is False
