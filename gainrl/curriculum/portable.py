"""Arithmetic that gives the same bits on every machine: IEEE +, −, ×, ÷ and √ of float64, in an order that is fixed.

Processes of one run draw by themselves and must draw the same prompts.  BLAS and LAPACK sum in an order that depends on
the processor and the number of threads, and vectorised exp and log differ in the last bit from one instruction set to
another.  Here every sum has one order (elementwise array operations round each element once, whatever their width), and
exp and log are polynomials of such operations.  Where products are too many for that, they are made of integers small
enough to be exact in any order (`exact_product`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import philox

Floats = npt.NDArray[np.float64]

_LOG2_HIGH, _LOG2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10  # fdlibm: the high part has 21 zero bits
_EXP = [1.0]
for _n in range(1, 15):
    _EXP.append(_EXP[-1] / _n)


def exp(x: npt.ArrayLike) -> Floats:
    """e^x, elementwise, within 4e-16 of it (relative); x is held within ±700."""
    given = np.clip(np.asarray(x, dtype=np.float64), -700.0, 700.0)
    power = np.rint(given * 1.4426950408889634)
    rest = (given - power * _LOG2_HIGH) - power * _LOG2_LOW
    result = np.full_like(rest, _EXP[-1])
    for factor in _EXP[-2::-1]:
        result = result * rest + factor
    return np.ldexp(result, power.astype(np.int64))


def log(x: npt.ArrayLike) -> Floats:
    """ln x of positive normal x, elementwise, within 4e-16 of it (relative to max(1, |ln x|))."""
    fraction, power = np.frexp(np.asarray(x, dtype=np.float64))
    low = fraction < 0.7071067811865476
    fraction, power = np.where(low, 2.0 * fraction, fraction), power - low
    s = (fraction - 1.0) / (fraction + 1.0)  # |s| <= 0.172; ln f = 2 artanh s
    square = s * s
    series = np.full_like(s, 1.0 / 23.0)
    for odd in range(21, 0, -2):
        series = series * square + 1.0 / odd
    return power * _LOG2_LOW + (2.0 * s * series + power * _LOG2_HIGH)


def sigmoid(x: npt.ArrayLike) -> Floats:
    """1/(1 + e^−x), elementwise."""
    result: Floats = 1.0 / (1.0 + exp(-np.asarray(x, dtype=np.float64)))
    return result


def normal(words: npt.NDArray[np.uint64]) -> Floats:
    """Standard normals, one from each word, (n,): the inverse of the distribution function, within 2e-9 of it.

    P. J. Acklam's rational approximation (2003, "An algorithm for computing the inverse normal cumulative
    distribution function"); the values lie within ±8.2.
    """
    uniform = philox.uniform(words)
    middle = uniform - 0.5
    r = middle * middle
    result = middle * _ratio(r, _CENTRE)
    low, high = uniform < _TAIL, uniform > 1.0 - _TAIL
    for where, sign in ((low, 1.0), (high, -1.0)):
        u = uniform[where] if sign > 0 else 1.0 - uniform[where]
        result[where] = sign * _ratio(np.sqrt(-2.0 * log(u)), _OUTER)
    return result


_TAIL = 0.02425
_CENTRE = (
    (-3.969683028665376e01, 2.209460984245205e02, -2.759285104469687e02,
     1.383577518672690e02, -3.066479806614716e01, 2.506628277459239e00),
    (-5.447609879822406e01, 1.615858368580409e02, -1.556989798598866e02,
     6.680131188771972e01, -1.328068155288572e01, 1.0),
)  # fmt: skip
_OUTER = (
    (-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e00,
     -2.549732539343734e00, 4.374664141464968e00, 2.938163982698783e00),
    (7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e00, 3.754408661907416e00, 1.0),
)  # fmt: skip


def _ratio(x: Floats, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Floats:
    above, below = (_polynomial(x, part) for part in coefficients)
    result: Floats = above / below
    return result


def _polynomial(x: Floats, coefficients: tuple[float, ...]) -> Floats:
    result = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + coefficient
    return result


def ordered_sum(values: npt.NDArray[Any]) -> Floats:
    """The sum over the last axis, by halves: the same order for the same length."""
    total = np.array(values, dtype=np.float64)
    while (size := total.shape[-1]) > 1:
        half = (size + 1) // 2
        kept = total[..., :half].copy()
        kept[..., : size - half] += total[..., half:]
        total = kept
    result: Floats = total[..., 0] if total.shape[-1] else np.zeros(total.shape[:-1])
    return result


def cholesky(matrix: Floats) -> Floats:
    """The lower triangular L of a symmetric positive definite (k, k) matrix LLᵀ."""
    rest, result = matrix.copy(), np.zeros_like(matrix)
    for j in range(len(matrix)):
        result[j, j] = np.sqrt(rest[j, j])
        result[j + 1 :, j] = rest[j + 1 :, j] / result[j, j]
        rest[j + 1 :, j + 1 :] -= np.multiply.outer(result[j + 1 :, j], result[j + 1 :, j])
    return result


def forward(lower: Floats, right: Floats) -> Floats:
    """y with Ly = r, for r (k,) or (k, n)."""
    rest = np.array(right, dtype=np.float64)
    for j in range(len(lower)):
        rest[j] /= lower[j, j]
        rest[j + 1 :] -= np.multiply.outer(lower[j + 1 :, j], rest[j])
    return rest


def solve(lower: Floats, right: Floats) -> Floats:
    """x with LLᵀx = r, for r (k,)."""
    rest = forward(lower, right)
    for j in range(len(lower) - 1, -1, -1):
        rest[j] /= lower[j, j]
        rest[:j] -= lower[j, :j] * rest[j]
    return rest


def combine(weights: Floats, rows: npt.NDArray[Any]) -> Floats:
    """Σ_j w_j · rows[j], (n,), for w (k,) and rows (k, n); rows in their order."""
    total = np.zeros(rows.shape[1])
    for weight, row in zip(weights.tolist(), rows, strict=True):
        total += weight * row.astype(np.float64)
    return total


def eigen(matrix: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues (k,), largest first, and eigenvectors, the columns of (k, k), of a symmetric matrix.

    Cyclic Jacobi (Golub and Van Loan, Matrix Computations, 8.5): O(k³) elementwise operations a sweep, a few sweeps.
    """
    a, vectors = matrix.copy(), np.eye(len(matrix))
    size = len(matrix)
    for _ in range(30):
        off = a - np.diag(np.diag(a))
        if np.abs(off).max(initial=0.0) <= 1e-15 * np.abs(np.diag(a)).max(initial=0.0):
            break
        for p in range(size - 1):
            for q in range(p + 1, size):
                if a[p, q] == 0.0:
                    continue
                theta = float((a[q, q] - a[p, p]) / (2.0 * a[p, q]))
                t = (1.0 if theta >= 0 else -1.0) / (abs(theta) + float(np.sqrt(theta * theta + 1.0)))
                c = 1.0 / float(np.sqrt(t * t + 1.0))
                s = t * c
                for m in (a, vectors):
                    left, right = m[:, p].copy(), m[:, q].copy()
                    m[:, p], m[:, q] = c * left - s * right, s * left + c * right
                up, down = a[p].copy(), a[q].copy()
                a[p], a[q] = c * up - s * down, s * up + c * down
                a[p, q] = a[q, p] = 0.0
    order = np.argsort(-np.diag(a), kind="stable")
    return np.diag(a)[order], vectors[:, order]


def exact_product(left: Floats, right: Floats) -> Floats:
    """left @ right of integers in float64 whose partial sums all stay below 2^53: exact, in whatever order."""
    result: Floats = left @ right
    return result
