"""Real kills: SIGKILL at random moments of a run, saves included, then a resume that equals the run left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SETTINGS: list[dict[str, Any]] = [
    {"steps_per_generation": 2, "gradient_accumulation_steps": 1, "prompts_per_epoch": 8},
    {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "prompts_per_epoch": 16},
]  # fmt: skip


SHAPE: dict[str, Any] = {"steps_per_generation": 2, "gradient_accumulation_steps": 1, "prompts_per_epoch": 8}
OPTIONS: list[dict[str, Any]] = [
    {"rerank_every": 1},
    {"curriculum_navigator": "posterior"},
    {"skip_mastered": 1, "mastered_rest": 1},
    {"backfill": True},
]


def kill_points(model: str, directory: Path, seed: int, points: int, settings: dict[str, Any]) -> dict[str, Any]:
    script = Path(__file__).with_name("kill_points.py")
    command = [sys.executable, str(script), model, str(directory), str(seed), str(points), json.dumps(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    return result


def test_a_killed_run_goes_on_as_if_nothing_had_happened(model: str, tmp_path: Path) -> None:
    result = kill_points(model, tmp_path, seed=1, points=2, settings=SETTINGS[0])
    assert result.get("different") == [], result


def test_a_killed_run_goes_on_with_all_it_remembers_of_prompts(model: str, tmp_path: Path) -> None:
    settings = {**SHAPE, "curriculum_navigator": "posterior", "backfill": True, "rerank_every": 1}
    result = kill_points(model, tmp_path, seed=3, points=1, settings=settings)
    assert result.get("different") == [], result


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_random_kill_points_of_a_run_with_options(model: str, tmp_path: Path, option: dict) -> None:
    result = kill_points(model, tmp_path, seed=4, points=4, settings={**SHAPE, "num_train_epochs": 3, **option})
    assert result.get("different") == [], result


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_twelve_random_kill_points(model: str, tmp_path: Path, settings: dict) -> None:
    result = kill_points(model, tmp_path, seed=2, points=12, settings=settings)
    assert result.get("different") == [], result
    assert len(set(result["killed"])) >= 5, "the points should fall into moments of different kinds"
