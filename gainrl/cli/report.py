"""`gainrl report`: one HTML page about a run, or about several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gainrl.errors import UserError


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run directories of gainrl train, or one score table (.parquet)."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="HTML file to write (default: report.html in RUN, the table's name with .html, or, for several runs, "
            "comparison.html)."
        ),
    ] = None,
    prompts: Annotated[
        int, typer.Option(help="How many of the highest and of the lowest ranked prompts to print in full.")
    ] = 5,
) -> None:
    """Write one self-contained HTML page: scores, curriculum, training, evaluations, prompts.

    With several runs: accuracy over rollouts, tokens and seconds, and what reaching each other's accuracy cost.
    """
    if prompts < 0:
        raise UserError(f"--prompts must be at least 0, got {prompts}")
    from gainrl.report import write_comparison, write_report

    if len(runs) > 1:
        written = write_comparison(runs, output or "comparison.html")
    else:
        written = write_report(runs[0], output, prompts=prompts)
    print(f"{written} ({written.stat().st_size / 1024:,.0f} KiB)")
