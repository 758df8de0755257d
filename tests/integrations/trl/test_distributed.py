"""Two processes over gloo: the same draws everywhere, whole groups, signals over all ranks, an exact resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trl_support import copy_up_to, epoch_records

SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "steps_per_generation": 2,
    "prompts_per_epoch": 16,
}


def torchrun(script: str, *arguments: str, processes: int = 2) -> str:
    """Run a script of this folder in this many processes; what they printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [str(Path(__file__).with_name(script)), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def launch(model: str, directory: Path, *, processes: int = 2, resume: bool = False, **settings: Any) -> list[Any]:
    """Train with this many processes; what each rank wrote."""
    given = [str(directory), json.dumps({**SETTINGS, **settings}), "resume" if resume else "new"]
    torchrun("distributed_run.py", model, *given, processes=processes)
    return [json.loads((directory / f"rank{rank}.json").read_text()) for rank in range(processes)]


def check_resumes(model: str, ranks: list[Any], source: Path, cut: Path, step: int, **settings: Any) -> None:
    """From the checkpoint of `step` on, each rank does what it did in the run `source`, which wrote `ranks`."""
    directory = copy_up_to(source, cut, step)
    resumed = launch(model, directory, resume=True, **settings)
    for before, after in zip(ranks, resumed, strict=True):
        assert after["seen"] == [batch for batch in before["seen"] if batch["step"] >= step]
        assert after["navigator"] == before["navigator"]
        assert after["losses"] == before["losses"]
    assert epoch_records(directory) == epoch_records(source)


@pytest.fixture(scope="module")
def whole(model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    directory = tmp_path_factory.mktemp("two") / "run"
    return launch(model, directory), directory


def test_every_rank_draws_and_learns_the_same(whole: tuple[list[Any], Path]) -> None:
    first, second = whole[0]
    assert first["world"] == 2
    assert first["draws"] == second["draws"]
    assert first["observed"] == second["observed"]
    assert first["navigator"] == second["navigator"]


def test_no_prompt_is_trained_twice_and_groups_stay_whole(whole: tuple[list[Any], Path]) -> None:
    ranks, _ = whole
    observed = [record["id"] for record in ranks[0]["observed"]]
    assert observed == [name for drawn in ranks[0]["draws"] for name in drawn for _ in range(2)]
    assert all(len(set(drawn)) == 16 for drawn in ranks[0]["draws"])
    for one, other in zip(ranks[0]["seen"], ranks[1]["seen"], strict=True):
        assert not set(one["prompts"]) & set(other["prompts"])
        assert one["completions"] != other["completions"]


def test_epochs_are_recorded_once_over_all_rollouts(whole: tuple[list[Any], Path]) -> None:
    ranks, directory = whole
    records = epoch_records(directory)
    assert [record["epoch"] for record in records] == [0, 1]
    observed = ranks[0]["observed"][:32]
    assert records[0]["rollouts"] == 32
    assert records[0]["accuracy"] == sum(record["correct"] for record in observed) / 32
    assert records[0]["angle"] == pytest.approx(sum(record["angle"] for record in observed) / 32, abs=1e-9)


@pytest.mark.full
def test_two_processes_resume_as_if_nothing_had_happened(
    model: str, whole: tuple[list[Any], Path], tmp_path: Path
) -> None:
    check_resumes(model, *whole, tmp_path / "cut", 2)


@pytest.mark.full
def test_another_number_of_processes_goes_on_with_the_same_prompts(
    model: str, whole: tuple[list[Any], Path], tmp_path: Path
) -> None:
    ranks, source = whole
    directory = copy_up_to(source, tmp_path / "cut", 2)
    (alone,) = launch(model, directory, processes=1, resume=True, per_device_train_batch_size=8)
    expected = [record["id"] for record in ranks[0]["observed"][16:32]]
    assert [record["id"] for record in alone["observed"]][:16] == expected


EVERYTHING: dict[str, Any] = {"curriculum_navigator": "posterior", "backfill": True, "rerank_every": 1}


@pytest.fixture(scope="module")
def everything(model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    directory = tmp_path_factory.mktemp("two, with everything") / "run"
    return launch(model, directory, **EVERYTHING), directory


def test_ranks_fill_rank_again_and_remember_alike(everything: tuple[list[Any], Path]) -> None:
    (first, second), directory = everything
    for name in ("draws", "observed", "navigator"):
        assert first[name] == second[name]
    records = epoch_records(directory)
    assert records[0]["rerank_correlation"] is None
    assert records[1]["rerank_correlation"] is not None
    assert sum(record["backfilled"] for record in records) >= 2
    measured = [record for record in first["observed"] if record["angle"] is not None]
    assert len(measured) == 2 * 16 * 2, "what is trained on is measured, wherever it was generated"
    generated = {record["id"] for record in first["observed"][: records[0]["rollouts"]]}
    assert len(generated) == records[0]["groups"] == records[0]["rollouts"] // 2


@pytest.mark.full
def test_with_everything_two_processes_resume_as_if_nothing_had_happened(
    model: str, everything: tuple[list[Any], Path], tmp_path: Path
) -> None:
    for step in (2, 4, 6):
        check_resumes(model, *everything, tmp_path / f"cut-{step}", step, **EVERYTHING)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["fsdp1", "fsdp2"])
def test_a_sharded_model_is_measured_as_the_whole_one_to_the_bit(model: str, kind: str) -> None:
    assert torchrun("sharded_tap.py", model, kind).count("EQUAL") == 2
