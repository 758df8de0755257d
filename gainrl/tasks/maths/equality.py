"""Whether two answers are the same: exact for rational numbers, by value at several points for formulas.

Values are `Fraction` where that is exact, else mpmath's numbers, computed at several precisions: a difference counts as
zero when it shrinks with the precision, so that nothing small is mistaken for nothing.  Symbols get the same numbers on
both sides, real ones of either sign and small integers; points where either side is not defined are left out.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import mpmath

from gainrl.tasks.maths.notation import Node, Unreadable, clean, read

Value = Any  # Fraction, mpf or mpc

_BITS = 200_000  # of an exact result
_PLACES = 6  # decimals, and digits, from which a rounded value stands for an exact one
_TEXTS = {
    "no solution": ("set", ()), "no solutions": ("set", ()), "empty set": ("set", ()), "no real solutions": ("set", ()),
    "all real numbers": ("reals",), "all reals": ("reals",), "real numbers": ("reals",), "all real x": ("reals",),
    "all real values": ("reals",), "set of all real numbers": ("reals",), "set of real numbers": ("reals",),
}  # fmt: skip
Interval = tuple[Value, bool, Value, bool]


class Undefined(ArithmeticError):
    """The expression has no value."""


class TooLarge(ArithmeticError):
    """Its value would take too long to compute."""


def _mp(value: Value) -> Any:
    if isinstance(value, Fraction):
        return mpmath.mpf(value.numerator) / value.denominator
    return value


def evaluate(node: Node, point: dict[str, Value], real: bool = False) -> Value:
    """The value of an expression at a point; with `real`, roots and logarithms of negative numbers are undefined."""
    kind = node[0]
    if kind == "num":
        return node[1]
    if kind == "sym":
        if node[1] in point:
            return point[node[1]]
        if node[1] in ("i", "e"):
            return mpmath.mpc(0, 1) if node[1] == "i" else mpmath.e + 0
        raise Unreadable(f"no value for {node[1]}")
    if kind in ("paren", "unit"):
        return evaluate(node[1], point, real)
    if kind == "percent":
        return evaluate(node[1], point, real) / 100
    if kind == "inf":
        return mpmath.inf
    if kind in ("aside", "letter"):
        return evaluate(plain(node) if kind == "aside" else node[1], point, real)
    if kind in ("add", "mul"):
        total = evaluate(node[1], point, real)
        for part in node[2:]:
            other = evaluate(part, point, real)
            if not (isinstance(total, Fraction) and isinstance(other, Fraction)):
                total, other = _mp(total), _mp(other)
            total = total + other if kind == "add" else total * other
            if isinstance(total, Fraction) and total.numerator.bit_length() + total.denominator.bit_length() > _BITS:
                raise TooLarge("a number of too many digits")
        return _finite(total)
    if kind == "pow":
        return _power(evaluate(node[1], point, real), evaluate(node[2], point, real), real)
    if kind == "call":
        return _finite(_call(node[1], [evaluate(part, point, real) for part in node[2:]], real))
    raise Unreadable(f"a {kind} has no value")


def _finite(value: Value) -> Value:
    if not isinstance(value, Fraction) and mpmath.isnan(value):
        raise Undefined("no number")
    return value


def _power(base: Value, exponent: Value, real: bool) -> Value:
    if isinstance(exponent, Fraction) and isinstance(base, Fraction):
        if base == 0 and exponent < 0:
            raise Undefined("a division by zero")
        if exponent.denominator == 1:
            size = max(abs(base.numerator).bit_length(), base.denominator.bit_length()) - (abs(base) == 1)
            if size * abs(exponent) > _BITS:
                raise TooLarge("too large a power")
            return base ** int(exponent)
        if exponent.denominator > 1000:
            if base < 0 and real:
                raise Undefined("a power of a negative number")
            return _mp(base) ** _mp(exponent)
        return _root(_power(base, Fraction(exponent.numerator), real), exponent.denominator, real)
    x, y = _mp(base), _mp(exponent)
    if mpmath.isinf(x) or mpmath.isinf(y):
        raise Undefined("a power of infinity")
    if x == 0:
        if mpmath.re(y) <= 0:
            raise Undefined("a division by zero")
        return mpmath.mpf(0)
    if abs(y) * (abs(mpmath.log(abs(x))) + 4) > 10**6:
        raise TooLarge("too large a power")
    if isinstance(exponent, Fraction) and isinstance(x, mpmath.mpf) and x < 0:
        if exponent.denominator == 1:
            return x ** int(exponent)
        return _root(x**exponent.numerator, exponent.denominator, real)
    if real and isinstance(x, mpmath.mpf) and x < 0:
        raise Undefined("a power of a negative number")
    return x**y


def _root(value: Value, index: int, real: bool) -> Value:
    """The real root where there is one, exact where it is rational."""
    if index > 1000:
        raise TooLarge("too high a root")
    negative = not isinstance(value, mpmath.mpc) and value < 0
    if negative and index % 2:
        return -_root(-value, index, real)
    if negative and real:
        raise Undefined("a root of a negative number")
    if isinstance(value, Fraction) and not negative:
        top, bottom = (_whole_root(part, index) for part in (value.numerator, value.denominator))
        if top**index == value.numerator and bottom**index == value.denominator:
            return Fraction(top, bottom)
    return mpmath.root(_mp(value), index) if not negative else mpmath.mpc(_mp(value)) ** (mpmath.mpf(1) / index)


def _whole_root(number: int, index: int) -> int:
    if index == 2:
        return math.isqrt(number)
    low, high = 0, 1 << (number.bit_length() // index + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**index <= number else (low, middle - 1)
    return low


def _whole(value: Value) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1:
        raise Undefined("no integer")
    return int(value)


def _call(name: str, values: list[Value], real: bool) -> Value:
    if name == "pi":
        return mpmath.pi + 0
    first = values[0]
    if name == "degree":
        return _mp(first) * mpmath.pi / 180
    if name == "abs":
        return abs(first)
    if name == "root":
        index = _whole(values[1])
        if index < 2:
            raise Undefined("no root")
        return _root(first, index, real)
    if name in ("floor", "ceil"):
        if isinstance(first, Fraction):
            return Fraction(math.floor(first) if name == "floor" else math.ceil(first))
        if isinstance(first, mpmath.mpc) or mpmath.isinf(first):
            raise Undefined("no real number")
        return Fraction(int(mpmath.floor(first) if name == "floor" else mpmath.ceil(first)))
    if name in ("gcd", "lcm"):
        return Fraction(getattr(math, name)(*map(_whole, values)))
    if name in ("max", "min"):
        return (max if name == "max" else min)(values, key=_mp)
    if name == "factorial":
        if isinstance(first, Fraction) and first.denominator == 1 and first >= 0:
            if first > 10_000:
                raise TooLarge("too large a factorial")
            return Fraction(math.factorial(int(first)))
        return _special(mpmath.factorial, first)
    if name == "binom":
        if all(isinstance(value, Fraction) and value.denominator == 1 and value >= 0 for value in values):
            if min(int(values[1]), int(values[0] - values[1])) > 5000 or values[0] > 10**9:
                raise TooLarge("too large a binomial coefficient")
            return Fraction(math.comb(*map(int, values)))
        return _special(mpmath.binomial, *values)
    if name in ("ln", "log", "lg"):
        base = Fraction(10) if len(values) == 1 else values[1]
        if any(value == 0 or (real and not isinstance(value, mpmath.mpc) and value < 0) for value in (first, base)):
            raise Undefined("a logarithm of no positive number")
        return mpmath.log(_mp(first)) if name == "ln" else _logarithm(first, base)
    if name == "exp":
        return _power(mpmath.e + 0, first, real)
    x = _mp(first)
    if abs(x) > 10**9 or mpmath.isinf(x):
        raise TooLarge(f"too large an argument of {name}")
    if name in ("arcsin", "arccos", "arctan"):
        result = getattr(mpmath, name.replace("arc", "a"))(x)
        if real and isinstance(result, mpmath.mpc):
            raise Undefined(f"{name} outside its domain")
        return result
    result = getattr(mpmath, name)(x)
    if abs(result) > mpmath.mpf(10) ** (mpmath.mp.dps // 2) and name in ("tan", "cot", "sec", "csc"):
        raise Undefined(f"a pole of {name}")
    return result


def _special(function: Any, *values: Value) -> Value:
    try:
        if any(abs(_mp(value)) > 10**4 for value in values):
            raise TooLarge("too large an argument")
        return function(*map(_mp, values))
    except (ValueError, ZeroDivisionError) as error:
        raise Undefined(str(error)) from error


def _logarithm(value: Value, base: Value) -> Value:
    if base == 1:
        raise Undefined("a logarithm to the base 1")
    result = mpmath.log(_mp(value)) / mpmath.log(_mp(base))
    if isinstance(value, Fraction) and isinstance(base, Fraction) and isinstance(result, mpmath.mpf):
        near = Fraction(int(mpmath.nint(result * 6)), 6)  # log_4 8 is 3/2
        if abs(near) < 5000 and value**near.denominator == base**near.numerator:
            return near
    return result


# expressions


def symbols(node: Any) -> set[str]:
    """The names that need values."""
    if not isinstance(node, tuple) or not node:
        return set()
    if node[0] == "sym":
        return set() if node[1] in ("i", "e") else {node[1]}
    if node[0] == "letter":
        return symbols(node[1])
    return set().union(*(symbols(part) for part in node[1:])) if isinstance(node[0], str) else set().union(*map(symbols, node))


def _points(names: set[str]) -> Iterator[dict[str, Value]]:
    """Real numbers above zero, of either sign, and small integers, the same for the same names."""
    for number in range(12):
        point: dict[str, Value] = {}
        for name in names:
            digest = hashlib.sha256(f"{number}:{name}".encode()).digest()
            size = Fraction(int.from_bytes(digest[:4]) % 9973 + 311, 3019)
            if number >= 8:
                point[name] = Fraction(digest[0] % 7 + 2 + 7 * (number - 8))
            else:
                point[name] = -size if number >= 3 and digest[5] % 2 else size
        yield point


def zero(difference: Any, top: int = 400) -> bool:
    """Whether `difference()`, computed at growing precisions, is nothing but rounding."""
    sizes = []
    for digits in (50, 120, top):
        with mpmath.workdps(digits):
            value = difference()
            if isinstance(value, Fraction):
                return value == 0
            sizes.append(abs(value))
    least = mpmath.mpf(10)
    return bool(sizes[2] <= max(sizes[:2]) * least**-60 or (not any(sizes[:2]) and sizes[2] < least ** (20 - top)))


def _gap(a: Node, b: Node, point: dict[str, Value], real: bool) -> Value:
    x, y = evaluate(a, point, real), evaluate(b, point, real)
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x - y
    x, y = _mp(x), _mp(y)
    if mpmath.isinf(x) or mpmath.isinf(y):
        return Fraction(int(x != y))
    return x - y


def equal(a: Node, b: Node) -> bool:
    """Whether two expressions have the same value wherever both have one."""
    names = symbols(a) | symbols(b)
    if not names:
        return zero(lambda: _gap(a, b, {}, False))
    complexes = _mentions(a, "i") or _mentions(b, "i")
    held = 0
    for point in _points(names):
        try:
            if not zero(functools.partial(_gap, a, b, point, not complexes), 220):
                return False
            held += 1
        except Undefined:
            continue
    if held < 3:
        raise Undefined("too few points with a value")
    return True


def _mentions(node: Any, name: str) -> bool:
    return isinstance(node, tuple) and (node[:2] == ("sym", name) or any(_mentions(part, name) for part in node))


def close(exact: Node, rounded: Node) -> bool:
    """Whether a decimal is the rounded or cut value of a constant (or equal to it), with six digits at least."""
    rounded = _bare(rounded)
    written = rounded[2] if rounded[0] == "num" else ""
    match = re.fullmatch(r"-?0*(\d*)\.(\d+)", written)
    value = evaluate(exact, {})
    if isinstance(value, Fraction) and (value.denominator == 1 or match is None):
        return False
    if match is None or isinstance(value, mpmath.mpc):
        return False
    places, digits = len(match[2]), len((match[1] + match[2]).lstrip("0"))
    if digits < _PLACES or (places < _PLACES and digits < _PLACES + 2):
        return False
    with mpmath.workdps(80):
        found = _mp(rounded[1])
        error = abs(_mp(evaluate(exact, {})) - found)
        unit = mpmath.mpf(10) ** -places
        cut = error < unit and abs(found) <= abs(_mp(value))
        return bool(error <= unit / 2 * (1 + mpmath.mpf(10) ** -20) or cut or error <= abs(found) * mpmath.mpf(10) ** -13)


def near(exact: Node, rounded: Node) -> bool:
    """Whether a decimal beside an exact value, as in `sqrt(2) ≈ 1.41`, is what it rounds to at all."""
    rounded = _bare(rounded)
    if rounded[0] != "num" or symbols(exact):
        return False
    with mpmath.workdps(60):
        value = _mp(evaluate(exact, {}))
        places = len(rounded[2].partition(".")[2])
        return not isinstance(value, mpmath.mpc) and bool(abs(value - _mp(rounded[1])) < mpmath.mpf(10) ** -places)


def plain(node: Node) -> Node:
    """`3/4 (0.75)` without its aside; a product where the two differ."""
    _, before, inside = node
    if not symbols(before) and not symbols(inside) and before != inside and (equal(before, inside) or near(before, inside)):
        return before
    return ("mul", before, inside)


def choices(node: Node) -> list[Node]:
    """What plus-or-minus stands for: one expression, or two."""
    if not _has_sign(node):
        return [node]
    return [_signed(node, upper) for upper in (True, False)]


def _has_sign(node: Any) -> bool:
    return isinstance(node, tuple) and (node[:1] == ("pm",) or any(_has_sign(part) for part in node))


def _signed(node: Any, upper: bool) -> Any:
    if not isinstance(node, tuple):
        return node
    if node[:1] == ("pm",):
        inside = _signed(node[2], upper)
        return inside if (node[1] == "pm") == upper else ("mul", ("num", Fraction(-1), "-1"), inside)
    return tuple(_signed(part, upper) for part in node)


# answers


def _bare(node: Node) -> Node:
    while node[0] == "paren" or (node[0] == "aside" and plain(node) is node[1]):
        node = node[1]
    if node[0] == "text":
        words = re.sub(r"^(?:the|an?) ", "", node[1].lower())
        return _TEXTS.get(words, ("text", words))
    return node


class Asked:
    """What the question lets an answer say: percentages, a base, values of its own formulas."""

    def __init__(self, question: str):
        self.question = question
        self.percent = re.search(r"percent|%", question, re.IGNORECASE) is not None
        self.base = re.search(r"\b(?:base|binary|octal|hexadecimal|ternary)\b|_\{?\d", question, re.IGNORECASE) is not None

    @functools.cached_property
    def formulas(self) -> set[Any]:
        """The formulas of the question and their sides, each as `form`."""
        found = set()
        for match in _FORMULA.finditer(self.question):
            text = next(part for part in match.groups() if part is not None)
            for part in {text, *re.split(r"[=<>]|\\(?:leq?|geq?)\b", text), *text.split(",")}:
                try:
                    found.add(form(read(part)))
                except (Unreadable, ArithmeticError, RecursionError):
                    continue
        return found

    @functools.cached_property
    def whole(self) -> set[Any]:
        """The formulas that stand alone, which the question may ask to be worked out."""
        found = set()
        for match in _FORMULA.finditer(self.question):
            text = next(part for part in match.groups() if part is not None)
            try:
                found.add(form(read(text)))
            except (Unreadable, ArithmeticError, RecursionError):
                continue
        return found

    def shows(self, answer: Node) -> bool:
        """Whether the answer stands in the question as a formula or as a side of one."""
        return form(answer) in self.formulas

    def spells(self, answer: str) -> bool:
        """Whether the answer's text stands in the question's."""
        text = pieces(answer)
        return bool(text) and f" {text} " in f" {pieces(self.question)} "


_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


@functools.lru_cache(64)
def asked(question: str) -> Asked:
    return Asked(question)


def pieces(text: str) -> str:
    """The signs of a text, one spelling each, with blanks between."""
    text = re.sub(r"\\[dtc]frac", r"\\frac", clean(text.replace("$", " ")))
    text = re.sub(r"\\frac\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}", text)
    return re.sub(r"\{ (\S+) \}", r"\1", " ".join(re.findall(r"\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\S", text)))


def form(node: Any) -> Any:
    """A tree with one shape for what is literally the same: no units, names and parentheses, terms in one order."""
    if not isinstance(node, tuple) or not node:
        return node
    if node[0] in ("paren", "unit", "percent", "letter") or node[:2] == ("call", "degree"):
        return form(node[2] if node[0] == "call" else node[1])
    if node[0] == "num":
        return node[:2]
    if node[0] == "chain" and len(node[1]) == 2 and node[2] == ("=",) and node[1][0][0] in ("sym", "name"):
        return form(node[1][1])
    parts = [form(part) for part in node]
    if node[0] in ("add", "mul"):
        return (node[0], *sorted(parts[1:], key=repr))
    if node[0] in ("list", "set"):
        return ("list", tuple(sorted(parts[1], key=repr)))
    if node[0] == "tuple":
        return ("tuple", parts[3])
    return tuple(parts)


_UNIT_ALIKE = {"sq": "", "": ""}


def _without_unit(node: Node) -> tuple[Node, str]:
    node = _bare(node)
    if node[0] == "unit":
        inner, unit = _without_unit(node[1])
        return inner, node[2] or unit
    if node[:2] == ("call", "degree"):
        return _bare(node[2]), "deg"
    return node, ""


def same(gold: Node, answer: Node, ask: Asked) -> bool:
    """Whether two answers mean the same.  Raises `Unreadable`, `Undefined` or `TooLarge` where that cannot be found."""
    gold, answer = _bare(gold), _bare(answer)
    if "letter" in (gold[0], answer[0]):  # a letter after a number is a unit, unless the other side knows it as a symbol
        known = symbols(answer if gold[0] == "letter" else gold)
        gold, answer = (node if node[0] != "letter" else node[1 if symbols(node) & known else 2] for node in (gold, answer))
    if "chain" in (gold[0], answer[0]) and not _relational(gold) and not _relational(answer):
        return _same_chains(gold, answer, ask)
    (gold, unit), (answer, other) = _without_unit(gold), _without_unit(answer)
    if unit and other and unit != other:
        return False
    if gold[0] == "percent" or answer[0] == "percent":
        return _same_percent(gold, answer, ask)
    for kind, compare in (("based", _same_based), ("colon", _same_colons), ("matrix", _same_matrices)):
        if kind in (gold[0], answer[0]):
            return bool(compare(gold, answer, ask))
    if "text" in (gold[0], answer[0]) or "name" in (gold[0], answer[0]):
        return gold == answer
    if _is_region(gold) or _is_region(answer):
        return _same_regions(gold, answer)
    lists = _items(gold), _items(answer)
    if lists[0] is not None or lists[1] is not None:
        return _same_lists(gold, answer, lists, ask)
    if "sym" in (gold[0], answer[0]) and gold[0] == answer[0]:
        return bool(gold == answer)
    return equal(gold, answer) or (not symbols(gold) and not symbols(answer) and (close(gold, answer) or close(answer, gold)))


def _relational(node: Node) -> bool:
    """Whether it holds an inequality."""
    return node[0] == "chain" and any(sign not in ("=", "~") for sign in node[2])


def _same_percent(gold: Node, answer: Node, ask: Asked) -> bool:
    numbers = [node[1] if node[0] == "percent" else node for node in (gold, answer)]
    if any(_items(number) is not None for number in numbers):
        return False
    if gold[0] == answer[0]:
        return same(*numbers, ask)  # type: ignore[arg-type]
    if same(numbers[0], numbers[1], ask):
        return True
    if gold[0] == "percent" or ask.percent:
        hundredth = ("num", Fraction(1, 100), "")
        pair = [("mul", n, hundredth) if node[0] == "percent" else n for n, node in zip(numbers, (gold, answer), strict=True)]
        return equal(pair[0], pair[1])
    return False


def _same_based(gold: Node, answer: Node, ask: Asked) -> bool:
    if gold[0] == answer[0]:
        return bool(gold == answer)
    based, other = (gold, answer) if gold[0] == "based" else (answer, gold)
    digits = other[2] if other[0] == "num" else "".join(map(str, _letters(other))).upper()
    if based is answer and not ask.base and based[2] != 10:
        return False
    return bool(digits.upper() == based[1])


def _letters(node: Any) -> list[str]:
    if isinstance(node, tuple):
        return [node[2]] if node[0] == "num" else [node[1]] if node[0] == "sym" else [x for p in node[1:] for x in _letters(p)]
    return []


def _same_colons(gold: Node, answer: Node, ask: Asked) -> bool:
    """Clock times by their hours and minutes, ratios by proportion."""
    if gold[0] == answer[0] == "colon":
        one, other = (_clock(node) for node in (gold, answer))
        if one and other:
            if one[0] == other[0]:
                return not (one[1] and other[1] and one[1] != other[1])
            return bool(one[1]) != bool(other[1]) and _day(one) == _day(other)
        if one or other or len(gold[1]) != len(answer[1]):
            return False
        first, second = gold[1], answer[1]
        return all(equal(("mul", a, second[0]), ("mul", b, first[0])) for a, b in zip(first[1:], second[1:], strict=True))
    ratio, value = (gold, answer) if gold[0] == "colon" else (answer, gold)
    if len(ratio) > 2 or len(ratio[1]) != 2 or _is_region(value) or _items(value) is not None or _padded(ratio) or symbols(value):
        return False
    if value[0] == "num" and value[1].denominator == 1:
        return False
    return equal(("mul", ratio[1][0], ("pow", ratio[1][1], ("num", Fraction(-1), "-1"))), value)


def _padded(node: Node) -> bool:
    return any(part[0] == "num" and re.fullmatch(r"0\d", part[2]) for part in node[1][1:])


def _clock(node: Node) -> tuple[tuple[Fraction, ...], str] | None:
    """(hours, minutes, ...) and am or pm, if it is a time of the day."""
    values = [part for part in node[1] if part[0] == "num"]
    if len(values) != len(node[1]) or not (len(node) > 2 or all(re.fullmatch(r"\d\d", part[2]) for part in values[1:])):
        return None
    numbers = tuple(part[1] for part in values)
    return (numbers, node[2] if len(node) > 2 else "") if all(n < 60 for n in numbers) and numbers[0] <= 24 else None


def _day(clock: tuple[tuple[Fraction, ...], str]) -> tuple[Fraction, ...]:
    hours = clock[0][0]
    return ((hours % 12 + (12 if clock[1] == "p" else 0) if clock[1] else hours), *clock[0][1:])


def _same_matrices(gold: Node, answer: Node, ask: Asked) -> bool:
    if gold[0] != answer[0] or [len(row) for row in gold[1]] != [len(row) for row in answer[1]]:
        return False
    return all(same(a, b, ask) for one, other in zip(gold[1], answer[1], strict=True) for a, b in zip(one, other, strict=True))


def _items(node: Node) -> list[Node] | None:
    """The entries of a list, a set, a tuple or a plus-or-minus; None for a single value."""
    if node[0] in ("list", "set"):
        return [choice for item in node[1] for choice in choices(item)]
    if node[0] == "tuple":
        return list(node[3])
    return choices(node) if _has_sign(node) else None


def _same_lists(gold: Node, answer: Node, lists: tuple[list[Node] | None, list[Node] | None], ask: Asked) -> bool:
    one, other = lists
    if one is None or other is None:
        single, many = (gold, answer) if one is None else (answer, gold)
        entries = other if one is None else one
        if many is gold or many[0] == "tuple" or not entries:
            return many[0] == "set" and bool(entries) and len(entries or ()) == 1 and same(single, entries[0], ask)  # type: ignore[index]
        return all(_safe(single, entry, ask) for entry in entries)  # the same in several spellings
    if gold[0] == "set" or answer[0] == "set":
        one, other = ([item for k, item in enumerate(part) if not any(_safe(item, x, ask) for x in part[:k])] for part in (one, other))
    if len(one) != len(other):
        return False
    kinds = {gold[0], answer[0]}
    if "tuple" in kinds:
        if "set" in kinds or any(_has_sign(node) for node in (gold, answer)):
            return False
        brackets = [node[1:3] for node in (gold, answer) if node[0] == "tuple"]
        if len(brackets) == 2 and brackets[0] != brackets[1]:
            return False
        if len(brackets) == 1 and brackets[0] != ("(", ")"):
            return False
        return all(same(a, b, ask) for a, b in zip(one, other, strict=True))
    left = list(other)
    for item in one:
        found = next((k for k, candidate in enumerate(left) if _safe(item, candidate, ask)), None)
        if found is None:
            return False
        left.pop(found)
    return True


def _safe(gold: Node, answer: Node, ask: Asked) -> bool:
    try:
        return same(gold, answer, ask)
    except Unreadable:
        return False


# equations


def _named(node: Node, ask: Asked) -> tuple[Node | None, Node] | None:
    """(name, value) of an equation that says what something is; None where its sides do not agree or name nothing."""
    if node[0] == "element" and node[1][0] == "sym":
        return node[1], node[2]
    if node[0] != "chain":
        return None, node
    sides, signs = list(node[1]), list(node[2])
    name: Node | None = None
    if sides[0][0] in ("sym", "name") and sides[0][1] not in ("i", "e"):
        name = sides.pop(0)
    elif sides[-1][0] in ("sym", "name") and sides[-1][1] not in ("i", "e"):
        name = sides.pop()
    elif symbols(sides[0]) and form(sides[0]) in ask.whole:
        name = ("name", repr(form(sides.pop(0))))
    else:
        signs.insert(0, "")
    if len(sides) == 1:
        return name, sides[0]
    for before, after, sign in zip(sides, sides[1:], signs[1:], strict=False):
        if _items(before) is not None or _items(after) is not None:
            return None
        rounded = not symbols(before) and not symbols(after) and (near(before, after) or near(after, before))
        if not equal(*(_without_unit(side)[0] for side in (before, after))) and not (rounded and sign == "~") and not (
            rounded and (close(before, after) or close(after, before))
        ):
            return None
    if name is None and any(symbols(side) for side in sides):
        return None
    exact = [side for side, sign in zip(sides, ["=", *signs[1:]], strict=False) if sign != "~"]
    units = [side for side in sides if _without_unit(side)[1]]
    return name, (units or exact)[-1]


def _same_chains(gold: Node, answer: Node, ask: Asked) -> bool:
    one, other = _named(gold, ask), _named(answer, ask)
    if one is not None and other is not None:
        names = [name for name, _ in (one, other) if name is not None and name[0] == "sym"]
        if len(names) == 2 and names[0] != names[1]:
            return gold[0] == answer[0] and _same_equations(gold, answer)
        return _safe(one[1], other[1], ask)
    if gold[0] == answer[0] == "chain" and len(gold[1]) == len(answer[1]) == 2:
        return _same_equations(gold, answer)
    return False


def _same_equations(gold: Node, answer: Node) -> bool:
    """Whether the differences of the sides are each other's multiple."""
    if len(gold[1]) != 2 or len(answer[1]) != 2 or gold[2] != ("=",) or answer[2] != ("=",):
        return False
    minus = ("num", Fraction(-1), "-1")
    one, other = (("add", node[1][0], ("mul", minus, node[1][1])) for node in (gold, answer))
    if symbols(one) != symbols(other) or not symbols(one):
        return False
    return _proportional(one, other) is not None


