"""Whole runs of `gainrl train` with a model sharded by FSDP over two gloo processes: trained, saved, resumed."""

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

SCRIPT = str(Path(__file__).with_name("fsdp_on_cpu.py"))
SHARDED = ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
SHARDED += ["--fsdp_transformer_layer_cls_to_wrap", "Qwen2DecoderLayer", "--fsdp_cpu_ram_efficient_loading", "false"]
REWARD = "def even(completions, **columns):\n    return [float(len(text) % 2 == 0) for text in completions]\n"


def launch(place: Path, *options: str, how: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", *how, "--num_processes", "2", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", SCRIPT]
    command += ["train", "--config", "run.yaml", "--no-report", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment, check=False, timeout=280)


@pytest.fixture
def place(tmp_path: Path, model: str) -> Path:
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems()))
    (tmp_path / "my_rewards.py").write_text(REWARD)
    make_table(problems()).write(tmp_path / "scores.parquet")
    values: dict[str, Any] = {
        "model": model, "dataset": "problems.jsonl", "rewards": "my_rewards.even", "output": "out",
        "scores": "scores.parquet", "scored_with": "any", "curriculum": {"prompts_per_epoch": 8},
        "training": {
            "num_train_epochs": 2, "num_generations": 2, "per_device_train_batch_size": 4, "max_completion_length": 4,
            "learning_rate": 1e-2, "bf16": False, "activation_checkpointing": False, "report_to": "none", "seed": 7,
            "save_strategy": "steps", "save_steps": 1,
        },
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


@pytest.mark.full
def test_a_sharded_model_is_trained_like_a_whole_one_and_resumes(place: Path) -> None:
    done = launch(place, how=SHARDED)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("the score table has no directions") == 1, "of two processes"
    last = place / "out/checkpoints/checkpoint-4"
    assert list((last / "pytorch_model_fsdp_0").glob("*.distcp")), "the checkpoint is in shards"
    sharded = epoch_records(place / "out")
    for step in (2, 3, 4):
        shutil.rmtree(place / f"out/checkpoints/checkpoint-{step}")
    resumed = launch(place, "--resume", how=SHARDED)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert epoch_records(place / "out") == sharded

    (place / "out").rename(place / "sharded")
    whole = launch(place, how=["--multi_gpu"])
    assert whole.returncode == 0, whole.stderr[-3000:]
    for ours, theirs in zip(epoch_records(place / "out"), sharded, strict=True):
        for name in ("accuracy", "reward", "rollouts", "tokens", "useful", "angle"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-4), name
