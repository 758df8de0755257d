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
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import mpmath
import sympy

from gainrl.tasks.maths.notation import BASES, Node, Unreadable, clean, parsed, signed

Value = Any  # Fraction, mpf or mpc

_BITS = 200_000  # of an exact result
_PLACES = 6  # decimals, and digits, from which a rounded value stands for an exact one
_MINUS: Node = ("num", Fraction(-1), "-1")
_TEXTS = (
    (re.compile(r"no (?:real )?solutions?|empty set"), ("set", ())),
    (re.compile(r"infinity"), ("inf",)),
    (re.compile(r"(?:set of )?(?:all )?real numbers|all real(?:s| x| values)"), ("reals",)),
)


class Undefined(ArithmeticError):
    """The expression has no value, or none that could be computed in a moment."""


def _mp(value: Value) -> Any:
    return mpmath.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def evaluate(node: Node, point: dict[str, Value], real: bool = False) -> Value:
    """The value of an expression at a point; with `real`, roots and logarithms of negative numbers are undefined."""
    kind = node[0]
    if kind == "num":
        return node[1]
    if kind == "sym":
        return {"i": mpmath.mpc(0, 1), "e": mpmath.e + 0, **point}[node[1]]
    if kind in ("unit", "letter", "percent"):
        return evaluate(node[1], point, real) / (100 if kind == "percent" else 1)
    if kind == "inf":
        return mpmath.inf
    if kind == "aside":
        return evaluate(plain(node), point, real)
    if kind in ("add", "mul"):
        total = evaluate(node[1], point, real)
        for part in node[2:]:
            other = evaluate(part, point, real)
            if not (isinstance(total, Fraction) and isinstance(other, Fraction)):
                total, other = _mp(total), _mp(other)
            total = total + other if kind == "add" else total * other
        return _settled(total)
    if kind == "pow":
        return _power(evaluate(node[1], point, real), evaluate(node[2], point, real), real)
    if kind == "call":
        try:
            return _settled(_call(node[1], [evaluate(part, point, real) for part in node[2:]], real))
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            raise Undefined(str(error)) from error
    raise Unreadable(f"a {kind} has no value")


def _settled(value: Value) -> Value:
    if isinstance(value, Fraction):
        if value.numerator.bit_length() + value.denominator.bit_length() > _BITS:
            raise Undefined("a number of too many digits")
    elif mpmath.isnan(value):
        raise Undefined("no number")
    return value


def _negative(value: Value) -> bool:
    return not isinstance(value, mpmath.mpc) and bool(value < 0)


def _power(base: Value, exponent: Value, real: bool) -> Value:
    if base == 0 and (isinstance(exponent, mpmath.mpc) or exponent <= 0):
        if exponent != 0:
            raise Undefined("a division by zero")
        return Fraction(1)
    if mpmath.isinf(_mp(base)) or mpmath.isinf(_mp(exponent)):
        raise Undefined("a power of infinity")
    if base != 0 and abs(_mp(exponent)) * (abs(mpmath.log(abs(_mp(base)))) + (0 if abs(base) == 1 else 1)) > _BITS:
        raise Undefined("too large a power")
    if isinstance(exponent, Fraction) and exponent.denominator < 1000:
        power = base**exponent.numerator if isinstance(base, Fraction) else _mp(base) ** exponent.numerator
        return _root(power, exponent.denominator, real)
    if real and _negative(base):
        raise Undefined("a power of a negative number")
    return _mp(base) ** _mp(exponent)


def _root(value: Value, index: int, real: bool) -> Value:
    """The real root where there is one, exact where it is rational."""
    if index == 1:
        return value
    if _negative(value) and index % 2:
        return -_root(-value, index, real)
    if _negative(value) and real:
        raise Undefined("a root of a negative number")
    if isinstance(value, Fraction) and value >= 0 and index < 100:
        parts = [sympy.integer_nthroot(part, index) for part in (value.numerator, value.denominator)]
        if all(exact for _, exact in parts):
            return Fraction(*(int(root) for root, _ in parts))
    return mpmath.root(mpmath.mpmathify(_mp(value)), index)


