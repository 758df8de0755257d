"""What a scoring run says at its end: speed, rows without a score, the spread of C, how much of it is length.

The table is read a piece at a time.  Counts are of all rows; quantiles and correlations of at most SAMPLE rows, evenly
spread, so that memory does not grow with the table.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from gainrl.correlation import length_correlations, spearman
from gainrl.scoring.run import Run
from gainrl.table import STATUSES, ScoreTable, TableMetadata

SHOWN = 5
"""Rows without a score that the summary names; the table names all of them."""
SAMPLE = 20_000


@dataclass
class TableDigest:
    """What the summary needs of a table."""

    metadata: TableMetadata
    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    named: list[dict[str, Any]] = field(default_factory=list)
    """The first rows without a score."""
    every: int = 1
    """One row of so many is in `sample`."""
    directions: bool = False
    """Whether it has directions."""
    sample: dict[str, Any] = field(default_factory=dict)
    """Columns of the sampled rows; NaN where the row has no score."""


def digest(path: Path) -> TableDigest:
    """Read the table at `path` a piece at a time."""
    metadata, names = ScoreTable.describe(path)
    every = max(1, -(-metadata.rows // SAMPLE))
    found = TableDigest(metadata, rows=metadata.rows, every=every, directions="direction" in names)
    numbers = ["intra", "inter", "score", "question_tokens", *(name for name in ("residual",) if name in names)]
    taken: dict[str, list[Any]] = {name: [] for name in numbers}
    first = 0
    for batch in ScoreTable.pieces(path, ["id", "row", "status", "reason", *numbers]):
        ok = pc.equal(batch["status"], "ok")
        found.statuses.update(batch["status"].to_pylist())
        found.truncated += int(pc.sum(pc.and_(ok, pc.is_valid(batch["reason"]))).as_py() or 0)
        if len(found.named) < SHOWN:
            found.named += batch.filter(pc.invert(ok)).slice(0, SHOWN - len(found.named)).to_pylist()
        picked = slice(-first % found.every, None, found.every)
        scored = np.asarray(batch["status"].to_pylist(), dtype=object)[picked] == "ok"
        for name in numbers:
            values = batch[name].to_numpy()[picked].astype(np.float32)
            taken[name].append(np.where(scored, values, np.float32("nan")))
        first += batch.num_rows
    found.sample = {name: np.concatenate(parts) for name, parts in taken.items()}
    return found


def summary(run: Run, output: Path) -> str:
    """A few lines of text for the end of `gainrl score`."""
    table = digest(output)
    lines = [f"{table.rows} rows in {output}"]
    if run.scored:
        lines[0] += (
            f": {run.scored} scored in {run.seconds:.1f} s, {run.scored / run.seconds:.1f} prompts/s, "
            f"{run.tokens:,} tokens (prefix tokens counted for every prompt)"
        )
    if run.kept:
        lines.append(f"{run.kept} rows taken from an earlier run")
    without = {status: table.statuses[status] for status in STATUSES if status != "ok" and table.statuses[status]}
    if without:
        lines.append("without a score: " + ", ".join(f"{count} {status}" for status, count in without.items()))
        lines += [f"  row {row['row']} ({row['id']}) {row['status']}: {row['reason']}" for row in table.named]
        more = sum(without.values()) - len(table.named)
        lines += [f"  ... and {more} more, in the table"] * (more > 0)
    else:
        lines.append("undefined scores: 0")
    if table.truncated:
        lines.append(f"{table.truncated} prompts were truncated to the model's context")
    if table.metadata.definition == "intra" and table.statuses["ok"]:
        lines.append("the score is C_intra alone (no prompt has a prefix, or the definition leaves C_inter out)")
    if np.isfinite(table.sample["score"]).any():
        lines += _spread(table)
    if not table.directions:
        lines.append(
            "no directions: the default navigator of training, probe, learns from them and goes by ranking and length "
            "without (--directions stores them: 4 bytes times the model's width a prompt)"
        )
    return "\n".join(lines)


def _spread(table: TableDigest) -> list[str]:
    sample, made = table.sample, table.metadata
    points = np.nanquantile(sample["score"].astype(np.float64), [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
    names = ("min", "5 %", "25 %", "median", "75 %", "95 %", "max")
    among = f" (of one row in {table.every})" if table.every > 1 else ""
    spread = "  ".join(f"{name} {value:.4f}" for name, value in zip(names, points, strict=True))
    lines = [f"C{among}: {spread}", f"Spearman correlation with question tokens{among}:"]
    length = sample["question_tokens"]
    for row in length_correlations(
        sample["intra"], sample["inter"], length, diagonal=made.diagonal, inter_weight=made.inter_weight
    ):
        shown = ", ".join(f"{name} {row[name]:+.3f}" for name in ("score", "intra", "inter") if np.isfinite(row[name]))
        used = " (this table)" if row["diagonal"] == made.diagonal else ""
        lines.append(f"  {'with' if row['diagonal'] else 'without'} the diagonal{used}: {shown or 'not defined'}")
    if made.control == "length":
        assert made.control_fit is not None
        left = spearman(sample["residual"], length)
        fit = " ".join(
            f"{value:+.6g} {name}".strip() for value, name in zip(made.control_fit, ("", "x", "x²"), strict=True)
        )
        lines.append(
            f"ranked by what is left of C after {fit}, x = ln(question tokens), is taken out; Spearman of that "
            f"with question tokens: {left:+.3f}"
        )
    return lines
