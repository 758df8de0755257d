"""Two workers of a Ray cluster on this machine: the table of one process, also when a worker is killed midway."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from scoring_runs import gainrl_score, run

from gainrl.errors import UserError
from gainrl.scoring import ScoringPrompt, ScoringSettings
from gainrl.table import ScoreTable

ray = pytest.importorskip("ray", reason="ray is not installed")
pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(500),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's pipes to the processes that it starts
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Killing(threading.Thread):
    """Kills one worker as soon as there is a part."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.killed = folder, None

    def run(self) -> None:
        while not any(self.folder.glob("*-*.parquet")):
            time.sleep(0.002)
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cmdline").read_bytes().startswith(b"ray::_Worker"):
                    os.kill(int(entry.name), signal.SIGKILL)
                    self.killed = entry.name
                    return
            except OSError:
                continue


def test_two_workers_one_of_them_killed_write_the_table_of_one_process(model_directory, tmp_path):
    data, more = tmp_path / "p.jsonl", ("--tokens-per-batch", "512", "--directions")
    data.write_text("".join(json.dumps({"prompt": f"question {n % 11000}"}) + "\n" for n in range(12000)))
    assert gainrl_score(model_directory, data, tmp_path / "one.parquet", *more).returncode == 0
    (killing := Killing(tmp_path / "two.parquet.parts")).start()
    done = gainrl_score(model_directory, data, tmp_path / "two.parquet", *more, "--engine", "ray", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert killing.killed is not None
    one, two = (ScoreTable.read(tmp_path / name) for name in ("one.parquet", "two.parquet"))
    assert one.ids == two.ids
    assert np.allclose(one.column("score"), two.column("score"), atol=5e-6)
    assert one.metadata == two.metadata
    assert sorted(os.listdir(tmp_path)) == ["one.parquet", "p.jsonl", "two.parquet"]


def test_workers_that_do_not_score_alike_are_refused(model_directory, tmp_path, monkeypatch):
    from gainrl.scoring.ray_engine import RayScorer

    scorer = RayScorer(ScoringSettings(model=model_directory, device="cpu"))
    there = {**scorer.identity(), "dtype": "bfloat16"}
    monkeypatch.setattr(scorer, "identity", lambda: there)
    try:
        with pytest.raises(UserError, match="dtype: 'float32' there, 'bfloat16' now"):
            run(scorer, [ScoringPrompt("how many")], tmp_path / "s.parquet")
    finally:
        scorer.close()


def test_mistakes_are_said_as_they_would_be_here(tmp_path, monkeypatch):
    from gainrl.scoring.ray_engine import RayScorer

    with pytest.raises(UserError, match=r"none"):
        RayScorer(ScoringSettings(model=tmp_path / "none", device="cpu"))
    with pytest.raises(UserError, match="--workers 900"):
        RayScorer(ScoringSettings(model="smollm2-135m", device="cpu"), workers=900)
    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match="no Ray cluster answers there"):
        RayScorer(ScoringSettings(model="smollm2-135m"))