def _proportional(one: Node, other: Node) -> Any:
    """The constant that `one` is of `other`, if it is one."""
    first: Any = None
    held = 0
    for point in _points(symbols(one)):
        try:
            with mpmath.workdps(80):
                a, b = evaluate(one, point, True), evaluate(other, point, True)
                if a == 0 or b == 0:
                    if a != b:
                        return None
                    continue
                ratio = _mp(a) / _mp(b)
                if first is not None and abs(ratio - first) > abs(first) * mpmath.mpf(10) ** -50:
                    return None
                first, held = ratio, held + 1
        except Undefined:
            continue
    return first if held >= 3 else None


# regions of the real line


def _is_region(node: Node) -> bool:
    if node[0] in ("union", "cap", "minus", "element", "builder", "reals", "or", "and") or _relational(node):
        return True
    return node[0] == "tuple" and len(node[3]) == 2 and any(_mentions_infinity(item) for item in node[3])


def _mentions_infinity(node: Any) -> bool:
    return isinstance(node, tuple) and (node[:1] == ("inf",) or any(_mentions_infinity(part) for part in node))


def _same_regions(gold: Node, answer: Node) -> bool:
    names = [_variables(node) for node in (gold, answer)]
    if names[0] and names[1] and names[0] != names[1]:
        return False
    if max(map(len, names)) > 1:
        return _same_inequalities(gold, answer)
    with mpmath.workdps(60):
        return _alike(region(gold), region(answer))


