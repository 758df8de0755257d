"""`gainrl report`: one HTML page about a run, or about several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gainrl.cli import options

_main = options("Options")


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or one score table.")],
    output: Annotated[Path | None, _main("Page to write (RUN/report.html, comparison.html).", "HTML")] = None,
    prompts: Annotated[int, _main("Highest and lowest ranked prompts to show (5).", "N", min=0)] = 5,
) -> None:
    """Write one self-contained HTML page about a run; about several, a comparison.

    Example: gainrl report runs/a runs/b --output both.html
    """
    from gainrl.report import write_comparison, write_report

    if len(runs) > 1:
        page = write_comparison(runs, output or "comparison.html")
    else:
        page = write_report(runs[0], output, prompts=prompts)
    print(f"{page} ({page.stat().st_size / 1024:,.0f} KiB)")
