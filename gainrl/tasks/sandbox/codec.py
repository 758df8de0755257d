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

DEPTH = 150  # nesting that is sent, long before Python's own limit
_LONG = 1 << 1000  # an integer from which its digits take long to read
_CONTAINERS: dict[str, Any] = {"": list, "t": tuple, "e": set, "z": frozenset, "d": dict}


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
    from _json import encode_basestring_ascii, make_encoder  # `json` takes as long to import as a short program to run

    text = make_encoder(None, repr, encode_basestring_ascii, None, ":", ",", False, False, True)
    return "".join(text(_tree(value, 0), 0)).encode()


def _tree(value: Any, depth: int) -> Any:
    """`value` of what JSON has; the methods are those of the plain types, whatever a subclass overrides."""
    if depth > DEPTH:
        raise ValueError("nested too deeply")
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return value if -_LONG < value < _LONG else {"i": int.__format__(value, "x")}
    if isinstance(value, complex):
        return {"c": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"b": bytes.hex(bytes(value))}
    for tag, kind in _CONTAINERS.items():
        if isinstance(value, kind):
            items = [part for pair in dict.items(value) for part in pair] if tag == "d" else [*kind.__iter__(value)]
            kinds = set(map(type, items))
            numbers = kinds <= {int, float, bool} and kinds and -_LONG < min(items) <= max(items) < _LONG
            if not numbers and not kinds <= {float, str, bool, type(None)}:  # else as they are, millions at once
                items = [_tree(item, depth + 1) for item in items]
            return {tag: items} if tag else items
    name = f"{type(value).__module__}.{type(value).__name__}"[:100]
    if name == "fractions.Fraction":
        return {"q": [_tree(int(part), depth) for part in (value.numerator, value.denominator)]}
    return {"m": str(value)} if name == "decimal.Decimal" else {"x": name}


def decode(data: bytes, seconds: float = 60.0) -> Any:
    """The value of `data`, all of it.  ValueError for what `encode` does not write, and after `seconds` of CPU time.

    The caller bounds the length: reading costs a few times as much memory and, but for keys that all have one hash,
    time in proportion to it.
    """
    import json

    until = thread_time() + seconds

    def made(found: dict[str, Any]) -> Any:
        if thread_time() > until:
            raise ValueError("the value takes too long to read")
        ((tag, inside),) = found.items()
        if tag == "x":
            return Opaque(str(inside))
        if tag == "i":
            return int(inside, 16)
        if tag == "b":
            return bytes.fromhex(inside)
        if tag == "m":
            from decimal import Decimal

            return Decimal(inside)
        if not isinstance(inside, list):
            raise ValueError("an unknown kind of value")
        if tag == "t":
            return tuple(inside)
        if tag == "c":
            return complex(*map(float, inside))
        if tag == "q":
            from fractions import Fraction

            return Fraction(*map(int.__index__, inside))  # from text, 1e99999999 would be carried out
        held: Any = {}
        keys, values = (inside[::2], inside[1::2]) if tag == "d" else (inside, inside)
        for number, pair in enumerate(zip(keys, values, strict=True)):
            if not number & 63 and thread_time() > until:  # keys of one hash cannot hide in a single step
                raise ValueError("the value takes too long to read")
            held.update((pair,))
        return _CONTAINERS[tag](held)

    try:
        return json.loads(data.decode("ascii"), object_hook=made)
    except (LookupError, TypeError, ArithmeticError, AttributeError, RecursionError, MemoryError) as error:
        raise ValueError(f"malformed value: {error}") from error
