"""Does a curriculum help a real model?  SmolLM2-135M-Instruct on families of reasoning-gym and GSM8K, arm against arm.

    benchmarks/real_model.sh OUTPUT_FOLDER [MINUTES]    on a GPU machine, in pieces; also without a network, see there
    python -m benchmarks.real_model run --scale cpu     a small version on a CPU
    python -m benchmarks.real_model table               what there is so far

Each run is `gainrl train` with the accuracy on held-out problems measured along the way.  All runs of a family and
seed share model, problems, steps and rollouts; only the navigator differs.  `run` starts what is missing, up to
`--jobs` at a time, and after `--minutes`, or on SIGTERM and Ctrl-C, asks what is under way to stop: it saves a
checkpoint from which the next call goes on exactly.  What is killed goes on from its last checkpoint.  A finished run
is one entry of benchmarks/results/real_model_SCALE.json and is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
_HEADS = (
    "arm",
    "seeds",
    "before",
    "after",
    "mean of the curve",
    "rollouts to uniform's end",
    "groups without variance",
)


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


# -- one run, in a process of its own ------------------------------------------------------------------------


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


# -- all of them ---------------------------------------------------------------------------------------------


def run(scale: str, minutes: float, at_once: int, gsm8k: str | None, output: Path) -> int:
    """Start what is missing until the time is spent; returns how many runs are still missing."""
    deadline = time.monotonic() + 60 * minutes
    interrupted: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda given, frame: interrupted.append(given))
    kept = {(one["family"], one["arm"], one["seed"]): one for one in _results(output)}
    waiting = [job for job in jobs(scale) if (job.family, job.arm, job.seed) not in kept]
    under_way: dict[subprocess.Popen[bytes], Job] = {}
    asked = 0.0
    failed: list[str] = []
    while under_way or (waiting and not asked):
        while waiting and len(under_way) < at_once and not asked:
            job = waiting.pop(0)
            under_way[_start(job, gsm8k)] = job
        time.sleep(0.5)
        if (interrupted or time.monotonic() > deadline) and not asked:
            asked = time.monotonic()
            for process in under_way:
                process.send_signal(signal.SIGTERM)
        for process in [one for one in under_way if one.poll() is not None]:
            job = under_way.pop(process)
            if process.returncode == 0:
                kept[job.family, job.arm, job.seed] = summary_of(job)
                _write(output, list(kept.values()))
                shutil.rmtree(job.directory / "checkpoints", ignore_errors=True)
            elif not _stopped(process.returncode, bool(asked)):
                failed.append(job.name)
            print(f"{job.name}: {_ended(process.returncode, job, bool(asked))}", flush=True)
        if asked and time.monotonic() - asked > SCALES[scale].patience:
            for process in under_way:
                process.kill()
    missing = sum(1 for job in jobs(scale) if (job.family, job.arm, job.seed) not in kept)
    print(table(output) or "no run is finished")
    print(f"{missing} runs to go" + (f"; failed: {', '.join(failed)} (see the logs)" if failed else ""))
    return missing


def _start(job: Job, gsm8k: str | None) -> subprocess.Popen[bytes]:
    job.directory.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.real_model", "one", job.scale, job.family, job.arm, str(job.seed)]
    if gsm8k:
        command += ["--gsm8k", gsm8k]
    with open(job.directory.parent / f"{job.name}.log", "ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def _stopped(status: int, asked: bool) -> bool:
    """Whether a run ended because it was asked to: by itself, or by the signal where it had not begun to train."""
    return status == 130 or (asked and status in (-signal.SIGTERM, -signal.SIGINT, -signal.SIGKILL))


def _ended(status: int, job: Job, asked: bool) -> str:
    if status == 0:
        curve = summary_of(job)["curve"]
        return f"{curve[0]['accuracy']:.3f} -> {curve[-1]['accuracy']:.3f}"
    if status == -signal.SIGKILL and asked:
        return "killed, goes on from its last checkpoint in the next call"
    return "stopped, goes on in the next call" if _stopped(status, asked) else f"failed with status {status}"


def _results(output: Path) -> list[dict[str, Any]]:
    return json.loads(output.read_text(encoding="utf-8"))["rows"] if output.is_file() else []


def _write(output: Path, rows: Sequence[dict[str, Any]]) -> None:
    from benchmarks.harness import write_result

    write_result(output.stem, sorted(rows, key=lambda one: (one["family"], one["seed"], one["arm"])), path=output)


def table(output: Path) -> str:
    """Markdown: per family, each arm's accuracy before and after, area under the curve, rollouts to uniform's end."""
    rows = _results(output)
    lines = []
    for family in dict.fromkeys(one["family"] for one in rows):
        of_family = [one for one in rows if one["family"] == family]
        lines += ["", f"{family}:", "", "| " + " | ".join(_HEADS) + " |", "| --- " * len(_HEADS) + "|"]
        for arm in ARMS:
            runs = [one for one in of_family if one["arm"] == arm]
            if runs:
                lines.append("| " + " | ".join([arm, str(len(runs)), *_figures(runs, of_family)]) + " |")
    return "\n".join(lines)


def _figures(runs: Sequence[dict[str, Any]], family: Sequence[dict[str, Any]]) -> list[str]:
    def mean(values: Sequence[float]) -> str:
        return f"{sum(values) / len(values):.3f}"

    ends = {one["seed"]: one["curve"][-1]["accuracy"] for one in family if one["arm"] == "uniform"}
    reached = [_rollouts_to(ends[one["seed"]], one["curve"]) for one in runs if one["seed"] in ends]
    shown = ", ".join("never" if value is None else f"{value:.0f}" for value in reached) or "–"
    return [
        mean([one["curve"][0]["accuracy"] for one in runs]), mean([one["curve"][-1]["accuracy"] for one in runs]),
        mean([area(one["curve"]) for one in runs]), shown,
        mean([one["zero_variance"] / max(one["groups"], 1) for one in runs]),
    ]  # fmt: skip


def area(curve: Sequence[dict[str, Any]]) -> float:
    """Mean accuracy over the rollouts (trapezia)."""
    total = sum((b["rollouts"] - a["rollouts"]) * (a["accuracy"] + b["accuracy"]) / 2 for a, b in pairwise(curve))
    return float(total / (curve[-1]["rollouts"] - curve[0]["rollouts"]))


def _rollouts_to(level: float, curve: Sequence[dict[str, Any]]) -> float | None:
    """Rollouts at which the curve first reaches the level, between its points in a straight line; None if never."""
    for a, b in pairwise(curve):
        if b["accuracy"] >= level:
            if a["accuracy"] >= level:
                return float(a["rollouts"])
            share = (level - a["accuracy"]) / (b["accuracy"] - a["accuracy"])
            return float(a["rollouts"] + share * (b["rollouts"] - a["rollouts"]))
    return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_model", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run", help="run what is missing")
    one = verbs.add_parser("one", help="one run, in this process")
    tabulate = verbs.add_parser("table", help="the table of what there is")
    for verb in (running, tabulate):
        verb.add_argument("--scale", choices=SCALES, default="cpu")
        verb.add_argument("--output", type=Path, help="result file, in benchmarks/results without it")
    running.add_argument("--minutes", type=float, default=60.0)
    running.add_argument("--jobs", type=int, default=1, help="runs at a time, on the same GPU")
    one.add_argument("scale", choices=SCALES)
    for name in ("family", "arm"):
        one.add_argument(name)
    one.add_argument("seed", type=int)
    for verb in (running, one):
        verb.add_argument("--gsm8k", help="folder with train.jsonl and test.jsonl, where no hub is reachable")
    given = parser.parse_args()
    if given.verb == "one":
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        try:
            sys.exit(0 if train_one(Job(given.scale, given.family, given.arm, given.seed), given.gsm8k) else 130)
        except KeyboardInterrupt:
            sys.exit(130)
    output = given.output or ROOT / "benchmarks" / "results" / f"real_model_{given.scale}.json"
    if given.verb == "table":
        print(table(output) or "no run is finished")
    else:
        run(given.scale, given.minutes, given.jobs, given.gsm8k, output)


if __name__ == "__main__":
    main()