def _whole(value: Value) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or abs(value) > 10**6:
        raise Undefined("no integer of a moderate size")
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
        return _root(first, _whole(values[1]), real)
    if name in ("floor", "ceil"):
        return Fraction(int(getattr(math if isinstance(first, Fraction) else mpmath, name)(first)))
    if name in ("gcd", "lcm"):
        return Fraction(getattr(math, name)(*map(_whole, values)))
    if name in ("max", "min"):
        return (max if name == "max" else min)(values, key=_mp)
    if name in ("factorial", "binom"):
        if max(abs(_mp(value)) for value in values) > (10**4 if name == "factorial" else 10**5):
            raise Undefined("too large a factorial")
        if all(isinstance(value, Fraction) and value.denominator == 1 and value >= 0 for value in values):
            return Fraction((math.factorial if name == "factorial" else math.comb)(*map(int, values)))
        return (mpmath.factorial if name == "factorial" else mpmath.binomial)(*map(_mp, values))
    if name in ("ln", "log", "lg"):
        return _logarithm(first, mpmath.e + 0 if name == "ln" else (*values, Fraction(10))[1], real)
    if name == "exp":
        return _power(mpmath.e + 0, first, real)
    if abs(x := _mp(first)) > 10**9:
        raise Undefined(f"too large an argument of {name}")
    result = getattr(mpmath, name.replace("arc", "a"))(x)
    if (real and isinstance(result, mpmath.mpc) and not isinstance(x, mpmath.mpc)) or (
        name in ("tan", "cot", "sec", "csc") and abs(result) > mpmath.mpf(10) ** (mpmath.mp.dps // 2)
    ):
        raise Undefined(f"{name} has no value there")
    return result


def _logarithm(value: Value, base: Value, real: bool) -> Value:
    if value == 0 or base in (0, 1) or (real and (_negative(value) or _negative(base))):
        raise Undefined("a logarithm of no positive number")
    result = mpmath.log(_mp(value)) / mpmath.log(_mp(base))
    if isinstance(value, Fraction) and isinstance(base, Fraction) and isinstance(result, mpmath.mpf):
        near = Fraction(int(mpmath.nint(result * 6)), 6)  # log_4 8 is 3/2
        if abs(near) < 5000 and value**near.denominator == base**near.numerator:
            return near
    return result


# expressions


def _any(node: Any, test: Callable[[Node], bool]) -> bool:
    """Whether a part of the tree passes the test."""
    return isinstance(node, tuple) and (test(node) or any(_any(part, test) for part in node))


def symbols(node: Any) -> set[str]:
    """The names that need values."""
    if not isinstance(node, tuple) or not node:
        return set()
    if node[0] in ("sym", "name"):
        return {node[1]} - {"i", "e"}
    return set().union(*map(symbols, node[1:2] if node[0] == "letter" else node))


def _points(names: set[str]) -> Iterator[dict[str, Value]]:
    """Real numbers above zero, of either sign, and small integers, the same for the same names."""
    for number in range(12):
        point: dict[str, Value] = {}
        for name in names:
            digest = hashlib.sha256(f"{number}:{name}".encode()).digest()
            size = Fraction(int.from_bytes(digest[:4]) % 9973 + 311, 3019)
            sign = -1 if number >= 3 and digest[5] % 2 else 1
            point[name] = sign * size if number < 8 else Fraction(digest[0] % 7 + 2 + 7 * (number - 8))
        yield point


def _zero(difference: Callable[[], Value], most: int) -> bool:
    """Whether a difference, computed at growing precisions, is nothing but rounding."""
    sizes = []
    for digits in (50, 120, most):
        with mpmath.workdps(digits):
            value = difference()
            if isinstance(value, Fraction):
                return value == 0
            sizes.append(abs(value))
    ten = mpmath.mpf(10)
    return bool(sizes[2] <= max(sizes[:2]) * ten**-60 or (not any(sizes[:2]) and sizes[2] < ten ** (20 - most)))


def _gap(a: Node, b: Node, point: dict[str, Value], real: bool) -> Value:
    x, y = evaluate(a, point, real), evaluate(b, point, real)
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x - y
    x, y = _mp(x), _mp(y)
    return Fraction(int(x != y)) if mpmath.isinf(x) or mpmath.isinf(y) else x - y


def equal(a: Node, b: Node) -> bool:
    """Whether two expressions have the same value wherever both have one."""
    if not (names := symbols(a) | symbols(b)):
        return _zero(lambda: _gap(a, b, {}, False), 400)
    real, held = not _any((a, b), lambda node: node[:2] == ("sym", "i")), 0
    for point in _points(names):
        try:
            if not _zero(functools.partial(_gap, a, b, point, real), 220):
                return False
            held += 1
        except Undefined:
            continue
    if held < 3:
        raise Undefined("too few points with a value")
    return True


def close(exact: Node, rounded: Node, strict: bool = True) -> bool:
    """Whether a decimal is the rounded or cut value of a constant; `strict` asks for six digits and a decimal point."""
    rounded = _bare(rounded)
    match = re.fullmatch(r"-?0*(\d*)\.?(\d*)", rounded[2]) if rounded[0] == "num" else None
    if match is None or symbols(exact):
        return False
    places, digits = len(match[2]), len((match[1] + match[2]).lstrip("0"))
    with mpmath.workdps(80):
        value = evaluate(exact, {})
        exact_too = isinstance(value, Fraction)  # then nothing is rounded here
        ends = exact_too and pow(10, value.denominator.bit_length(), value.denominator) == 0  # as a decimal
        few = not places or digits < _PLACES or (places < _PLACES and digits < _PLACES + 2)
        if isinstance(value, mpmath.mpc) or (strict and (ends or few)):
            return False
        found, unit = (n if exact_too else _mp(n) for n in (rounded[1], Fraction(1, 10**places)))
        error = abs(value - found)
        cut = error < unit and abs(found) <= abs(value)
        return bool(error <= unit / 2 or cut or error <= abs(found) / 10**13)


def plain(node: Node) -> Node:
    """`3/4 (0.75)` without its aside; a product where the two differ."""
    before, inside = node[1:]
    if before != inside and not symbols((before, inside)) and (equal(before, inside) or close(before, inside, False)):
        return before  # type: ignore[no-any-return]
    return ("mul", before, inside)


def has_sign(node: Any) -> bool:
    return _any(node, lambda part: part[:1] == ("pm",))


def _signed(node: Any, upper: bool) -> Any:
    if not isinstance(node, tuple):
        return node
    if node[:1] == ("pm",):
        inside = _signed(node[2], upper)
        return inside if (node[1] == "pm") == upper else signed("-", inside)
    return tuple(_signed(part, upper) for part in node)


# the question


class Asked:
    """What the question lets an answer say: percentages, a base, values of its own formulas."""

    def __init__(self, question: str):
        self.question = pieces(question)
        self.percent = re.search(r"percent|%", question, re.IGNORECASE) is not None
        self.ratio = re.search(r"\b(?i:ratios?|odds|proportions?)\b|[A-Za-z]:[A-Za-z]", question) is not None
        self.bases = {BASES.get(name, name) for match in _BASE.findall(question.lower()) for name in match}
        found = [next(part for part in match if part) for match in _FORMULA.findall(question)]
        sides = [side for text in found for side in (*re.split(r"[=<>]|\\(?:leq?|geq?)\b", text), *text.split(","))]
        self.whole, self.formulas = _forms(found), _forms([*found, *sides])

    def spells(self, answer: str) -> bool:
        """Whether the answer's text stands in the question's."""
        text = pieces(answer)
        return bool(text) and f" {text} " in f" {self.question} "


asked = functools.lru_cache(64)(Asked)
_BASE = re.compile(r"\bbase[\W_]*(?:text\w*\W*)?(\w+)|(?<=\d)_\{?(\d+)|\b(binary|octal|hexadecimal|ternary)\b")
_FORMULA = re.compile(r"(?s)\$\$(.+?)\$\$|\$(.+?)\$|\\[(\[](.+?)\\[)\]]|(?<![\w.$/])((?:\d+ )?\d+ ?/ ?\d+)(?![\w/])")


def _forms(texts: list[str]) -> set[Any]:
    return {form(node) for text in texts if (node := parsed(text))}


def pieces(text: str) -> str:
    """The signs of a text, one spelling each, with blanks between."""
    text = re.sub(r"\\[dtc]frac", r"\\frac", clean(text.replace("$", " ")))
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}", text)
    return re.sub(r"\{ (\S+) \}", r"\1", " ".join(re.findall(r"\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\S", text)))


