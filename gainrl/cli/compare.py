"""`gainrl compare`: how two rankings of one dataset differ."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from gainrl.errors import UserError


def compare(
    first: Annotated[Path, typer.Argument(help="Score table A.", metavar="A")],
    second: Annotated[Path, typer.Argument(help="Score table B, of the same dataset.", metavar="B")],
    top: Annotated[
        list[int] | None,
        typer.Option(help="Overlap of the first TOP ranks (repeatable; default: 1, 5, 10, 25 and 50 %)."),
    ] = None,
    movers: Annotated[int, typer.Option(help="How many of the rows that moved most are shown, up and down.")] = 5,
) -> None:
    """Show how two rankings differ: what they were made from, rank correlation, overlap of the first n, movers."""
    if movers < 0:
        raise UserError(f"--movers {movers}: give 0 or more")
    from gainrl.table import ScoreTable

    columns = ["id", "row", "rank", "score", "residual", "prompt"]
    a, b = (
        ScoreTable.read(path, [name for name in ScoreTable.describe(path)[1] if name in columns])
        for path in (first, second)
    )
    print("\n".join(comparison(a, b, (str(first), str(second)), top, movers)))


def comparison(a: Any, b: Any, names: tuple[str, str], top: list[int] | None, movers: int) -> list[str]:
    """The lines that `gainrl compare` prints for two `ScoreTable`s.  Raises UserError if their datasets differ."""
    import numpy as np

    from gainrl.correlation import kendall, spearman

    if a.metadata.fingerprint != b.metadata.fingerprint or a.ids != b.ids:
        raise UserError(_different(a, b, names))
    x, y = a.scores, b.scores
    both = np.isfinite(x) & np.isfinite(y)
    lines = [f"A: {names[0]}", f"B: {names[1]}"]
    differences = a.metadata.differences(b.metadata)
    differences.pop("control_fit", None)
    lines += [f"  {key}: {mine!r} in A, {theirs!r} in B" for key, (mine, theirs) in differences.items()]
    if not differences:
        lines.append("  made with the same settings")
    only = [int((np.isfinite(one) & ~np.isfinite(other)).sum()) for one, other in ((x, y), (y, x))]
    lines.append(f"{len(a)} rows, {int(both.sum())} with a score in both ({only[0]} only in A, {only[1]} only in B)")
    if not both.any():
        return lines
    ranks = [_ranks_among(table.column("rank"), both) for table in (a, b)]
    count = int(both.sum())
    shown = {"Spearman": spearman(x[both], y[both]), "Kendall tau-b": kendall(x[both], y[both])}
    lines.append("rank correlation: " + ", ".join(f"{name} {value:+.4f}" for name, value in shown.items()))
    for n in top or sorted({max(1, round(count * share)) for share in (0.01, 0.05, 0.1, 0.25, 0.5)}):
        if not 1 <= n <= count:
            raise UserError(f"--top {n}: give 1 to {count}, the rows that have a score in both tables")
        shared = int(((ranks[0] < n) & (ranks[1] < n)).sum())
        lines.append(f"first {n}: {shared} in both ({shared / n:.1%}; {n / count:.1%} by chance)")
    return lines + _movers(a, b, both, ranks, movers)


def _ranks_among(rank: Any, chosen: Any) -> Any:
    """(n,) ranks of the chosen rows among themselves."""
    import numpy as np

    order = np.argsort(rank[chosen], kind="stable")
    among = np.empty_like(order)
    among[order] = np.arange(len(order))
    return among


def _movers(a: Any, b: Any, both: Any, ranks: list[Any], count: int) -> list[str]:
    import numpy as np

    rows = np.flatnonzero(both)
    change = ranks[1] - ranks[0]
    order = np.argsort(change, kind="stable")
    texts = next((t.columns["prompt"] for t in (a, b) if "prompt" in t.columns.column_names), None)
    lines = []
    for title, chosen in (("up", order[:count]), ("down", order[::-1][:count])):
        moved = [i for i in chosen.tolist() if change[i]]
        if moved:
            lines.append(f"moved {title} most, from A to B (ranks among the rows with a score in both):")
        for i in moved:
            row = int(rows[i])
            text = "" if texts is None else f"  {_short(texts[row].as_py())}"
            lines.append(f"  {ranks[0][i]:>8} -> {ranks[1][i]:<8} row {row} ({a.ids[row]}){text}")
    return lines


def _short(prompt: str | None, width: int = 60) -> str:
    """The end of a prompt on one line: worked examples and system prompts stand at the front."""
    import json

    text = prompt or ""
    if text.startswith("["):
        with suppress(ValueError, LookupError, TypeError):  # plain text may begin with a bracket
            text = str(json.loads(text)[-1]["content"])
    text = " ".join(text.split())
    return text if len(text) <= width else "..." + text[-width:]


def _different(a: Any, b: Any, names: tuple[str, str]) -> str:
    described = [
        f"{name} ranks {t.metadata.dataset!r} (split {t.metadata.split!r}, limit {t.metadata.limit}, {len(t)} rows)"
        for name, t in zip(names, (a, b), strict=True)
    ]
    shared = len(set(a.ids) & set(b.ids))
    return (
        f"the tables rank different datasets: {described[0]}, {described[1]}; {shared} prompts are in both. Compare "
        "tables of the same rows in the same order"
    )
