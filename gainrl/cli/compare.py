"""`gainrl compare`: how two rankings of one dataset differ."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from gainrl.cli import options
from gainrl.errors import UserError

_main = options("Options")


def compare(
    first: Annotated[Path, typer.Argument(help="Score table A.", metavar="A")],
    second: Annotated[Path, typer.Argument(help="Score table B, of the same dataset.", metavar="B")],
    top: Annotated[list[int] | None, _main("Overlap of the first N; repeatable (1 % to 50 %).", "N", min=1)] = None,
    movers: Annotated[int, _main("Rows to show that moved most, up and down (5).", "N", min=0)] = 5,
) -> None:
    """Show how two rankings of one dataset differ: settings, rank correlation, overlap, movers.

    Example: gainrl compare before.parquet after.parquet --top 100
    """
    import numpy as np
    from scipy.stats import kendalltau, spearmanr

    from gainrl.table import ScoreTable

    a, b = (ScoreTable.read(path) for path in (first, second))
    if a.metadata.fingerprint != b.metadata.fingerprint:
        of = " and ".join(f"{t.metadata.dataset!r} (split {t.metadata.split!r}, {len(t)} rows)" for t in (a, b))
        shared = len(set(a.ids) & set(b.ids))
        raise UserError(f"the tables must rank the same rows, but rank {of}: {shared} prompts are in both")
    x, y = (table.column("score").astype(np.float64) for table in (a, b))
    both = np.isfinite(x) & np.isfinite(y)
    count = int(both.sum())
    if top and max(top) > count:
        raise UserError(f"--top {max(top)}: only {count} rows have a score in both tables")
    print(f"A: {first}\nB: {second}")
    differences = a.metadata.differences(b.metadata)
    for key, (mine, theirs) in differences.items():
        print(f"  {key}: {mine!r} in A, {theirs!r} in B")
    if not differences:
        print("  made with the same settings")
    only = [int((np.isfinite(one) & ~both).sum()) for one in (x, y)]
    print(f"{len(a)} rows, {count} with a score in both ({only[0]} only in A, {only[1]} only in B)")
    if count and np.ptp(x[both]) > 0 and np.ptp(y[both]) > 0:
        found = {"Spearman": spearmanr(x[both], y[both]), "Kendall tau-b": kendalltau(x[both], y[both])}
        print("rank correlation: " + ", ".join(f"{name} {r.statistic:+.4f}" for name, r in found.items()))
    before, after = (np.argsort(np.argsort(t.column("position")[both])) for t in (a, b))  # among the rows of both
    for n in top or sorted({max(1, round(count * share)) for share in (0.01, 0.05, 0.1, 0.25, 0.5) if count}):
        shared = int(((before < n) & (after < n)).sum())
        print(f"first {n}: {shared} in both ({shared / n:.1%}; {n / count:.1%} by chance)")
    rows, change = np.flatnonzero(both), after - before
    order = np.argsort(change, kind="stable")
    prompts = next((t.columns["prompt"] for t in (a, b) if "prompt" in t.columns.column_names), None)
    for title, chosen in (("up", order[change[order] < 0][:movers]), ("down", order[change[order] > 0][::-1][:movers])):
        if len(chosen):
            print(f"moved {title} most, from A to B (positions among the rows with a score in both):")
        for i in chosen:
            text = "" if prompts is None else _short(prompts[rows[i]].as_py() or "")
            print(f"  {before[i]:>8} -> {after[i]:<8} row {rows[i]} ({a.columns['id'][rows[i]].as_py()})  {text}")


def _short(text: str, width: int = 60) -> str:
    """The end of a prompt on one line: worked examples and system prompts stand at the front."""
    with suppress(ValueError, LookupError, TypeError):  # a chat is JSON, and plain text may be anything
        text = str(json.loads(text)[-1]["content"])
    text = " ".join(text.split())
    return text if len(text) <= width else "..." + text[-width:]
