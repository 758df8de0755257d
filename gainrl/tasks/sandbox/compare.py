"""Whether an output is the expected one.  Works on decoded plain values and on text, outside the sandbox."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

_RTOL = 1e-7  # EvalPlus' numpy.allclose(rtol=1e-07, atol=atol)


def same(expected: Any, found: Any, atol: float = 0.0) -> bool:
    """Equality of plain values as Python's ==, with numbers within `atol` + 1e-7 |expected| where `atol` is not 0.

    With a tolerance, containers must be of the same type and length.  NaN equals NaN, an infinity only itself.
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
    if atol and _is_number(expected) and _is_number(found):
        try:
            close = abs(expected - found) <= atol + _RTOL * abs(expected)
            return bool(close) and math.isfinite(expected) and math.isfinite(found)
        except OverflowError:
            return False
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def is_floats(value: Any) -> bool:
    """A float, or a list or tuple of nothing else: what EvalPlus never compares exactly."""
    if isinstance(value, list | tuple):
        return bool(value) and set(map(type, value)) == {float}
    return isinstance(value, float)


def is_root(coefficients: Any, found: Any, atol: float) -> bool:
    """HumanEval/32: any root of the polynomial is right, |poly(found)| <= atol."""
    if not _is_number(found):
        return False
    try:
        return abs(math.fsum(c * math.pow(found, i) for i, c in enumerate(coefficients))) <= atol
    except (OverflowError, ValueError, TypeError):
        return False


def as_lists(value: Any) -> Any:
    """`value` with its tuples as lists, at every depth."""
    if isinstance(value, list | tuple):
        return [as_lists(item) for item in value]
    return value


def same_text(expected: str, found: str, atol: float = 0.0, any_case: bool = False) -> bool:
    """Whether a program printed the expected text: line by line, word by word, a number as the number that it is.

    "1.0" and "1" are one number, "010" is no number.  With `atol`, numbers expected with a point or an exponent
    may differ by that much, absolutely or relatively.
    """
    wanted, got = expected.strip().splitlines(), found.strip().splitlines()
    return len(wanted) == len(got) and all(_same_line(*pair, atol, any_case) for pair in zip(wanted, got, strict=True))


_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]{1,4})?")


def _same_line(wanted: str, got: str, atol: float, any_case: bool) -> bool:
    words, given = wanted.split(), got.split()
    if any_case:
        words, given = [word.lower() for word in words], [word.lower() for word in given]
    return len(words) == len(given) and all(
        a == b or _same_number(a, b, atol) for a, b in zip(words, given, strict=True)
    )


def _same_number(wanted: str, got: str, atol: float) -> bool:
    if not (_NUMBER.fullmatch(wanted) and _NUMBER.fullmatch(got)):
        return False
    a, b = Decimal(wanted), Decimal(got)
    close = atol and not wanted.lstrip("-").isdigit()
    try:
        return a == b or bool(close and abs(a - b) <= Decimal(atol) * max(Decimal(1), abs(a)))
    except ArithmeticError:  # too far apart for decimals
        return False
