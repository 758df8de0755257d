"""Run directories on disk to one self-contained HTML page.

Reads files only: a run may be finished, under way, or on another machine.  Needs matplotlib and jinja2
(`pip install 'gainrl[report]'`), which are loaded when a report is written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gainrl.errors import UserError

__all__ = ["write_comparison", "write_report"]


def write_report(
    run: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, *, prompts: int = 5
) -> Path:
    """Write the report of a run directory or of a score table, and return its path.

    output: default `report.html` in the run directory, or the table's name with `.html`.  prompts: how many of the
    highest and of the lowest ranked prompts are printed.  Raises UserError if there is nothing to report.
    """
    run = Path(run).expanduser()
    target = Path(output).expanduser() if output else run / "report.html" if run.is_dir() else run.with_suffix(".html")
    return _write([run], target, prompts)


def write_comparison(
    runs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str] = "comparison.html"
) -> Path:
    """Write the page that shows several run directories side by side, and return its path; as `write_report`."""
    return _write([Path(run).expanduser() for run in runs], Path(output).expanduser(), None)


def _write(paths: Sequence[Path], target: Path, prompts: int | None) -> Path:
    try:
        from gainrl.report.page import write
        from gainrl.report.sections import comparison_page, run_page
    except ImportError as error:
        raise UserError(f"a report needs {error.name}: pip install 'gainrl[report]'") from error
    from gainrl.report.records import read_run

    runs = [read_run(path) for path in paths]
    return write(comparison_page(runs) if prompts is None else run_page(runs[0], prompts), target)
