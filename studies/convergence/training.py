"""One run: an arm through gainrl's own trainer, with accuracy on fresh problems along the way."""

from __future__ import annotations

import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from studies.convergence import oracle
from studies.convergence.arms import arm
from studies.convergence.bed import Bed, right_answers
from studies.convergence.protocol import Protocol
from studies.convergence.rankings import ranked_by, score_table
from gainrl.integrations.trl import GainRLConfig, GainRLTrainer

SUMS_OF_EPOCHS = ("rollouts", "tokens", "groups", "zero_variance", "backfilled")
OF_EPOCHS = ("accuracy", "mean", "zero_variance", "groups")


class Progress(TrainerCallback):
    """Evaluates every few steps, keeps the training's own clock, and stops when the rollouts are spent."""

    def __init__(self, bed: Bed, every: int, budget: int) -> None:
        self.trainer: Any = None
        self.curve: list[dict[str, Any]] = []
        self.elsewhere = 0.0
        """Seconds of evaluation, and of whatever else is not the arm's own work."""
        self._bed, self._every, self._budget = bed, every, budget
        self._rollouts = self._tokens = 0
        self._started = self._cpu = 0.0
        self._levels = np.array([problem.level for problem in bed.held_out])

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started, self._cpu = time.perf_counter(), time.process_time()
        self._evaluate(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        totals = self.trainer.navigator.totals  # of the epoch, which is this step
        self._rollouts += totals.rollouts
        self._tokens += totals.tokens
        spent = self._rollouts >= self._budget
        if spent or state.global_step % self._every == 0:
            self._evaluate(state.global_step)
        control.should_training_stop |= spent

    def _evaluate(self, step: int) -> None:
        started = time.perf_counter()
        passes = self._bed.pass_rates(self.trainer.model, self._bed.held_out)
        seconds = started - self._started - self.elsewhere
        by_level = [round(float(passes[self._levels == level].mean()), 4) for level in np.unique(self._levels)]
        self.curve.append({
            "step": step, "rollouts": self._rollouts, "tokens": self._tokens, "seconds": round(seconds, 3),
            "accuracy": round(float(passes.mean()), 5), "by_level": by_level,
        })  # fmt: skip
        self.elsewhere += time.perf_counter() - started

    @property
    def cpu_seconds(self) -> float:
        """Processor time since training began, evaluation included."""
        return time.process_time() - self._cpu


def settings_for(protocol: Protocol, name: str, bed: Bed, directory: str) -> GainRLConfig:
    """The trainer's settings: TRL's defaults for GRPO, generation by transformers, one step for each draw."""
    rollouts = protocol.prompts_per_step * protocol.rollouts
    # back-filling takes more rollouts a step, uniform exactly `steps` steps: the budget ends every run
    given: dict[str, Any] = {
        "output_dir": directory, "num_train_epochs": protocol.steps, "seed": bed.seed,
        "prompts_per_epoch": protocol.prompts_per_step, "num_generations": protocol.rollouts,
        "per_device_train_batch_size": rollouts, "gradient_accumulation_steps": 1,
        "learning_rate": protocol.learning_rate[bed.family.name], "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 4,
        "max_completion_length": bed.longest_answer, "temperature": 1.0,
        "curriculum_sigma_fraction": protocol.sigma_fraction, "curriculum_alpha": protocol.alpha,
        "curriculum_beta": protocol.beta, "curriculum_order": "draw", "use_cpu": True, "bf16": False,
        "gradient_checkpointing": False, "save_strategy": "no", "logging_strategy": "no", "report_to": [],
        "disable_tqdm": True, "dataloader_pin_memory": False, "dataloader_num_workers": 0,
    }  # fmt: skip
    return GainRLConfig(**(given | dict(arm(name).settings)))


def run(protocol: Protocol, family: str, name: str, seed: int) -> dict[str, Any]:
    """Train one arm; what it came to, as JSON types (without provenance)."""
    oracle.register()
    bed = protocol.bed(family, seed)
    table, ranking_seconds = score_table(bed)
    model = bed.model()
    progress = Progress(bed, protocol.evaluate_every, protocol.budget)
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = GainRLTrainer(
            model,
            reward_funcs=right_answers,
            args=settings_for(protocol, name, bed, directory),
            train_dataset=bed.dataset,
            processing_class=bed.tokenizer,
            callbacks=[progress],
            scores=ranked_by(table, arm(name).ranking, own_directions=arm(name).own_directions),
        )
        progress.trainer = trainer
        navigator: Any = trainer.navigator
        if isinstance(navigator, oracle.OracleNavigator):
            _tell(navigator, bed, trainer, progress)
        trainer.train()
        epochs = [json.loads(line) for line in Path(directory, "epochs.jsonl").read_text().splitlines()]
    ranked = arm(name).ranked
    return {
        "family": family, "arm": name, "seed": seed, "ranking": arm(name).ranking if ranked else None,
        "budget_rollouts": protocol.budget, "steps": len(epochs),
        **{key: sum(epoch.get(key) or 0 for epoch in epochs) for key in SUMS_OF_EPOCHS},
        "seconds": progress.curve[-1]["seconds"], "cpu_seconds": round(progress.cpu_seconds, 2),
        "evaluation_seconds": round(progress.elsewhere, 2),
        "ranking_seconds": round(ranking_seconds, 3) if ranked else 0.0,
        "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 2),
        "levels": [level.name for level in bed.family.levels],
        "curve": progress.curve,
        "epochs": [{key: _short(epoch.get(key)) for key in OF_EPOCHS} for epoch in epochs],
    }  # fmt: skip


def _tell(navigator: oracle.OracleNavigator, bed: Bed, trainer: Any, progress: Progress) -> None:
    """Give the oracle the pass rates of the policy as it is when it asks, on nobody's clock."""
    ids = trainer._data.ids
    row_of = {name: row for row, name in enumerate(ids)}

    def pass_rates(names: Any) -> Any:
        started = time.perf_counter()
        found = bed.pass_rates(trainer.model, bed.problems)[[row_of[name] for name in names]]
        if progress.curve:
            progress.elsewhere += time.perf_counter() - started
        return found

    navigator.pass_rates = pass_rates


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
