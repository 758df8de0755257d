"""The runs of the real-model study: which there are, and one of them, trained in this process and summed up."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "real_model"
MODEL = "smollm2-135m"
PROCESSES = "processes.jsonl"
"""In a run's directory: commit, CPU seconds and load of each process that worked on it, but of one that was killed."""
ARMS = {
    "uniform": {"navigator": "uniform"},
    "gainrl": {"navigator": "gaussian", "sigma_fraction": 2 / 15, "alpha": 2.0, "beta": 0.5},
    "target": {"navigator": "target", "sigma_fraction": 2 / 15, "alpha": 2.0, "beta": 0.5},
    "posterior": {"navigator": "posterior", "beta": 0.5},
    "probe": {"navigator": "probe"},
}


@dataclass(frozen=True)
class Family:
    """One task and its budget, the same for all arms."""

    task: str
    tokens: int
    """Most tokens of a completion."""
    steps: int
    prompts: int
    """Prompts of a step, `rollouts` completions each."""
    evaluate_every: int
    held_out: int
    samples: int
    learning_rate: float = 1e-5
    rollouts: int = 8
    limit: int | None = None
    """Training problems."""
    micro_batch: int = 256
    """Rollouts of one forward pass."""
    save_every: int = 25
    """Steps between checkpoints: what a run that is killed loses at most; one that is asked to stop loses nothing."""


@dataclass(frozen=True)
class Scale:
    """What is run: these arms on every family, seed by seed."""

    families: dict[str, Family]
    seeds: int
    arms: tuple[str, ...] = tuple(ARMS)
    patience: float = 60.0
    """Seconds from the request to stop until a run is killed: a step and its checkpoint must fit into them."""


SCALES = {
    "gpu": Scale(
        {
            "letters": Family("benchmarks.real_model_tasks.Letters", 8, 100, 32, 10, 240, 4),
            "chains": Family("benchmarks.real_model_tasks.Chains", 8, 100, 32, 10, 200, 4),
            "divisors": Family("benchmarks.real_model_tasks.Divisors", 8, 100, 32, 10, 120, 4),
            "gsm8k": Family("gsm8k", 200, 60, 16, 15, 256, 2, limit=2048, micro_batch=64),
        },
        seeds=3,
    ),
    "cpu": Scale(
        {"arithmetic": Family("arithmetic:size=120", 6, 6, 4, 3, 40, 1, 2e-5, rollouts=4, save_every=2)},
        seeds=1,
        arms=("uniform", "gainrl", "probe"),
        patience=600.0,
    ),
}
"""`gpu` is planned for an H200: not run there yet.  `cpu` shows that all of it works, in minutes for each arm on one
core; its six steps are far too few to say which arm is better."""


@dataclass(frozen=True)
class Job:
    """One run."""

    scale: str
    family: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.family}-{self.arm}-{self.seed}"

    @property
    def directory(self) -> Path:
        return RUNS / self.scale / self.name

    @property
    def settings(self) -> Family:
        return SCALES[self.scale].families[self.family]


def jobs(scale: str) -> Iterator[Job]:
    """All runs: a whole comparison (every arm of a family and seed) before the next one begins."""
    for seed in range(SCALES[scale].seeds):
        for family in SCALES[scale].families:
            yield from (Job(scale, family, arm, seed) for arm in SCALES[scale].arms)


def config_of(job: Job, gsm8k: str | None) -> dict[str, Any]:
    """The YAML of `gainrl train` for this run, as plain values.  All seeds of a family share the score table."""
    import torch

    family = job.settings
    batch = family.prompts * family.rollouts
    micro = min(family.micro_batch, batch)
    config: dict[str, Any] = {
        "model": MODEL, "task": family.task, "split": "train", "limit": family.limit, "output": str(job.directory),
        "curriculum": {"prompts_per_epoch": family.prompts, "order": "draw", "seed": job.seed, **ARMS[job.arm]},
        "scoring": {"directions": True},
        "training": {
            "num_train_epochs": family.steps, "num_generations": family.rollouts, "seed": job.seed,
            "per_device_train_batch_size": micro, "gradient_accumulation_steps": batch // micro,
            "max_completion_length": family.tokens, "learning_rate": family.learning_rate,
            "lr_scheduler_type": "constant", "bf16": True, "activation_checkpointing": False, "logging_steps": 1,
            "save_strategy": "steps", "save_steps": family.save_every, "save_total_limit": 1, "report_to": "none",
            "use_cpu": not torch.cuda.is_available(),
        },
    }  # fmt: skip
    if family.task == "gsm8k" and gsm8k:
        config["dataset"] = str(Path(gsm8k, "train.jsonl"))
    return {name: value for name, value in config.items() if value is not None}


