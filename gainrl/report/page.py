"""From the records of a run to one HTML page that needs nothing else: no script, no font, no address to reach.

Prompts and reasons are untrusted text: everything is escaped by the template engine, and the page's own policy forbids
scripts and requests.
"""

from __future__ import annotations

import importlib.resources
import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from scipy.stats import spearmanr

from gainrl.files import write_text
from gainrl.report import figures
from gainrl.report.comparison import place, steps_per_epoch
from gainrl.report.prompts import extremes
from gainrl.report.records import Record, RunRecords, number, read_run, seconds
from gainrl.table import ScoreTable


def write_report(
    run: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, *, prompts: int = 5
) -> Path:
    """Write the report of a run directory, or of a score table alone; returns where it is.

    output: the HTML file (default: report.html in the run directory, or the table's name with .html).
    prompts: how many of the highest and of the lowest ranked prompts are printed in full.

    A report is made anew from the records each time and replaces an earlier one, whole or not at all.  Raises UserError
    where there is nothing to report.
    """
    run = Path(run)
    records = read_run(run)
    if output is None:
        output = run.with_suffix(".html") if run.is_file() else run / "report.html"
    page = render(records, prompts=prompts)
    # Lone surrogates, which JSON can carry, have no UTF-8.
    write_text(output, page.encode("utf-8", "replace").decode("utf-8"))
    return Path(output)


def render(records: RunRecords, *, prompts: int = 5) -> str:
    """The report as HTML."""
    context: dict[str, Any] = {
        "name": records.name,
        "notes": records.notes,
        "settings": None if records.config is None else _yaml(records.config),
        "highlights": [],
        "table": None,
        "training": None,
        "evals": None,
    }
    if records.table is not None:
        context["table"] = _scores(records.table, prompts)
    if records.epochs:
        context["training"] = _training(records)
    if records.evals:
        context["evals"] = _evals(records.evals)
    context["facts"] = _facts(records)
    context["highlights"] = _highlights(records, context)
    context["progress"] = _progress(records)
    return rendered("template.html", context)


