r"""Mathematical answers as trees: a strict reader of LaTeX and of the plain text that models write.

math-verify 0.9 and latex2sympy2_extended 1.11 were tried and left: they drop unknown commands, relation signs and
subscripts and change letters' case, so that `\neq 3` is 3 and `\arg 5` is 5.  Here what is not understood is
`Unreadable`, and an unreadable answer is compared as text.

Trees are tuples: ("num", Fraction, written), ("sym", name), ("add", a, b, ...), ("mul", ...), ("pow", a, b),
("call", function, a, ...), ("inf",), ("pm", sign, a), ("tuple", open, close, items), ("set", items), ("list", items),
("union", a, b), ("cap", a, b), ("minus", a, b), ("chain", items, signs), ("builder", item, chain), ("matrix", rows),
("colon", items, [am or pm]), ("based", digits, base), ("text", words), ("percent", a), ("unit", a, unit),
("name", spelling), ("reals",), ("element", a, set), ("or", relations), ("and", relations), ("letter", product, unit)
for a letter that may be a unit and ("aside", a, b) for `3/4 (0.75)`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from fractions import Fraction
from pathlib import Path
from typing import Any

from gainrl.tasks.maths.extract import closing

Node = tuple[Any, ...]
Token = tuple[str, str, bool]  # kind, text, whether a space stands before it

_DATA: dict[str, Any] = json.loads(Path(__file__).with_name("notation.json").read_text(encoding="utf-8"))
_WORDS = {name: frozenset(words.split()) for name, words in _DATA.items() if isinstance(words, str)}
_ALIASES, _NUMBERS, _MAGNITUDES = _DATA["aliases"], _DATA["numbers"], _DATA["magnitudes"]
BASES = {name: str(number) for name, number in (_NUMBERS | _DATA["bases"]).items()}
_UNITS = {name: unit for unit, names in _DATA["units"].items() for name in names.split()}
_SHORT = _WORDS["short_words"]
_NO_UNIT = (_WORDS["no_units"] | _NUMBERS.keys()) - {"one", "second"}
FUNCTIONS = _WORDS["functions"]
_BARE = FUNCTIONS | _WORDS["bare"]
_ATOMS = {"frac", "sqrt", "binom", "pi", "infty", "lfloor", "lceil", "mathbb", "langle", *_WORDS["letters"]}
_RELATIONS = {"=": "=", "<": "<", ">": ">", "le": "<=", "ge": ">=", "ne": "!=", "approx": "~", "equiv": "equiv"}
_PAIRS = {"**": "^", "==": "=", "<=": "le", ">=": "ge", "!=": "ne", "->": "to", "=>": "to"}
_MONEY = ("$", "€", "£", "¥", "₹", "¢")
_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}
_ORDINALS = ("st", "nd", "rd", "th")
_NAMES = ("overline", "bar", "overrightarrow", "vec", "hat", "widehat", "tilde", "overleftrightarrow")
_MATRICES = ("pmatrix", "bmatrix", "matrix", "psmallmatrix", "bsmallmatrix", "smallmatrix", "array")
_DEEPEST = 40

_TEXT = r"\\(?:text(?:bf|it|rm|normal|sc|tt|sf)?|[mh]box|mathrm|emph)"
_SCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ₀₁₂₃₄₅₆₇₈₉", "0123456789-+n0123456789")
_BLANK = r"(?<!\\)\\(?:[,;:> ]|quad\b|qquad\b|thinspace\b|enspace\b|hspace\*?\{[^{}]*\}|par\b|allowbreak\b)|~|\s+"
_CLEANING: list[tuple[re.Pattern[str], Any]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"<<[^<>=]*+=[^<>]*+>>", " "),  # what GSM8K's calculator leaves
        ("[\u200b-\u200f\u2060-\u2064\ufeff\u00ad]", ""),
        (r"(?<=\d),\\!\s*(?=\d)", ","),
        (r"\\(?:mathrm|text)\s*\{([ei])\}", r"\1"),
        ("(\\d)\u0305", r"\\overline{\1}"),
        ("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + m.group().translate(_SCRIPTS) + "}"),
        ("[₀-₉]+", lambda m: "_{" + m.group().translate(_SCRIPTS) + "}"),
        ("[½¼-¾⅐-⅞]", lambda m: "\\frac{" + unicodedata.normalize("NFKC", m.group()).replace("⁄", "}{") + "}"),
        (r"[^\x00-\x7f]", lambda m: _DATA["characters"].get(m.group()) or unicodedata.normalize("NFKC", m.group())),
        (
            r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|(?:text|script)style|(?:no)?limits|boldmath|rm|bf|it|[lL]arge|"
            r"LARGE|[hH]uge|small|!)(?![A-Za-z])\.?(?<!\d\.)|\\!",
            "",
        ),
        (r"\\(?:math(?:bf|it|sf|tt|normal|cal)|boldsymbol|bm|ensuremath|underline|bold)\b\s*", ""),
        (r"\\(?:text)?color\s*\{[^{}]*\}|\\[hv]?phantom\s*(?:\{[^{}]*\}|(?=\S))|\\(?:boxed|f(?:rame)?box)\b", ""),
        (r"(?:\\(?:text|mathbin|mathrel))?\{:\}", ":"),
        (r"\\textsuperscript\b", "^"),
        (r"\bRs\.?(?=\s*\d)", "₹"),
        (r"\bUS\s*(?=\\?\$|dollars?\b)", ""),
        (r"(\d+) dollars? and (\d\d?) cents?\b", lambda m: f"{m[1]}.{m[2]:0>2} dollars"),
        (r"\\operatorname\*?\s*\{(\w+)\}", r"\\\1 "),
        (r"\\([%$#&_])", r"\1"),
        (r"\\[()\[\]]", " "),
        (_BLANK, " "),
        (r"\\\s*$", ""),
    )
]
_STOP = re.compile(r"(?<!\\)(?<!\.\.)(?:[.,;]|\.(\}+))$")


class Unreadable(ValueError):
    """The text is no answer in this notation."""


def clean(text: str) -> str:
    """`text` without what never changes its meaning: sizes, colours, styles, look-alike characters, outer dollars."""
    for pattern, replacement in _CLEANING:
        text = pattern.sub(replacement, text)
    text = text.strip()
    while len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    if text.count("$") == 2:
        text = re.sub(r"^\$(?=[^$]*[^\d.,\s$][^$]*\$)|(?<=[^\s])\$(?=[\s.,]*$)", " ", text).strip()
    while stop := _STOP.search(text):
        text = (text[: stop.start()] + (stop[1] or "")).rstrip()
    return text


# tokens

_TOKEN = re.compile(
    rf"(?P<blank> )|(?P<text>{_TEXT}\s*\{{)|\\(?P<edge>begin|end)\s*\{{(?P<env>[A-Za-z]+)\*?\}}(?:\s*\{{[^{{}}]*\}})?"
    r"|\\(?P<c>[A-Za-z]+|.)|(?P<r>[^\W\d_]+)|(?P<pair>\*\*|(?<![\d)])!=|[<>=]=|->|=>)|(?P<s>.)",
    re.DOTALL,
)
_REPEAT = re.compile(  # and no product, as 0.45(80) = 36 is
    r"(\d*)\.(\d*?)(?:\\(?:overline|bar|dot)\s*\{?(\d+)\}?"
    r"|\((\d+)\)(?![\d^_]|\s*=\s*\$?[\d,]++(?:\.\d++)?+(?!\s*(?:[/^(]|\.\.|\\(?:[dt]?frac|overline|bar|dot|[lc]?dots)))))"
)
_DOTTED = re.compile(r"(\d*)\.(\d*?)(\d+?)\3+\s*(?:\\[lc]?dots\b|\.\.\.+)")
_GROUPED = re.compile(
    r"\d{1,3}(?:(?:,|\{,\}|\\text\{,\})\d{3})+(?![\d])(?:\.\d+)?|\d{1,3}(?: \d{3})+(?!\s?\d)(?:\.\d+)?"
)
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")
_EXPONENT = re.compile(r"[eE]([+-]?\d+)(?![\d.A-Za-z])")


def tokens(text: str) -> list[Token]:
    """Tokens of a clean text: n number, q fraction, a letter, r run of letters, w word of a text, c command, s sign."""
    found: list[Token] = []
    position, depth, closers, spaced, ends = 0, 0, list[int](), False, closing(text)
    while position < len(text):
        if closers and position == closers[-1]:
            closers.pop()
            position, spaced = position + 1, True
            continue
        if text[position].isdigit() or (text[position] == "." and text[position + 1 : position + 2].isdigit()):
            kind, value, position = _number(text, position, depth)
        else:
            match = _TOKEN.match(text, position)
            assert match is not None
            kind, value, position = str(match.lastgroup), match.group(), match.end()
            if kind == "text":
                if position - 1 not in ends:
                    raise Unreadable("a brace is not closed")
                closers.append(ends[position - 1])
            if kind in ("text", "blank"):
                spaced = True
                continue
            if kind == "env":
                kind, value = "c", f"{match['edge']} {match['env']}"
            elif kind == "r" and closers:
                kind = "w"
            elif kind == "r":
                called = value not in ("min", "max") or text[position:].lstrip().startswith("(")
                kind = "c" if value in _BARE and called else "a" if len(value) == 1 else "r"
            elif kind == "pair":
                value = _PAIRS[value]
            if kind in ("c", "pair"):
                value = _ALIASES.get(value.removeprefix("\\"), value.removeprefix("\\"))
                kind = "c" if len(value) > 1 or value.isalpha() or value in "{}" else "s"
        if value in ("(", "[") or (kind, value) == ("c", "{"):
            depth += 1
        elif value in (")", "]") or (kind, value) == ("c", "}"):
            depth = max(0, depth - 1)
        found.append((kind, value, spaced))
        spaced = False
    return found


def _number(text: str, position: int, depth: int) -> tuple[str, str, int]:
    """A number as `n` with its text, or as `q` with a fraction (repeating decimals), and where it ends."""
    for pattern in (_REPEAT, _DOTTED):
        if match := pattern.match(text, position):
            whole, fixed, repeated = (match[1] or "0") + match[2], match[2], match[3] or match[4]
            below = (10 ** len(repeated) - 1) * 10 ** len(fixed)
            return "q", str(Fraction(int(whole + repeated) - int(whole), below)), match.end()
    match = (_GROUPED.match(text, position) if not depth else None) or _NUMBER.match(text, position)
    assert match is not None
    plain, end = re.sub(r"[^\d.]", "", match.group()), match.end()
    if exponent := _EXPONENT.match(text, end):
        plain, end = f"{plain}e{exponent[1]}", exponent.end()
    return "n", plain, end


# the reader

_BASED = re.compile(r"(-?)(?=[A-Z\d.]*\d)([A-Z\d]+(?:\.[A-Z\d]+)?)(?:_(?:base)?|base)(\d+|[a-z]+)", re.IGNORECASE)
_AM_PM = re.compile(r"(?<![\\A-Za-z])([ap])\.?\s?m\b\.?", re.IGNORECASE)


def _based(text: str) -> Node | None:
    """A number with its base written below it or behind it; None for anything else."""
    match = _BASED.fullmatch(re.sub(rf"{_TEXT}|[{{}}()\s]", "", text))
    base = BASES.get(match[3].lower(), match[3]) if match else ""
    if match is None or match[2][0].islower() or not base.isdigit() or not 2 <= int(base) <= 36:
        return None
    if any(int(digit, 36) >= int(base) for digit in match[2].replace(".", "")):
        raise Unreadable(f"digits that base {base} does not have")
    return ("based", match[1] + match[2].upper(), int(base))


def read(text: str) -> Node:
    """The tree of an answer.  Raises `Unreadable`."""
    text = clean(text)
    if based := _based(text):
        return based
    if re.fullmatch(r"\{[^{}\\]*,[^{}]*\}", text):
        text = f"\\{text[:-1]}\\}}"
    clock = _AM_PM.search(text) if re.search(r"\d", text) else None
    if clock and not _AM_PM.search(rest := text[: clock.start()] + text[clock.end() :]):
        node = read(re.sub(rf"{_TEXT}\s*\{{\s*\}}", "", rest))
        if _is_integer(node):
            node = ("colon", (node, ("num", Fraction(0), "00")))
        if node[0] == "colon":
            return ("colon", node[1], clock[1].lower())
    reader = _Reader(tokens(text))
    node = reader.answer()
    if reader.rest:
        raise Unreadable(f"stops at {reader.token[1]!r}")
    return node


def parsed(text: str) -> Node | None:
    """The tree of an answer, if it can be read."""
    try:
        return read(text)
    except (Unreadable, RecursionError):
        return None


class _Reader:
    """A recursive-descent reader over tokens."""

    def __init__(self, found: list[Token]):
        self.found, self.at, self.depth, self.bars, self.inset = found, 0, 0, 0, False

    @property
    def token(self) -> Token:
        return self.found[self.at] if self.at < len(self.found) else ("end", "", False)

    @property
    def rest(self) -> bool:
        return self.at < len(self.found)

    def next(self) -> Token:
        self.at += 1
        if self.at > len(self.found):
            raise Unreadable("something is missing at the end")
        return self.found[self.at - 1]

    def ahead(self, count: int) -> list[str]:
        return [token[1] for token in self.found[self.at : self.at + count]]

    def peek(self, *texts: str) -> bool:
        return self.token[0] in "sc" and self.token[1] in texts

    def take(self, *texts: str) -> bool:
        taken = self.peek(*texts)
        self.at += taken
        return taken

    def need(self, text: str) -> None:
        if not self.take(text):
            raise Unreadable(f"{text!r} is missing at {self.token[1]!r}")

    def says(self, *texts: str) -> bool:
        return self.token[0] in "wrc" and self.token[1].lower() in texts

    def take_word(self, *texts: str) -> bool:
        said = self.says(*texts)
        self.at += said
        return said

    def take_words(self, kinds: str = "wra") -> list[str]:
        words = []
        while self.token[0] in kinds:
            words.append(self.word())
        return words

    def word(self) -> str:
        """A word with what a hyphen or an apostrophe joins to it."""
        word = self.next()[1]
        while self.token[1] in ("'", "-") and self.found[self.at + 1 :][:1] and self.found[self.at + 1][0] in "wra":
            word += self.next()[1] + self.next()[1]
        return word

    def ends(self) -> bool:
        return not self.rest or self.peek(",", ";")

    # answers

    def answer(self) -> Node:
        items, joined = [self.item()], ""
        while self.rest:
            if self.take(",", ";"):
                self.take_word("and", "or")
                joined = joined or ","
                if self.token[0] == "end":
                    break
            elif self.says("or", "and"):
                joined = "or" if "or" in (joined, self.next()[1].lower()) else "and"
            else:
                break
            items.append(self.item())
        if len(items) == 1:
            return items[0]
        if joined != "," and all(item[0] == "chain" and item[2][0] != "=" for item in items):
            return (joined, tuple(items))
        first, *others = items
        if first[0] == "chain" and first[2] == ("=",) and not any(item[0] in ("chain", "text") for item in others):
            # `n = 3, 5, 7` is a list of values under one name
            items = [first, *(("chain", (first[1][0], item), ("=",)) for item in others)]
        return ("list", tuple(items))

    def item(self) -> Node:
        """One entry of a list: a chain of relations between expressions, with the name before it left as it is."""
        while self.take("approx", "=", ":"):
            pass
        first = self.words()
        if first and first[0] != "name":
            return first
        first = first or self.side()
        sides, signs = [first], []
        while self.peek(*_RELATIONS):
            signs.append(_RELATIONS[self.next()[1]])
            sides.append(self.side())
        if not signs and self.take("in"):
            return ("element", first, self.side())
        return ("chain", tuple(sides), tuple(signs)) if signs else first

    def side(self) -> Node:
        start = self.at
        node = self.union()
        here = self.found[start : self.at]
        if len(here) == 2 and here[0][0] == "n" and here[1][1] in _UNITS and (here[1][2] or here[1][0] == "c"):
            return ("letter", node, ("unit", _number_of(here[0][1]), _UNITS[here[1][1]]))
        if not self.inset and (self.peek(":") or (self.token[0] in "rw" and self.token[1] == "to")):
            items = [node]
            while self.take(":") or self.take_word("to"):
                items.append(self.union())
            node = ("colon", tuple(items))
        return self.tail(node)

    def union(self) -> Node:
        node = self.sum()
        while self.peek("cup", "cap", "setminus"):
            node = ({"cup": "union", "cap": "cap", "setminus": "minus"}[self.next()[1]], node, self.sum())
        return node

    def words(self) -> Node | None:
        """A text at the start of an item: words to the next comma; None where mathematics stands here."""
        start, words = self.at, list[str]()
        while self.token[0] in ("wra" if words else "wr"):
            kind, text, _ = self.token
            if words and self.says("and", "or") and len(self.found) > self.at + 1:
                break
            if kind == "r" and not words and not _wordlike(text) and text.lower() not in ("no", "an"):
                break
            words.append(self.word())
        if words and (self.ends() or self.says("and", "or")):
            if len(words) == 1 == len(words[0]):
                return ("sym", words[0])
            value = _number_word(words)
            return ("num", Fraction(value), str(value)) if value is not None else ("text", " ".join(words))
        if len(words) > 1 or len("".join(words)) > 1:
            if self.peek("="):
                return ("name", " ".join(words))
            if self.take(":") or words[-1].lower() == "is":  # "Area: 12", "The area is 12"
                return self.item()
            if self.token[0] == "n" and len(words) == 1 and words[0] in _WORDS["currencies"]:
                return self.item()
            if self.token[0] == "n" and all(token[0] in "wran" for token in self.found[self.at :]):
                return ("text", " ".join(words + self.take_words("wran")))
        self.at = start
        return None

    def tail(self, node: Node) -> Node:
        """A unit, a percent sign or an aside in words after an expression."""
        if self.take("%") or self.take_word("percent"):
            node = ("percent", node)
        start = self.at
        if self.take("(") and (words := self.take_words()) and self.take(")") and self.ends():
            value, unit = _number_word(words), _unit_words(words)
            if value is not None:
                return node if node[0] == "num" and node[1] == value else ("text", "aside")
            if unit is not None:
                return ("unit", node, unit)
        self.at = start
        if self.token[0] in "wra" or self.peek("frac", "degree", *_MONEY):
            return self.unit(node)
        return node

    def unit(self, node: Node) -> Node:
        start, parts, number = self.at, list[str](), node
        while self.rest and not self.peek(",", ";", "=", ")", "]", "approx"):
            text = self.token[1]
            if self.token[0] in "wra":
                if self.says("and", "or"):
                    break
                if not parts and text.lower() in _MAGNITUDES and node[0] == "num":
                    number = ("num", node[1] * _MAGNITUDES[text.lower()], "")
                else:
                    parts.append(text)
            elif text in _MONEY or (text in ("/", "*", ".", "-") and (parts or number is not node)):
                parts.append(text)
            elif text == "degree":
                parts.append("deg")
            elif text == "^" and parts:
                self.at += 1
                parts.append(f"^{self.script()}")
                continue
            elif text == "frac":
                self.at += 1
                for sign in "/", "":
                    self.need("{")
                    parts += [*self.take_words(), sign]
                    self.need("}")
                parts.pop()
                continue
            else:
                break
            self.at += 1
        unit = _unit_words(parts) if parts else ""
        if unit is None or (not parts and number is node):
            self.at = start
            return node
        return ("unit", number, unit) if parts else number

    # expressions

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unreadable("nested too deeply")
        terms = [signed(self.sign(), self.product())]
        while self.peek("+", "-", "pm", "mp"):
            terms.append(signed(self.sign(), self.product()))
        self.depth -= 1
        if terms[0] == ("reals",) and len(terms) == 2 and terms[1][1:2] == (_NUM[-1],):
            return ("minus", terms[0], terms[1][2])  # the real numbers but for some
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def sign(self) -> str:
        signs = []
        while self.peek("+", "-", "pm", "mp"):
            signs.append(self.next()[1])
        if len(signs) > 1 and {"pm", "mp"} & set(signs):
            raise Unreadable("several signs")
        return signs[0] if signs and signs[0] in ("pm", "mp") else "-" * (signs.count("-") % 2)

    def product(self) -> Node:
        factors = [self.power()]
        while True:
            if self.take("*"):
                factors.append(signed(self.sign(), self.power()))
            elif self.take("/"):
                factors.append(signed(self.sign(), ("pow", self.power(), _NUM[-1])))
            elif self.ahead(3) in (["x", "10", "^"], ["X", "10", "^"]):
                self.at += 1
                factors.append(self.power())
            elif not self.continues() or self.unit_follows(factors):
                return factors[0] if len(factors) == 1 else ("mul", *factors)
            elif self.token[0] in "nq" and factors != [("sym", "i")]:
                factors = [self.mixed(factors)]
            elif self.peek("frac") and len(factors) == 1 and _is_integer(factors[0]):
                fraction = self.power()
                degrees = fraction[:2] == ("call", "degree")
                if simple := _parts_of(fraction[2] if degrees else fraction):
                    if not 0 < simple[0] < simple[1]:
                        raise Unreadable("a mixed number with an improper fraction")
                    number = ("add", factors[0], fraction[2] if degrees else fraction)
                    factors = [("call", "degree", number) if degrees else number]
                else:
                    factors.append(fraction)
            elif not (self.peek("(") and self.token[2] and self.aside(factors)):
                factors.append(self.power())

    def mixed(self, factors: list[Node]) -> Node:
        """`3 3/4` after its integer; two numbers side by side are nothing else."""
        here = self.ahead(3)
        whole = len(factors) == 1 and _is_integer(factors[0]) and here[1:2] == ["/"]
        if whole and here[0].isdigit() and here[-1].isdigit() and 0 < int(here[0]) < int(here[-1]):
            self.at += 3
            return ("add", factors[0], ("mul", _number_of(here[0]), ("pow", _number_of(here[2]), _NUM[-1])))
        raise Unreadable("numbers side by side")

    def aside(self, factors: list[Node]) -> bool:
        """Whether parentheses after a number repeat it, as in `3/4 (0.75)`; they are then passed over."""
        start = self.at
        self.at += 1
        self.take("approx", "=") or self.take_word("or")
        try:
            inside = self.sum()
        except Unreadable:
            inside = ()
        if inside and self.take(")") and self.ends():
            factors[:] = [("aside", factors[0] if len(factors) == 1 else ("mul", *factors), inside)]
            return True
        self.at = start
        return False

    def continues(self) -> bool:
        """Whether an operand stands here, to be multiplied with the one before."""
        kind, text, _ = self.token
        after = self.found[self.at + 1 : self.at + 3]
        if kind == "r":
            return not (_wordlike(text) or text in _UNITS or text in _SHORT or text.lower() in _NO_UNIT - {"i", "e"})
        if kind == "c":
            unit = text == "frac" and after[1:] and after[0][1] + after[1][0] == "{w"
            return (text in FUNCTIONS or text in _ATOMS) and not unit
        if text in ("{", "("):  # words in it are a unit
            return (
                not after
                or after[0][1] == "or"
                or not (after[0][0] == "w" or (after[0][0] == "r" and _wordlike(after[0][1])))
            )
        return kind in ("n", "q", "a") or (text == "|" and not self.bars)

    def unit_follows(self, factors: list[Node]) -> bool:
        """Whether what follows a number to the end is a unit with a power or a slash: `10 m/s`."""
        if self.token[0] not in "ar" or not self.token[2] or len(factors) != 1 or factors[0][0] != "num":
            return False
        signs = {text for kind, text, _ in self.found[self.at :] if kind in "sn"}
        names = {text for kind, text, _ in self.found[self.at :] if kind in "arw"}
        known = names <= _UNITS.keys() - _WORDS["unclear_units"]
        return known and bool(signs & {"/", "^", "*"}) and signs <= set("/^*-{}123")

    def power(self) -> Node:
        node = self.postfix(self.atom())
        while self.peek("^", "_"):
            if self.take("_"):
                if node[0] != "sym":
                    raise Unreadable("a subscript")
                node = ("sym", f"{node[1]}_{self.script()}")
                continue
            self.at += 1
            if self.mark("circ") or (node[0] == "num" and self.mark("o")):
                node = ("call", "degree", node)
                if self.token[1] in ("C", "F") and len(self.found) == self.at + 1:
                    node = ("unit", node[2], self.next()[1])
            elif not self.mark(*_ORDINALS):
                node = self.postfix(("pow", node, self.exponent()))
        kind, text, spaced = self.token
        if node[0] == "num" and text in _ORDINALS and (kind == "w" or not spaced):
            self.at += 1
        return node

    def mark(self, *texts: str) -> bool:
        """Pass over one of these, alone or in braces."""
        here = self.ahead(3)
        width = 3 if len(here) == 3 and here[0] + here[2] == "{}" else 1
        marked = here[width // 2 :][:1] != [] and here[width // 2] in texts
        self.at += width * marked
        return marked

    def exponent(self) -> Node:
        sign = self.sign()
        node = self.atom() if self.peek("{") else self.power()
        if self.peek("^"):
            raise Unreadable("two exponents")
        return signed(sign, node)

    def postfix(self, node: Node) -> Node:
        while self.peek("!", "'", "degree"):
            name = self.next()[1]
            if name != "'":
                node = ("call", "factorial" if name == "!" else name, node)
            elif node[0] == "sym":
                node = ("sym", node[1] + "'")
            else:
                raise Unreadable("a prime")
        return node

    def script(self) -> str:
        """What stands below a letter or above a unit: a part of its name."""
        if not self.take("{"):
            return self.next()[1]
        text = ""
        while not self.take("}"):
            text += self.next()[1]
        return text

    def atom(self) -> Node:
        kind, text, _ = self.next()
        if kind == "n":
            return _number_of(text)
        if kind == "q":
            return ("num", Fraction(text), "")
        if kind == "a" or (kind == "w" and len(text) == 1):
            return self.name(text)
        if kind == "r":
            if _wordlike(text) or (self.at > 1 and len(text) > 3 and text in _UNITS):
                raise Unreadable(f"the word {text!r}")
            self.at -= 1
            self.found[self.at : self.at + 1] = [("a", letter, False) for letter in text]
            return self.atom()
        if kind == "c":
            return self.command(text)
        if text in ("(", "["):
            return self.group(text)
        if text == "{":
            top = self.tail(self.sum())
            if self.take("over"):
                top = ("mul", top, ("pow", self.sum(), _NUM[-1]))
            self.need("}")
            return top
        if text == "|":
            self.bars += 1
            node = self.sum()
            self.need("|")
            self.bars -= 1
            return ("call", "abs", node)
        if text in _MONEY and (sign := self.sign()) in ("", "-") and self.token[0] in "nq":
            return ("unit", signed(sign, self.atom()), _UNITS[text])
        raise Unreadable(repr(text))

    def name(self, letter: str) -> Node:
        """A symbol, or a function of the asker applied to something, `f(x)`, which is a name and has no value."""
        start, depth, text = self.at, 0, letter
        if self.peek("(") and not self.token[2] and letter in "fghFGHPTp":
            while self.rest:
                depth += self.peek("(") - self.peek(")")
                text += self.next()[1]
                if not depth:
                    break
            if not self.rest or self.peek("=", "<", ">", "le", "ge"):
                return ("name", text)
        self.at = start
        return ("sym", letter)

    def argument(self) -> Node:
        """The argument of a LaTeX command: a group or a single character."""
        kind, text, _ = self.token
        if kind == "n" and len(text) > 1 and text.isdigit():
            self.found[self.at : self.at + 1] = [("n", digit, False) for digit in text]
        elif kind == "c" and text not in _ATOMS:
            raise Unreadable("an argument is missing")
        return self.atom()

    def entries(self, *closing: str) -> tuple[list[Node], str]:
        """The entries to the sign that closes them, and that sign."""
        items = [self.item()]
        while self.take(",", ";"):
            items.append(self.item())
        if not self.peek(*closing):
            raise Unreadable("something is not closed")
        return items, self.next()[1]

    def group(self, opened: str) -> Node:
        bars, self.bars = self.bars, 0
        items, closed = self.entries(")", "]")
        self.bars = bars
        if len(items) > 1:
            return ("tuple", opened, closed, tuple(items))
        if opened + closed not in ("()", "[]"):
            raise Unreadable("brackets that do not match")
        return items[0]

    def command(self, name: str) -> Node:
        if name == "frac":
            top = self.argument()
            return ("mul", top, ("pow", self.argument(), _NUM[-1]))
        if name == "sqrt":
            index: Node = _NUM[2]
            if self.take("["):
                index = self.sum()
                self.need("]")
            inside = self.atom() if self.token[0] == "n" else self.argument()
            return ("call", "root", inside, index)
        if name == "binom":
            return ("call", "binom", self.argument(), self.argument())
        if name in FUNCTIONS:
            return self.function(name)
        if name in ("lfloor", "lceil"):
            inside = self.sum()
            self.need(f"r{name[1:]}")
            return ("call", name[1:], inside)
        if name == "{":
            return self.set()
        if name == "langle":
            items, _ = self.entries("rangle")
            if len(items) > 1:
                return ("tuple", "(", ")", tuple(items))
        if name.startswith("begin ") and name[6:] in _MATRICES:
            return self.matrix(name[6:])
        if name == "mathbb":
            letter = self.script()
            return ("reals",) if letter == "R" else ("sym", f"mathbb {letter}")
        if name in _NAMES:
            return ("name", name + self.script())
        if name in ("angle", "triangle") and self.token[0] in "arw":
            return ("name", name + "".join(self.take_words()))
        if name in _WORDS["letters"]:
            return ("sym", name)
        known: dict[str, Node] = {"pi": ("call", "pi"), "infty": ("inf",), "emptyset": ("set", ())}
        if name not in known:
            raise Unreadable(f"the command \\{name}")
        return known[name]

    def function(self, name: str) -> Node:
        exponent: Node | None = None
        base: Node | None = None
        while self.peek("^", "_"):
            if self.take("^"):
                exponent = self.exponent() if self.peek("-") else self.argument()
            elif name == "log":
                self.at += 1
                base = self.argument()
            else:
                raise Unreadable(f"a subscript of {name}")
        if name in ("gcd", "lcm", "max", "min"):
            group = self.set() if self.take("{") else self.group(self.next()[1])
            return ("call", name, *(group[-1] if group[0] in ("tuple", "set") else (group,)))
        if self.peek("(", "{", "["):
            inside = self.postfix(self.atom())
            if inside[0] == "tuple":
                raise Unreadable(f"several arguments of {name}")
        else:
            sign, factors = self.sign(), [self.power()]
            while self.token[0] in "anq" or self.peek("pi", "theta", "frac", "alpha", "beta", "sqrt"):
                factors.append(self.power())
            inside = signed(sign, factors[0] if len(factors) == 1 else ("mul", *factors))
            if name not in ("ln", "log") and self.take("/"):
                inside = ("mul", inside, ("pow", self.power(), _NUM[-1]))
        if exponent and exponent[:2] == ("num", Fraction(-1)):
            if name not in ("sin", "cos", "tan"):
                raise Unreadable("an inverse")
            return ("call", f"arc{name}", inside)
        call = ("call", name, inside) if base is None else ("call", name, inside, base)
        return call if exponent is None else ("pow", call, exponent)

    def set(self) -> Node:
        if self.take("}"):
            return ("set", ())
        (bars, self.bars), (inset, self.inset) = (self.bars, 1), (self.inset, True)
        items, closed = self.entries("}", "|", ":")
        self.bars, self.inset = bars, inset
        if closed == "}":
            return ("set", tuple(items))
        if len(items) > 1:
            raise Unreadable("a condition after several entries")
        condition = self.answer()
        self.need("}")
        return ("builder", items[0], condition)

    def matrix(self, name: str) -> Node:
        rows: list[list[Node]] = [[]]
        while not self.take(f"end {name}"):
            if self.take("\\"):
                rows.append([])
            elif not self.take("hline", "&"):
                rows[-1].append(self.side())
        return ("matrix", tuple(tuple(row) for row in rows if row))


_NUM = {number: ("num", Fraction(number), str(number)) for number in (-1, 2)}


def _number_of(text: str) -> Node:
    if "e" in text and abs(int(text.split("e")[1])) > 9999:
        raise Unreadable("too large an exponent")
    return ("num", Fraction(text.rstrip(".")), text)


def signed(sign: str, node: Node) -> Node:
    if sign in ("pm", "mp"):
        return ("pm", sign, node)
    if sign != "-":
        return node
    if node[0] == "num":
        return ("num", -node[1], (node[2][1:] if node[2][0] == "-" else f"-{node[2]}") if node[2] else "")
    if node[:2] == ("call", "degree"):
        return (*node[:2], signed("-", node[2]))
    return ("unit", signed("-", node[1]), node[2]) if node[0] == "unit" else ("mul", _NUM[-1], node)


def _is_integer(node: Node) -> bool:
    return bool(node[0] == "num" and node[2].lstrip("-").isdigit())


def _parts_of(node: Node) -> tuple[Fraction, Fraction] | None:
    """Numerator and denominator of a fraction of two integers as they are written."""
    written = node[0] == "mul" and len(node) == 3 and node[2][0] == "pow"
    return (node[1][1], node[2][1][1]) if written and _is_integer(node[1]) and _is_integer(node[2][1]) else None


def _wordlike(run: str) -> bool:
    """Whether a run of letters is a word rather than a product of letters: east, Evelyn, LQSX; not abc and xy."""
    if len(run) < 3 or run in _SHORT or run.lower() in _NUMBERS:
        return len(run) > 2
    if run.isupper():
        return len(run) > 3 or run in _WORDS["currencies"] or run == "DNE"
    lowered = run.lower()
    vowels = "eiou" if len(run) == 3 else "aeiouy"
    return any(vowel in lowered for vowel in vowels) and lowered != "".join(sorted(set(lowered)))


def _number_word(words: list[str]) -> int | None:
    values: list[Any] = [_NUMBERS.get(part) for word in words for part in word.lower().split("-")]
    if len(values) == 1:
        return int(values[0]) if values[0] is not None else None
    tens, ones = values if len(values) == 2 and None not in values else (0, 0)
    return tens + ones if tens >= 20 and tens % 10 == 0 and 0 < ones < 10 else None


def _unit_words(parts: list[str]) -> str | None:
    """The unit that words after a number make, in one spelling (empty for counted things); None for no unit."""
    unit, known = "", not any(part[0].isalpha() for part in parts)
    if parts[-1] in ("/", "*", "-") or parts[0] in ("/", "*", "-", ".", "^"):
        return None
    power = ""
    for part in parts:
        low = part.lower()
        if low in _POWERS:
            power, known = _POWERS[low], True
        elif part in _UNITS or not part[0].isalpha():
            known = known or part in _UNITS
            if (name := _UNITS.get(part, part)) and (unit or part in _UNITS):
                unit, power = unit + name + power, ""
        elif len(part) < 4 and low != "a" and low not in _SHORT and not _wordlike(part):
            return None
        if low in _NO_UNIT or (re.fullmatch(r"\w+ths?", low) and low not in ("months", "month")):
            return None
    return re.sub("^deg(?=[CF])", "", unit.strip("./-")) if known else ""
