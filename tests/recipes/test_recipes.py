"""Every recipe under examples/ trains: one real step on a tiny random model of its architecture.

Only the model, the data's file, the batch and the lengths are changed, and generation is transformers' own, since there
is no vLLM on a CPU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("trl", reason="trl is not installed")

from gainrl.cli.train import read, run_parser
from gainrl.integrations.trl.script import train
from gainrl.tasks.sandbox import isolation
from tests.tiny_models import make_model

EXAMPLES = Path(__file__).parents[2] / "examples"
PAPER = EXAMPLES / "paper"
MODELS = {"qwen2.5-1.5b": "qwen2", "qwen2.5-7b": "qwen2", "llama-3.2-3b": "llama"}
TASKS = ("gsm8k", "maths", "code")
QUICK = {("qwen2.5-1.5b", "gsm8k")}  # the rest with --full

# columns as the hub has them
DATA: dict[str, Callable[[int], dict[str, Any]]] = {
    "gsm8k": lambda n: {"question": f"What is {n} plus {n}?", "answer": f"#### {2 * n}"},
    "math": lambda n: {"problem": f"Find $x$ if $x - {n} = {n}$.", "solution": f"It is $\\boxed{{{2 * n}}}$."},
    "leetcode": lambda n: {
        "problem_description": f"Add {n} to a number.",
        "starter_code": "class Solution:\n    def add(self, a: int) -> int:\n        ",
        "prompt": "",
        "completion": f"class Solution:\n    def add(self, a: int) -> int:\n        return a + {n}",
        "entry_point": "Solution().add",
        "test": f"def check(candidate):\n    assert candidate(a = 1) == {n + 1}\n",
    },
}
ALL = [
    pytest.param(
        (PAPER / "paper.yaml", PAPER / f"{task}.yaml", PAPER / f"{model}.yaml"),
        kind,
        id=f"{task}-{model}",
        marks=() if (model, task) in QUICK else (pytest.mark.full,),
    )
    for task in TASKS
    for model, kind in MODELS.items()
] + [pytest.param((EXAMPLES / "lora.yaml",), "qwen2", id="lora")]


def settings_of(*files: Path, **more: str) -> Any:
    """The three configs of these recipes; the machine has no vLLM and no GPU."""
    words = [word for file in files for word in ("--config", str(file))]
    return read(run_parser(), [*words, *(word for name, value in more.items() for word in (f"--{name}", value))])[1]


@pytest.mark.parametrize(("files", "kind"), ALL)
def test_a_recipe_trains_a_tiny_model_of_its_architecture(files: tuple[Path, ...], kind: str, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {}
    for file in files:
        recipe |= yaml.safe_load(file.read_text())
    task = recipe["task"]
    if task == "leetcode" and isolation() != "ok":
        pytest.skip(f"bubblewrap: {isolation()}")
    data = tmp_path / "data.jsonl"
    rows = [json.dumps(DATA[task](n)) for n in range(12)]
    data.write_text("\n".join(rows))
    small = {
        "model_name_or_path": make_model(tmp_path / "model", kind, texts=rows),
        "dataset": str(data), "output_dir": str(tmp_path / "run"), "per_device_train_batch_size": 8, "max_steps": 1,
        "gradient_accumulation_steps": 4, "steps_per_generation": 4, "max_completion_length": 8, "use_vllm": False,
        "vllm_max_model_length": None, "save_strategy": "no", "save_steps": None, "dtype": "float32", "bf16": False,
    }  # fmt: skip
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    run, settings, network = settings_of(*files, tmp_path / "small.yaml")
    trainer = train(run, settings, network, recipe)

    assert trainer.state.global_step == 1
    published = files[0].parent == PAPER
    assert (settings.navigator, settings.num_generations) == ("gaussian" if published else "probe", 8)
    draw = json.loads((tmp_path / "run" / "draws.jsonl").read_text().splitlines()[0])
    assert (draw["rollouts"], len(draw["rows"]), draw["scored"]) == (32, 4, 32)
    assert (draw["angle"] is not None) == published
    log = trainer.state.log_history[0]
    assert f"rewards/{task}_reward/mean" in log
    assert ("kl" in log) == ("beta" in recipe)
    assert hasattr(trainer.model, "peft_config") == ("use_peft" in recipe)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", TASKS)
def test_the_papers_settings_reach_every_model_and_task(task: str, model: str) -> None:
    files = (PAPER / "paper.yaml", PAPER / f"{task}.yaml", PAPER / f"{model}.yaml")
    run, settings, _ = settings_of(*files, use_vllm="false")
    assert settings.navigator == "gaussian"
    assert settings.navigator_args == {"prompts_per_move": 1024, "alpha": 2.0, "beta": 0.5, "sigma": 1000}
    assert (settings.max_steps, run.split) == (200 * 4, "train")
    # 8 GPUs: n prompts are one generation batch, and 256 prompts one update
    rollouts = settings.num_generations * 1024
    assert 8 * settings.per_device_train_batch_size * settings.steps_per_generation == rollouts
    assert 8 * settings.per_device_train_batch_size * settings.gradient_accumulation_steps == rollouts // 4
    assert settings.vllm_max_model_length - settings.max_completion_length >= 1000, "no room for a prompt"


@pytest.mark.parametrize("name", ["fsdp", "zero3"])
def test_accelerate_reads_the_launch_configs(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(EXAMPLES / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == 8
    assert str(config.mixed_precision) == "bf16"
    assert config.distributed_type.value == {"fsdp": "FSDP", "zero3": "DEEPSPEED"}[name]


def test_the_demos_run_takes_the_default_and_one_draw_a_step() -> None:
    _, settings, _ = settings_of(EXAMPLES / "arithmetic.yaml")
    assert settings.navigator == "probe"
    assert settings.steps_per_generation == settings.gradient_accumulation_steps
    assert settings.max_steps % settings.save_steps == 0, "the demo evaluates the last checkpoint"


def test_every_recipe_is_tested() -> None:
    layers = {path for parameters in ALL for path in parameters.values[0]}
    launched = {EXAMPLES / "accelerate" / "fsdp.yaml", EXAMPLES / "accelerate" / "zero3.yaml"}
    assert set(EXAMPLES.rglob("*.yaml")) == layers | launched | {EXAMPLES / "arithmetic.yaml"}  # `make demo` runs that
