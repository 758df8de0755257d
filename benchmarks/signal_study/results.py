"""Per-prompt columns and their statistics as benchmarks/results/signal_CASE.json."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.signal_study.measure import Measurement
from benchmarks.signal_study.statistics import (
    learning_curve,
    length_controlled,
    out_of_fold,
    rank_correlations,
    spearman_interval,
    standardised,
)
from gainrl.scoring import model_identity

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
RUNS = ROOT / "runs" / "signal"
sys.path.insert(0, str(ROOT / "benchmarks"))  # the harness is made for scripts that lie beside it

from harness import write_result  # noqa: E402

SIGNALS = ("score", "score_no_diagonal", "length_controlled", "intra", "intra_no_diagonal", "inter", "length", "nll")
_MOST_PROBED = (16, 32, 64, 128, 256)


def write_case(case: Measurement) -> Path:
    """Write the case's result file from the parts there are; returns its path."""
    columns, directions = per_prompt(case)
    rows = statistics_of(columns, directions)
    described = {
        "case": case.name,
        "model": model_identity(case.problems.model),
        "samples": case.case.samples,
        "group": case.case.group,
        "prompts": len(columns["score"]),
        "probe": probe_of(columns, directions),
        "per_prompt": {name: _rounded(values) for name, values in columns.items()},
    }
    return write_result(f"signal_{case.name.replace('-', '_')}", rows, **described)


def per_prompt(case: Measurement) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns (N,), NaN where a stage has not come to a prompt, and the directions (N, D)."""
    found = case.scores()
    directions = found.pop("directions").astype(np.float64)
    columns = {name: values.astype(np.float64) for name, values in found.items()}
    columns["length"] = columns.pop("question_tokens")
    columns["length_controlled"] = length_controlled(columns["score"], columns["length"])
    n = len(case.rows)

    def column(values: list[float]) -> np.ndarray:
        return np.array([*values, *[np.nan] * (n - len(values))], dtype=np.float64)

    sampled = case.samples()
    shares = [np.mean([r for r in one["right"] if r is not None] or [np.nan]) for one in sampled]
    rate = column([float(share) for share in shares])
    if case.problems.exact is not None:
        rate = case.problems.exact(case.model, case.rows)
    columns["pass_rate"] = rate
    columns["variance"] = rate * (1 - rate)
    done = case.gradients_kept()
    norms = {name: column([one[name] for one in done]) for name in ("grpo", "question", "answer")}
    columns["grpo_norm"] = norms["grpo"]
    columns["grpo_norm_varied"] = np.where(norms["grpo"] > 0, norms["grpo"], np.nan)
    spread = np.sqrt(group_variance(column([one["group_right"] for one in done]), case.case.group))
    columns["policy_norm"] = norms["grpo"] * (spread + 1e-4)  # advantages not divided by their spread
    columns["question_norm"], columns["answer_norm"] = norms["question"], norms["answer"]
    columns["question_norm_sum"] = norms["question"] * column([one["question_tokens"] for one in done])
    return columns, directions


def group_variance(right: np.ndarray, size: int) -> np.ndarray:
    """(N,) unbiased variance of `size` rewards of which `right` (N,) are 1 and the others 0."""
    share = right / size
    return share * (1 - share) * size / (size - 1)


TARGETS = (
    "pass_rate", "variance", "grpo_norm", "grpo_norm_varied", "policy_norm", "question_norm", "question_norm_sum",
    "answer_norm",
)  # fmt: skip


def statistics_of(columns: dict[str, np.ndarray], directions: np.ndarray) -> list[dict[str, Any]]:
    """Rank correlations of every signal with every target measured so far."""
    signals = {name: columns[name] for name in SIGNALS}
    targets = {name: columns[name] for name in TARGETS if np.isfinite(columns[name]).sum() >= 8}
    return [{name: _plain(value) for name, value in row.items()}
            for row in rank_correlations(signals, targets, columns["length"])]  # fmt: skip


def probe_of(columns: dict[str, np.ndarray], directions: np.ndarray) -> dict[str, Any]:
    """Spearman's ρ of the pass rate with what probes predict for prompts that they were not fitted on."""
    rate = columns["pass_rate"]
    known = np.isfinite(rate) & np.isfinite(columns["score"]) & np.isfinite(columns["nll"])
    if known.sum() < 40:
        return {}
    y, x = rate[known], directions[known]
    plain = standardised(columns["score"][known], columns["inter"][known], np.log(columns["length"][known]),
                         columns["nll"][known])  # fmt: skip
    both = np.column_stack([x / np.sqrt(np.mean(np.var(x, axis=0)) * x.shape[1]), plain / plain.shape[1] ** 0.5])
    features = {"directions": x, "C, C_inter, log length, NLL": plain, "all of these": both}
    found: dict[str, Any] = {
        name: [_plain(value) for value in spearman_interval(out_of_fold(values, y), y)]
        for name, values in features.items()
    }
    found["curve"] = learning_curve(x, y, _MOST_PROBED)
    return found


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _rounded(values: np.ndarray) -> list[float | None]:
    return [None if not np.isfinite(value) else float(f"{value:.6g}") for value in values]
