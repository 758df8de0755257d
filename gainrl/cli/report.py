"""`gainrl report`: one HTML page about a run, or about several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gainrl.errors import UserError

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, or one score table (.parquet).")]
Output = Annotated[
    Path | None, typer.Option(help="HTML file to write; default: report.html in RUN, or comparison.html.")
]
Prompts = Annotated[int, typer.Option(help="How many of the highest and lowest ranked prompts to print.")]


def report(runs: Runs, output: Output = None, prompts: Prompts = 5) -> None:
    """Write one self-contained HTML page about a run; about several, a comparison.

    Examples: gainrl report runs/a · gainrl report runs/a runs/b --output both.html
    """
    if prompts < 0:
        raise UserError(f"--prompts {prompts}: give at least 0")
    from gainrl.report import write_comparison, write_report

    if len(runs) > 1:
        written = write_comparison(runs, output or "comparison.html")
    else:
        written = write_report(runs[0], output, prompts=prompts)
    print(f"{written} ({written.stat().st_size / 1024:,.0f} KiB)")
