"""A run that was cut short and resumed is the uninterrupted run: prompts, completions, losses, curriculum."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl_support import (
    check_rest,
    copy_up_to,
    epoch_records,
    losses,
    make_config,
    make_table,
    make_trainer,
    problems,
    recorded,
)

from gainrl.errors import UserError
from gainrl.integrations.trl.checkpoints import (
    STATE_NAME,
    checkpoints,
    last_complete,
    read_state,
    rotate_checkpoints,
    seal,
    step_of,
    why_incomplete,
)

SHAPES: list[dict[str, Any]] = [
    {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 4, "prompts_per_epoch": 8},
    {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "prompts_per_epoch": 16},
    {"steps_per_generation": 4, "gradient_accumulation_steps": 1, "prompts_per_epoch": 16},
    {"num_iterations": 2, "gradient_accumulation_steps": 2, "prompts_per_epoch": 8},
    {"steps_per_generation": 2, "gradient_accumulation_steps": 3, "prompts_per_epoch": 16},
]


def run(model: str, directory: Path, *, resume: Any = None, **settings: Any) -> Any:
    trainer = make_trainer(model, directory, kind=recorded(), save_strategy="steps", save_steps=1, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def saved(model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A whole run of the first shape with a checkpoint at every step: its trainer and its directory."""
    directory = tmp_path_factory.mktemp("saved")
    return run(model, directory, **SHAPES[0]), directory


def check_resumes(model: str, tmp_path: Path, shape: dict[str, Any], *, every: bool) -> int:
    """Resume from checkpoints of an uninterrupted run and compare; returns how many."""
    whole = run(model, tmp_path / "whole", **shape)
    steps = sorted(int(directory.name.split("-")[1]) for directory in checkpoints(tmp_path / "whole"))[:-1]
    last_of_epoch = whole.state.max_steps // 2
    assert last_of_epoch in steps
    chosen = steps if every else sorted({last_of_epoch, steps[-1]})
    for step in chosen:
        directory = copy_up_to(tmp_path / "whole", tmp_path / f"cut-{step}", step)
        resumed = run(model, directory, resume=True, **shape)
        check_rest(resumed, whole, step)
        assert epoch_records(directory) == epoch_records(tmp_path / "whole")
    return len(chosen)


@pytest.mark.parametrize("shape", SHAPES[1:4], ids=str)
def test_resuming_repeats_the_uninterrupted_run(model: str, tmp_path: Path, shape: dict) -> None:
    check_resumes(model, tmp_path, shape, every=False)


@pytest.mark.parametrize(
    "option",
    [
        {"curriculum_navigator": "posterior"},
        {"curriculum_navigator": "target", "skip_mastered": 1, "mastered_rest": 1, "num_train_epochs": 4},
    ],
    ids=str,
)
def test_what_is_remembered_of_prompts_is_resumed(model: str, tmp_path: Path, option: dict) -> None:
    check_resumes(model, tmp_path, {**SHAPES[0], **option}, every=False)


@pytest.mark.full
@pytest.mark.parametrize("shape", [{**shape, "prompts_per_epoch": 16} for shape in SHAPES], ids=str)
def test_resuming_from_any_checkpoint_repeats_the_uninterrupted_run(model: str, tmp_path: Path, shape: dict) -> None:
    check_resumes(model, tmp_path, shape, every=True)


def test_saves_inside_a_generation_batch_wait_for_its_end(model: str, tmp_path: Path) -> None:
    run(model, tmp_path, steps_per_generation=4, gradient_accumulation_steps=1, prompts_per_epoch=16)
    assert [step_of(directory) for directory in checkpoints(tmp_path)] == [16, 12, 8, 4]
    assert all(why_incomplete(directory) is None for directory in checkpoints(tmp_path))


