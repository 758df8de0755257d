"""`gainrl train`: the run file, what it refuses, and whole runs from ranking to resume."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("trl", reason="trl is not installed")

from gainrl.cli.train import HELP, import_reward, read, run_parser
from gainrl.errors import UserError
from gainrl.integrations.trl.script import RunArguments, as_dataset
from gainrl.table import ScoreTable
from gainrl.tasks import load_task
from tests.tiny_models import make_model

Cli = Callable[..., tuple[int, str, str]]
REWARD = "def even(completions, **columns):\n    return [float(len(str(c)) % 2) for c in completions]\n\nLIMIT = 3\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("model"), texts=[f"how many {i} are left" for i in range(9)])


@pytest.fixture
def home(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a reward, a dataset, and a run file of two steps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rw.py").write_text(REWARD)
    rows = [{"prompt": [{"role": "user", "content": f"how many {i} are left"}]} for i in range(8)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = {
        "model_name_or_path": model, "dataset": "p.jsonl", "rewards": "rw.py:even", "output_dir": "run",
        "max_steps": 2, "num_generations": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
        "max_completion_length": 4, "learning_rate": "1e-5", "save_steps": 1, "report_to": "none", "report": False,
        "gradient_checkpointing": False, "bf16": False,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    return tmp_path


def layer(home: Path, given: dict[Any, Any] | None = None, **values: Any) -> str:
    """A second run file that goes on top."""
    (home / "more.yaml").write_text(yaml.safe_dump({**(given or {}), **values}))
    return "more.yaml"


def lines(home: Path, run: str = "run") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / run / "draws.jsonl").read_text().splitlines()]


# -- the run file ------------------------------------------------------------------------------------------------------


def test_help_is_short_and_names_what_there_is(run_cli: Cli) -> None:
    assert run_cli(["train", "-h"]) == (0, HELP, "")
    _, out, _ = run_cli(["train", "--help"])
    assert out == HELP
    assert len(out.splitlines()) <= 40
    assert max(map(len, out.splitlines())) <= 120
    known = vars(run_parser().parse_args([]))
    first = [line.split("  ")[1] for line in out.splitlines() if line.startswith("  ") and not line.startswith("   ")]
    named = {name.strip() for part in first for name in part.split(",")} - {
        "--help-all shows every name with its default."
    }
    assert named <= set(known)
    assert set(RunArguments.__dataclass_fields__) | {"navigator", "scores", "quota", "log_angle"} <= named
    _, everything, _ = run_cli(["train", "--help-all"])
    assert all(f"--{name}" in everything for name in known)


def test_files_are_layered_and_flags_win(home: Path) -> None:
    values: dict[str, Any] = {"lora-target-modules": ["q_proj", "v_proj"], "navigator-args": {"explore": 0.2}}
    more = layer(home, max_steps=3, save_strategy=False, scale_rewards=False, beta=None, lora_r=4, **values)
    words = ["--config", "run.yaml", "--config", more, "--limit", "5", "--accuracy_range", "0", "2", "--beta=0.5"]
    given, (run, settings, network) = read(run_parser(), words)
    assert (settings.max_steps, settings.num_generations, settings.learning_rate) == (3, 2, 1e-5)
    assert (settings.navigator_args, settings.save_strategy, settings.scale_rewards) == ({"explore": 0.2}, "no", "none")
    assert (run.limit, run.rewards, settings.accuracy_range, settings.beta) == (5, ["rw.py:even"], [0.0, 2.0], 0.5)
    assert (network.lora_r, network.lora_target_modules) == (4, ["q_proj", "v_proj"])
    assert given["max_steps"] == 3
    assert "temperature" not in given
    _, (_, settings, _) = read(run_parser(), ["--output_dir", "o", "--quota", '{"a": 0.5}', "--group-by", "source"])
    assert (settings.quota, settings.group_by) == ({"a": 0.5}, "source")


MISTAKES: dict[str, tuple[list[str], dict[Any, Any], str]] = {
    "key": ([], {"navigatr": "probe"}, "no setting navigatr: the nearest name is navigator"),
    "flag": (["--learning-rat", "1"], {}, "learning_rat: the nearest name is learning_rate"),
    "single dash": (["-resume"], {}, "'-resume' is no flag: write --resume"),
    "no dash": (["resume"], {}, "'resume' is no flag: write --resume"),
    "key of a list": ([], {"lora-target-module": ["q"]}, "lora_target_module: the nearest name is lora_target_modules"),
    "number as a key": ([], {1: ["a"]}, "no setting 1"),
    "file in a file": ([], {"config": "more.yaml"}, "no setting config"),
    "environment": ([], {"env": ["A"]}, r"env: \['A'\] must hold names"),
    "number": ([], {"max_steps": "ten"}, "max_steps.*: invalid int value: 'ten'"),
    "list": ([], {"limit": [3]}, r"limit: \[3\] is a list, and int . None is wanted"),
    "list for names": ([], {"navigator_args": [1]}, r"navigator_args: \[1\] is a list, and dict.* is wanted"),
    "entry": ([], {"accuracy_range": [0, "high"]}, "accuracy_range.*invalid float value: 'high'"),
    "dictionary": ([], {"output_dir": {"a": 1}}, "output_dir: {'a': 1} is a dict, and str . None is wanted"),
    "boolean": ([], {"log_angle": "maybe"}, "log_angle.* maybe"),
    "choice": ([], {"dtype": "int8"}, "dtype: invalid choice: 'int8' .choose from .*auto"),
    "loss": ([], {"loss_type": "best"}, "loss_type: 'best' is none of TRL's"),
    "scaling": ([], {"scale_rewards": "sideways"}, "scale_rewards: 'sideways' is none of TRL's"),
    "level": ([], {"importance_sampling_level": "word"}, "importance_sampling_level: 'word' is none of TRL's"),
    "columns": ([], {"remove_unused_columns": True, "group_by": "source"}, "remove_unused_columns"),
    "batches": ([], {"num_generations": 3}, "divisible"),
    "json": (["--navigator_args", "{a"], {}, "not JSON"),
    "no file": (["--config", "none.yaml"], {}, "cannot read the config 'none.yaml'"),
    "no output": ([], {"output_dir": None}, "output_dir is missing"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_sentence(what: str, home: Path) -> None:
    words, values, message = MISTAKES[what]
    with pytest.raises(UserError, match=message) as caught:
        read(run_parser(), ["--config", "run.yaml", "--config", layer(home, values), *words])
    assert "\n" not in str(caught.value)


def test_rewards_are_found_by_module_and_by_file(home: Path) -> None:
    assert import_reward("rw.py:even")([[1], [1, 2]]) == [1.0, 0.0]
    assert import_reward("rw.even")([[1]]) == import_reward("./rw.py:even")([[1]])
    wrong = {
        "./rw.py": r"give package\.module\.function or file\.py:function", "even": "No module named 'even'",
        "rw.py:odd": "'odd'", "rw.LIMIT": "is no function: 3", "no.such": "No module named 'no'",
        "fractions.Fraction": "is no function: <class",
    }  # fmt: skip
    for path, message in wrong.items():
        with pytest.raises(UserError, match=message):
            import_reward(path)


def test_rows_reach_the_trainer_as_they_were() -> None:
    calls = [{"city": "Rome"}, {"x": 1, "y": 2}]
    rows = [{"prompt": [{"role": "assistant", "content": "", "arguments": call}]} for call in calls]
    assert [row["prompt"][0]["arguments"] for row in as_dataset(rows)] == calls
    with pytest.raises(UserError, match="cannot be one dataset"):
        as_dataset([{"prompt": "cut \ud83d"}])


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_ranks_trains_stops_and_resumes(home: Path, run_cli: Cli) -> None:
    status, out, err = run_cli(["train", "--config", "run.yaml"])
    assert status == 0, err
    assert "trained 2 steps" in out
    table = ScoreTable.read("run/scores.parquet")
    assert len(table) == 8
    assert table.directions() is not None, "probe learns from directions"
    assert [line["draw"] for line in lines(home)] == [0, 1]
    kept = yaml.safe_load((home / "run" / "config.yaml").read_text())
    assert (kept["max_steps"], kept["rewards"], kept["scores"]) == (2, ["rw.py:even"], "run/scores.parquet")

    status, _, err = run_cli(["train", "--config", "run.yaml"])
    assert (status, "--resume" in err, "--overwrite" in err) == (2, True, True)
    (home / "run" / "checkpoint-2" / "trainer_state.json").write_text("{torn")
    status, out, err = run_cli(["train", "--config", "run.yaml", "--max_steps", "3", "--resume"])
    assert status == 0, err
    assert "checkpoint-1" in err
    assert [line["draw"] for line in lines(home)] == [0, 1, 2]
    status, out, _ = run_cli(["train", "--config", "run.yaml", "--max_steps", "3", "--resume"])
    assert "trained 3 steps" in out
    assert len(lines(home)) == 3, "a finished run is left alone"


def test_a_run_that_is_stopped_shows_how_to_go_on(home: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gainrl.integrations.trl.script.train", stopped)
    for words, said in (([], "with --resume goes on"), (["--overwrite"], "with --resume in place of --overwrite")):
        status, _, err = run_cli(["train", "--config", "run.yaml", *words])
        assert (status, said in err) == (130, True), err


def test_a_task_brings_prompts_reward_and_stops(home: Path, run_cli: Cli) -> None:
    more = layer(home, task="arithmetic:size=16", dataset=None, rewards=None, stop=["1"], use_peft=True, lora_r=2,
                 lora_target_modules=["q_proj", "v_proj"], max_steps=1, navigator="posterior")  # fmt: skip
    status, _, err = run_cli(["train", "--config", "run.yaml", "--config", more])
    assert status == 0, err
    assert lines(home)[0]["rollouts"] == 4
    assert (home / "run" / "checkpoint-1" / "adapter_config.json").exists()
    assert ScoreTable.describe("run/scores.parquet")[0].split == load_task("arithmetic").splits[0]


def test_a_table_that_does_not_fit_is_refused(home: Path, run_cli: Cli, model: str) -> None:
    status, _, err = run_cli(
        ["score", "--model", model, "--dataset", "p.jsonl", "--limit", "6", "--output", "s.parquet"]
    )
    assert status == 0, err
    status, _, err = run_cli(["train", "--config", "run.yaml", "--scores", "s.parquet"])
    assert (status, "another dataset" in err) == (2, True)
    kwargs = '{"enable_thinking": false}'
    words = ["--scores", "s.parquet", "--limit", "6"]
    status, _, err = run_cli(["train", "--config", "run.yaml", *words, "--chat_template_kwargs", kwargs])
    assert (status, "chat_template_kwargs" in err) == (2, True)
    status, _, err = run_cli(["train", "--config", "run.yaml", *words, "--max_steps", "1"])
    assert status == 0, err
    status, _, err = run_cli(["train", "--config", "run.yaml", "--resume"])
    assert (status, "checkpoint-1 belongs to another score table" in err) == (2, True)


REFUSED = {
    "eval_strategy": {"eval_strategy": "steps", "eval_steps": 1},
    "reward_weights": {"reward_weights": [1.0, 2.0]},
    "model": {"model_name_or_path": "./nothing-here"},
    "stop": {"stop": ["no such token"]},
    "rewards": {"rewards": None},
    "resume": {"resume": True},
    "navigator_args": {"navigator_args": {"explor": 0.1}},
    "group_by": {"group_by": "source"},
    "quota": {"quota": {"a": 0.5}},
    "accuracy_range": {"accuracy_range": [1.0]},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_scored(what: str, home: Path, run_cli: Cli) -> None:
    status, _, err = run_cli(["train", "--config", "run.yaml", "--config", layer(home, **REFUSED[what])])
    said = [line for line in err.splitlines() if line.startswith("gainrl: ")]
    assert (status, len(said)) == (2, 1), err
    assert what.partition("_")[0] in said[0].lower()
    assert not (home / "run" / "scores.parquet").exists()


def test_the_example_of_grpo_trains(home: Path, model: str, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    rows = [{**json.loads(line), "answer": "4"} for line in (home / "p.jsonl").read_text().splitlines()]
    (home / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, err = run_cli(
        ["score", "--model", model, "--dataset", "p.jsonl", "--directions", "--output", "s.parquet"]
    )
    assert status == 0, err
    example = Path(__file__).parents[2] / "examples" / "grpo.py"
    assert len(example.read_text().splitlines()) <= 25
    monkeypatch.setattr(sys, "argv", ["grpo.py", model, "p.jsonl", "s.parquet"])
    runpy.run_path(str(example))
    assert lines(home)[0]["navigator"] == "probe"
    assert (home / "run" / "model.safetensors").exists()


def test_a_message_of_tool_calls_alone_has_a_content_for_trl() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
    rows = as_dataset([{"prompt": [{"role": "user", "content": "q"}, call]}])
    assert rows[0]["prompt"] == [{"role": "user", "content": "q"}, {**call, "content": ""}]
