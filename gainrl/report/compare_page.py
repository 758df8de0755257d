"""The page that compares runs: curves, areas, and the rollouts that each run took to reach each other's accuracy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from gainrl.files import write_text
from gainrl.report.comparison import COSTS, TRAINING, Curve, Panel, panels, read_runs, spent
from gainrl.report.figures import Figure, Theme, plain, render_figure
from gainrl.report.page import rendered
from gainrl.report.records import RunRecords

_STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
_MARKERS = "osD^"


def write_comparison(
    runs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str] = "comparison.html"
) -> Path:
    """Write the page that compares run directories; returns where it is.  UserError where that cannot be."""
    read = read_runs(runs)
    found = panels(read)
    order = [name for name, _, _ in read]
    context = {
        "runs": [_run(name, records) for name, _, records in read],
        "panels": [_panel(panel, order) for panel in found],
        "costs": COSTS,
        "notes": _notes(read, found),
    }
    page = rendered("compare.html", context)
    write_text(output, page.encode("utf-8", "replace").decode("utf-8"))
    return Path(output)


def _run(name: str, records: RunRecords) -> dict[str, Any]:
    config, totals = records.config or {}, spent(records)
    navigator = next((record["navigator"] for record in records.epochs if record.get("navigator")), None)
    return {
        "name": name,
        "model": config.get("model"),
        "data": config.get("task") or config.get("dataset"),
        "navigator": navigator,
        "epochs": len(records.epochs),
        **{cost: float(values[-1]) for cost, values in totals.items()},
    }


def _notes(read: Sequence[tuple[str, Path, RunRecords]], found: Sequence[Panel]) -> list[str]:
    notes = []
    for key, what in (("model", "models"), ("task", "tasks"), ("dataset", "datasets")):
        values = {str((records.config or {}).get(key)) for _, _, records in read}
        if len(values) > 1:
            notes.append(f"The runs trained different {what}: {', '.join(sorted(values))}.")
    if not any(panel.task != TRAINING for panel in found):
        notes.append(
            "No task was evaluated at two places or more of two runs, so there is training accuracy alone, which "
            "depends on the prompts that each curriculum drew.  Evaluate checkpoints with gainrl eval --run."
        )
    for panel in found:
        lacking = [name for name, _, _ in read if name not in {curve.run for curve in panel.curves}]
        if lacking:
            notes.append(f"{panel.task or 'Training accuracy'}: nothing to draw of {', '.join(lacking)}.")
    if not found:
        notes.append("No two runs have accuracies at two places or more.")
    return notes


def _panel(panel: Panel, order: Sequence[str]) -> dict[str, Any]:
    common = {cost: panel.common(cost) for cost in COSTS}
    rows = [
        {
            "run": curve.run,
            "last": curve.accuracy[-1],
            "best": curve.accuracy.max(),
            "areas": {cost: curve.area(cost, *common[cost]) for cost in COSTS},
            # what this run spent to reach the last accuracy of each run, and how many times less that was
            "reach": [_reach(curve, other) for other in panel.curves],
        }
        for curve in panel.curves
    ]
    return {
        "task": panel.task,
        "figure": _curves(panel, order),
        "rows": rows,
        "common": {cost: end for cost, (_, end) in common.items()},
    }


def _reach(curve: Curve, other: Curve) -> dict[str, Any]:
    target = float(other.accuracy[-1])
    out: dict[str, Any] = {"run": other.run, "target": target}
    for cost in COSTS:
        own, theirs = curve.reached(target, cost), other.reached(target, cost)
        out[cost] = own
        out[f"{cost}_ratio"] = theirs / own if curve is not other and own > 0 else float("nan")
    return out


def _curves(panel: Panel, order: Sequence[str]) -> Figure:
    """Accuracy over each cost, one line a run."""

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.subplots(1, len(COSTS), sharey=True)
        for axis, (cost, label) in zip(axes, COSTS.items(), strict=True):
            for curve in panel.curves:
                at = order.index(curve.run)  # a run looks the same in every panel
                axis.plot(
                    curve.cost[cost], curve.accuracy, color=theme.series[at % 4], linestyle=_STYLES[at // 4 % 4],
                    marker=_MARKERS[at // 4 % 4], linewidth=1.7, markersize=3.4, label=plain(curve.run),
                )  # fmt: skip
            _axis(axis, label)
        axes[0].set_ylabel("accuracy")
        handles, labels = axes[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper left", ncols=min(4, len(labels)), frameon=False)

    said = [
        f"{curve.run} from {curve.accuracy[0]:.1%} to {curve.accuracy[-1]:.1%} with {curve.cost['rollouts'][-1]:,.0f} "
        f"rollouts"
        for curve in panel.curves
    ]
    what = f"Accuracy on {panel.task}" if panel.task else "Training accuracy"
    alt = f"{what} over rollouts, tokens and seconds: {'; '.join(said)}."
    return render_figure(draw, 9.6, 3.1 + 0.2 * (len(panel.curves) // 4), alt)


def _axis(axis: Axes, label: str) -> None:
    axis.set_xlabel(label)
    axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    low, high = axis.get_ylim()
    axis.set_ylim(max(0.0, low), min(1.02, high))