def test_a_run_that_ends_inside_a_generation_batch_says_so(model: str, tmp_path: Path) -> None:
    shape = {**SHAPES[2], "lr_scheduler_type": "constant"}
    run(model, tmp_path, max_steps=6, **shape)
    assert "inside a generation batch" in str(why_incomplete(tmp_path / "checkpoint-6"))
    found, passed = last_complete(tmp_path)
    assert (found, list(passed)) == (tmp_path / "checkpoint-4", ["checkpoint-6"])
    with pytest.raises(UserError, match="inside a generation batch"):
        run(model, tmp_path, resume=str(tmp_path / "checkpoint-6"), max_steps=8, **shape)
    whole = run(model, tmp_path / "whole", max_steps=8, **shape)
    resumed = run(model, tmp_path, resume=True, max_steps=8, **shape)
    assert resumed.seen == [batch for batch in whole.seen if batch["step"] >= 4]
    assert losses(resumed) == losses(whole)


def test_evaluation_in_between_changes_nothing(model: str, tmp_path: Path) -> None:
    shape = SHAPES[1]
    whole = run(model, tmp_path / "plain", **shape)
    evaluated = make_trainer(
        model,
        tmp_path / "evaluated",
        kind=recorded(),
        trainer={"eval_dataset": Dataset.from_list(problems(4, seed=5))},
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=4,
        **shape,
    )
    evaluated.train()
    assert any("eval_loss" in entry for entry in evaluated.state.log_history)
    assert evaluated.seen == whole.seen
    assert losses(evaluated) == losses(whole)
    assert epoch_records(tmp_path / "evaluated") == epoch_records(tmp_path / "plain")


