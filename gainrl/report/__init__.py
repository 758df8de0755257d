"""From runs' records on disk to a self-contained HTML page: one run (`write_report`) or several (`write_comparison`).

Reads files only: the run may be finished, under way, or on another machine.  Needs matplotlib and jinja2
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
    """Write the report of a run directory or of a score table; see `gainrl.report.page.write_report`."""
    _require_packages()
    from gainrl.report import page

    return page.write_report(run, output, prompts=prompts)


def write_comparison(
    runs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str] = "comparison.html"
) -> Path:
    """Write the page that compares run directories; see `gainrl.report.compare_page.write_comparison`."""
    _require_packages()
    from gainrl.report import compare_page

    return compare_page.write_comparison(runs, output)


def _require_packages() -> None:
    for package in ("jinja2", "matplotlib"):
        try:
            __import__(package)
        except ImportError:
            raise UserError(f"a report needs {package}, which is not installed: pip install 'gainrl[report]'") from None
