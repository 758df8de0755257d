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
import tempfile
from pathlib import Path
from typing import IO, Any

from transformers import TrainerCallback

logger = logging.getLogger(__name__)

NEEDS = ("jinja2", "matplotlib")
PATIENCE = 600.0
"""Seconds that the end of a run waits for a report; one takes seconds."""


class LiveReport(TrainerCallback):
    """Keeps report.html in `directory` up to date; says once why it cannot, and never ends a run."""

    def __init__(self, trainer: Any, directory: Path) -> None:
        self._trainer = trainer
        self._directory = directory
        self._epochs = 0
        self._writer: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
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
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (a pipe that nobody reads would stop the writer)
        self._writer = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # a Ctrl-C is meant for the training
        )

    def _idle(self) -> bool:
        if self._writer is not None and self._writer.poll() is None:
            return False
        self._wait()
        return True

    def _wait(self) -> None:
        """Wait for the report being written, if one is; end it where that takes too long."""
        if self._writer is None:
            return
        assert self._said is not None
        failed = None
        try:
            if self._writer.wait(PATIENCE):
                self._said.seek(0)
                lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
                failed = f"gainrl report failed ({lines[-1] if lines else 'it said nothing'})"
        except subprocess.TimeoutExpired:
            self._writer.kill()
            self._writer.wait()
            failed = f"gainrl report took longer than {PATIENCE:g} s"
        if failed and not self._off:
            self._off = True
            logger.warning("no report is kept any more: %s", failed)
        self._said.close()
        self._writer = self._said = None
