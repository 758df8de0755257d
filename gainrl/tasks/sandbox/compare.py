"""Whether an output is the expected one.  Works on decoded plain values and on bytes, outside the sandbox."""

from __future__ import annotations

import hashlib
import math
import struct
from decimal import Decimal
from typing import Any

from gainrl.tasks.sandbox.codec import encode

_LARGE = 1 << 20  # bytes; an expected output above is kept as a digest (HumanEval/130 has ten of 9 MiB)
_DIGEST = "\0sha256"
_RTOL = 1e-7  # EvalPlus' numpy.allclose(rtol=1e-07, atol=atol)


def shrunk(value: Any, data: bytes) -> Any:
    """An expected output as it is kept: a digest in place of a long list of numbers and texts."""
    if len(data) < _LARGE or (digest := _digest(value)) is None:
        return value
    return {_DIGEST: digest}


def _digest(value: Any) -> str | None:
    """A digest that is equal for values that are ==; None for what holds sets or dictionaries."""
    if isinstance(value, list | tuple) and set(map(type, value)) <= {int, float, bool}:
        try:
            # equal numbers are equal doubles, as long as no integer is too large for one; + 0.0 makes -0.0 a 0.0
            numbers = struct.pack(f"<{len(value)}d", *[number + 0.0 for number in value])
            if max(map(abs, value)) < 1 << 53:
                return hashlib.sha256(type(value).__name__.encode() + numbers).hexdigest()
        except OverflowError:
            pass
    plain = _plain(value)
    return None if plain is None else hashlib.sha256(encode(plain)).hexdigest()


def _plain(value: Any) -> Any:
    """`value` with integral floats and bools as integers, and None (which a digest may not hold) for sets and dicts."""
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return None if None in items else type(value)(items)
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value if isinstance(value, int | float | str | bytes) else None


def same(expected: Any, found: Any, atol: float = 0.0) -> bool:
    """Equality of plain values as Python's ==, with numbers within `atol` + 1e-7 |expected| where `atol` is not 0.

    With a tolerance, containers must be of the same type and length.  NaN equals NaN, an infinity only itself.
    """
    if isinstance(expected, dict) and expected.keys() == {_DIGEST}:
        return bool(_digest(found) == expected[_DIGEST])
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
    except (ArithmeticError, ValueError):  # no number, or numbers too far apart for decimals
        return False
    return True
