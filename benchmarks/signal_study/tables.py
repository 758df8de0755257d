"""Result files to plain tables (Markdown); what is missing is said."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.signal_study.cases import CASES
from benchmarks.signal_study.results import RESULTS

NAMES = {
    "score": "C", "score_no_diagonal": "C without the diagonal", "length_controlled": "C, length regressed out",
    "intra": "C_intra", "intra_no_diagonal": "C_intra without the diagonal", "inter": "C_inter",
    "length": "question length", "nll": "NLL per token",
}  # fmt: skip
TITLES = {
    "pass_rate": "pass rate", "variance": "reward variance p(1 − p)", "grpo_norm": "gradient norm of the GRPO step",
    "grpo_norm_varied": "gradient norm of the GRPO step, among groups with variance",
    "policy_norm": "gradient norm of the step with advantages not divided by their spread",
    "question_norm": "gradient norm, question (mean)", "question_norm_sum": "gradient norm, question (sum)",
    "answer_norm": "gradient norm, gold answer (mean)",
}  # fmt: skip


def everything() -> str:
    """All tables."""
    found = {name: _read(name) for name in CASES}
    there = {name: result for name, result in found.items() if result}
    parts = [
        _cases(there), *(_table(there, target, kind) for target in TITLES for kind in ("raw", "partial")),
        _probes(there), _stability(),
    ]  # fmt: skip
    missing = [name for name in CASES if name not in there]
    if missing:
        parts.append(f"Not measured yet: {', '.join(missing)}.")
    return "\n\n".join(part for part in parts if part)


def _read(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"signal_{name.replace('-', '_')}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _cases(there: dict[str, Any]) -> str:
    rows = []
    for name, result in there.items():
        rates = [rate for rate in result["per_prompt"]["pass_rate"] if rate is not None]
        lengths = result["per_prompt"]["length"]
        gradients = sum(value is not None for value in result["per_prompt"]["grpo_norm"])
        flat = sum(value == 0 for value in result["per_prompt"]["grpo_norm"])
        rows.append([
            name, str(result["prompts"]), str(len(rates)), f"{sum(rates) / max(len(rates), 1):.3f}",
            f"{min(lengths):.0f} to {max(lengths):.0f}", str(gradients), str(flat),
        ])  # fmt: skip
    heads = ["case", "prompts", "with pass rate", "mean pass rate", "question tokens", "gradients", "of equal rewards"]
    return _markdown("Cases", heads, rows)


def _table(there: dict[str, Any], target: str, kind: str) -> str:
    """Signals by cases: ρ with its interval."""
    rows, names = [], [n for n in there if any(r["target"] == target for r in there[n]["rows"])]
    if not names:
        return ""
    for signal, shown in NAMES.items():
        if signal == "length" and kind == "partial":
            continue
        cells = [_cell(_find(there[name]["rows"], signal, target), kind) for name in names]
        rows.append([shown, *cells])
    counts = [next(r["prompts"] for r in there[n]["rows"] if r["target"] == target) for n in names]
    heads = ["", *(f"{name} ({count})" for name, count in zip(names, counts, strict=True))]
    controlled = ", length partialled out" if kind == "partial" else ""
    return _markdown(f"Spearman with the {TITLES[target]}{controlled}", heads, rows)


def _find(rows: list[dict[str, Any]], signal: str, target: str) -> dict[str, Any]:
    return next((row for row in rows if row["signal"] == signal and row["target"] == target), {})


def _cell(row: dict[str, Any], kind: str) -> str:
    return interval([row.get(kind), row.get(f"{kind}_low"), row.get(f"{kind}_high")])


def interval(values: list[float | None]) -> str:
    """ρ [low, high], or a dash; bold where the interval leaves out 0."""
    if any(value is None for value in values):
        return "–"
    value, low, high = (float(v) for v in values if v is not None)
    text = f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _probes(there: dict[str, Any]) -> str:
    rows = []
    for name, result in there.items():
        probe = result["probe"]
        if not probe:
            continue
        alone = [_cell(_find(result["rows"], signal, "pass_rate"), "raw") for signal in ("score", "length", "nll")]
        fitted = [interval(values) for key, values in probe.items() if key != "curve"]
        curve = ", ".join(f"{point['fitted_on']}: {point['spearman']:+.2f}" for point in probe["curve"])
        rows.append([name, *alone, *fitted, curve])
    heads = ["case", "C", "length", "NLL", "ridge on directions", "ridge on C, C_inter, log length, NLL",
             "ridge on all", "directions, fitted on n prompts"]  # fmt: skip
    return _markdown("Predicting the pass rate of prompts not tried (Spearman)", heads, rows) if rows else ""


def _stability() -> str:
    rows = []
    for path in sorted(RESULTS.glob("signal_stability_*.json")):
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            before, after = row.get("mean_pass_rate", [None, None])
            moved = "–" if before is None else f"{before:.2f} → {after:.2f}"
            cells = [interval(row[key]).strip("*") if key in row else "–"
                     for key in ("score", "length_controlled", "nll", "pass_rate")]  # fmt: skip
            rows.append([row["case"], row["after"], moved, *cells])
    heads = ["case", "after", "mean pass rate", "C", "C, length regressed out", "NLL", "pass rate"]
    return _markdown("Spearman of the trained model's columns with those before training", heads, rows) if rows else ""


def _markdown(title: str, heads: list[str], rows: list[list[str]]) -> str:
    lines = [" | ".join(cells) for cells in (heads, ["---"] * len(heads), *rows)]
    return f"{title}:\n\n" + "\n".join(f"| {line} |" for line in lines)
