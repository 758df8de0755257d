"""Every recipe under examples/ trains: one real step on a tiny random model of its architecture.

Nothing but the model, the data's file, the batch and the lengths is changed, and generation is transformers' own, since
there is no vLLM on a CPU.  What a recipe says otherwise (curriculum, KL, LoRA, schedule) is what the step runs with.
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
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

pytest.importorskip("trl", reason="trl is not installed")

from gainrl.integrations.trl.config import GainRLConfig
from gainrl.integrations.trl.run import train
from gainrl.integrations.trl.run_config import RunConfig
from gainrl.tasks.sandbox import isolation
from tests.tiny_models import make_model

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*is deprecated:FutureWarning")

EXAMPLES = Path(__file__).parents[2] / "examples"
MODELS = {"qwen2.5-1.5b": "qwen2", "qwen2.5-7b": "qwen2", "llama-3.2-3b": "llama"}
TASKS = ("gsm8k", "maths", "code")
QUICK = {("qwen2.5-1.5b", "gsm8k"), ("llama-3.2-3b", "code")}  # one of each architecture; the rest with --full

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


PAPER = EXAMPLES / "paper"
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


@pytest.mark.parametrize(("files", "kind"), ALL)
def test_a_recipe_trains_a_tiny_model_of_its_architecture(files: tuple[Path, ...], kind: str, tmp_path: Path) -> None:
    given = RunConfig.read(*files)
    task = str(given.task)
    if task == "leetcode" and isolation() != "ok":
        pytest.skip(f"bubblewrap: {isolation()}")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(DATA[task](n)) + "\n" for n in range(12)))
    model = make_model(tmp_path / "model", kind, texts=[json.dumps(DATA[task](n)) for n in range(12)])
    small = {
        "model": model,
        "dataset": str(data),
        "output": str(tmp_path / "run"),
        "curriculum": {"prompts_per_epoch": 4},
        "training": {
            "per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "steps_per_generation": 4,
            "max_completion_length": 8, "vllm_max_model_length": None, "use_vllm": None, "max_steps": 1,
            "save_strategy": "no", "save_steps": None,
        },
    }  # fmt: skip
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    config = RunConfig.read(*files, tmp_path / "small.yaml")
    result = train(config, progress=False)

    arguments = result.trainer.args
    assert result.step == 1
    published = ("gaussian", 1000) if files[0].parent == PAPER else ("probe", None)
    assert (arguments.curriculum_navigator, arguments.curriculum_sigma) == published
    assert (arguments.num_generations, arguments.num_train_epochs) == (8, given.training["num_train_epochs"])
    assert arguments.learning_rate == given.training["learning_rate"]
    epoch = json.loads((tmp_path / "run" / "epochs.jsonl").read_text().splitlines()[0])
    assert (epoch["rollouts"], epoch["prompts"], epoch["scored"]) == (32, 4, 32)
    assert epoch["navigator"] == published[0]
    log = result.trainer.state.log_history[0]
    assert f"rewards/{task}_reward/mean" in log
    assert ("kl" in log) == ("beta" in given.training)
    assert hasattr(result.trainer.model, "peft_config") == (given.lora is not None)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", TASKS)
def test_the_papers_settings_reach_every_model_and_task(task: str, model: str) -> None:
    config = RunConfig.read(PAPER / "paper.yaml", PAPER / f"{task}.yaml", PAPER / f"{model}.yaml")
    settings = config.trainer_settings()
    assert (settings["curriculum_navigator"], settings["prompts_per_epoch"]) == ("gaussian", 1024)
    assert (settings["curriculum_alpha"], settings["curriculum_beta"], settings["curriculum_sigma"]) == (2.0, 0.5, 1000)
    assert settings["num_train_epochs"] == 200
    # 8 GPUs: n prompts are one generation batch, and 256 prompts one update
    rollouts = settings["num_generations"] * 1024
    assert 8 * settings["per_device_train_batch_size"] * settings["steps_per_generation"] == rollouts
    assert 8 * settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"] == rollouts // 4
    room = settings["vllm_max_model_length"] - settings["max_completion_length"]
    assert room >= 1000, "no room for a prompt"
    assert config.split == "train"


@pytest.mark.parametrize("name", ["fsdp", "zero3"])
def test_accelerate_reads_the_launch_configs(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(EXAMPLES / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == 8
    assert str(config.mixed_precision) == "bf16"
    assert config.distributed_type.value == {"fsdp": "FSDP", "zero3": "DEEPSPEED"}[name]


def test_the_demos_run_takes_the_default_and_one_draw_a_step() -> None:
    config = RunConfig.read(EXAMPLES / "arithmetic.yaml")
    assert config.curriculum.keys() == {"prompts_per_epoch"}
    arguments = GainRLConfig(**config.trainer_settings(), use_cpu=True, dataloader_pin_memory=False)
    assert arguments.curriculum_navigator == "probe"
    assert arguments.prompts_per_epoch == arguments.prompts_per_generation
    assert arguments.num_train_epochs % arguments.save_steps == 0, "the demo evaluates the last checkpoint"


def test_every_recipe_is_tested() -> None:
    layers = {path for parameters in ALL for path in parameters.values[0]}
    launched = {EXAMPLES / "accelerate" / "fsdp.yaml", EXAMPLES / "accelerate" / "zero3.yaml"}
    assert set(EXAMPLES.rglob("*.yaml")) == layers | launched | {EXAMPLES / "arithmetic.yaml"}  # `make demo` runs that
