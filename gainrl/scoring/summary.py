"""What a scoring run says at its end: speed, rows without a score, the spread of C, how much of it is length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from gainrl.scoring.run import Run
from gainrl.table import ScoreTable, spearman

SHOWN = 5
"""Rows without a score that the summary names; the table names all of them."""


def _named(table: ScoreTable) -> list[str]:
    columns = table.columns.filter(pc.not_equal(table.columns["status"], "ok"))
    shown = columns.slice(0, SHOWN).to_pylist()
    lines = [f"  row {row['row']} ({row['id']}) {row['status']}: {row['reason']}" for row in shown]
    return lines + [f"  ... and {columns.num_rows - SHOWN} more, in the table"] * (columns.num_rows > SHOWN)


def summary(run: Run, output: Path) -> str:
    """A few lines of text for the end of `gainrl score`."""
    table = run.table
    counts = table.status_counts()
    lines = [f"{len(table)} rows in {output}"]
    if run.scored:
        lines[0] += (
            f": {run.scored} scored in {run.seconds:.1f} s, {run.scored / run.seconds:.1f} prompts/s, "
            f"{run.tokens:,} tokens (prefix tokens counted for every prompt)"
        )
    if run.kept:
        lines.append(f"{run.kept} rows taken from an earlier run")
    without = {status: count for status, count in counts.items() if status != "ok"}
    if without:
        lines.append("without a score: " + ", ".join(f"{count} {status}" for status, count in without.items()))
        lines += _named(table)
    else:
        lines.append("undefined scores: 0")
    truncated = sum(
        status == "ok" and reason is not None
        for status, reason in zip(table.columns["status"].to_pylist(), table.columns["reason"].to_pylist(), strict=True)
    )
    if truncated:
        lines.append(f"{truncated} prompts were truncated to the model's context")
    if table.metadata.definition == "intra" and "ok" in counts:
        lines.append("no prompt has a prefix: the score is C_intra alone")
    scores = table.scores
    if np.isfinite(scores).any():
        points = np.nanquantile(scores, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
        names = ("min", "5 %", "25 %", "median", "75 %", "95 %", "max")
        lines.append("C: " + "  ".join(f"{name} {value:.4f}" for name, value in zip(names, points, strict=True)))
        length = table.column("question_tokens")
        correlations = {name: spearman(table.column(name), length) for name in ("score", "intra", "inter")}
        shown = ", ".join(f"{name} {value:+.3f}" for name, value in correlations.items() if np.isfinite(value))
        lines.append(f"Spearman correlation with question tokens: {shown or 'not defined'}")
    return "\n".join(lines)
