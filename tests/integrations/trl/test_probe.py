"""`navigator: probe` in the trainer: where its directions come from, what it reports, that a resume goes on exactly."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from trl_support import epoch_records, make_trainer, problems

from gainrl.errors import UserError
from gainrl.integrations.trl import run as runs
from gainrl.integrations.trl.ranking import load_model, make_scorer
from gainrl.integrations.trl.run_config import RunConfig
from gainrl.scoring import load_tokenizer
from gainrl.table import ScoreTable

PROBE: dict[str, Any] = {"navigator": "probe", "components": 5, "explore": 0.25, "prompts_per_epoch": 8}
FIELDS = ("explored", "expected", "tried", "correlation", "log_loss", "constant_log_loss", "fading", "residual")


def config(model: str, output: str, **changes: Any) -> RunConfig:
    training = {
        "num_train_epochs": 3, "num_generations": 2, "per_device_train_batch_size": 8, "max_completion_length": 4,
        "learning_rate": 1e-2, "logging_steps": 1, "bf16": False, "activation_checkpointing": False,
        "report_to": "none", "seed": 7,
    }  # fmt: skip
    values = {"model": model, "dataset": "problems.jsonl", "rewards": "my_rewards.even", "output": output}
    return RunConfig.from_dict({**values, "curriculum": PROBE, "training": training, **changes})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "problems.jsonl").write_text("\n".join(json.dumps(row) for row in problems()) + "\n")
    (tmp_path / "my_rewards.py").write_text(
        "def even(completions, **columns):\n    return [float(len(text) % 2 == 0) for text in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_run_ranks_with_directions_by_itself_and_resumes_to_the_same_records(
    model: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.train(config(model, "whole"), progress=False)
    records = epoch_records("whole")
    assert [record["navigator"] for record in records] == ["probe"] * 3
    assert all(set(FIELDS) <= set(record) for record in records)
    assert records[0]["explored"] == 0.25
    assert records[2]["tried"] > records[1]["tried"] >= 8 > records[0]["tried"] == 0
    assert "direction" in ScoreTable.describe("whole/scores.parquet")[1]

    plain = runs.GainRLTrainer._observe

    def interrupted(self: Any) -> None:
        plain(self)
        if self.state.global_step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runs.GainRLTrainer, "_observe", interrupted)
    assert not runs.train(config(model, "cut"), progress=False).finished
    monkeypatch.setattr(runs.GainRLTrainer, "_observe", plain)
    assert runs.train(config(model, "cut"), resume=True, progress=False).finished
    assert epoch_records("cut") == records


def test_a_run_over_a_table_makes_the_features_once_and_keeps_no_directions(
    model: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"scores": "scores.parquet", "curriculum": {**PROBE, "prompts_per_epoch": None}}
    runs.train(config(model, "one", **given), progress=False)
    assert ScoreTable.read("scores.parquet").has_directions
    read: list[ScoreTable] = []
    plain = ScoreTable.directions

    def counted(table: ScoreTable) -> Any:
        read.append(table)
        return plain(table)

    monkeypatch.setattr(ScoreTable, "directions", counted)
    trainer = runs.train(config(model, "two", **given), progress=False).trainer
    assert len(read) == 1
    assert trainer.navigator.features.components == 5
    assert not trainer._data.table.has_directions
    # without a number one draw is one generation batch, which the run directory says as a number
    assert (trainer.navigator.n, trainer.args.to_dict()["prompts_per_epoch"]) == (4, 4)
    assert RunConfig.read("two/config.yaml").curriculum["prompts_per_epoch"] == 4
    assert epoch_records("one") == epoch_records("two")
    assert runs.train(RunConfig.read("two/config.yaml"), resume=True, progress=False).step == trainer.state.global_step


def test_it_is_what_a_run_that_names_no_navigator_gets_and_without_directions_it_says_so_once(
    model: str, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"curriculum": {"prompts_per_epoch": 8}, "scoring": {"directions": False}}
    with caplog.at_level(logging.WARNING):
        result = runs.train(config(model, "out", **given), progress=False)
    assert caplog.text.count("the score table has no directions, so that curriculum_navigator=probe goes by rank") == 1
    assert caplog.text.count("score again with `gainrl score --directions`") == 1
    assert [record["navigator"] for record in epoch_records("out")] == ["probe"] * 3
    assert result.trainer.navigator.features.components == 0
    assert "direction" not in ScoreTable.describe("out/scores.parquet")[1]


def test_the_ranking_inside_a_run_has_directions_unless_another_navigator_or_the_config_says_otherwise(
    model: str, place: Path
) -> None:
    plain = {"curriculum": {"prompts_per_epoch": 8}}
    for changes, wanted in (
        (plain, True),
        ({**plain, "scoring": {"directions": False}}, False),
        ({"curriculum": {"prompts_per_epoch": 8, "navigator": "gaussian"}}, False),
    ):
        given = config(model, "out", **changes)
        settings = runs._trainer_config(given)
        scorer = make_scorer(
            given, load_model(given), load_tokenizer(model), settings.device, settings.curriculum_navigator
        )
        assert scorer.directions is wanted


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"curriculum": {**PROBE, "explore": 2}}, r"curriculum_explore=2: give a share"),
        ({"curriculum": {**PROBE, "components": 0}}, r"curriculum_components=0: give an integer from 1 to 128"),
        ({"curriculum": {"prompts_per_epoch": 8, "sigma": 1000}}, r"curriculum_sigma=1000 .*'probe' \(the default\)"),
    ],
)
def test_mistakes_are_named_before_anything_is_ranked(
    model: str, place: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        runs.train(config(model, "out", **changes), progress=False)
    assert not Path("out/scores.parquet").exists()


def test_a_run_of_few_prompts_because_nobody_said_how_large_an_epoch_is_is_told(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def warned(**settings: Any) -> list[str]:
        caplog.clear()
        make_trainer(model, tmp_path, curriculum_navigator="probe", **settings)
        return [record.getMessage() for record in caplog.records if "num_train_epochs" in record.getMessage()]

    (said,) = warned(prompts_per_epoch=None, num_train_epochs=3)
    assert "counts draws of 4 prompts" in said
    assert "this run draws 12 prompts in all, and the dataset has 24" in said
    assert not warned(prompts_per_epoch=None, num_train_epochs=6), "all prompts, on average once"
    assert not warned(prompts_per_epoch=None, num_train_epochs=3, max_steps=2), "steps were asked for"
    assert not warned(prompts_per_epoch=4, num_train_epochs=3), "a size was"