def form(node: Any) -> Any:
    """A tree with one shape for what is literally the same: no units, names and parentheses, terms in one order."""
    if not isinstance(node, tuple) or not node:
        return node
    if node[0] in ("unit", "percent", "letter", "aside"):
        return form(node[1])
    if node[0] == "call" and len(node) == 3 and node[1] in ("degree", "abs", "max", "min") and not symbols(node):
        return form(node[2])
    if node[0] == "num":
        return node[:2]
    if node[0] == "colon" and len(node) == len(node[1]) == 2:
        return form(("mul", node[1][0], ("pow", node[1][1], _MINUS)))
    if node[0] == "chain" and len(node[1]) == 2 and node[2] == ("=",) and node[1][0][0] in ("sym", "name"):
        return form(node[1][1])
    parts = [form(part) for part in node]
    if node[0] in ("add", "mul"):
        kept = sorted((part for part in parts[1:] if part != ("num", Fraction(node[0] == "mul"))), key=repr)
        return kept[0] if len(kept) == 1 else (node[0], *kept)
    if node[:2] == ("call", "root"):
        return ("pow", parts[2], ("pow", parts[3], _MINUS[:2]))
    if node[0] == "pow" and ("num", Fraction(1)) in parts:
        return parts[1]
    if node[0] == "pow" and node[2][0] == "num" and node[2][1].numerator == 1:
        return ("pow", parts[1], ("pow", ("num", Fraction(node[2][1].denominator)), _MINUS[:2]))
    if node[0] in ("list", "set"):
        return ("list", tuple(sorted(parts[1], key=repr)))
    return ("tuple", parts[3]) if node[0] == "tuple" else tuple(parts)


