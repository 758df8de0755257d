"""The summary at the end of a scoring run: speed, rows without a score, the spread of C, how much of it is length."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.stats import spearmanr

from gainrl.scoring.run import Run
from gainrl.table import STATUSES, ScoreTable

SHOWN = 5
"""Rows without a score that are named; the table names all of them."""
SAMPLE = 20_000
"""Rows, evenly spread, that quantiles and correlations are of, so that memory does not grow with the table."""
_NUMBERS = ("score", "intra", "inter", "question_tokens")


def summary(run: Run) -> str:
    """A few lines of text for the end of `gainrl score`; the table is read a piece at a time."""
    metadata, names = ScoreTable.describe(run.output)
    every = -(-metadata.rows // SAMPLE)
    statuses: Counter[str] = Counter()
    named: list[dict[str, Any]] = []
    taken: dict[str, list[Any]] = {name: [] for name in _NUMBERS}
    truncated = first = 0
    with pq.ParquetFile(run.output, pre_buffer=False) as file:
        for batch in file.iter_batches(4096, columns=["id", "row", "status", "reason", *_NUMBERS]):
            statuses.update({one["values"]: one["counts"] for one in batch["status"].value_counts().to_pylist()})
            ok = pc.equal(batch["status"], "ok")
            truncated += int(pc.sum(pc.and_(ok, batch["reason"].is_valid())).as_py() or 0)
            if len(named) < SHOWN:
                named += batch.filter(pc.invert(ok)).slice(0, SHOWN - len(named)).to_pylist()
            for name in _NUMBERS:
                taken[name].append(batch[name].to_numpy()[-first % every :: every])
            first += batch.num_rows
    speed = f"{run.seconds:.1f} s, {run.scored / (run.seconds or 1):.1f} prompts/s, {run.tokens:,} tokens"
    lines = [f"{metadata.rows} rows in {run.output}"]
    if run.scored:
        lines[0] += f": {run.scored} scored in {speed} (prefix tokens counted for every prompt)"
    if run.kept:
        lines.append(f"{run.kept} rows taken from an earlier run")
    without = ", ".join(f"{statuses[status]} {status}" for status in STATUSES[1:] if statuses[status])
    lines.append(f"without a score: {without or 'none'}")
    lines += [f"  row {row['row']} ({row['id']}) {row['status']}: {row['reason']}" for row in named]
    if (more := metadata.rows - statuses["ok"] - len(named)) > 0:
        lines.append(f"  ... and {more} more, in the table")
    if truncated:
        lines.append(f"{truncated} prompts were truncated to the model's context")
    if metadata.definition == "intra" and statuses["ok"]:
        lines.append("the score is C_intra alone (no prompt has a prefix, or the definition leaves C_inter out)")
    lines += _spread({name: np.concatenate(parts).astype(np.float64) for name, parts in taken.items()}, every)
    if "direction" not in names:
        lines.append("no directions: probe, training's default navigator, predicts better with them (--directions)")
    return "\n".join(lines)


def _spread(sample: dict[str, Any], every: int) -> list[str]:
    """Quantiles of C and its correlation with length, over the sampled rows that have a score."""
    scored = np.isfinite(sample["score"])
    if not scored.any():
        return []
    among = f" (of one row in {every})" if every > 1 else ""
    points = np.quantile(sample["score"][scored], [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
    names = ("min", "5 %", "25 %", "median", "75 %", "95 %", "max")
    shown = []
    for label, name in (("C", "score"), ("C_intra", "intra"), ("C_inter", "inter")):
        x, y = sample[name][scored], sample["question_tokens"][scored]
        if len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
            shown.append(f"{label} {spearmanr(x, y).statistic:+.3f}")
    return [
        f"C{among}: " + "  ".join(f"{name} {value:.4f}" for name, value in zip(names, points, strict=True)),
        f"Spearman correlation with question tokens{among}: {', '.join(shown) or 'not defined'}",
    ]
