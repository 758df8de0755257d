"""The report of a run, written anew while the run goes on.

`gainrl report RUN` runs in a process of its own at low priority after each epoch, and training never waits for it:
where an epoch ends before the last report is written, its report is left to the next one.  Only the end of the run
waits, for a report of all of it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

logger = logging.getLogger(__name__)

NEEDS = ("jinja2", "matplotlib")


class LiveReport(TrainerCallback):
    """Keeps report.html in `directory` up to date; says once why it cannot, and never ends a run."""

    def __init__(self, trainer: Any, directory: Path) -> None:
        self._trainer = trainer
        self._directory = directory
        self._epochs = 0
        self._writer: subprocess.Popen[str] | None = None
        missing = [package for package in NEEDS if importlib.util.find_spec(package) is None]
        self._off = bool(missing)
        if missing:
            logger.warning("no report is kept: it needs %s (pip install 'gainrl[report]')", " and ".join(missing))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epochs = self._trainer.epochs_finished

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer.epochs_finished > self._epochs and self._idle():
            self._epochs = self._trainer.epochs_finished
            self._begin()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer.epochs_finished:
            self._wait()
            self._begin()
            self._wait()

    def _begin(self) -> None:
        if self._off:
            return
        nice = ["nice", "-n", "10"] if shutil.which("nice") else []
        command = [*nice, sys.executable, "-m", "gainrl", "report", str(self._directory.resolve())]
        self._writer = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # a Ctrl-C is meant for the training
        )

    def _idle(self) -> bool:
        if self._writer is not None and self._writer.poll() is None:
            return False
        self._wait()
        return True

    def _wait(self) -> None:
        """Wait for the report being written, if one is."""
        if self._writer is None:
            return
        _, said = self._writer.communicate()
        if self._writer.returncode and not self._off:
            self._off = True
            last = (said.strip().splitlines() or ["it said nothing"])[-1]
            logger.warning("no report is kept any more: gainrl report failed (%s)", last)
        self._writer = None