def _alike(one: list[Interval], other: list[Interval]) -> bool:
    return len(one) == len(other) and all(
        a[1] == b[1] and a[3] == b[3] and _matches(a[0], b[0]) and _matches(a[2], b[2])
        for a, b in zip(one, other, strict=True)
    )


def _matches(a: Value, b: Value) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    a, b = _mp(a), _mp(b)
    return bool(a == b or abs(a - b) < abs(a) * mpmath.mpf(10) ** -45)


def _variables(node: Node) -> set[str]:
    if node[0] == "element":
        return symbols(node[1])
    if node[0] == "builder":
        return symbols(node[2])
    if node[0] in ("or", "and"):
        return set().union(*map(_variables, node[1]))
    return symbols(node) if node[0] == "chain" else set()


def _same_inequalities(gold: Node, answer: Node) -> bool:
    """Of several variables: the same difference of sides up to a positive factor."""
    if gold[0] != "chain" or answer[0] != "chain" or len(gold[1]) != 2 or len(answer[1]) != 2:
        return False
    minus = ("num", Fraction(-1), "-1")
    found = []
    for node in (gold, answer):
        low, high = node[1] if node[2][0][0] == "<" else node[1][::-1]
        found.append((("add", low, ("mul", minus, high)), node[2][0].strip("<>")))
    ratio = _proportional(found[0][0], found[1][0])
    return ratio is not None and ratio > 0 and found[0][1] == found[1][1] and "!" not in found[0][1]