def rendered(template: str, context: Mapping[str, Any]) -> str:
    """One of the packaged templates, everything in `context` escaped."""
    folder = importlib.resources.files("gainrl.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["num"] = _num
    environment.filters["percent"] = lambda value: "–" if number(value) is None else f"{float(value):.1%}"
    environment.filters["signed"] = lambda value: "–" if number(value) is None else _signed(float(value), 3)
    environment.filters["whole"] = lambda value: "–" if number(value) is None else f"{float(value):,.0f}"
    environment.filters["short"] = lambda value: "–" if number(value) is None else _short(float(value))
    environment.filters["span"] = _duration
    environment.filters["visible"] = visible
    return environment.get_template(template).render(context)


def visible(text: object) -> str:
    """Text with control characters shown as their Unicode pictures (␀, ␛, ...); tabs and newlines stay."""
    return re.sub(
        r"[\x00-\x08\x0b-\x1f\x7f]",
        lambda found: chr(0x2421 if found[0] == "\x7f" else 0x2400 + ord(found[0])),
        str(text),
    )


def _scores(table: ScoreTable, prompts: int) -> dict[str, Any]:
    scores, intra, inter = (table.column(name).astype(np.float64) for name in ("score", "intra", "inter"))
    tokens = table.column("question_tokens").astype(np.float64)
    tokens[~np.isfinite(scores)] = np.nan
    columns = {"C": scores, "intra": intra, "inter": inter}
    if table.metadata.definition == "intra":
        columns = {"C (= intra)": scores}
    rows = [
        {
            "name": name,
            "count": int(np.isfinite(values).sum()),
            "quantiles": np.quantile(values[np.isfinite(values)], [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]).tolist(),
            "spearman": _spearman(values, tokens),
        }
        for name, values in columns.items()
        if np.isfinite(values).any()
    ]
    reasons = Counter(
        (status, reason or "no reason given")
        for status, reason in zip(table.columns["status"].to_pylist(), table.columns["reason"].to_pylist(), strict=True)
        if status != "ok"
    )
    correlation = _spearman(scores, tokens)
    return {
        "rows": len(table),
        "statuses": table.status_counts(),
        "reasons": [(status, reason, count) for (status, reason), count in reasons.most_common(20)],
        "more_reasons": max(0, len(reasons) - 20),
        "columns": rows,
        "spearman": correlation,
        "verdict": _verdict(correlation),
        "metadata": {
            name: value for name, value in json.loads(table.metadata.to_json()).items() if value not in (None, "")
        },
        "distribution": figures.score_distribution(columns),
        "length": figures.score_against_length(scores, tokens, correlation),
        "extremes": extremes(table, prompts),
    }


def _spearman(x: Any, y: Any) -> float:
    """Spearman's rank correlation of the pairs that are finite; NaN where it is not defined."""
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < 3 or np.ptp(x[both]) == 0 or np.ptp(y[both]) == 0:
        return float("nan")
    return float(spearmanr(x[both], y[both]).statistic)


def _verdict(correlation: float) -> str:
    """What a Spearman correlation of score and length says, in words."""
    if not np.isfinite(correlation):
        return "There are too few different scores to say how much of the order is length."
    strength = abs(correlation)
    direction = "longer" if correlation > 0 else "shorter"
    if strength >= 0.95:
        return f"This order is almost entirely length: {direction} questions come first."
    if strength >= 0.6:
        return f"Much of this order is length: {direction} questions tend to come first."
    if strength >= 0.25:
        return f"Some of this order is length: {direction} questions come first a little more often."
    return "Length explains little of this order."


def _training(records: RunRecords) -> dict[str, Any]:
    epochs = records.epochs
    size = len(records.table) if records.table is not None else None
    curriculum = (records.config or {}).get("curriculum")
    settings = curriculum if isinstance(curriculum, Mapping) else {}
    beta = number(settings.get("beta", settings.get("curriculum_beta", 0.5)))
    gaussian = any(number(record.get("mean")) is not None for record in epochs)
    return {
        "epochs": epochs,
        "seconds": [seconds(record) for record in epochs],
        "held": [(record.get("epoch"), record["held"]) for record in epochs if record.get("held")],
        "unscored": sum(int((number(r.get("rollouts")) or 0) - (number(r.get("scored")) or 0)) for r in epochs),
        "undefined_drawn": sum(int(number(record.get("undefined_drawn")) or 0) for record in epochs),
        "window": figures.window(epochs, size),
        "signals": figures.signals(epochs, beta if gaussian else None),
        "costs": figures.costs(epochs),
        "navigator": next((record["navigator"] for record in epochs if record.get("navigator")), "gaussian"),
    }


def _evals(evals: Sequence[Record]) -> dict[str, Any]:
    """Rows for the table and the plot; per task the change from its earliest to its latest place in the run."""
    rows: list[dict[str, Any]] = []
    changes = []
    per_epoch = steps_per_epoch(evals) or 1.0  # any unit will do for the order, as long as it is the same
    for record in evals:
        accuracy, low, high = (number(record.get(name)) for name in ("accuracy", "low", "high"))
        task, stage, step = (record.get(name) for name in ("task", "stage", "step"))
        label = " ".join(str(part) for part in (task, stage) if part not in (None, ""))
        label += "" if step is None else f", step {step}"
        rows.append(
            {
                "task": str(task or "evaluation"),
                "stage": stage,
                "step": step,
                "label": label,
                "accuracy": accuracy,
                "low": low if high is not None else None,
                "high": high if low is not None else None,
                "record": record,
            }
        )
    for task in dict.fromkeys(row["task"] for row in rows):
        known = [row for row in rows if row["task"] == task and row["accuracy"] is not None]
        places = [place(row["record"], per_epoch, math.inf) for row in known]
        if all(at is not None for at in places):  # evaluations may be made in any order, and again
            known = [row for _, row in sorted(dict(zip(places, known, strict=True)).items())]
        if len(known) > 1:
            changes.append({"task": task, "first": known[0], "last": known[-1]})
    return {"rows": rows, "changes": changes, "figure": figures.evaluations(rows)}


def _facts(records: RunRecords) -> list[tuple[str, str]]:
    """What was ranked and trained, for the header."""
    facts: list[tuple[str, str]] = []
    config = records.config or {}
    if records.table is not None:
        made = records.table.metadata
        facts.append(("Ranked by", f"{made.model} ({made.model_hash[:24]})"))
        parts = [made.dataset, f"split {made.split}" if made.split else "", f"first {made.limit}" if made.limit else ""]
        facts.append(("Dataset", ", ".join(part for part in parts if part)))
        definition = (
            "C_intra + C_inter" if made.definition == "intra+inter" else "C_intra alone (no prompt has a prefix)"
        )
        facts.append(("Score", f"{definition}, {made.dtype}, tap {made.tap}"))
        facts.append(("Dataset fingerprint", made.fingerprint))
        facts.append(("gainrl", made.gainrl_version))
    for name, label in (("model", "Trained model"), ("task", "Task"), ("dataset", "Training data")):
        if config.get(name):
            facts.append((label, str(config[name])))
    return [(name, value) for name, value in facts if value]


def _highlights(records: RunRecords, context: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Large figures at the top: (value, label, detail)."""
    tiles: list[tuple[str, str, str]] = []
    scores = context["table"]
    if scores:
        without = scores["rows"] - scores["statuses"].get("ok", 0)
        tiles.append(
            (f"{scores['rows']:,}", "prompts ranked", f"{without:,} without a score" if without else "all have a score")
        )
        if np.isfinite(scores["spearman"]):
            tiles.append((_signed(scores["spearman"], 2), "Spearman, C and length", "±1: the order is length"))
    epochs = records.epochs
    if epochs:
        planned = records.planned_epochs
        rollouts = sum(number(record.get("rollouts")) or 0 for record in epochs)
        tiles.append((str(len(epochs)), "epochs trained", f"of {planned} planned" if planned else "no number planned"))
        tokens = sum(number(record.get("tokens")) or 0 for record in epochs)
        spent = sum(seconds(record) or 0 for record in epochs)
        tiles.append((_short(tokens), "tokens generated", f"{_short(rollouts)} rollouts, {_duration(spent)}"))
    if context["evals"]:
        for change in context["evals"]["changes"][:2]:
            first, last = change["first"]["accuracy"], change["last"]["accuracy"]
            tiles.append(
                (f"{_signed(100 * (last - first), 1)} pt", f"{change['task']} accuracy", f"{first:.1%} → {last:.1%}")
            )
    return tiles


def _progress(records: RunRecords) -> str:
    """The state of the run in a few words."""
    planned, done = records.planned_epochs, len(records.epochs)
    if not done:
        return "scores only" if records.config is None else "no epoch finished yet"
    if planned is None:
        return f"{done} epochs"
    return f"{done} of {planned} epochs" if done < planned else "all epochs finished"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−") if np.isfinite(value) else "–"


def _num(value: object, digits: int = 3) -> str:
    found = number(value)
    return "–" if found is None else f"{found:.{digits}f}"


def _short(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g} {unit}"
    return f"{value:,.0f}"


def _duration(value: object) -> str:
    length = number(value)
    if length is None:
        return "–"
    if length < 60:
        return f"{length:.1f} s"
    minutes, rest = divmod(round(length), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
