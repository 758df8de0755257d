"""What `gainrl train` does to a run that is there: refusals leave it as it was, one directory for all processes."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from test_run import place, train  # noqa: F401  (a fixture)
from trl_support import epoch_records, make_table, problems

from gainrl.errors import UserError
from gainrl.integrations.trl import ranking, together
from gainrl.integrations.trl import run as runs
from gainrl.integrations.trl.checkpoints import STATE_NAME
from gainrl.integrations.trl.config import GainRLConfig
from gainrl.scoring.team import Team

pytestmark = pytest.mark.usefixtures("place")


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs, with a checkpoint after each."""
    there = tmp_path_factory.mktemp("finished")
    (there / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems()))
    (there / "my_rewards.py").write_text(
        "def even(completions, **columns):\n    return [float(len(t) % 2 == 0) for t in completions]\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(there)
        patch.syspath_prepend(str(there))
        train(model)
    return there / "out"


@pytest.fixture
def out(finished: Path) -> Path:
    """A copy of that run in the working directory."""
    shutil.copytree(finished, "out")
    return Path("out")


@pytest.mark.parametrize("resumable", [False, None], ids=["not resumable", "cut short"])
def test_resume_without_a_checkpoint_to_go_on_from_wipes_nothing(model: str, out: Path, resumable: bool | None) -> None:
    for path in out.glob("checkpoints/checkpoint-*"):
        state = path / STATE_NAME
        if resumable is None:
            state.unlink()
        else:
            state.write_text(json.dumps({**json.loads(state.read_text()), "resumable": False}))
    before = contents(out)
    with pytest.raises(UserError, match=r"no checkpoint to resume from in .*checkpoint-4: .*: --overwrite starts anew"):
        train(model, resume=True)
    assert contents(out) == before


def test_a_refused_resume_leaves_the_config_and_the_table(model: str, out: Path) -> None:
    before = contents(out)
    with pytest.raises(UserError, match="saved under other settings"):
        train(model, resume=True, training={"num_iterations": 2, "steps_per_generation": 2})
    assert contents(out) == before
    make_table(problems()).write("other.parquet")
    with pytest.raises(UserError):
        train(model, resume=True, scores="other.parquet", scored_with="any", curriculum={"prompts_per_epoch": 4})
    assert contents(out) == before


def test_a_resume_that_succeeds_describes_the_run_as_it_goes_on(model: str, out: Path) -> None:
    assert train(model, resume=True, training={"num_train_epochs": 3}).finished
    assert "num_train_epochs: 3" in (out / "config.yaml").read_text()
    assert len(epoch_records("out")) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_options": {"attn_implementation": "fastest"}}, "cannot load the model"),
        ({"scoring": {"tokens_per_bach": 5}}, "section 'scoring'"),
        ({"lora": {"rank": 4}}, "section 'lora'"),
        ({"lora": {"target_modules": ["query"]}}, r"section 'lora': .*not found"),
        ({"lora": {"target_modules": ["q_proj", "v_prj"]}}, r"no module of the model is called 'v_prj' \(near: "),
    ],
    ids=str,
)
def test_a_refused_overwrite_leaves_the_run(model: str, out: Path, changes: dict[str, Any], said: str) -> None:
    (out / "scores.parquet").unlink()
    before = contents(out)
    with pytest.raises(UserError, match=said):
        train(model, overwrite=True, **changes)
    assert contents(out) == before


def test_overwriting_replaces_the_results_of_another_unfinished_ranking(model: str, out: Path) -> None:
    (out / "scores.parquet").unlink()
    (out / "scores.parquet.partial").write_bytes(b"of another model")
    assert train(model, overwrite=True, training={"max_steps": 1}).finished
    assert not (out / "scores.parquet.partial").exists()


# -- where the ranking runs ----------------------------------------------------------------------------------