# answers


def _bare(node: Node) -> Node:
    while node[0] == "aside" and plain(node) is node[1]:
        node = node[1]
    if node[0] != "text":
        return node
    words = re.sub(r"^(?:the|an?) ", "", node[1].lower())
    return next((meant for pattern, meant in _TEXTS if pattern.fullmatch(words)), ("text", words))


def _without_unit(node: Node) -> tuple[Node, str]:
    node = _bare(node)
    if node[0] == "unit":
        inner, unit = _without_unit(node[1])
        return inner, node[2] or unit
    return (_bare(node[2]), "deg") if node[:2] == ("call", "degree") else (node, "")


def same(gold: Node, answer: Node, ask: Asked) -> bool:
    """Whether two answers mean the same.  Raises `Unreadable` or `Undefined` where that cannot be found."""
    gold, answer = _bare(gold), _bare(answer)
    if "letter" in (gold[0], answer[0]):  # a unit, unless the other side knows it as a symbol
        known = symbols(answer if gold[0] == "letter" else gold)
        gold, answer = (
            node[1 if symbols(node) & known else 2] if node[0] == "letter" else node for node in (gold, answer)
        )
    if "chain" in (gold[0], answer[0]) and not _is_inequality(gold) and not _is_inequality(answer):
        return _same_chains(gold, answer, ask)
    (gold, unit), (answer, other) = _without_unit(gold), _without_unit(answer)
    kinds = {gold[0], answer[0]}
    if unit and other and unit != other and not {"deg"} < {unit, other} <= {"deg", "C", "F"}:
        return False
    if "percent" in kinds and (unit or other):
        return False
    for kind, compare in _KINDS.items():
        if kind in kinds:
            return compare(gold, answer, ask)
    if kinds & {"text", "name"}:
        return gold == answer
    if _is_region(gold) or _is_region(answer):
        return _same_regions(gold, answer)
    if _items(gold) is not None or _items(answer) is not None:
        return _same_lists(gold, answer, ask)
    return gold == answer or equal(gold, answer) or close(gold, answer) or close(answer, gold)


def _safe(gold: Node, answer: Node, ask: Asked) -> bool:
    try:
        return same(gold, answer, ask)
    except Unreadable:
        return False


def _same_percent(gold: Node, answer: Node, ask: Asked) -> bool:
    numbers = [node[1] if node[0] == "percent" else node for node in (gold, answer)]
    if gold[0] != "percent" and not ask.percent and (symbols(gold) or abs(_mp(evaluate(gold, {}))) < 1):
        return False  # `\frac{1}{4}\%` for `\frac{1}{4}`
    if same(numbers[0], numbers[1], ask):
        return True
    if gold[0] == answer[0] or not (gold[0] == "percent" or ask.percent) or any(_items(n) is not None for n in numbers):
        return False
    return equal(gold, answer)


def _same_based(gold: Node, answer: Node, ask: Asked) -> bool:
    if gold[0] == answer[0]:
        return bool(gold == answer)
    based, other = (gold, answer) if gold[0] == "based" else (answer, gold)
    return _letters(other).upper() == based[1] and (based is gold or str(based[2]) in {"10", *ask.bases})


