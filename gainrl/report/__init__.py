"""From a run's records on disk to one self-contained HTML page (`write_report`).

Reads files only: the run may be finished, under way, or on another machine.  Needs matplotlib and jinja2
(`pip install 'gainrl[report]'`), which are loaded when a report is written.
"""

from __future__ import annotations

import os
from pathlib import Path

from gainrl.errors import UserError

__all__ = ["write_report"]


def write_report(
    run: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, *, prompts: int = 5
) -> Path:
    """Write the report of a run directory or of a score table; see `gainrl.report.page.write_report`."""
    for package in ("jinja2", "matplotlib"):
        try:
            __import__(package)
        except ImportError:
            raise UserError(f"a report needs {package}, which is not installed: pip install 'gainrl[report]'") from None
    from gainrl.report import page

    return page.write_report(run, output, prompts=prompts)
