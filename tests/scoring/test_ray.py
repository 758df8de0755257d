"""Ray Data with two workers on this machine: the table of one process, also when a worker is killed midway."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from scoring_runs import gainrl_score

from gainrl.errors import UserError
from gainrl.scoring import AngleScorer, ScoringPrompt, ray_engine
from gainrl.scoring.journal import journal_path
from gainrl.scoring.ray_engine import RayScorer

ENGINE = ("--engine", "ray", "--workers", "2")
ray = pytest.importorskip("ray", reason="ray is not installed")
pytest.importorskip("ray.data", reason="ray is not installed with its extra data")
pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(500),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's pipes to the processes that it starts
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def ended():
    yield
    ray.shutdown()


def map_workers() -> list[int]:
    """Ray Data's workers among the descendants of this process."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
        except OSError:
            continue

    def ours(process: int) -> bool:
        while process in parents:
            if process == os.getpid():
                return True
            process = parents[process]
        return False

    return [process for process, name in names.items() if name.startswith(b"ray::MapWorker") and ours(process)]


class Killing(threading.Thread):
    """Kills one worker as soon as the journal holds a result."""

    def __init__(self, output: Path) -> None:
        super().__init__(daemon=True)
        self.partial, self.killed, self.over = journal_path(output), [], threading.Event()

    def run(self) -> None:
        while not self.over.is_set() and not self.killed:
            if self.partial.exists() and self.partial.stat().st_size > 2500 and (found := map_workers()):
                os.kill(found[0], signal.SIGKILL)
                self.killed.append(found[0])
            time.sleep(0.002)


def test_two_workers_one_of_them_killed_write_the_table_of_one_process(model_directory, dataset, whole, tmp_path):
    output = tmp_path / "scores.parquet"
    (killing := Killing(output)).start()
    done = gainrl_score(model_directory, dataset, output, *ENGINE)
    killing.over.set()
    assert done.returncode == 0, done.stderr
    assert killing.killed, "the run was over before a worker could be killed"
    assert output.read_bytes() == whole.read_bytes()
    assert os.listdir(tmp_path) == ["scores.parquet"]


def test_workers_that_die_too_often_end_the_run_and_keep_the_rows(
    model_directory, dataset, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(ray_engine, "DEATHS", 0)
    output = tmp_path / "scores.parquet"
    (killing := Killing(output)).start()
    done = gainrl_score(model_directory, dataset, output, *ENGINE)
    killing.over.set()
    assert killing.killed
    assert done.returncode == 2
    assert "a Ray worker died more than 0 times" in done.stderr
    assert "Traceback" not in done.stderr
    assert journal_path(output).stat().st_size > 2500
    again = gainrl_score(model_directory, dataset, output, "--resume")
    assert again.returncode == 0, again.stderr
    assert "taken from an earlier run" in again.stdout
    assert output.read_bytes() == whole.read_bytes()


def test_in_memory_and_what_the_cluster_does_not_have(model_directory):
    with pytest.raises(UserError, match=r"--workers 999: the Ray cluster has \d+ CPUs"):
        RayScorer(str(model_directory), device="cpu", workers=999)
    assert not ray.is_initialized(), "what was started for a scorer that could not be made is ended"
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="WARNING")
    with pytest.raises(UserError, match="--workers 0"):
        RayScorer(str(model_directory), device="cpu", workers=0)
    with pytest.raises(UserError, match="no GPU"):
        RayScorer(str(model_directory), device="cuda")
    with pytest.raises(UserError, match="tap 'layer:99'"):
        RayScorer(str(model_directory), device="cpu", tap="layer:99")
    rows = ["one", "two pears", "", "and three apples"]
    scorer = RayScorer(str(model_directory), device="cpu", tokens_per_batch=8, directions=True)
    alone = AngleScorer(str(model_directory), device="cpu", tokens_per_batch=8, directions=True)
    ours, theirs = scorer.score(rows), alone.score(rows)
    assert ours.status == theirs.status
    assert ours.score.tobytes() == theirs.score.tobytes()
    assert ours.directions.tobytes() == theirs.directions.tobytes()


def test_an_address_without_a_cluster_is_one_error(monkeypatch, model_directory):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(UserError, match=r"RAY_ADDRESS=127\.0\.0\.1:9: no Ray cluster answers there"):
        RayScorer(str(model_directory), device="cpu")


def test_without_ray_the_error_names_the_extra(monkeypatch, model_directory):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'gainrl\[ray\]'"):
        RayScorer(str(model_directory))


def test_what_goes_wrong_in_a_worker_is_named(model_directory):
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="WARNING")
    scorer = RayScorer(str(model_directory), device="cpu")
    options = scorer._options
    scorer._options = {**options, "tap": "layer:99"}
    with pytest.raises(UserError, match=r"tap 'layer:99'"):
        scorer.score(["one"])
    scorer._options = options
    prepared = scorer.prepare([ScoringPrompt("two")])
    broken = pickle.dumps((0, prepared.batches[0], None))
    with pytest.raises(UserError, match=r"a Ray worker failed: TypeError: .*NoneType"):
        list(scorer._computed([broken]))


def test_waiting_for_a_cluster_is_said_once(model_directory, capsys, monkeypatch):
    monkeypatch.setattr(ray_engine, "PATIENCE", 0.1)
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="WARNING")
    scorer = RayScorer(str(model_directory), device="cpu")

    @ray.remote(num_cpus=2)
    def holds():
        time.sleep(60)

    held = holds.remote()
    while ray.available_resources().get("CPU", 0):
        time.sleep(0.1)
    capsys.readouterr()
    for _ in range(2):
        scorer._say_if_waiting()
    assert capsys.readouterr().err.count("waiting for 1 CPUs") == 1
    ray.cancel(held, force=True)