def region(node: Node) -> list[Interval]:
    """The intervals, in order, of a set of real numbers."""
    node = _bare(node)
    if node[0] == "reals":
        return [(-mpmath.inf, False, mpmath.inf, False)]
    if node[0] == "set":
        return _merged([(value, True, value, True) for item in node[1] for value in [_endpoint(item)]])
    if node[0] == "tuple" and len(node[3]) == 2:
        low, high = map(_endpoint, node[3])
        if _mp(low) > _mp(high):
            raise Unreadable("an interval that ends before it begins")
        return _merged([(low, node[1] == "[" and not mpmath.isinf(_mp(low)), high, node[2] == "]" and not mpmath.isinf(_mp(high)))])
    if node[0] == "union":
        return _merged([*region(node[1]), *region(node[2])])
    if node[0] == "cap":
        return _complement(_merged([*_complement(region(node[1])), *_complement(region(node[2]))]))
    if node[0] == "minus":
        return _complement(_merged([*_complement(region(node[1])), *region(node[2])]))
    if node[0] == "element":
        return region(node[2])
    if node[0] == "builder":
        if node[1][0] == "element":
            if node[1][2] != ("reals",):
                raise Unreadable("a set of other numbers than real ones")
        elif node[1][0] != "sym":
            raise Unreadable("a set of expressions")
        return region(node[2])
    if node[0] == "or":
        return _merged([interval for part in node[1] for interval in region(part)])
    if node[0] == "and":
        parts = [_complement(region(part)) for part in node[1]]
        return _complement(_merged([interval for part in parts for interval in part]))
    if node[0] == "list":
        return region(("and", node[1])) if all(item[0] == "chain" for item in node[1]) else region(("set", node[1]))
    if node[0] != "chain":
        return region(("set", (node,)))
    steps = [_solved(a, sign, b) for a, sign, b in zip(node[1], node[2], node[1][1:], strict=False)]
    if len(steps) == 1:
        return steps[0]
    return _complement(_merged([interval for step in steps for interval in _complement(step)]))