def test_the_ranking_runs_on_the_device_of_the_training(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(scored: Any, *args: Any, **kwargs: Any) -> None:
        raise UserError(f"scoring on {next(scored.parameters()).device}")

    plain = runs._trainer_config

    def elsewhere(config: Any) -> GainRLConfig:
        made = plain(config)
        monkeypatch.setattr(GainRLConfig, "device", property(lambda self: torch.device("meta")))
        return made

    monkeypatch.setattr(runs, "_trainer_config", elsewhere)
    monkeypatch.setattr(ranking, "AngleScorer", look)
    with pytest.raises(UserError, match="scoring on meta"):
        train(model)


@pytest.mark.parametrize("split_by", ["is_deepspeed_zero3_enabled", "is_fsdp_enabled"])
def test_a_model_split_over_processes_is_ranked_before(
    model: str, split_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, split_by, lambda: True)
    said = r"rank first: gainrl score --model \S+ --dataset problems.jsonl --output \S+, then scores: scores.parquet"
    with pytest.raises(UserError, match=said):
        train(model)
    assert not Path("out").exists()


def test_several_gpus_in_one_process_are_refused_before_ranking(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GainRLConfig, "n_gpu", property(lambda self: 2))
    monkeypatch.setattr(runs, "load_model", lambda config: pytest.fail("the model was loaded"))
    with pytest.raises(UserError, match=r"2 GPUs .*accelerate launch --num_processes 2 .*CUDA_VISIBLE_DEVICES=0"):
        train(model)


def test_a_column_of_several_types_is_named(model: str) -> None:
    rows = [{"prompt": "1 + 1 =", "tag": 1, "answer": 2}, {"prompt": "2 + 2 =", "tag": 2, "answer": "four"}]
    Path("problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"column 'answer' of the dataset cannot be one column .*'four'"):
        train(model)


# -- several processes ---------------------------------------------------------------------------------------


class Threads(Team):
    """A team whose processes are threads of this one, each perhaps with a disk of its own."""

    def __init__(self, rank: int, shared: dict[str, Any]) -> None:
        super().__init__(rank, 2)
        object.__setattr__(self, "shared", shared)

    def gather(self, value: Any) -> list[Any]:
        shared: dict[str, Any] = self.shared  # type: ignore[attr-defined]
        shared["values"][self.rank] = value
        shared["barrier"].wait()
        values = list(shared["values"])
        shared["barrier"].wait()
        return values


def both(work: Any) -> list[str]:
    """What `work(team)` came to in each of two processes."""
    shared = {"values": [None, None], "barrier": threading.Barrier(2, timeout=30)}
    ended = ["", ""]

    def one(rank: int) -> None:
        try:
            ended[rank] = repr(work(Threads(rank, shared)))
        except UserError as error:
            ended[rank] = str(error)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def test_a_run_directory_that_is_not_shared_is_one_error_on_every_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "VISIBLE_SECONDS", 0.5)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    places = [tmp_path / "first", tmp_path / "second"]
    said = both(lambda team: together.require_shared(places[team.rank], team))
    assert all(text.startswith("the run directory must be shared by all machines: ranks [1] do not") for text in said)
    assert both(lambda team: together.require_shared(places[0], team)) == ["None", "None"]
    assert list(places[0].iterdir()) == []


def test_every_rank_resumes_from_the_checkpoint_of_the_first(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = out / "checkpoints"
    chosen = repr(checkpoints / "checkpoint-4")
    assert both(lambda team: together.chosen_checkpoint(checkpoints, team)) == [chosen, chosen]

    monkeypatch.setattr(together, "VISIBLE_SECONDS", 0.5)
    (state := checkpoints / "checkpoint-4" / STATE_NAME).rename(hidden := tmp_path / "hidden")
    other = {"checkpoints": [], "seen": together._seen}

    def seen(path: Path, digest: str | None) -> bool:
        if threading.current_thread() is other["second"]:
            return bool(other["seen"](path, "another state"))
        return bool(other["seen"](path, digest))

    hidden.rename(state)
    monkeypatch.setattr(together, "_seen", seen)

    def choose(team: Team) -> Path | None:
        if team.rank == 1:
            other["second"] = threading.current_thread()
        team.barrier()
        return together.chosen_checkpoint(checkpoints, team)

    said = both(choose)
    assert all(text.startswith("the run directory must be shared by all machines: ranks [1]") for text in said)


def test_what_one_rank_alone_cannot_do_is_an_error_on_every_rank() -> None:
    def load(team: Team) -> int:
        def action() -> int:
            if team.rank == 1:
                raise UserError("no such file")
            return 5

        return together.agreed(team, action)

    assert both(load) == ["rank 1: no such file"] * 2
    assert both(lambda team: together.agreed(team, lambda: team.rank)) == ["0", "1"]
