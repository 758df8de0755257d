"""`gainrl train`: from a YAML file to a finished run directory; refusals, Ctrl-C, resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from trl_support import epoch_records, make_table, problems

from gainrl.errors import UserError
from gainrl.integrations.trl import run as runs
from gainrl.integrations.trl.run_config import RunConfig
from gainrl.table import ScoreTable

RUN_DIRECTORY = ["checkpoints", "config.yaml", "epochs.jsonl", "scores.parquet"]
EPOCH_FIELDS = {
    "epoch", "mean", "sigma", "accuracy", "angle", "reward", "prompts", "rollouts", "scored", "tokens", "seconds",
    "next_mean",
}  # fmt: skip

REWARDS = """
def even(completions, **columns):
    return [float(len(text) % 2 == 0) for text in completions]

def slow(completions, **columns):
    import time
    time.sleep(0.2)
    return even(completions)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a dataset and a module of reward functions."""
    lines = [json.dumps(row) for row in problems()]
    (tmp_path / "problems.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def settings(model: str, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": model,
        "dataset": "problems.jsonl",
        "rewards": "my_rewards.even",
        "output": "out",
        "curriculum": {"prompts_per_epoch": 8, "navigator": "gaussian", "sigma": 4},
        "training": {
            "num_train_epochs": 2, "num_generations": 2, "per_device_train_batch_size": 8, "max_completion_length": 4,
            "learning_rate": "1e-2", "logging_steps": 1, "bf16": False, "activation_checkpointing": False,
            "report_to": "none", "seed": 7,
        },
    }  # fmt: skip
    for name, value in changes.items():
        values[name] = {**values[name], **value} if isinstance(values.get(name), dict) else value
    return {name: value for name, value in values.items() if value is not None}


def train(model: str, *, resume: bool = False, overwrite: bool = False, **changes: Any) -> Any:
    config = RunConfig.from_dict(settings(model, **changes))
    return runs.train(config, resume=resume, overwrite=overwrite, progress=False)


def test_a_run_ranks_trains_and_leaves_its_records(model: str, place: Path) -> None:
    result = train(model)
    assert result.finished
    assert result.step == 4
    assert result.checkpoint == Path("out/checkpoints/checkpoint-4")
    assert sorted(path.name for path in Path("out").iterdir()) == RUN_DIRECTORY
    records = epoch_records("out", without=())
    assert [record["epoch"] for record in records] == [0, 1]
    assert set(records[0]) >= EPOCH_FIELDS
    assert records[1]["mean"] == records[0]["next_mean"]
    table = ScoreTable.read("out/scores.parquet")
    assert table.metadata.dataset == "problems.jsonl"
    assert table.status_counts() == {"ok": 24}
    again = RunConfig.read("out/config.yaml")
    assert again == RunConfig.from_dict(settings(model))
    assert result.trainer.args.learning_rate == 0.01, "YAML 1.1 reads 1e-2 as text"


def test_a_task_brings_its_rows_its_reward_and_its_stop(model: str, place: Path) -> None:
    pytest.importorskip("reasoning_gym")
    changes = {
        "dataset": None,
        "rewards": None,
        "task": "arithmetic:size=60,digits=1",
        "training": {"num_train_epochs": 1},
    }
    result = train(model, **changes)
    tokenizer = result.trainer.processing_class
    newlines = [i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i])]
    assert newlines
    assert set(newlines) <= set(result.trainer.eos_token_ids)
    assert set(newlines) <= set(result.trainer.generation_config.eos_token_id)
    assert result.trainer.model.generation_config.eos_token_id not in newlines, "saved models end where they did"
    assert result.trainer._accuracy.names == ["arithmetic_reward"]


@pytest.mark.full
def test_scores_made_before_are_used_and_copied(model: str, place: Path) -> None:
    make_table(problems()).write("mine.parquet")
    result = train(model, scores="mine.parquet", scored_with="any", training={"num_train_epochs": 1})
    assert result.trainer._data.table.metadata.model == "tiny"
    assert ScoreTable.read("out/scores.parquet").ids == ScoreTable.read("mine.parquet").ids


def test_an_interrupted_run_resumes_to_the_same_records(
    model: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(model, output="whole")
    plain = runs.GainRLTrainer._observe

    def interrupted(self: Any) -> None:
        plain(self)
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runs.GainRLTrainer, "_observe", interrupted)
    stopped = train(model)
    assert (stopped.finished, stopped.step) == (False, 2)
    assert stopped.checkpoint == Path("out/checkpoints/checkpoint-2")
    monkeypatch.setattr(runs.GainRLTrainer, "_observe", plain)
    resumed = train(model, resume=True)
    assert (resumed.finished, resumed.step) == (True, 4)
    assert epoch_records("out") == epoch_records("whole")


@pytest.mark.full
def test_resuming_before_the_first_checkpoint_begins_anew(model: str, place: Path) -> None:
    train(model, training={"save_strategy": "no"})
    before = epoch_records("out")
    assert train(model, resume=True, training={"save_strategy": "no"}).finished
    assert epoch_records("out") == before


def test_a_run_that_is_there_is_kept(model: str, place: Path) -> None:
    train(model, training={"max_steps": 1})
    kept = Path("out/epochs.jsonl").stat().st_mtime_ns if Path("out/epochs.jsonl").exists() else None
    with pytest.raises(UserError, match="holds a run and is kept: go on with --resume, replace it with --overwrite"):
        train(model)
    assert kept == (Path("out/epochs.jsonl").stat().st_mtime_ns if Path("out/epochs.jsonl").exists() else None)
    Path("out/notes.txt").write_text("mine")
    assert train(model, overwrite=True).finished
    assert Path("out/notes.txt").read_text() == "mine"


@pytest.mark.full
def test_overwriting_keeps_a_table_that_fits_and_makes_one_that_does_not_again(model: str, place: Path) -> None:
    first = train(model, training={"max_steps": 1})
    made = Path("out/scores.parquet").stat().st_mtime_ns
    train(model, overwrite=True, training={"max_steps": 1})
    assert Path("out/scores.parquet").stat().st_mtime_ns == made
    make_table(problems(24, seed=3)).write("out/scores.parquet")
    again = train(model, overwrite=True, training={"max_steps": 1})
    assert again.trainer._data.table.scores.tolist() == first.trainer._data.table.scores.tolist()


def test_what_was_ranked_and_evaluated_before_is_no_run_in_the_way(model: str, place: Path) -> None:
    Path("out").mkdir()
    make_table(problems()).write("out/scores.parquet")
    Path("out/evals.jsonl").write_text("{}\n")
    assert train(model, scored_with="any", training={"max_steps": 1}).step == 1


def test_a_full_disk_is_said_with_where_to_go_on(model: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = runs.GainRLTrainer._save_optimizer_and_scheduler

    def full(self: Any, output_dir: str) -> None:
        if self.state.global_step == 4:
            raise RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0: file write failed")
        plain(self, output_dir)

    monkeypatch.setattr(runs.GainRLTrainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(UserError, match="is full: checkpoint-2 is whole; make room and go on with --resume"):
        train(model)
    monkeypatch.setattr(runs.GainRLTrainer, "_save_optimizer_and_scheduler", plain)
    assert train(model, resume=True).finished


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainin": {}}, "has no 'trainin': the nearest name is 'training'"),
        (
            {"training": {"learning_rat": 1}},
            "section 'training' has no 'learning_rat': the nearest name is 'learning_rate'",
        ),
        (
            {"training": {"save_only_model": True}},
            "save_only_model: true leaves out .* leave it out",
        ),
        ({"lora": {"rank": 4}}, "section 'lora'"),
        ({"training": {"output_dir": "x"}}, "section 'training' cannot set 'output_dir': use output"),
        ({"training": {"curriculum_sigma": 1}}, "section 'training' has no 'curriculum_sigma'"),
        ({"curriculum": {"sigmma": 1}}, "section 'curriculum' has no 'sigmma': the nearest name is 'sigma'"),
        ({"curriculum": {"sigma": 0}}, "sigma must be a positive"),
        ({"curriculum": {"prompts_per_epoch": 6}}, "use 4 or 8"),
        ({"curriculum": {"prompts_per_epoch": 28}}, "28, but the training dataset has 24"),
        ({"training": {"num_generations": 3}}, "section 'training': .*divisible by num_generations"),
        ({"training": {"eval_strategy": "sometimes"}}, "section 'training': .*sometimes"),
        ({"dataset": None}, "neither a task nor a dataset"),
        ({"rewards": None}, "a dataset needs reward functions"),
        ({"rewards": "my_rewards.odd"}, "module 'my_rewards' has no 'odd'"),
        ({"rewards": "no_such_module.reward"}, "cannot import 'no_such_module'"),
        ({"dataset": "missing.jsonl"}, "no such file"),
        ({"dataset": None, "rewards": None, "task": "arithmetik"}, "the nearest name is 'arithmetic'"),
        ({"model": "./nowhere"}, "no such directory"),
        ({"output": "problems.jsonl"}, "is a file"),
        ({"output": "."}, "holds other files"),
        ({"scored_with": "other"}, "choose 'same' or 'any'"),
        ({"model": None}, "lacks 'model'"),
    ],
    ids=str,
)
def test_mistakes_are_named_before_a_model_is_loaded(
    model: str, place: Path, changes: dict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "load_model", lambda config: pytest.fail("the model was loaded"))
    with pytest.raises(UserError, match=said):
        train(**{"model": model, **changes})
    assert not Path("out").exists()


def test_a_table_of_another_model_or_dataset_is_refused(model: str, place: Path) -> None:
    make_table(problems()).write("other.parquet")
    with pytest.raises(UserError, match=r"made with the model 'tiny' .* score with it, or say scored_with: any"):
        train(model, scores="other.parquet")
    make_table(problems(24, seed=3)).write("foreign.parquet")
    with pytest.raises(UserError, match="made for another dataset"):
        train(model, scores="foreign.parquet")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "1 + 1 ="}], r"row 0 of the dataset has no column 'prompt', only \['text'\]"),
        ([{"prompt": "1 + 1 ="}, {"prompt": ""}], "row 1 of the dataset: prompt is empty"),
        ([{"prompt": "1 + 1 ="}, {"prompt": [{"role": "user", "content": "1"}]}], "row 1 .* prompt is a list"),
        ([{"prompt": 5}], "row 0 .* prompt is a int"),
    ],
    ids=["no prompt", "empty prompt", "mixed kinds", "a number"],
)
def test_rows_that_cannot_be_prompts(model: str, place: Path, rows: list, said: str) -> None:
    Path("problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=said):
        train(model)


def test_resume_and_overwrite_exclude_each_other_and_need_a_run(model: str, place: Path) -> None:
    with pytest.raises(UserError, match="exclude each other"):
        train(model, resume=True, overwrite=True)
    with pytest.raises(UserError, match="no run to resume in 'out'"):
        train(model, resume=True)


def test_the_command_line_stops_cleanly_on_ctrl_c_and_says_how_to_go_on(model: str, place: Path) -> None:
    Path("run.yaml").write_text(
        yaml.safe_dump(settings(model, rewards="my_rewards.slow", training={"num_train_epochs": 50}))
    )
    command = [sys.executable, "-m", "gainrl", "train", "--config", "run.yaml"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not Path("out/epochs.jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "stopping at the end of this generation batch" in output
    assert "with: gainrl train --config run.yaml --resume" in output
    assert "Traceback" not in output


def test_the_command_line_says_a_mistake_in_one_line(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gainrl", "train", "--config", "missing.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "gainrl: cannot read the config 'missing.yaml': No such file or directory\n"


def test_the_packaged_examples_are_valid(place: Path) -> None:
    examples = Path(__file__).parents[3] / "examples"
    for path in sorted(examples.glob("*.yaml")):
        config = RunConfig.read(path)
        runs._trainer_config(config)