def _letters(node: Node) -> str:
    if node[:1] in (("num",), ("sym",)):
        return str(node[-1])
    return "".join(_letters(part) for part in node if isinstance(part, tuple))


def _same_colons(gold: Node, answer: Node, ask: Asked) -> bool:
    """Clock times by their hours and minutes, ratios by proportion."""
    sides = [node for node in (gold, answer) if node[0] == "colon"]
    timed = any(len(node) > 2 or re.fullmatch(r"0\d", str(node[1][1][-1])) for node in sides)
    if len(sides) == 2:
        one, other = map(_clock, sides)
        if one and not ask.ratio:
            return other is not None and (one[0] == other[0] or "" in (one[0], other[0])) and bool(one[1] & other[1])
        if timed or len(gold[1]) != len(answer[1]):
            return False
        shares = [[("mul", part, ("pow", node[1][0], _MINUS)) for part in node[1][1:]] for node in sides]
        return all(map(equal, *shares))
    ratio, value = (gold[1], answer) if gold[0] == "colon" else (answer[1], gold)
    whole = value[0] == "num" and value[1].denominator == 1
    if timed or whole or len(ratio) != 2 or value[0] not in ("mul", "num", "add") or symbols(value):
        return False
    return equal(("mul", ratio[0], ("pow", ratio[1], _MINUS)), value)


def _clock(node: Node) -> tuple[str, set[tuple[Fraction, ...]]] | None:
    """Whether am or pm (a, p, empty) and the (hours, minutes, ...) it can be read as, if it is a time of the day."""
    named = "".join(node[2:])
    if any(part[0] != "num" or (not named and not re.fullmatch(r"\d\d", part[2])) for part in node[1][1:]):
        return None
    hours, *rest = numbers = tuple(part[1] for part in node[1])
    if node[1][0][0] != "num" or max(numbers) >= 60 or hours > 24:
        return None
    return named, {numbers, (hours % 12 + 12 * (named == "p"), *rest) if named else numbers}


def _same_matrices(gold: Node, answer: Node, ask: Asked) -> bool:
    if gold[0] != answer[0] or [len(row) for row in gold[1]] != [len(row) for row in answer[1]]:
        return False
    return all(same(a, b, ask) for a, b in zip(sum(gold[1], ()), sum(answer[1], ()), strict=True))


_KINDS: dict[str, Callable[[Node, Node, Asked], bool]] = {
    "percent": _same_percent, "based": _same_based, "colon": _same_colons, "matrix": _same_matrices
}  # fmt: skip


def _items(node: Node) -> list[Node] | None:
    """The entries of a list, a set, a tuple or a plus-or-minus; None for a single value."""
    if node[0] == "tuple":
        return list(node[3])
    if node[0] in ("list", "set"):
        return [choice for item in node[1] for choice in _items(item) or [item]] if has_sign(node) else list(node[1])
    return [_signed(node, True), _signed(node, False)] if has_sign(node) else None


def _same_lists(gold: Node, answer: Node, ask: Asked) -> bool:
    one, other, kinds = _items(gold), _items(answer), {gold[0], answer[0]}
    if one is None or other is None:
        entries, many = (other, answer) if one is None else (one, gold)
        single = gold if one is None else answer
        if not entries or many[0] == "tuple" or ((many is gold or many[0] == "set") and len(entries) > 1):
            return False
        # a set of one, or the same in several spellings
        return many[0] in ("set", "list") and all(_safe(single, entry, ask) for entry in entries)
    if "set" in kinds:
        one, other = ([x for k, x in enumerate(p) if not any(_safe(x, y, ask) for y in p[:k])] for p in (one, other))
    if len(one) != len(other) or {"tuple", "set"} <= kinds:
        return False
    if "tuple" in kinds:
        brackets = {node[1:3] for node in (gold, answer) if node[0] == "tuple"}
        if len(brackets) > 1 or (len(kinds) > 1 and (brackets != {("(", ")")} or has_sign((gold, answer)))):
            return False
        return all(same(a, b, ask) for a, b in zip(one, other, strict=True))
    names = [{repr(item[1][0]) for item in part if item[0] == "chain"} for part in (one, other)]
    if max(map(len, names)) > 1 and not all(names):  # `a=1, b=2` for `1, 2`
        return all(same(a, b, ask) for a, b in zip(one, other, strict=True))
    left = list(other)
    for item in one:
        if not (found := [k for k, candidate in enumerate(left) if _safe(item, candidate, ask)]):
            return False
        left.pop(found[0])
    return True


