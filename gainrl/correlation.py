"""Rank correlations, and how much of an order is only length.  A leaf: NumPy alone.

C_intra with the diagonal holds the term 1/q (each token's cosine with itself), so it falls with the number of question
tokens q whatever the tokens say.  With and without the diagonal are one number apart: `q·intra = 1 + (q−1)·intra'`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def average_ranks(values: npt.ArrayLike) -> Floats:
    """(N,) ranks from 1, ties by their average; no NaN."""
    given = np.asarray(values)
    _, inverse, counts = np.unique(given, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    averages: Floats = last - (counts - 1) / 2
    return averages[inverse]


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Spearman's rank correlation of two (N,) samples, ties by average rank; NaN if fewer than 3 pairs or constant.

    Pairs in which either value is not finite are left out.
    """
    a, b = _finite_pairs(x, y)
    if len(a) < 3:
        return float("nan")
    first, second = average_ranks(a), average_ranks(b)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def kendall(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Kendall's tau-b of two (N,) samples in O(N log N); NaN if fewer than 2 pairs or constant.

    tau_b = (concordant − discordant) / sqrt((n0 − ties of x)(n0 − ties of y)), n0 = N(N−1)/2 (Kendall 1945).  Pairs in
    which either value is not finite are left out.
    """
    a, b = _finite_pairs(x, y)
    n = len(a)
    if n < 2:
        return float("nan")
    _, a_codes, a_counts = np.unique(a, return_inverse=True, return_counts=True)
    _, b_codes, b_counts = np.unique(b, return_inverse=True, return_counts=True)
    _, both_counts = np.unique(a_codes * (len(b_counts) + 1) + b_codes, return_counts=True)
    total, tied_a, tied_b, tied_both = n * (n - 1) // 2, _pairs(a_counts), _pairs(b_counts), _pairs(both_counts)
    if total in (tied_a, tied_b):
        return float("nan")
    discordant = _inversions(b_codes[np.lexsort((b_codes, a_codes))])
    difference = total - tied_a - tied_b + tied_both - 2 * discordant
    return float(difference / np.sqrt(float(total - tied_a)) / np.sqrt(float(total - tied_b)))


def _pairs(counts: npt.NDArray[Any]) -> int:
    return int((counts.astype(np.int64) * (counts - 1) // 2).sum())


def _inversions(codes: npt.NDArray[Any]) -> int:
    """Pairs i < j with codes[i] > codes[j], by one stable partition per bit (radix sort from the highest bit)."""
    order = codes.astype(np.int64)
    found = 0
    for bit in range(int(order.max()).bit_length() - 1, -1, -1):
        # entries are grouped by their higher bits; within a group, count each 0 with the 1s that stand before it
        high, one = order >> (bit + 1), (order >> bit) & 1
        starts = np.flatnonzero(np.r_[True, high[1:] != high[:-1]])
        ones_before = np.cumsum(one) - one
        group = np.cumsum(np.r_[True, high[1:] != high[:-1]]) - 1
        found += int(((ones_before - ones_before[starts][group]) * (1 - one)).sum())
        order = order[np.lexsort((one, group))]
    return found


def _finite_pairs(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    return a[both], b[both]


def other_diagonal(intra: npt.ArrayLike, question_tokens: npt.ArrayLike, *, diagonal: bool) -> Floats:
    """C_intra with the other treatment of the diagonal: `diagonal` says what `intra` (N,) has.

    Without it `intra' = (q·intra − 1) / (q − 1)`, NaN for q < 2; with it `intra = (1 + (q − 1)·intra') / q`.
    """
    given, q = np.asarray(intra, dtype=np.float64), np.asarray(question_tokens, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        if diagonal:
            return np.where(q >= 2, (q * given - 1) / (q - 1), np.nan)
        return np.where(q >= 1, (1 + (q - 1) * given) / q, np.nan)


def length_correlations(
    intra: npt.ArrayLike, inter: npt.ArrayLike, question_tokens: npt.ArrayLike, *, diagonal: bool, inter_weight: float
) -> list[dict[str, Any]]:
    """Spearman's correlation with question tokens of C, C_intra and C_inter, with and without the diagonal.

    Args: (N,) columns of a score table, NaN where undefined, and its definition.  Returns two rows
    `{"diagonal": bool, "score", "intra", "inter": float}`, with the diagonal first; NaN where not defined.
    `C = intra + inter_weight · inter`; C_inter has no diagonal, so it is the same in both.
    """
    own, cross = np.asarray(intra, dtype=np.float64), np.asarray(inter, dtype=np.float64)
    q = np.asarray(question_tokens, dtype=np.float64)
    rows = []
    for wanted in (True, False):
        within = own if wanted == diagonal else other_diagonal(own, q, diagonal=diagonal)
        score = within + inter_weight * cross if inter_weight else within
        rows.append(
            {
                "diagonal": wanted,
                "score": spearman(score, q),
                "intra": spearman(within, q),
                "inter": spearman(cross, q),
            }
        )
    return rows
