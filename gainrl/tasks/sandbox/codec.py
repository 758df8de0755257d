"""Plain values as bytes between sandbox and grader: None, bool, int, float, complex, str, bytes and their containers.

Nothing but such plain values ever comes out of `decode`, whatever bytes go in: a class of the candidate's making cannot
cross, subclasses arrive as their plain base, anything else as an `Opaque` that equals only itself.  Runs on both
sides, so it imports next to nothing (the harness in the sandbox carries this file's text).

A value is a letter and its content: `N T F`, `i<digits>;`, `f<8 bytes>`, `c<hex>,<hex>;`, `s<bytes>:<utf-8>`,
`b<bytes>:<raw>`, `l t e z<items>:<items>` (list, tuple, set, frozenset), `L U<items>:<which are ints><doubles>` (long
lists and tuples of plain numbers, 20 times as fast), `d<pairs>:<key><value>...`, `x<bytes>:<name>`.
"""

from __future__ import annotations

from struct import error as struct_error
from struct import pack, unpack
from time import thread_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LONG = 256  # items from which numbers are written at once
DEPTH = 150  # nesting; deeper values are refused on both sides, long before Python's own limit


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
    """`value` as bytes.  ValueError where it is nested too deeply."""
    out: list[bytes] = []
    _encode(value, out, 0)
    return b"".join(out)


def _encode(value: Any, out: list[bytes], depth: int) -> None:
    if depth > DEPTH:
        raise ValueError("nested too deeply")
    if value is None:
        out.append(b"N")
    elif value is True:
        out.append(b"T")
    elif value is False:
        out.append(b"F")
    elif isinstance(value, int):
        out.append(b"i%x;" % value if value >= 0 else b"i-%x;" % -value)  # hex: decimal is quadratic and limited
    elif isinstance(value, float):
        out.append(b"f" + pack("<d", value))
    elif isinstance(value, complex):
        out.append(f"c{float.hex(value.real)},{float.hex(value.imag)};".encode())
    elif isinstance(value, str):
        data = str.encode(value, "utf-8", "surrogatepass")
        out.append(b"s%d:" % len(data))
        out.append(data)
    elif isinstance(value, bytes | bytearray):
        out.append(b"b%d:" % len(value))
        out.append(bytes(value))
    elif isinstance(value, dict):
        items = list(dict.items(value))
        out.append(b"d%d:" % len(items))
        for key, item in items:
            _encode(key, out, depth + 1)
            _encode(item, out, depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        kinds: Any = ((list, b"l"), (tuple, b"t"), (set, b"e"), (frozenset, b"z"))
        for kind, letter in kinds:
            if isinstance(value, kind):
                items = list(kind.__iter__(value))
                if letter in b"lt" and len(items) >= LONG and _encode_numbers(items, letter, out):
                    return
                out.append(letter + b"%d:" % len(items))
                for item in items:
                    _encode(item, out, depth + 1)
                break
    else:
        name = type(value).__name__[:100].encode("utf-8", "surrogatepass")
        out.append(b"x%d:" % len(name) + name)


def _encode_numbers(items: list[Any], letter: bytes, out: list[bytes]) -> bool:
    """Write many plain ints and floats at once, where they are nothing else and a double holds each of them."""
    if not set(map(type, items)) <= {int, float}:
        return False
    which = bytes([type(item) is int for item in items])
    if max((abs(item) for item in items if type(item) is int), default=0) >= 1 << 53:
        return False
    out.append((b"L" if letter == b"l" else b"U") + b"%d:" % len(items))
    out.append(which)
    out.append(pack(f"<{len(items)}d", *items))
    return True


def decode(data: bytes, seconds: float = 0.0) -> Any:
    """The value of `data`, all of it.  ValueError for anything that `encode` does not write.

    With `seconds`, ValueError as well where reading takes more CPU time: a frame of the largest size can hold tens of
    millions of values, or keys that all have one hash, and whoever wrote it by hand spent no time on them.
    """
    try:
        value, end = _decode(data, 0, 0, thread_time() + seconds if seconds else 0.0)
    except (IndexError, TypeError, OverflowError, RecursionError, struct_error) as error:
        raise ValueError(f"malformed value: {error}") from error
    if end != len(data):
        raise ValueError("bytes after the value")
    return value


def _until(data: bytes, mark: bytes, start: int) -> tuple[str, int]:
    end = data.index(mark, start)
    return data[start:end].decode("ascii"), end + 1


def _decode(data: bytes, at: int, depth: int, until: float) -> tuple[Any, int]:
    if depth > DEPTH:
        raise ValueError("nested too deeply")
    letter = data[at : at + 1]
    at += 1
    if letter in (b"N", b"T", b"F"):
        return {b"N": None, b"T": True, b"F": False}[letter], at
    if letter == b"i":
        text, at = _until(data, b";", at)
        return int(text, 16), at
    if letter == b"f":
        return unpack("<d", data[at : at + 8])[0], at + 8
    if letter == b"c":
        text, at = _until(data, b";", at)
        real, imaginary = text.split(",")
        return complex(float.fromhex(real), float.fromhex(imaginary)), at
    text, at = _until(data, b":", at)
    count = int(text)
    if count < 0 or count > len(data) - at:  # every item takes a byte at least, so no count can claim more
        raise ValueError("a length that cannot be")
    if letter in (b"s", b"b", b"x"):
        raw, at = data[at : at + count], at + count
        if letter == b"b":
            return bytes(raw), at
        name = raw.decode("utf-8", "surrogatepass")
        return (name if letter == b"s" else Opaque(name)), at
    if letter in (b"L", b"U"):
        which, numbers = data[at : at + count], unpack(f"<{count}d", data[at + count : at + 9 * count])
        plain = [int(number) if whole else number for number, whole in zip(numbers, which, strict=True)]
        return (plain if letter == b"L" else tuple(plain)), at + 9 * count
    if letter == b"d":
        pairs: dict[Any, Any] = {}
        for _ in range(count):
            _in_time(until)
            key, at = _decode(data, at, depth + 1, until)
            pairs[key], at = _decode(data, at, depth + 1, until)
        return pairs, at
    if letter in (b"e", b"z"):
        members: set[Any] = set()
        for _ in range(count):
            _in_time(until)
            member, at = _decode(data, at, depth + 1, until)
            members.add(member)  # one at a time, so that keys of one hash cannot hide in a single step
        return (members if letter == b"e" else frozenset(members)), at
    if letter not in (b"l", b"t"):
        raise ValueError("an unknown kind of value")
    items = []
    for number in range(count):
        if not number & 63:
            _in_time(until)
        item, at = _decode(data, at, depth + 1, until)
        items.append(item)
    return (items if letter == b"l" else tuple(items)), at


def _in_time(until: float) -> None:
    if until and thread_time() > until:
        raise ValueError("the value takes too long to read")
