"""The tables of docs/evidence.md, filled in from the results: what stands between two marks is replaced."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.convergence import report
from benchmarks.convergence.arms import ARMS
from benchmarks.convergence.families import Family
from benchmarks.convergence.held_out import FAMILIES

Rows = Sequence[dict[str, Any]]

_MARK = re.compile(r"(<!-- table: (?P<name>[a-z-]+) -->\n\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, runs: report.Runs) -> str:
    """The page with its tables as these runs have them; KeyError for a mark that names no table."""
    compared = report.comparisons(runs)
    tables: dict[str, Callable[[], Rows]] = {
        "arms": lambda: [{"arm": f"`{name}`", "": arm.about} for name, arm in ARMS.items()],
        "overall": lambda: report.overall(compared),
        "sampled": lambda: report.sampled(compared),
        "against": lambda: report.against(compared),
        "families": lambda: [row for row in report.rows(compared) if row["arm"] != "uniform"],
        "rising": lambda: report.rising(runs),
        "seeds": lambda: seeds(compared, FAMILIES),
    }
    return _MARK.sub(lambda found: f"{found[1]}{markdown(tables[found['name']]())}\n\n{found[3]}", text)


def seeds(compared: Rows, families: dict[str, Family]) -> Rows:
    """A row for each arm and family, a column for each seed: the factor, or where it is none, why, and the even one."""
    found = []
    for family in families:
        for one in compared:
            if one["family"] == family and one["arm"] != "uniform":
                cells = {f"seed {seed['seed']}": _cell(seed) for seed in one["seeds"]}
                found.append({"family": family, "arm": one["arm"], **cells})
    return found


def _cell(seed: dict[str, Any]) -> str:
    if seed["level"] is None:
        return "no level"
    return f"not reached, {seed['even']:.2f}" if seed["censored"] else f"{seed['factor_rollouts']:.2f}"


def markdown(rows: Rows) -> str:
    """A table with the columns of the longest row."""
    names = list(max(rows, key=len, default={}))
    lines = [names, ["---"] * len(names), *([str(row.get(name, "-")) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
