"""Whether an output is the expected one.  Works on decoded plain values and on bytes, outside the sandbox."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from typing import Any

_RTOL = 1e-7  # EvalPlus' numpy.allclose(rtol=1e-07, atol=atol)


def same(expected: Any, found: Any, atol: float = 0.0) -> bool:
    """Equality of plain values as Python's ==, with floats within `atol` + 1e-7 |expected| where `atol` is not 0.

    With a tolerance, containers must be of the same type and length; NaN equals NaN.
    """
    try:
        if expected == found:
            return True
    except RecursionError:
        return False
    if isinstance(expected, float) and isinstance(found, float) and math.isnan(expected) and math.isnan(found):
        return True
    if isinstance(expected, list | tuple) and type(expected) is type(found):
        return len(expected) == len(found) and all(same(a, b, atol) for a, b in zip(expected, found, strict=True))
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(same(item, found[key], atol) for key, item in expected.items())
    if atol and isinstance(expected, float) and isinstance(found, float | int) and not isinstance(found, bool):
        try:
            return abs(expected - found) <= atol + _RTOL * abs(expected)
        except OverflowError:
            return False
    return False


def is_root(coefficients: Any, found: Any, atol: float) -> bool:
    """HumanEval/32: any root of the polynomial is right, |poly(found)| <= atol."""
    if not isinstance(found, float | int) or isinstance(found, bool):
        return False
    try:
        return abs(math.fsum(c * math.pow(found, i) for i, c in enumerate(coefficients))) <= atol
    except (OverflowError, ValueError, TypeError):
        return False


def same_text(expected: str, found: str, atol: float = 0.0) -> bool:
    """Whether a program printed the expected text: line by line without outer blanks, else number by number.

    As LiveCodeBench does, a line of numbers equals another when the numbers do ("1.0" and "1"); with `atol` they may
    differ by that much, absolutely or relatively.
    """
    wanted, got = expected.strip().splitlines(), found.strip().splitlines()
    if len(wanted) != len(got):
        return False
    return all(_same_line(a.strip(), b.strip(), atol) for a, b in zip(wanted, got, strict=True))


def _same_line(wanted: str, got: str, atol: float) -> bool:
    if wanted == got:
        return True
    numbers, given = wanted.split(), got.split()
    if len(numbers) != len(given):
        return False
    try:
        for one, other in zip(numbers, given, strict=True):
            a, b = Decimal(one), Decimal(other)
            if a != b and not (atol and abs(a - b) <= Decimal(atol) * max(Decimal(1), abs(a))):
                return False
    except (InvalidOperation, OverflowError):
        return False
    return True
