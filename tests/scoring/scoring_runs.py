"""What the tests of whole scoring runs share: running in memory, the command line, stopping midway."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from gainrl.scoring import Source, score_dataset


def run(scorer, rows, output, **options):
    return score_dataset(scorer, rows, output, Source("memory", size=len(rows)), **options)


def command(model: Path, dataset: Path, output: Path, *more: str) -> list[str]:
    verb = [sys.executable, "-m", "gainrl", "score", "--model", str(model), "--dataset", str(dataset)]
    return [*verb, "--output", str(output), "--tokens-per-batch", "24", "--device", "cpu", *more]


def gainrl_score(*arguments) -> subprocess.CompletedProcess[str]:
    """The command in this process (importing torch anew for each costs seconds)."""
    from gainrl.cli import main

    out, err, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gainrl", *command(*arguments)[3:]])
        try:
            main()
        except SystemExit as done:
            status = int(done.code or 0)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def stop_after(count: int):
    """A progress callback that interrupts the run once `count` rows are finished."""

    def progress(finished: int, _: int) -> None:
        nonlocal count
        count -= finished
        if count <= 0:
            raise KeyboardInterrupt

    return progress
