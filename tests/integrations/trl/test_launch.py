"""`gainrl train` under `accelerate launch` with two processes (gloo): one voice, one run, and a rank that dies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from trl_support import epoch_records, make_table, problems

from gainrl.integrations.trl.checkpoints import checkpoints, step_of
from gainrl.table import ScoreTable

REWARDS = """
import os, pathlib, signal

def even(completions, **columns):
    return [float(len(text) % 2 == 0) for text in completions]

def dying(completions, **columns):
    saved, died = pathlib.Path("out/checkpoints/checkpoint-3"), pathlib.Path("died")
    if os.environ["RANK"] == "1" and saved.exists() and not died.exists():
        died.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return even(completions)
"""

LAUNCH = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
"""What `accelerate launch` takes for two processes of one machine; without a GPU they talk over gloo."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems()))
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    return tmp_path


def launch(place: Path, model: str, *options: str, **changes: Any) -> subprocess.CompletedProcess[str]:
    values: dict[str, Any] = {
        "model": model, "dataset": "problems.jsonl", "rewards": "my_rewards.even", "output": "out",
        "curriculum": {
            "prompts_per_epoch": 8, "navigator": "gaussian", "sigma": 4, "rerank_every": 1, "skip_mastered": 1,
        },
        "training": {
            "num_train_epochs": 3, "num_generations": 2, "per_device_train_batch_size": 4, "max_completion_length": 4,
            "learning_rate": 1e-2, "bf16": False, "activation_checkpointing": False, "report_to": "none", "seed": 7,
            "save_strategy": "steps", "save_steps": 1,
        },
    }  # fmt: skip
    values |= changes
    (place / "run.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, "--dynamo_backend", "no"]
    command += ["--main_process_port", "0", "-m", "gainrl", "train", "--config", "run.yaml", "--no-report", *options]
    # OMP_NUM_THREADS: two threads in each of two processes on two cores wait for each other
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment, check=False, timeout=280)


def test_a_rank_that_dies_ends_the_run_with_one_clear_error_and_the_run_resumes(model: str, place: Path) -> None:
    died = launch(place, model, rewards="my_rewards.dying")
    assert died.returncode != 0
    said = [line for line in died.stderr.splitlines() if line.startswith("gainrl:")]
    assert len(said) == 1, died.stderr[-3000:]
    assert "another process of this run has died" in said[0]
    assert "checkpoint-3 is whole; go on with --resume" in said[0]
    assert "[rank0]: Traceback" not in died.stderr
    assert not list((place / "out").glob("scores.parquet.partial*")), "both ranked, into one table"
    assert ScoreTable.read(place / "out/scores.parquet").status_counts() == {"ok": 24}
    resumed = launch(place, model, "--resume", rewards="my_rewards.dying")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert resumed.stdout.count("trained 6 steps; run directory out, checkpoint-6") == 1
    records = epoch_records(place / "out")
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert [record["rollouts"] for record in records] == [16, 16, 16]
    assert all(record["rerank_correlation"] is not None for record in records[1:])


@pytest.mark.full
def test_two_processes_resume_to_the_records_of_a_run_left_alone(model: str, place: Path) -> None:
    whole = launch(place, model)
    assert whole.returncode == 0, whole.stderr[-3000:]
    records = epoch_records(place / "out")
    for directory in checkpoints(place / "out/checkpoints"):
        if step_of(directory) > 3:
            shutil.rmtree(directory)
    resumed = launch(place, model, "--resume")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert epoch_records(place / "out") == records


@pytest.mark.full
def test_a_mistake_is_said_once(model: str, place: Path) -> None:
    done = launch(place, model, curriculum={"prompts_per_epoch": 28})
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("gainrl:")]
    assert said == ["gainrl: prompts_per_epoch=28, but the training dataset has 24 prompts"], done.stderr[-3000:]


@pytest.mark.full
def test_two_processes_overwrite_a_run_with_a_table_that_does_not_fit(model: str, place: Path) -> None:
    (place / "out").mkdir()
    (place / "out/epochs.jsonl").write_text("{}\n")
    make_table(problems(24, seed=3)).write(place / "out/scores.parquet")
    short = {
        "num_train_epochs": 1, "num_generations": 2, "per_device_train_batch_size": 4, "max_completion_length": 4,
        "bf16": False, "activation_checkpointing": False, "report_to": "none", "seed": 7, "save_strategy": "no",
    }  # fmt: skip
    done = launch(place, model, "--overwrite", training=short)
    assert done.returncode == 0, done.stderr[-3000:]
    assert ScoreTable.read(place / "out/scores.parquet").metadata.dataset == "problems.jsonl"
    assert [record["epoch"] for record in epoch_records(place / "out")] == [0]


@pytest.mark.full
def test_a_resume_that_has_no_checkpoint_is_refused_once(model: str, place: Path) -> None:
    done = launch(place, model)
    assert done.returncode == 0, done.stderr[-3000:]
    for path in (place / "out/checkpoints").glob("checkpoint-*/curriculum_state.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "resumable": False}))
    records = epoch_records(place / "out")
    refused = launch(place, model, "--resume")
    said = [line for line in refused.stderr.splitlines() if line.startswith("gainrl:")]
    assert len(said) == 1, refused.stderr[-3000:]
    assert "no checkpoint to resume from" in said[0]
    assert epoch_records(place / "out") == records
