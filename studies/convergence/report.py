"""The tables of the study, as Markdown: shapes of each arm, and the held-out families."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studies.convergence.arms import ARMS
from studies.convergence.measures import Factor, Run, compared, factor, same_base
from studies.convergence.protocol import Protocol, Shape
from studies.convergence.study import HELD_OUT


def over(runs: Sequence[Run], families: Sequence[str], arm: str, shape: Shape, base_arm: str, base: Shape) -> Factor:
    """Factor of an arm in its shape over another in its own, on the bases that have both."""
    pairs = []
    for run in runs:
        if (run["arm"], Shape(*run["shape"])) == (arm, shape) and run["family"] in families:
            other = next((one for one in runs if (one["arm"], Shape(*one["shape"])) == (base_arm, base)
                          and same_base(one, run)), None)  # fmt: skip
            pair = None if other is None else compared(runs, other, run)
            if pair is not None:
                pairs.append((run["seed"], *pair))
    return factor(pairs)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def shapes(protocol: Protocol, runs: Sequence[Run]) -> str:
    """Factor over uniform in the usual shape, for each shape and arm, on the tuning families."""
    found = sorted({Shape(*run["shape"]) for run in runs if run["family"] in protocol.tuning}, reverse=True)
    arms = [name for name in ARMS if any(run["arm"] == name for run in runs)]
    rows = []
    for shape in found:
        cells = [over(runs, protocol.tuning, arm, shape, "uniform", protocol.usual) for arm in arms]
        shares = [mixed_share(runs, protocol.tuning, arm, shape) for arm in arms]
        shown = [f"{cell}; {share}" if cell.bases else "-" for cell, share in zip(cells, shares, strict=True)]
        rows.append([f"{shape.prompts} × {shape.rollouts}", f"{shape.rate:g}", *shown])
    return table(["prompts × group", "rate", *arms], rows)


def mixed_share(runs: Sequence[Run], families: Sequence[str], arm: str, shape: Shape) -> str:
    """Share of mixed groups over all runs of an arm in a shape."""
    of = [run for run in runs if (run["arm"], Shape(*run["shape"])) == (arm, shape) and run["family"] in families]
    groups = sum(run["groups"] for run in of)
    return f"{sum(run['mixed'] for run in of) / groups:.0%} mixed" if groups else "-"


def held_out(protocol: Protocol, runs: Sequence[Run]) -> str:
    """Each arm at its own shape, over uniform in the usual shape and over uniform at its own."""
    own = protocol.chosen.get("uniform", protocol.usual)
    rows = []
    for arm, shape in protocol.chosen.items():
        usual, tuned = (over(runs, HELD_OUT, arm, shape, "uniform", base) for base in (protocol.usual, own))
        by_family = [over(runs, [family], arm, shape, "uniform", own) for family in HELD_OUT]
        rows.append([arm, shape, usual, tuned, f"{tuned.censored} of {sum(cell.bases for cell in by_family)}",
                     *by_family, mixed_share(runs, HELD_OUT, arm, shape)])  # fmt: skip
    header = [
        "arm",
        "shape",
        "over uniform 16 × 8",
        "over uniform at its own shape",
        "not reached",
        *HELD_OUT,
        "groups",
    ]
    return table(header, rows)


def over_peers(protocol: Protocol, runs: Sequence[Run]) -> str:
    """The probe, with and without its baseline, over every other arm, each in its own step."""
    arms = [name for name in ("baseline", "probe") if name in protocol.chosen]
    rows = [
        [other, *(over(runs, HELD_OUT, arm, protocol.chosen[arm], other, shape) for arm in arms)]
        for other, shape in protocol.chosen.items() if other not in ("baseline", "uniform")
    ]  # fmt: skip
    return table(["over", *arms], rows)


def tables(protocol: Protocol, runs: Sequence[Run]) -> str:
    """All tables."""
    return (
        f"Tuning families ({', '.join(protocol.tuning)}): factor over uniform 16 × 8, share of mixed groups\n\n"
        f"{shapes(protocol, runs)}\n\nHeld-out families ({', '.join(HELD_OUT)})\n\n{held_out(protocol, runs)}"
        f"\n\n{over_peers(protocol, runs)}"
    )
