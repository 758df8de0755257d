"""`gainrl report`: one HTML page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gainrl.errors import UserError


def report(
    run: Annotated[Path, typer.Argument(help="Run directory of gainrl train, or a score table (.parquet).")],
    output: Annotated[
        Path | None,
        typer.Option(help="HTML file to write (default: report.html in RUN, or the table's name with .html)."),
    ] = None,
    prompts: Annotated[
        int, typer.Option(help="How many of the highest and of the lowest ranked prompts to print in full.")
    ] = 5,
) -> None:
    """Write one self-contained HTML page: scores, curriculum, training, evaluations, prompts."""
    if prompts < 0:
        raise UserError(f"--prompts must be at least 0, got {prompts}")
    from gainrl.report import write_report

    written = write_report(run, output, prompts=prompts)
    print(f"{written} ({written.stat().st_size / 1024:,.0f} KiB)")
