"""Plain values as JSON text between sandbox and grader: None, bool, int, float, complex, str, bytes and containers.

Nothing but plain values ever comes out of `decode`, whatever text goes in.  A class of the candidate's making cannot
cross: subclasses arrive as their plain base, fractions and decimals as such, anything else as an `Opaque` that equals
nothing.  What JSON lacks is an object of one key: `{"t": [...]}` is a tuple, e a set, z a frozenset, d a dictionary
(keys and values in turn), i a long integer, b bytes, c a complex number, q a fraction, m a decimal, x an Opaque.

Runs on both sides, so it imports next to nothing (the harness in the sandbox carries this file's text).
"""

from __future__ import annotations

from time import thread_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEPTH = 150  # nesting; deeper values are refused on both sides, long before Python's own limit
_LONG = 1 << 1000  # an integer from which its digits take long to read
_PLAIN = {int, float, str, bool, type(None)}


class Opaque:
    """A value of a type that does not cross: equal to nothing, hashed by identity.  `kind` is its type's name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def encode(value: Any) -> bytes:
    """`value` as ASCII text.  ValueError where it is nested too deeply.  Equal text means equal values."""
    out: list[str] = []
    _encode(value, out.append, 0)
    return "".join(out).encode()


def _quoted(text: str) -> str:
    from _json import encode_basestring_ascii  # the json package takes as long to import as a short program to run

    return str(encode_basestring_ascii(str(text)))


def _encode(value: Any, put: Any, depth: int) -> None:
    if depth > DEPTH:
        raise ValueError("nested too deeply")
    if value is None or value is True or value is False:
        put({None: "null", True: "true", False: "false"}[value])
    elif isinstance(value, int):
        put(int.__repr__(value) if -_LONG < value < _LONG else f'{{"i":"{int.__format__(value, "x")}"}}')
    elif isinstance(value, float):
        put({"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text := float.__repr__(value), text))
    elif isinstance(value, str):
        put(_quoted(value))
    elif isinstance(value, complex):
        _tagged("c", [value.real, value.imag], put, depth)
    elif isinstance(value, bytes | bytearray):
        put(f'{{"b":"{bytes.hex(bytes(value))}"}}')
    elif isinstance(value, dict):
        _tagged("d", [part for pair in dict.items(value) for part in pair], put, depth)
    elif isinstance(value, list):
        _list(list(list.__iter__(value)), put, depth)
    elif isinstance(value, tuple):
        _tagged("t", list(tuple.__iter__(value)), put, depth)
    elif isinstance(value, set):
        _tagged("e", list(set.__iter__(value)), put, depth)
    elif isinstance(value, frozenset):
        _tagged("z", list(frozenset.__iter__(value)), put, depth)
    else:
        kind = f"{type(value).__module__}.{type(value).__name__}"[:100]
        if kind == "fractions.Fraction":
            _tagged("q", [int(value.numerator), int(value.denominator)], put, depth)
        else:
            put(f'{{"m":{_quoted(str(value))}}}' if kind == "decimal.Decimal" else f'{{"x":{_quoted(kind)}}}')


def _tagged(tag: str, items: list[Any], put: Any, depth: int) -> None:
    put(f'{{"{tag}":')
    _list(items, put, depth)
    put("}")


def _list(items: list[Any], put: Any, depth: int) -> None:
    if items and set(map(type, items)) <= {int, float} and -_LONG < min(items) <= max(items) < _LONG:
        text = repr(items)  # JSON as it is, but for nan and inf
        if "n" not in text:
            put(text.replace(" ", ""))
            return
    put("[")
    for number, item in enumerate(items):
        if number:
            put(",")
        _encode(item, put, depth + 1)
    put("]")


def decode(data: bytes, seconds: float = 60.0) -> Any:
    """The value of `data`, all of it.  ValueError for what `encode` does not write, and after `seconds` of CPU time.

    The caller bounds the length: reading costs a few times as much memory and, but for keys that all have one hash,
    time in proportion to it.
    """
    import json

    try:
        return _value(json.loads(data), 0, thread_time() + seconds)
    except (LookupError, TypeError, ArithmeticError, AttributeError, RecursionError, MemoryError) as error:
        raise ValueError(f"malformed value: {error}") from error


def _value(found: Any, depth: int, until: float) -> Any:
    if depth > DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(found, list):
        if set(map(type, found)) <= _PLAIN:
            return found
        return [_value(item, depth + 1, until) for item in found]
    if not isinstance(found, dict):
        return found
    if thread_time() > until:
        raise ValueError("the value takes too long to read")
    ((tag, inside),) = found.items()
    if tag == "i":
        return int(inside, 16)
    if tag == "b":
        return bytes.fromhex(inside)
    if tag == "x":
        return Opaque(str(inside))
    if tag == "m":
        from decimal import Decimal

        return Decimal(inside)
    if not isinstance(inside, list):
        raise ValueError("an unknown kind of value")
    items = _value(inside, depth, until)
    if tag == "t":
        return tuple(items)
    if tag == "c":
        return complex(*items)
    if tag == "q":
        from fractions import Fraction

        return Fraction(*items)
    held: Any = {} if tag == "d" else set()
    keys = {"d": items[::2], "e": items, "z": items}[tag]
    for number, key in enumerate(keys):  # one at a time, so that keys of one hash cannot hide in a single step
        if not number & 63 and thread_time() > until:
            raise ValueError("the value takes too long to read")
        if tag == "d":
            held[key] = items[2 * number + 1]
        else:
            held.add(key)
    return frozenset(held) if tag == "z" else held
