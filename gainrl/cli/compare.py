"""`gainrl compare`: how two rankings of one dataset differ."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from gainrl.cli import options
from gainrl.errors import UserError

_main = options("Options")


def compare(
    first: Annotated[Path, typer.Argument(help="Score table A.", metavar="A")],
    second: Annotated[Path, typer.Argument(help="Score table B, of the same dataset.", metavar="B")],
    top: Annotated[list[int] | None, _main("Overlap of the first N; repeatable (1 % to 50 %).", "N")] = None,
    movers: Annotated[int, _main("Rows to show that moved most, up and down (5).", "N")] = 5,
) -> None:
    """Show how two rankings of one dataset differ: settings, rank correlation, overlap, movers.

    Example: gainrl compare before.parquet after.parquet --top 100
    """
    if movers < 0:
        raise UserError(f"--movers {movers}: give 0 or more")
    from gainrl.table import ScoreTable

    a, b = (ScoreTable.read(path) for path in (first, second))
    print("\n".join(comparison(a, b, (str(first), str(second)), top, movers)))


def comparison(a: Any, b: Any, names: tuple[str, str], top: list[int] | None, movers: int) -> list[str]:
    """The lines that `gainrl compare` prints for two `ScoreTable`s.  Raises UserError if their datasets differ."""
    import numpy as np
    from scipy.stats import kendalltau, spearmanr

    if a.metadata.fingerprint != b.metadata.fingerprint:
        of = [(name, t.metadata, len(t)) for name, t in zip(names, (a, b), strict=True)]
        described = [f"{name} ranks {m.dataset!r} (split {m.split!r}, limit {m.limit}, {n} rows)" for name, m, n in of]
        raise UserError(
            f"the tables rank different datasets: {', '.join(described)}; {len(set(a.ids) & set(b.ids))} prompts are "
            "in both. Compare tables of the same rows in the same order"
        )
    x, y = (table.column("score").astype(np.float64) for table in (a, b))
    both = np.isfinite(x) & np.isfinite(y)
    lines = [f"A: {names[0]}", f"B: {names[1]}"]
    differences = a.metadata.differences(b.metadata).items()
    lines += [f"  {key}: {mine!r} in A, {theirs!r} in B" for key, (mine, theirs) in differences]
    lines += [] if differences else ["  made with the same settings"]
    only = [int((np.isfinite(one) & ~np.isfinite(other)).sum()) for one, other in ((x, y), (y, x))]
    count = int(both.sum())
    lines.append(f"{len(a)} rows, {count} with a score in both ({only[0]} only in A, {only[1]} only in B)")
    if not count:
        return lines
    # (n,) positions among the rows that both have
    at = [np.argsort(np.argsort(table.column("position")[both])) for table in (a, b)]
    if np.ptp(x[both]) > 0 and np.ptp(y[both]) > 0:
        found = {"Spearman": spearmanr(x[both], y[both]), "Kendall tau-b": kendalltau(x[both], y[both])}
        lines.append("rank correlation: " + ", ".join(f"{name} {r.statistic:+.4f}" for name, r in found.items()))
    for n in top or sorted({max(1, round(count * share)) for share in (0.01, 0.05, 0.1, 0.25, 0.5)}):
        if not 1 <= n <= count:
            raise UserError(f"--top {n}: give 1 to {count}, the rows that have a score in both tables")
        shared = int(((at[0] < n) & (at[1] < n)).sum())
        lines.append(f"first {n}: {shared} in both ({shared / n:.1%}; {n / count:.1%} by chance)")
    rows, change = np.flatnonzero(both), at[1] - at[0]
    order = np.argsort(change, kind="stable")
    prompts = next((t.columns["prompt"] for t in (a, b) if "prompt" in t.columns.column_names), None)
    for title, sign, chosen in (("up", -1, order[:movers]), ("down", 1, order[::-1][:movers])):
        moved = [i for i in chosen.tolist() if np.sign(change[i]) == sign]
        if moved:
            lines.append(f"moved {title} most, from A to B (positions among the rows with a score in both):")
        for i in moved:
            row = int(rows[i])
            text = "" if prompts is None else f"  {_short(prompts[row].as_py())}"
            lines.append(f"  {at[0][i]:>8} -> {at[1][i]:<8} row {row} ({a.columns['id'][row].as_py()}){text}")
    return lines


def _short(prompt: str | None, width: int = 60) -> str:
    """The end of a prompt on one line: worked examples and system prompts stand at the front."""
    text = prompt or ""
    if text.startswith("["):
        with suppress(ValueError, LookupError, TypeError):  # plain text may begin with a bracket
            text = str(json.loads(text)[-1]["content"])
    text = " ".join(text.split())
    return text if len(text) <= width else "..." + text[-width:]