def train_one(job: Job, gsm8k: str | None) -> bool:
    """Train from the last checkpoint there is; whether the run is finished."""
    import warnings

    from benchmarks.harness import commit
    from gainrl.integrations.trl import GainRLTrainer
    from gainrl.integrations.trl import run as training
    from gainrl.integrations.trl.run_config import RunConfig

    # TRL 1.16 reads names that transformers 5.23 deprecates; nobody here can change that
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*is deprecated", category=FutureWarning)

    class Measured(GainRLTrainer):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.add_callback(held_out_callback(job, self, gsm8k))

    config = RunConfig.from_dict(config_of(job, gsm8k))
    training.GainRLTrainer = Measured  # `gainrl train` takes no callbacks
    try:
        result = training.train(config, resume=(config.directory / "config.yaml").is_file(), progress=False)
    finally:
        if job.directory.is_dir():  # not while the model is still being loaded
            spent = {**commit(), "cpu_seconds": round(time.process_time(), 1), "load": round(os.getloadavg()[0], 2)}
            with open(job.directory / PROCESSES, "a", encoding="utf-8") as lines:
                lines.write(json.dumps(spent) + "\n")
    return result.finished


def held_out_callback(job: Job, trainer: Any, gsm8k: str | None) -> Any:
    """A callback that evaluates before training and every few steps, into evals.jsonl."""
    from transformers import TrainerCallback

    from gainrl.evaluation import append_record, evaluate
    from gainrl.tasks import load_task

    family = job.settings
    task = load_task(family.task)
    source = str(Path(gsm8k, "test.jsonl")) if gsm8k and family.task == "gsm8k" else None
    rows = task.load(task.held_out_split, source, family.held_out)

    class HeldOut(TrainerCallback):
        def measure(self, step: int) -> None:
            if any(record["step"] == step for record in _lines(job.directory / "evals.jsonl")):
                return  # measured before the run was stopped
            found = evaluate(
                trainer.model, trainer.processing_class, task, rows, samples=family.samples, temperature=1.0,
                max_new_tokens=family.tokens, batch_size=min(512, 2 * family.micro_batch), seed=1, progress=False,
            )  # fmt: skip
            append_record(job.directory, found.record("during", step))

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0:
                self.measure(0)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % family.evaluate_every == 0 or state.global_step == family.steps:
                self.measure(state.global_step)

    return HeldOut()


def summary_of(job: Job) -> dict[str, Any]:
    """A finished run as one entry: the learning curve, and what was spent."""
    epochs = _lines(job.directory / "epochs.jsonl")
    evals = sorted(_lines(job.directory / "evals.jsonl"), key=lambda record: int(record["step"]))
    family = job.settings
    total: dict[str, Any] = {key: sum(epoch.get(key) or 0 for epoch in epochs)
                             for key in ("rollouts", "tokens", "groups", "zero_variance")}  # fmt: skip
    return {
        "family": job.family, "arm": job.arm, "seed": job.seed, "steps": len(epochs), **total,
        "seconds": round(sum(epoch["seconds"] for epoch in epochs) - sum(record["seconds"] for record in evals), 1),
        "processes": _lines(job.directory / PROCESSES),
        "curve": [
            {"step": one["step"], "rollouts": one["step"] * family.prompts * family.rollouts,
             "accuracy": one["accuracy"], "low": one["low"], "high": one["high"]}
            for one in evals
        ],
    }  # fmt: skip


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
