"""Rank correlations of per-prompt columns with bootstrap intervals, and the ridge probe.

    raw        Spearman's ρ
    partial    ρ of what is left of both ranks once the rank of the question's length is regressed out of them

Intervals are 95 % percentile bootstrap intervals over prompts (ranks are taken anew in every resample).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]
RESAMPLES = 2000
_RIDGES = np.logspace(-4, 3, 22)


def rank_correlations(
    signals: Mapping[str, npt.ArrayLike],
    targets: Mapping[str, npt.ArrayLike],
    control: npt.ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row for each signal and target, all (N,): raw and partial ρ with low and high; NaN where a side is constant.

    Prompts in which a signal, the target or the control is not finite are left out of that target's rows.  `control`
    (N,) is the question's length.  Shapes inside: (R, N) ranks, R resamples and the sample itself in row 0.
    """
    rows = []
    length = np.asarray(control, dtype=np.float64)
    for target, given in targets.items():
        y = np.asarray(given, dtype=np.float64)
        columns = {name: np.asarray(values, dtype=np.float64) for name, values in signals.items()}
        kept = np.isfinite(y) & np.isfinite(length)
        for values in columns.values():
            kept &= np.isfinite(values) | ~np.isfinite(values).any()
        n = int(kept.sum())
        if n < 8:
            continue
        chosen = np.vstack([np.arange(n), np.random.default_rng(seed).integers(0, n, (resamples, n))])
        y_ranks, z_ranks = _ranks(y[kept][chosen]), _ranks(length[kept][chosen])
        y_left = _left(y_ranks, z_ranks)
        for name, values in columns.items():
            if not np.isfinite(values[kept]).all():
                continue
            x_ranks = _ranks(values[kept][chosen])
            raw, partial = _pearson(x_ranks, y_ranks), _pearson(_left(x_ranks, z_ranks), y_left)
            row: dict[str, Any] = {"signal": name, "target": target, "prompts": n}
            for kind, found in (("raw", raw), ("partial", partial)):
                row |= dict(zip((kind, f"{kind}_low", f"{kind}_high"), _with_interval(found), strict=True))
            rows.append(row)
    return rows


def spearman_interval(x: npt.ArrayLike, y: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> list[float]:
    """Spearman's ρ of (N,) and (N,) with its interval: [ρ, low, high]."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    kept = np.isfinite(a) & np.isfinite(b)
    n = int(kept.sum())
    chosen = np.vstack([np.arange(n), np.random.default_rng(seed).integers(0, n, (resamples, n))])
    return _with_interval(_pearson(_ranks(a[kept][chosen]), _ranks(b[kept][chosen])))


def _ranks(values: Floats) -> Floats:
    """(R, N) values to centred average ranks."""
    ranks: Floats = rankdata(values, axis=1)
    return ranks - ranks.mean(axis=1, keepdims=True)


def _left(ranks: Floats, control: Floats) -> Floats:
    """Residuals of (R, N) centred ranks on `control`, row by row; the ranks where the control is constant."""
    square = (control**2).sum(axis=1, keepdims=True)
    slope = np.divide((ranks * control).sum(axis=1, keepdims=True), square, out=np.zeros_like(square), where=square > 0)
    left: Floats = ranks - slope * control
    # what is exactly a function of the control leaves rounding errors, which would correlate with anything
    left[(left**2).sum(axis=1) <= 1e-12 * (ranks**2).sum(axis=1)] = 0.0
    return left


def _pearson(x: Floats, y: Floats) -> Floats:
    norm = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), norm, out=np.full(len(x), np.nan), where=norm > 0)


def _with_interval(found: Floats) -> list[float]:
    """The sample's value (entry 0) and the percentiles of the resamples in which it is defined."""
    again = found[1:][np.isfinite(found[1:])]
    if not np.isfinite(found[0]) or not len(again):
        return [float("nan")] * 3
    low, high = np.quantile(again, [0.025, 0.975])
    return [float(found[0]), float(low), float(high)]


def length_controlled(score: npt.ArrayLike, tokens: npt.ArrayLike) -> Floats:
    """What is left of C (N,) after a quadratic in ln(question tokens): `gainrl score --control length`."""
    y, x = np.asarray(score, dtype=np.float64), np.log(np.asarray(tokens, dtype=np.float64))
    fit = np.polynomial.polynomial.polyfit(x, y, min(2, len(np.unique(x)) - 1))
    left: Floats = y - np.polynomial.polynomial.polyval(x, fit)
    return left


# -- the probe -----------------------------------------------------------------------------------------------


def ridge(train: Floats, values: Floats, others: Floats) -> Floats:
    """Predictions (M,) for `others` (M, D) of a ridge regression fitted on `train` (n, D), `values` (n,).

    The strength is the one with the least leave-one-out error on `train` (closed form, in the dual).
    """
    mean, offset = train.mean(axis=0), values.mean()
    x, y = train - mean, values - offset
    gram = x @ x.T
    eigenvalues, vectors = np.linalg.eigh(gram)
    scale = max(float(np.trace(gram)) / len(x), 1e-12)
    projected = vectors.T @ y
    best, chosen = np.inf, None
    for strength in _RIDGES * scale:
        shrunk = 1 / (np.maximum(eigenvalues, 0) + strength)
        dual = vectors @ (shrunk * projected)
        # leave-one-out residuals (y − ŷ)_i / (1 − H_ii) with the fitted mean in H; both sides divided by the strength,
        # and the constant, which is an eigenvector of the centred Gram matrix with eigenvalue 0, left out
        diagonal = (vectors**2) @ shrunk - 1 / (len(x) * strength)
        error = float(np.mean((dual / diagonal) ** 2))
        if error < best:
            best, chosen = error, dual
    assert chosen is not None
    predictions: Floats = (others - mean) @ (x.T @ chosen) + offset
    return predictions


def out_of_fold(features: Floats, values: Floats, *, folds: int = 5, repeats: int = 10, seed: int = 0) -> Floats:
    """(N,) predictions for each prompt by probes that did not see it, averaged over `repeats` divisions in `folds`."""
    random = np.random.default_rng(seed)
    total = np.zeros(len(values))
    for _ in range(repeats):
        for part in np.array_split(random.permutation(len(values)), folds):
            rest = np.setdiff1d(np.arange(len(values)), part)
            total[part] += ridge(features[rest], values[rest], features[part])
    return total / repeats


def learning_curve(
    features: Floats, values: Floats, sizes: Sequence[int], *, repeats: int = 20, seed: int = 0
) -> list[dict[str, float]]:
    """Spearman's ρ on the other prompts of a probe fitted on n of them: mean and standard deviation over draws."""
    random = np.random.default_rng(seed)
    rows = []
    for n in sizes:
        if n > len(values) - 20:
            continue
        found = []
        for _ in range(repeats):
            order = random.permutation(len(values))
            predicted = ridge(features[order[:n]], values[order[:n]], features[order[n:]])
            found.append(_pearson(_ranks(predicted[None]), _ranks(values[order[n:]][None]))[0])
        defined = [value for value in found if np.isfinite(value)]
        if defined:
            rows.append({"fitted_on": n, "spearman": float(np.mean(defined)), "sd": float(np.std(defined))})
    return rows


def standardised(*columns: npt.ArrayLike) -> Floats:
    """(N, K) columns of mean 0 and variance 1; constant ones are left out."""
    kept = [np.asarray(column, dtype=np.float64) for column in columns]
    kept = [(column - column.mean()) / column.std() for column in kept if column.std() > 0]
    return np.column_stack(kept)
