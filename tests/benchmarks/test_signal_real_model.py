"""The real-model study: its figures, its tasks, and its plan."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks
sys.path.insert(0, str(Path(__file__).parents[1]))  # tiny_models

from tiny_models import make_model

from benchmarks import real_model, real_model_runs
from gainrl.tasks import load_task


def curve(*accuracies: float) -> list[dict[str, float]]:
    return [{"step": i, "rollouts": 100 * i, "accuracy": a} for i, a in enumerate(accuracies)]


def test_rollouts_to_a_level_lie_on_the_line_between_two_measurements() -> None:
    assert real_model._rollouts_to(0.3, curve(0.1, 0.2, 0.4)) == pytest.approx(150)
    assert real_model._rollouts_to(0.05, curve(0.1, 0.2)) == 0
    assert real_model._rollouts_to(0.5, curve(0.1, 0.2)) is None


def test_area_is_the_mean_accuracy_over_the_rollouts() -> None:
    assert real_model.area(curve(0.0, 0.2, 0.2)) == pytest.approx(0.15)


def test_every_arm_of_a_comparison_comes_before_the_next_comparison() -> None:
    for name, scale in real_model_runs.SCALES.items():
        names = [(job.family, job.seed) for job in real_model_runs.jobs(name)]
        arms = len(scale.arms)
        assert len(names) == len(set(names)) * arms
        assert all(len(set(names[i : i + arms])) == 1 for i in range(0, len(names), arms))
    assert {job.arm for job in real_model_runs.jobs("cpu")} == {"uniform", "gainrl", "probe"}


@pytest.mark.parametrize("scale", real_model_runs.SCALES)
def test_every_run_is_a_config_that_the_trainer_takes(scale: str) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    from gainrl.integrations.trl.run_config import RunConfig

    for job in real_model_runs.jobs(scale):
        if job.seed == 0:
            RunConfig.from_dict(real_model_runs.config_of(job, "data/gsm8k")).trainer_settings()


@pytest.mark.parametrize("name", ["Letters", "Chains", "Divisors"])
def test_worked_examples_are_never_among_the_problems(name: str) -> None:
    task = load_task(f"benchmarks.real_model_tasks.{name}")
    rows = task.load("train") + task.load("test")
    shown = {question for question, _ in task.examples}
    assert len(rows) > 500
    assert not shown & {row["question"] for row in rows}
    assert all(isinstance(row["prompt"], str) and row["prompt"].endswith("\nAnswer:") for row in rows)
    assert task.grade_many([" " + row["answer"] for row in rows[:3]], rows[:3])[0].correct


# -- runs that are cut short ---------------------------------------------------------------------------------

CHILD = """
import json, signal, sys, time
from pathlib import Path
folder, stops = Path(sys.argv[1]), sys.argv[2] == "stops"
folder.mkdir(parents=True, exist_ok=True)
signal.signal(signal.SIGTERM, lambda *given: sys.exit(130))
(folder / "ready").touch()
if stops and not (folder / "again").exists():
    (folder / "again").touch()
    time.sleep(60)
(folder / "epochs.jsonl").write_text(json.dumps({"rollouts": 16, "seconds": 2.0}) + "\\n")
points = [{"step": at, "accuracy": 0.1 * at, "low": 0.0, "high": 1.0, "seconds": 0.5} for at in (0, 1)]
(folder / "evals.jsonl").write_text("".join(json.dumps(one) + "\\n" for one in points))
"""


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Runs are short processes that leave a run's files; `probe` waits until it is stopped once.  Arms as started."""
    started: list[str] = []

    def start(job: real_model_runs.Job, gsm8k: str | None) -> Any:
        started.append(job.arm)
        kind = "stops" if job.arm == "probe" else "ends"
        return subprocess.Popen([sys.executable, "-S", "-c", CHILD, str(job.directory), kind])

    monkeypatch.setattr(real_model, "_start", start)
    monkeypatch.setattr(real_model_runs, "RUNS", tmp_path / "runs")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield started
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_request_to_stop_is_passed_on_and_the_next_call_goes_on_with_what_is_missing(
    children: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, waiting = tmp_path / "real_model_cpu.json", real_model_runs.Job("cpu", "arithmetic", "probe", 0)

    def ask() -> None:
        while not (waiting.directory / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    assert real_model.run("cpu", 10.0, 1, None, output) == 1
    asking.join()
    assert "arithmetic-probe-0: stopped, goes on in the next call" in capsys.readouterr().out
    assert [one["arm"] for one in json.loads(output.read_text())["rows"]] == ["gainrl", "uniform"]
    assert real_model.run("cpu", 10.0, 1, None, output) == 0
    assert children == ["uniform", "gainrl", "probe", "probe"]
    assert len(json.loads(output.read_text())["rows"]) == 3
    assert "failed" not in capsys.readouterr().out


def test_a_run_that_fails_by_itself_is_said_to_have_failed() -> None:
    assert real_model._stopped(-signal.SIGKILL, asked=True)
    assert real_model._stopped(-signal.SIGTERM, asked=True)
    assert not real_model._stopped(-signal.SIGKILL, asked=False)  # out of memory
    assert not real_model._stopped(1, asked=True)


@pytest.mark.full
def test_a_run_that_is_stopped_after_a_step_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the real thing, with a tiny model: one whole, one stopped by SIGTERM after its first step."""
    pytest.importorskip("trl", reason="trl is not installed")
    texts = ["1 + 2 = 3\n12 - 4 = 8\n6 * 7 = 42\n"] * 4
    monkeypatch.setattr(real_model_runs, "MODEL", make_model(tmp_path / "model", "llama", texts=texts))
    cpu = real_model_runs.SCALES["cpu"]
    small = dataclasses.replace(cpu.families["arithmetic"], steps=3, evaluate_every=2, held_out=4, save_every=10)
    monkeypatch.setitem(real_model_runs.SCALES, "cpu", dataclasses.replace(cpu, families={"arithmetic": small}))
    job, found = real_model_runs.Job("cpu", "arithmetic", "probe", 0), {}
    measured = real_model_runs.held_out_callback

    def stopping(job: real_model_runs.Job, trainer: Any, gsm8k: str | None) -> Any:
        callback, ending = measured(job, trainer, gsm8k), type(measured(job, trainer, gsm8k)).on_step_end

        def end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ending(self, args, state, control, **kwargs)
            if state.global_step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        type(callback).on_step_end = end
        return callback

    for name in ("whole", "stopped"):
        monkeypatch.setattr(real_model_runs, "RUNS", tmp_path / name)
        if name == "stopped":
            with monkeypatch.context() as patched:
                patched.setattr(real_model_runs, "held_out_callback", stopping)
                assert real_model_runs.train_one(job, None) is False
        assert real_model_runs.train_one(job, None) is True
        found[name] = real_model_runs.summary_of(job)
        seconds = [found[name].pop(key) for key in ("seconds", "processes")]
        assert len(seconds[1]) == (1 if name == "whole" else 2)
        assert all(one["cpu_seconds"] > 0 for one in seconds[1])
    assert found["stopped"] == found["whole"]
    assert found["whole"]["rollouts"] == 3 * small.prompts * small.rollouts
    assert [point["step"] for point in found["whole"]["curve"]] == [0, 2, 3]