@pytest.mark.parametrize("damage", ["no state", "torn state", "torn weights", "missing optimizer"])
def test_an_incomplete_checkpoint_is_passed_over(saved: tuple[Any, Path], tmp_path: Path, damage: str) -> None:
    directory = copy_up_to(saved[1], tmp_path / "cut", 3)
    broken = directory / "checkpoint-3"
    if damage == "no state":
        (broken / STATE_NAME).unlink()
    elif damage == "torn state":
        text = (broken / STATE_NAME).read_text()
        (broken / STATE_NAME).write_text(text[: len(text) // 2])
    elif damage == "torn weights":
        data = (broken / "model.safetensors").read_bytes()
        (broken / "model.safetensors").write_bytes(data[:-100])
    else:
        (broken / "optimizer.pt").unlink()
    found, passed = last_complete(directory)
    assert found == directory / "checkpoint-2"
    assert list(passed) == ["checkpoint-3"]


def test_a_run_goes_on_over_an_incomplete_checkpoint(model: str, saved: tuple[Any, Path], tmp_path: Path) -> None:
    whole, source = saved
    directory = copy_up_to(source, tmp_path / "cut", 5)
    (directory / "checkpoint-5" / STATE_NAME).unlink()
    with open(directory / "epochs.jsonl", "a") as file:
        file.write('{"epoch": 1, "navig')  # torn by the same kill
    resumed = run(model, directory, resume=True, **SHAPES[0])
    assert resumed.seen == [batch for batch in whole.seen if batch["step"] >= 4]
    assert losses(resumed) == losses(whole)
    assert epoch_records(directory) == epoch_records(source)
    assert why_incomplete(directory / "checkpoint-5") is None, "it is written again"


def test_a_failing_save_leaves_the_previous_checkpoint_whole(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(model, tmp_path, save_strategy="steps", save_steps=1, save_total_limit=1, **SHAPES[0])
    plain = type(trainer)._save_optimizer_and_scheduler

    def full(self: Any, output_dir: str) -> None:
        if self.state.global_step == 3:
            raise OSError(28, "No space left on device")
        plain(self, output_dir)

    monkeypatch.setattr(type(trainer), "_save_optimizer_and_scheduler", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.train()
    assert [directory.name for directory in checkpoints(tmp_path)] == ["checkpoint-2"]
    assert last_complete(tmp_path)[0] == tmp_path / "checkpoint-2"


def test_old_checkpoints_rotate_only_once_the_new_one_is_whole(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gainrl.integrations.trl import saving

    at_rotation: list[tuple[list[str], Path | None]] = []
    plain = saving.rotate_checkpoints

    def watched(newest: Path, *limits: Any) -> None:
        at_rotation.append(([d.name for d in checkpoints(newest.parent)], last_complete(newest.parent)[0]))
        plain(newest, *limits)

    monkeypatch.setattr(saving, "rotate_checkpoints", watched)
    run(model, tmp_path, save_total_limit=1, **SHAPES[0])
    assert [names[0] for names, _ in at_rotation] == [str(whole.name) for _, whole in at_rotation if whole]
    assert [names for names, _ in at_rotation][1] == ["checkpoint-2", "checkpoint-1"]
    assert [directory.name for directory in checkpoints(tmp_path)] == ["checkpoint-8"]


def test_a_run_that_ends_inside_a_generation_batch_keeps_the_last_checkpoint_to_resume_from(
    model: str, tmp_path: Path
) -> None:
    run(model, tmp_path, max_steps=10, save_total_limit=1, **SHAPES[2])
    assert [directory.name for directory in checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-8"]
    assert last_complete(tmp_path)[0] == tmp_path / "checkpoint-8"


def sealed(directory: Path, step: int, *, resumable: bool = True) -> Path:
    """A checkpoint of one file, as its seal leaves it."""
    path = directory / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "weights").write_text("w")
    seal(path, {"resumable": resumable})
    return path


def test_a_torn_checkpoint_never_rotates_a_whole_one_away(tmp_path: Path) -> None:
    whole, torn = sealed(tmp_path, 15), sealed(tmp_path, 20)
    (torn / STATE_NAME).unlink()
    rotate_checkpoints(whole, 1, None)
    assert checkpoints(tmp_path) == [whole]


def test_rotation_keeps_the_newest_to_resume_from_and_the_best(tmp_path: Path) -> None:
    made = {step: sealed(tmp_path, step) for step in (5, 10, 15)}
    last = sealed(tmp_path, 17, resumable=False)
    rotate_checkpoints(last, 1, str(made[5]))
    assert checkpoints(tmp_path) == [last, made[15], made[5]]
    weights_only = [sealed(tmp_path / "weights", step, resumable=False) for step in (1, 2, 3)]
    rotate_checkpoints(weights_only[2], 2, None)
    assert checkpoints(tmp_path / "weights") == [weights_only[2], weights_only[1]]
    rotate_checkpoints(last, None, None)
    assert len(checkpoints(tmp_path)) == 3


def test_the_end_of_training_leaves_what_a_stopped_run_resumes_from(model: str, tmp_path: Path) -> None:
    trainer = make_trainer(
        model, tmp_path, save_strategy="steps", save_steps=1, save_total_limit=1, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True, metric_for_best_model="reward", per_device_eval_batch_size=4,
        trainer={"eval_dataset": Dataset.from_list(problems(4, seed=5))}, **SHAPES[0],
    )  # fmt: skip
    plain = trainer._determine_best_metric

    def first_is_best(metrics: dict[str, float], trial: Any) -> bool:
        return plain({**metrics, "eval_reward": -float(trainer.state.global_step)}, trial)

    trainer._determine_best_metric = first_is_best
    trainer.train()
    assert [directory.name for directory in checkpoints(tmp_path)] == ["checkpoint-8", "checkpoint-1"]


def test_resuming_from_an_older_checkpoint_takes_the_seal_off_newer_ones(
    model: str, saved: tuple[Any, Path], tmp_path: Path
) -> None:
    directory = copy_up_to(saved[1], tmp_path / "cut", 8)
    run(model, directory, resume=str(directory / "checkpoint-2"), max_steps=3, **SHAPES[0])
    assert last_complete(directory)[0] == directory / "checkpoint-3"
    assert (directory / "checkpoint-8" / "model.safetensors").exists(), "the weights are the user's to remove"


def test_a_copy_of_a_checkpoint_may_have_any_name(model: str, saved: tuple[Any, Path], tmp_path: Path) -> None:
    copied = tmp_path / "good"
    shutil.copytree(saved[1] / "checkpoint-7", copied)
    run(model, tmp_path / "run", resume=str(copied), **SHAPES[0])
    assert last_complete(tmp_path / "run")[0] == tmp_path / "run" / "checkpoint-8"
    state = json.loads((copied / "trainer_state.json").read_text())
    del state["global_step"]
    text = json.dumps(state)
    size = (copied / "trainer_state.json").stat().st_size
    (copied / "trainer_state.json").write_text(text + " " * (size - len(text)))
    with pytest.raises(UserError, match="does not tell the step"):
        run(model, tmp_path / "again", resume=str(copied), **SHAPES[0])


def test_the_state_is_small(saved: tuple[Any, Path]) -> None:
    assert (saved[1] / "checkpoint-5" / STATE_NAME).stat().st_size < 4096


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompts_per_epoch": 12}, "prompts_per_epoch: 8 in the checkpoint, 12 now"),
        ({"per_device_train_batch_size": 8}, "generation_batch_size: 4 in the checkpoint, 8 now"),
        ({"curriculum_sigma": 5.0}, "sigma was 4.0 and is now 5.0"),
        ({"curriculum_seed": 3}, "seed was 7 and is now 3"),
        (
            {"curriculum_navigator": "probe"},
            r"'gaussian', this run uses 'probe' \(the default\): go on with curriculum_navigator='gaussian', or begin",
        ),
        ({"curriculum_angle": "prompt"}, "curriculum_angle: 'sequence' in the checkpoint, 'prompt' now"),
        ({"skip_mastered": 2}, "skip_mastered was None and is now 2"),
        ({"backfill": True}, "backfill: False in the checkpoint, True now"),
        ({"rerank_every": 3}, "rerank_every: None in the checkpoint, 3 now"),
        ({"accuracy_threshold": 0.5}, "accuracy_threshold: None in the checkpoint, 0.5 now"),
    ],
    ids=str,
)
def test_other_settings_are_refused_by_name(
    model: str, saved: tuple[Any, Path], tmp_path: Path, change: dict, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        run(model, tmp_path, resume=str(saved[1] / "checkpoint-2"), **{**SHAPES[0], **change})


def test_another_dataset_or_ranking_is_refused(model: str, saved: tuple[Any, Path], tmp_path: Path) -> None:
    checkpoint = str(saved[1] / "checkpoint-2")
    trainer = make_trainer(model, tmp_path, rows=problems(24, seed=9), **SHAPES[0])
    with pytest.raises(UserError, match="dataset: "):
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer = make_trainer(model, tmp_path, table=make_table(problems(), seed=1), **SHAPES[0])
    with pytest.raises(UserError, match="another ranking of this dataset"):
        trainer.train(resume_from_checkpoint=checkpoint)


def test_nothing_to_resume_is_an_error(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        run(model, tmp_path, resume=True, **SHAPES[0])


def test_a_fresh_run_over_an_old_one_is_refused(model: str, saved: tuple[Any, Path]) -> None:
    with pytest.raises(UserError, match="epochs of an earlier run"):
        run(model, saved[1], **SHAPES[0])


def test_a_newer_or_foreign_state_is_refused_by_name(saved: tuple[Any, Path], tmp_path: Path) -> None:
    path = copy_up_to(saved[1], tmp_path / "cut", 1) / "checkpoint-1" / STATE_NAME
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "format_version": 99}))
    with pytest.raises(UserError, match="format 99"):
        read_state(path.parent)
    path.write_text(json.dumps({**state, "surprise": 1}))
    with pytest.raises(UserError, match=r"unknown fields \['surprise'\]"):
        read_state(path.parent)


def test_a_requested_stop_saves_at_the_batchs_end_and_resumes(model: str, tmp_path: Path) -> None:
    shape = SHAPES[2]
    whole = run(model, tmp_path / "whole", **shape)
    stopped = make_trainer(model, tmp_path / "cut", kind=recorded(), save_strategy="no", **shape)
    plain = stopped.training_step

    def asked_to_stop(*args: Any) -> Any:
        if stopped.state.global_step == 1:
            stopped.request_stop()
        return plain(*args)

    stopped.training_step = asked_to_stop
    stopped.train()
    assert stopped.state.global_step == 4
    resumed = run(model, tmp_path / "cut", resume=True, **shape)
    assert stopped.seen + resumed.seen == whole.seen
    assert losses(resumed) == losses(whole)


def test_config_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    config = make_config(tmp_path, steps_per_generation=4)
    assert (config.generation_batch_size, config.prompts_per_generation) == (16, 8)