# equations


def _is_name(side: Node, other: Node) -> bool:
    """Whether a side of an equation names something: a symbol, f(x), a segment AB or |AB|, (x, y) before a tuple."""
    if side[:2] == ("call", "abs"):
        return side[2][0] == "mul" and _is_name(side[2], other)
    if side[0] == "tuple":
        return other[0] == "tuple" and all(item[0] == "sym" for item in side[3])
    if side[0] == "mul":
        return len(side) < 5 and all(part[0] == "sym" and part[1].isupper() for part in side[1:])
    return side[0] in ("sym", "name") and side[1] not in ("i", "e")


def _named(node: Node, ask: Asked) -> tuple[Node | None, Node] | None:
    """(name, value) of an equation that defines something; None where its sides do not agree or name nothing."""
    if node[0] == "element" and node[1][0] == "sym":
        return node[1], node[2]
    if node[0] != "chain":
        return None, node
    sides, signs = list(node[1]), ["=", *node[2]]
    name: Node | None = None
    for place in (0, -1):
        if _is_name(sides[place], sides[-1 - place]):
            name = sides.pop(place)
            break
    else:
        if symbols(sides[0]) and form(sides[0]) in ask.whole:
            name = ("name", repr(form(sides.pop(0))))
    signs = signs[-len(sides) :]
    for before, after, sign in zip(sides, sides[1:], signs[1:], strict=False):
        if _items(before) is not None or _items(after) is not None:
            return None
        one, other, strict = _without_unit(before)[0], _without_unit(after)[0], sign != "~"
        if not (equal(one, other) or close(one, other, strict) or close(other, one, strict)):
            return None
    if name is None and any(symbols(side) for side in sides):
        return None
    exact = [side for number, side in enumerate(sides) if number == 0 or signs[number] != "~"]
    units = [side for side in sides if _without_unit(side)[1]]
    return name, (units or exact)[0]


def _same_chains(gold: Node, answer: Node, ask: Asked) -> bool:
    one, other = _named(gold, ask), _named(answer, ask)
    if one is not None and other is not None:
        names = {name for name, _ in (one, other) if name is not None and name[0] == "sym"}
        if len(names) < 2 and not (len(names) == 1 and one[1][0] == "sym" and gold[0] != answer[0]):
            return _safe(one[1], other[1], ask)
    return (one is None or bool(symbols(one[1]))) and _same_relations(gold, answer)


def _same_relations(gold: Node, answer: Node) -> bool:
    """Whether two relations have the same difference of sides up to a factor, a positive one for inequalities."""
    chains = [node for node in (gold, answer) if node[0] == "chain" and len(node[2]) == 1]
    signs = {node[2][0].replace(">", "<") for node in chains}
    if len(chains) < 2 or len(signs) > 1 or not signs <= {"=", "<", "<="}:
        return False
    sides = (node[1][:: -1 if node[2][0][0] == ">" else 1] for node in chains)
    ratio = _multiple(*(("add", one, ("mul", _MINUS, other)) for one, other in sides))
    return ratio is not None and (signs == {"="} or bool(ratio > 0))


def _multiple(one: Node, other: Node) -> Any:
    """The constant that `one` is of `other`, if it is one."""
    first, held = None, 0
    if symbols(one) != symbols(other):
        return None
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


def _is_inequality(node: Node) -> bool:
    return node[0] == "chain" and any(sign not in ("=", "~") for sign in node[2])


def _is_region(node: Node) -> bool:
    if node[0] in ("union", "cap", "minus", "element", "builder", "reals", "or", "and") or _is_inequality(node):
        return True
    return node[0] == "tuple" and len(node[3]) == 2 and _any(node, lambda part: part[:1] == ("inf",))


def _same_regions(gold: Node, answer: Node) -> bool:
    names = [_variables(node) for node in (gold, answer)]
    if names[0] and names[1] and names[0] != names[1]:
        return False
    if max(map(len, names)) > 1:
        return _same_relations(gold, answer)
    if _unsolved(answer) and not _unsolved(gold):
        return False
    one, other = region(gold), region(answer)
    return bool(one == other or one.symmetric_difference(other).is_empty)


