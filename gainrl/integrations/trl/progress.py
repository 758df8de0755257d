"""Live progress of a run in a terminal: a bar over optimizer steps with the time left, a line per finished epoch."""

from __future__ import annotations

import time
from typing import Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

COLUMNS = (
    ("epoch", "d"), ("mean", ".1f"), ("useful", ".3f"), ("accuracy", ".3f"), ("angle", ".3f"), ("reward", ".3f"),
)  # fmt: skip
"""Shown of a navigator's metrics, where it has them."""


class RunProgress(TrainerCallback):
    """Takes the place of transformers' own progress, which prints some forty numbers at every step."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._bar: Any = None
        self._epochs = 0
        self._started = self._begun = 0.0

    @classmethod
    def attach(cls, trainer: Any) -> None:
        """Show the progress of `trainer`."""
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(cls(trainer))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._epochs, self._started = self._trainer.epochs_finished, time.monotonic()
            self._begun = self._started
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is None:
            return
        metrics = self._trainer.navigator.metrics()
        shown = {name: _text(metrics[name], form) for name, form in COLUMNS if name in metrics}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(state.global_step - self._bar.n)
        if self._trainer.epochs_finished > self._epochs:
            self._epochs, seconds = self._trainer.epochs_finished, time.monotonic() - self._started
            self._started = time.monotonic()
            if "next_mean" in metrics:
                shown["next mean"] = _text(metrics["next_mean"], ".1f")
            line = "  ".join(f"{name} {value}" for name, value in shown.items())
            left = tqdm.format_interval(self._seconds_left())
            self._bar.write(f"{line}  {seconds:.1f} s  time left {left}")

    def _seconds_left(self) -> float:
        """At the pace of this process so far (a resumed run does not count the steps before)."""
        done = self._bar.n - self._bar.initial
        return float((self._bar.total - self._bar.n) * (time.monotonic() - self._begun) / max(done, 1))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _text(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