def _endpoint(node: Node) -> Value:
    if symbols(node):
        raise Unreadable("an endpoint that is no number")
    value = evaluate(node, {})
    if isinstance(value, mpmath.mpc):
        raise Unreadable("an endpoint that is not real")
    return value


def _merged(found: list[Interval]) -> list[Interval]:
    result: list[Interval] = []
    for low, closed, high, shut in sorted(found, key=lambda part: (_mp(part[0]), not part[1])):
        if low == high and not (closed and shut):
            continue
        if result:
            before = result[-1]
            if _mp(low) < _mp(before[2]) or (_matches(low, before[2]) and (closed or before[3])):
                if _mp(high) > _mp(before[2]) or (high == before[2] and shut):
                    result[-1] = (before[0], before[1], high, shut or (high == before[2] and before[3]))
                continue
        result.append((low, closed, high, shut))
    return result


def _complement(found: list[Interval]) -> list[Interval]:
    result: list[Interval] = []
    low: Value = -mpmath.inf
    closed = False
    for interval in found:
        if _mp(interval[0]) > _mp(low) or (closed and not interval[1]):
            result.append((low, closed, interval[0], not interval[1] and not mpmath.isinf(_mp(interval[0]))))
        low, closed = interval[2], not interval[3]
    if not mpmath.isinf(_mp(low)) or low < 0:
        result.append((low, closed and not mpmath.isinf(_mp(low)), mpmath.inf, False))
    return [part for part in result if part[0] != part[2] or (part[1] and part[3])]


