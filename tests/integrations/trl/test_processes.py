"""Several processes, and runs that are killed: the draws are those of one undisturbed run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from packaging.version import Version

from tests.integrations.trl.support import draws, hand_angle, settled

SAVING = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "max_steps": 8}


def run(home: Path, *, world: int, kills: int = 0, seed: int = 0, **settings: Any) -> None:
    """`processes.py` in a process of its own."""
    given = json.dumps({"world": world, "kills": kills, "seed": seed, "settings": settings})
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("processes.py")), str(home), given],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:] + "".join(p.read_text()[-2000:] for p in home.glob("*.log"))


def test_two_processes_train_the_rows_that_rank_0_drew(tmp_path: Path) -> None:
    """Two groups of four, the second and the third rollout of each in different processes."""
    run(tmp_path, world=2, num_generations=4, per_device_train_batch_size=2, gradient_accumulation_steps=3,
        learning_rate=0.0, max_steps=2, group_by="source")  # fmt: skip
    ranks = [json.loads((tmp_path / "whole" / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    lines = draws(tmp_path / "whole")
    assert len(lines) == len(ranks[0]) == len(ranks[1]) == 2
    for line, first, second in zip(lines, *ranks, strict=True):
        assert first["numbers"] + second["numbers"] == np.repeat(line["rows"], 4).tolist()
        rewards = np.array(first["rewards"])
        assert np.array_equal(rewards, second["rewards"]), "TRL gathers them"
        assert line["accuracy"] == pytest.approx(rewards.mean())
        assert line["outcome"] == [[4, sum(g), len(set(g)) > 1] for g in rewards.reshape(-1, 4).tolist()]
        assert line["angle"] == pytest.approx(hand_angle(str(tmp_path / "model"), [first, second]), rel=1e-4)


KILLED = [
    pytest.param(1, 2, {"navigator": "posterior", "navigator_args": None}, id="one-process"),
    pytest.param(2, 1, {}, id="two-processes"),
    pytest.param(1, 20, {"navigator": "probe", "navigator_args": None}, id="one-process-20", marks=pytest.mark.full),
    pytest.param(2, 20, {"steps_per_generation": 4, "save_steps": 2}, id="two-processes-20", marks=pytest.mark.full),
]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("world", "kills", "settings"), KILLED)
def test_a_run_that_is_killed_and_resumed_makes_the_draws_of_an_uninterrupted_one(
    world: int, kills: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    if world > 1 and Version(transformers.__version__) < Version("5.24"):
        pytest.skip("transformers before 5.24 may not load the optimizer of several processes on CPUs")
    run(tmp_path, world=world, kills=kills, seed=world, **{**SAVING, **settings})
    whole = settled(tmp_path / "whole")
    for number in range(kills):
        assert settled(tmp_path / f"kill-{number}") == whole
        assert len(list((tmp_path / f"kill-{number}").glob("checkpoint-*"))) == 1