def _unsolved(node: Any) -> bool:
    """Whether a relation holds more than a name or its absolute value on a side, as in `2x > 6`."""
    if not isinstance(node, tuple) or node[:1] != ("chain",):
        return isinstance(node, tuple) and any(map(_unsolved, node))
    sides = [side[2] if side[:2] == ("call", "abs") else side for side in node[1]]
    return any(symbols(side) and not _is_name(side, side) for side in sides)


def _variables(node: Node) -> set[str]:
    if node[0] in ("or", "and", "list"):
        return set().union(*map(_variables, node[1]))
    part = {"element": 1, "builder": 2}.get(node[0])
    return symbols(node[part] if part else node) if part or node[0] == "chain" else set()


def region(node: Node) -> Any:
    """The set of real numbers that a node describes, as sympy's."""
    node = _bare(node)
    kind = node[0]
    if kind == "reals":
        return sympy.S.Reals
    if kind in ("set", "list") and all(item[0] != "chain" for item in node[1]):
        return sympy.FiniteSet(*(_exact(item) for item in node[1]))
    if kind == "tuple" and len(node[3]) == 2:
        low, high = map(_exact, node[3])
        if (low > high) == sympy.true:
            raise Unreadable("an interval that ends before it begins")
        return sympy.Interval(low, high, node[1] == "(", node[2] == ")")
    if kind in ("union", "cap", "minus"):
        one, other = region(node[1]), region(node[2])
        return one + other if kind == "union" else one & other if kind == "cap" else one - other
    if kind in ("element", "builder"):
        if kind == "builder" and node[1][0] != "sym" and node[1][2:] != (("reals",),):
            raise Unreadable("a set of expressions")
        return region(node[2])
    if kind in ("or", "and", "list"):
        parts = [region(part) for part in node[1]]
        both = sympy.Intersection(*parts)
        return sympy.Union(*parts) if kind == "or" or (kind == "list" and both.is_empty) else both
    if kind != "chain":
        return sympy.FiniteSet(_exact(node))
    links = zip(node[1], node[2], node[1][1:], strict=False)
    return sympy.Intersection(*(_solved(left, sign, right) for left, sign, right in links))


def _exact(node: Node) -> Any:
    value = _to_sympy(node, "", None)
    if not value.is_extended_real:
        raise Unreadable("an endpoint that is not real")
    return value


def _solved(left: Node, sign: str, right: Node) -> Any:
    """Where a relation of one variable holds."""
    names = symbols((left, right))
    if len(names) != 1 or sign in ("~", "equiv"):
        raise Unreadable("a relation of another kind")
    x, name = sympy.Symbol("x", real=True), names.pop()
    one, other = _to_sympy(left, name, x), _to_sympy(right, name, x)
    if {one, other} & {sympy.oo, -sympy.oo}:
        return sympy.S.Reals  # x < infinity
    try:
        return sympy.S.Reals & sympy.Rel(one - other, 0, "==" if sign == "=" else sign).as_set()
    except (NotImplementedError, ValueError, TypeError) as error:
        raise Unreadable(f"an inequality that is not solved: {error}") from error


def _to_sympy(node: Node, name: str, x: Any) -> Any:
    kind = node[0]
    if kind == "num":
        return sympy.Rational(node[1].numerator, node[1].denominator)
    if kind in ("sym", "name") and node[1] in (name, "e"):
        return x if node[1] == name else sympy.E
    if kind == "inf":
        return sympy.oo
    if kind in ("unit", "letter"):
        return _to_sympy(node[1], name, x)
    parts = [_to_sympy(part, name, x) for part in node[2 if kind == "call" else 1 :] if part]
    made = {"add": sympy.Add, "mul": sympy.Mul, "pow": sympy.Pow}.get(kind)
    if kind == "pow" and parts[1].is_number and abs(parts[1]) > 100:
        raise Unreadable("too large a power")
    if kind == "call":
        made = {
            "abs": sympy.Abs, "root": sympy.root, "pi": lambda: sympy.pi, "ln": sympy.log, "exp": sympy.exp,
            "degree": lambda a: a * sympy.pi / 180, "log": lambda a, b=10: sympy.log(a, b),
        }.get(node[1])  # fmt: skip
    if made is None:
        raise Unreadable("an inequality of other functions")
    return made(*parts)