def _solved(left: Node, sign: str, right: Node) -> list[Interval]:
    """Where a relation of one variable holds."""
    if sign not in ("=", "<", ">", "<=", ">=", "!="):
        raise Unreadable("a relation of another kind")
    minus = ("num", Fraction(-1), "-1")
    left, right = (_without_unit(side)[0] for side in (left, right))
    if _mentions_infinity(left) or _mentions_infinity(right):
        if {left[0], right[0]} <= {"sym", "inf", "mul"} and sign in ("<", ">", "<=", ">="):
            return [(-mpmath.inf, False, mpmath.inf, False)]  # x < infinity
        raise Unreadable("an infinity")
    difference = ("add", left, ("mul", minus, right))
    names = symbols(difference)
    if len(names) != 1:
        raise Unreadable("a relation without a variable")
    name = names.pop()

    def at(x: int) -> Value:
        return evaluate(difference, {name: Fraction(x)}, True)

    try:
        values = [at(x) for x in (-41, -2, 0, 1, 3, 57)]
    except Undefined:
        return _by_sympy(difference, sign, name)
    slope, base = _mp(values[3]) - _mp(values[2]), values[2]
    if slope == 0 or any(
        abs(_mp(value) - _mp(base) - x * slope) > mpmath.mpf(10) ** -45 * (1 + abs(_mp(value)))
        for x, value in zip((-41, -2, 0, 1, 3, 57), values, strict=True)
    ):
        return _by_sympy(difference, sign, name)
    root = -(base / (values[3] - base)) if isinstance(base, Fraction) and isinstance(values[3], Fraction) else -_mp(base) / slope
    if sign == "=":
        return [(root, True, root, True)]
    if sign == "!=":
        return [(-mpmath.inf, False, root, False), (root, False, mpmath.inf, False)]
    closed = sign.endswith("=")
    below = (sign[0] == "<") == (slope > 0)
    return [(-mpmath.inf, False, root, closed)] if below else [(root, closed, mpmath.inf, False)]


def _by_sympy(difference: Node, sign: str, name: str) -> list[Interval]:
    import sympy

    x = sympy.Symbol("x", real=True)
    expression = _to_sympy(difference, name, x)
    relations: dict[str, Any] = {"=": sympy.Eq, "!=": sympy.Ne, "<": sympy.Lt, ">": sympy.Gt, "<=": sympy.Le, ">=": sympy.Ge}
    try:
        if sign == "!=":
            return _complement(_by_sympy(difference, "=", name))
        solved = (
            sympy.solveset(expression, x, sympy.S.Reals)
            if sign == "="
            else sympy.solve_univariate_inequality(relations[sign](expression, 0), x, relational=False)
        )
    except (NotImplementedError, ValueError, TypeError) as error:
        raise Unreadable(f"an inequality that is not solved: {error}") from error
    parts = solved.args if isinstance(solved, sympy.Union) else [solved]
    found: list[Interval] = []
    for part in parts:
        if isinstance(part, sympy.FiniteSet):
            found += [(value, True, value, True) for value in map(_from_sympy, part.args)]
        elif isinstance(part, sympy.Interval):
            low, high = _from_sympy(part.start), _from_sympy(part.end)
            found.append((low, not part.left_open, high, not part.right_open))
        elif part is not sympy.S.EmptySet:
            raise Unreadable("a set that is no union of intervals")
    return _merged(found)


def _to_sympy(node: Node, name: str, x: Any) -> Any:
    import sympy

    kind = node[0]
    if kind == "num":
        return sympy.Rational(node[1].numerator, node[1].denominator)
    if kind == "sym" and node[1] == name:
        return x
    if kind in ("paren", "unit"):
        return _to_sympy(node[1], name, x)
    parts = [_to_sympy(part, name, x) for part in node[2 if kind == "call" else 1 :]]
    if kind == "add":
        return sympy.Add(*parts)
    if kind == "mul":
        return sympy.Mul(*parts)
    if kind == "pow":
        return sympy.Pow(*parts)
    if kind == "call" and node[1] in ("abs", "root", "pi"):
        return {"abs": sympy.Abs, "root": sympy.root, "pi": lambda: sympy.pi}[node[1]](*parts)
    raise Unreadable("an inequality of functions")


def _from_sympy(value: Any) -> Value:
    import sympy

    if value in (sympy.oo, -sympy.oo):
        return mpmath.inf if value == sympy.oo else -mpmath.inf
    return Fraction(int(value.p), int(value.q)) if value.is_Rational else mpmath.mpf(str(value.evalf(60)))
