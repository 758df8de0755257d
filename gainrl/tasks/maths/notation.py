# ruff: noqa: E501  (tables and patterns read better without breaks)
r"""Mathematical answers as trees: a strict reader of LaTeX and of the plain text that models write.

math-verify 0.9 and latex2sympy2_extended 1.11 were tried and left: they drop commands, relation signs and subscripts that
they do not know and change letters' case, so that `\neq 3` is 3 and `\arg 5` is 5.  Here what is not understood is
`Unreadable`, and an unreadable answer is compared as text.

Trees are tuples: ("num", Fraction, written), ("sym", name), ("add", a, b, ...), ("mul", ...), ("pow", a, b),
("call", function, a, ...), ("inf",), ("pm", sign, a), ("tuple", open, close, items), ("set", items), ("list", items),
("union", a, b), ("minus", a, b), ("chain", items, signs), ("builder", chain), ("matrix", rows), ("colon", items),
("based", digits, base), ("text", words), ("percent", a), ("unit", a, unit), ("name", spelling), ("reals",),
("or", relations) and ("and", relations).
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import Any

Node = tuple[Any, ...]
Token = tuple[str, str, bool]  # kind, text, whether a space stands before it


def _split(names: str) -> list[str]:
    return names.split()


class Unreadable(ValueError):
    """The text is no answer in this notation."""


_GREEK = _split("alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi chi psi omega")
_CHARACTERS = {
    "−": "-", "–": "-", "—": "-", "‒": "-", "﹣": "-", "⁄": "/", "∕": "/", "÷": "/", "×": r"\times ", "·": r"\cdot ",
    "∙": r"\cdot ", "⋅": r"\cdot ", "•": r"\cdot ", "∗": "*", "√": r"\sqrt ", "∛": r"\sqrt[3]", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "ℝ": r"\mathbb{R}",
    "⟨": r"\langle ", "⟩": r"\rangle ", "°": r"^\circ ", "º": r"^\circ ", "˚": r"^\circ ", "…": r"\ldots ", "′": "'",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∖": r"\setminus ", "→": r"\to ",
    "∶": ":", "“": '"', "”": '"', "’": "'", "‘": "'", "µ": "μ", "⇒": r"\implies ", "℃": r"^\circ C",
    "∨": r"\text{ or }", "∧": r"\text{ and }", "∣": "|", "½": "\\frac{1}{2}",
    **{chr(code): f"\\{name} " for name, code in zip(_GREEK, [*range(945, 953), *range(954, 959), 961, *range(963, 965),
                                                             *range(966, 970)], strict=True)},
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_INVISIBLE = re.compile("[\u200b-\u200f\u2060-\u2064\ufeff\u00ad]")
_SIZES = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|boldmath|rm|bf|it|[lL]arge|LARGE|[hH]uge|small|!)"
    r"(?![A-Za-z])\.?(?<!\d\.)|\\!"
)
_BLANKS = re.compile(
    r"(?<!\\)\\(?:[,;:> ]|quad\b|qquad\b|thinspace\b|enspace\b|hspace\*?\{[^{}]*\}|par\b|allowbreak\b)|~|\s+"
)
_STYLES = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|mathit|mathsf|mathtt|mathnormal|ensuremath|mathcal|underline|bold)\b\s*"
)
_HIDDEN = re.compile(r"\\[hv]?phantom\s*(?:\{[^{}]*\}|(?=\S))")
_COLORED = re.compile(r"\\(?:text)?color\s*\{[^{}]*\}")
_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_TEXTS = "text|mbox|textbf|textit|textrm|textnormal|mathrm|textsc|hbox|texttt|textsf|emph"
_TEXT = re.compile(rf"\\(?:{_TEXTS})\s*\{{([^{{}}]*)\}}")
_ALIASES = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "nicefrac": "frac", "sfrac": "frac", "dbinom": "binom",
    "tbinom": "binom", "leq": "le", "geq": "ge", "leqslant": "le", "geqslant": "ge", "neq": "ne", "lt": "<", "gt": ">",
    "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "lvert": "|",
    "rvert": "|", "vert": "|", "mid": "|", "varnothing": "emptyset", "colon": ":", "ast": "*", "times": "*", "cdot": "*",
    "div": "/", "degree": "degree", "varphi": "phi", "varepsilon": "epsilon", "vartheta": "theta", "infin": "infty",
    "dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "simeq": "approx", "land": "and", "lor": "or", "arccot": "acot",
    "wedge": "and", "vee": "or", "lnot": "not", "rightarrow": "to", "Rightarrow": "to", "implies": "to", "ln": "ln",
    "backslash": "setminus", "thickapprox": "approx", "prime": "'", "euro": "€", "pounds": "£", "textdollar": "$",
}  # fmt: skip
FUNCTIONS = frozenset(
    _split("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp gcd lcm max min asin acos atan")
)
_BARE = FUNCTIONS | {"sqrt", "pi", "infty", "infinity", "inf", "oo", "and", "or", "theta", "alpha", "beta", "binom"}
_RELATIONS = {"=": "=", "<": "<", ">": ">", "le": "<=", "ge": ">=", "ne": "!=", "approx": "~", "equiv": "equiv"}
_NUMBERS = {word: number for number, word in enumerate(
    _split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
))}  # fmt: skip
_NUMBERS |= {
    word: 10 * ten
    for ten, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)
}
_NUMBERS |= {word: number for number, word in enumerate(
    _split("first 2nd third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"), 1)}  # fmt: skip
_NUMBERS["hundred"] = 100
_MAGNITUDES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NO_UNIT = frozenset(
    _split(
        "pi sqrt inf oo infinity half halves third thirds quarter quarters plus minus times over or and to by "
        "squared cubed factorial choose mod pair pairs dozens hundreds thousands millions billions root roots "
        "base less more if than squares cubes when unless where fewer greater power not no out is are i e but "
        "either"
    )
) | _NUMBERS.keys() - {"one"}
_UNITS = {
    name: canonical
    for canonical, names in {
        "m": "m meter meters metre metres", "cm": "cm centimeter centimeters centimetre centimetres",
        "mm": "mm millimeter millimeters", "km": "km kilometer kilometers kilometre kilometres",
        "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yds yard yards", "mi": "mi mile miles",
        "g": "g gram grams", "kg": "kg kilogram kilograms", "mg": "mg milligram milligrams", "lb": "lb lbs pound pounds",
        "oz": "oz ounce ounces", "s": "s sec secs second seconds", "min": "min mins minute minutes",
        "h": "h hr hrs hour hours", "day": "day days", "week": "week weeks", "month": "month months",
        "year": "year years yr yrs", "ml": "ml mL milliliter milliliters", "l": "l L liter liters litre litres",
        "gal": "gal gallon gallons", "$": "$ dollar dollars USD usd", "¢": "¢ cent cents", "€": "€ euro euros EUR",
        "£": "£ GBP", "¥": "¥ yen JPY CNY yuan RMB", "₹": "₹ INR rupee rupees Rs", "deg": "deg degree degrees",
        "rad": "rad radian radians", "mph": "mph", "kph": "kph", "N": "N", "J": "J", "W": "W", "Pa": "Pa", "V": "V",
        "acre": "acre acres", "C": "C Celsius celsius", "F": "F Fahrenheit fahrenheit", "K": "K",
        "": "dm dl cl kWh kw kW hp Hz mol cal A CAD AUD CHF unit units sq square cubic cu per of pt pts qt kJ kN MeV eV ms",
    }.items()
    for name in names.split()
}  # fmt: skip
_AMBIGUOUS = frozenset(["A", "C", "F", "K", "V"])
_SHORT_WORDS = frozenset(
    _split(
        "old cup men egg box bag can car cow cat dog pig hen bee ant kid boy man jar pen pie bus row set way job "
        "toy hat cap bed tea ice age air all new red big his her its gum ads fan tip a the no pm am"
    )
)
_LATEX = re.compile(r"\\(?:[A-Za-z]+|.)|\d|\S", re.DOTALL)
_REPEAT = re.compile(r"(\d*)\.(\d*?)(?:\\(?:overline|bar|dot)\s*\{?(\d+)\}?|\((\d+)\)(?![\d^_]))")
_DOTTED = re.compile(r"(\d*)\.(\d+?)\s*(?:\\[lc]?dots\b|\.\.\.+)")
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")
_GROUPED = re.compile(
    r"\d{1,3}(?:(?:,|\{,\}|\\text\{,\})\d{3})+(?![\d])(?:\.\d+)?|\d{1,3}(?: \d{3})+(?!\s?\d)(?:\.\d+)?"
)
_EXPONENT = re.compile(r"[eE]([+-]?\d+)(?![\d.A-Za-z])")
_DEEPEST = 40
_AM_PM = re.compile(r"(?<!\\)\b([ap])\.?\s?m\b\.?", re.IGNORECASE)


def clean(text: str) -> str:
    """`text` without what never changes its meaning: sizes, colours, styles, look-alike characters, outer dollars."""
    text = _INVISIBLE.sub("", text)
    text = re.sub("(\\d)\u0305", r"\\overline{\1}", text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + m.group().translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub("[₀-₉]+", lambda m: "_{" + m.group().translate(_SUBSCRIPTS) + "}", text)
    text = "".join(_CHARACTERS.get(character, character) for character in text)
    text = re.sub(
        "[¼-¾⅐-⅞]", lambda m: "\\frac{" + unicodedata.normalize("NFKC", m.group()).replace("⁄", "}{") + "}", text
    )
    text = unicodedata.normalize("NFKC", text)
    text = _BOX.sub("", _HIDDEN.sub("", _COLORED.sub("", _STYLES.sub("", _SIZES.sub("", text)))))
    text = re.sub(
        r"\\operatorname\*?\s*\{(\w+)\}",
        r"\\\1 ",
        re.sub(r"\bUS\s*(?=\\?\$)", "", re.sub(r"\bRs\.?(?=\s*\d)", "₹", text)),
    )
    text = text.replace("\\%", "%").replace("\\$", "$").replace("\\#", "#").replace("\\&", "&").replace("\\_", "_")
    text = re.sub(r"\\[()\[\]]", " ", text)
    text = _BLANKS.sub(" ", re.sub(r"(?<=\d),\\!\s*(?=\d)", ",", text)).strip()
    while len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    text = (
        re.sub(r"^\$(?=[^$]*[^\d.,\s$][^$]*\$)|(?<=[^\s])\$(?=[\s.,]*$)", " ", text).strip()
        if text.count("$") == 2
        else text
    )
    while text.endswith((".", ",", ";")) and not text.endswith(("...", "\\.")):
        text = text[:-1].rstrip()
    return text


def tokens(text: str) -> list[Token]:
    """The tokens of a cleaned text.  Kinds: n number, a letter, w word of a text command, r run of letters, c command, s."""
    found: list[Token] = []
    position, depth, wordy, spaced = 0, 0, [], False
    while position < len(text):
        character = text[position]
        if character == " ":
            spaced, position = True, position + 1
            continue
        start = position
        if match := _TEXT_OPEN.match(text, position):
            wordy.append(_closing(text, match.end()))
            position, spaced = match.end(), True
            continue
        if wordy and position == wordy[-1]:
            wordy.pop()
            spaced, position = True, position + 1
            continue
        if character.isdigit() or (character == "." and text[position + 1 : position + 2].isdigit()):
            token, position = _number(text, position, depth)
        elif character == "\\":
            match = _LATEX.match(text, position)
            assert match is not None
            token, position = ("c", match.group()[1:]), match.end()
            if not token[1]:
                raise Unreadable("a backslash at the end")
            if token[1] in ("begin", "end"):
                name = re.compile(r"\s*\{([A-Za-z]+)\*?\}(?:\s*\{[^{}]*\})?").match(text, position)
                if name is None:
                    raise Unreadable("an environment without a name")
                token, position = ("c", f"{token[1]} {name[1]}"), name.end()
            alias = _ALIASES.get(token[1], token[1])
            token = ("s", alias) if len(alias) == 1 and not alias.isalpha() else ("c", alias)
            if alias in ("\\{", "\\}", "{", "}"):
                token = ("c", alias[-1])
        elif character.isalpha():
            match = re.compile(r"[^\W\d_]+").match(text, position)
            assert match is not None
            run, position = match.group(), match.end()
            if wordy:
                token = ("w", run)
            else:
                known = {"infinity": "infty", "inf": "infty", "oo": "infty"}.get(run, run)
                bare = run in _BARE and (run not in ("min", "max") or text[position:].lstrip().startswith("("))
                token = ("c", known) if bare else ("a" if len(run) == 1 else "r", run)
        else:
            token, position = ("s", character), position + 1
            if text.startswith(("**", "<=", ">=", "!=", "==", "->", "=>"), start):
                token = (
                    ("s", "^") if character == "*" else ("c", {"<": "le", ">": "ge", "!": "ne"}.get(character, "to"))
                )
                token = ("s", "=") if text.startswith("==", start) else token
                position = start + 2
        if token[1] in ("(", "[", "{") and token[0] in "sc" and token != ("s", "{"):
            depth += 1
        elif token[1] in (")", "]", "}") and token != ("s", "}"):
            depth = max(0, depth - 1)
        found.append((*token, spaced))
        spaced = False
    return found


_TEXT_OPEN = re.compile(rf"\\(?:{_TEXTS})\s*\{{")


def _closing(text: str, start: int) -> int:
    depth = 1
    for position in range(start, len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if not depth:
            return position
    raise Unreadable("a brace is not closed")


def _number(text: str, position: int, depth: int) -> tuple[tuple[str, str], int]:
    """A number as `n` with its text, or as `q` with a fraction (repeating decimals)."""
    if match := _REPEAT.match(text, position):
        whole, fixed, repeated = match[1] or "0", match[2], match[3] or match[4]
        return ("q", str(_repeating(whole, fixed, repeated))), match.end()
    if match := _DOTTED.match(text, position):
        whole, digits = match[1] or "0", match[2]
        for period in range(1, len(digits) // 2 + 1):
            for copies in range(len(digits) // period, 1, -1):
                if digits[-period:] * copies == digits[len(digits) - period * copies :]:
                    return (
                        "q",
                        str(_repeating(whole, digits[: len(digits) - period * copies], digits[-period:])),
                    ), match.end()
        return ("n", f"{whole}.{digits}"), match.end()
    match = (_GROUPED.match(text, position) if not depth else None) or _NUMBER.match(text, position)
    assert match is not None
    plain, end = re.sub(r"[^\d.]", "", match.group()), match.end()
    if exponent := _EXPONENT.match(text, end):
        plain, end = f"{plain}e{exponent[1]}", exponent.end()
    return ("n", plain), end


def _repeating(whole: str, fixed: str, repeated: str) -> Fraction:
    return Fraction(int(whole + fixed + repeated) - int(whole + fixed), (10 ** len(repeated) - 1) * 10 ** len(fixed))


_BASED = re.compile(r"(-?)(?=[A-Z\d.]*\d)([A-Z\d]+(?:\.[A-Z\d]+)?)(?:_(?:base)?|base)(\d+|[a-z]+)", re.IGNORECASE)


def _based(text: str) -> Node | None:
    """A number with its base written below it or behind it; None for anything else."""
    match = _BASED.fullmatch(re.sub(rf"\\(?:{_TEXTS})|[{{}}()\s]", "", text))
    if match is None or match[2][0].islower():
        return None
    named = _NUMBERS.get(match[3].lower(), match[3])
    if not str(named).isdigit() or not 2 <= (base := int(named)) <= 36:
        return None
    if any(int(digit, 36) >= base for digit in match[2].replace(".", "")):
        raise Unreadable(f"digits that base {base} does not have")
    return ("based", match[1] + match[2].upper(), base)


def read(text: str) -> Node:
    """The tree of an answer.  Raises `Unreadable`."""
    text = clean(text)
    if based := _based(text):
        return based
    if re.fullmatch(r"\{[^{}\\]*,[^{}]*\}", text):
        text = f"\\{text[:-1]}\\}}"
    clock = _AM_PM.search(text) if re.search(r"\d", text) else None
    if clock:
        rest = (text[: clock.start()] + text[clock.end() :]).replace("\\text{}", "")
        rest = re.sub(r"\\(?:text|mathrm|mbox)\s*\{\s*\}", "", rest)
        node = read(rest) if not _AM_PM.search(rest) else ("text", rest)
        if node[0] == "num" and node[1].denominator == 1:
            node = ("colon", (node, ("num", Fraction(0), "00")))
        if node[0] == "colon":
            return ("colon", node[1], clock[1].lower())
    reader = _Reader(tokens(text))
    node = reader.answer()
    if reader.rest:
        raise Unreadable(f"stops at {reader.token[1]!r}")
    return node


class _Reader:
    """A recursive-descent reader over tokens."""

    def __init__(self, found: list[Token]):
        self.found, self.at, self.depth, self.bars, self.inset = found, 0, 0, 0, False
        if not found:
            raise Unreadable("empty")

    @property
    def token(self) -> Token:
        return self.found[self.at] if self.at < len(self.found) else ("end", "", False)

    @property
    def rest(self) -> bool:
        return self.at < len(self.found)

    def peek(self, *texts: str, kinds: str = "sc") -> bool:
        return self.token[0] in kinds and self.token[1] in texts

    def take(self, *texts: str) -> bool:
        if self.peek(*texts):
            self.at += 1
            return True
        return False

    def need(self, text: str) -> None:
        if not self.take(text):
            raise Unreadable(f"{text!r} is missing at {self.token[1]!r}")

    def _word(self, *texts: str) -> bool:
        if self.token[0] in "wrc" and self.token[1].lower() in texts:
            self.at += 1
            return True
        return False

    # answers

    def answer(self) -> Node:
        items = [self.item()]
        joined = ""
        while self.rest:
            if self.take(",", ";"):
                self._word("and", "or")
                joined = joined or ","
            elif self._word("or"):
                joined = "or"
            elif self._word("and"):
                joined = "and" if joined != "or" else joined
            else:
                break
            if self.token[0] == "end":
                break  # a comma at the end
            items.append(self.item())
        if len(items) == 1:
            return items[0]
        if joined in ("or", "and") and all(item[0] == "chain" and item[2][0] != "=" for item in items):
            return (joined, tuple(items))
        return ("list", _values(tuple(items)))

    def item(self) -> Node:
        """One entry of a list: a chain of relations between expressions, with the name before it left as it is."""
        self.take("approx")
        self.take("=")
        first = self._words()
        if first and first[0] != "name":
            return first
        first = first or self._side()
        sides, signs = [first], []
        while self.token[0] in "sc" and self.token[1] in _RELATIONS:
            signs.append(_RELATIONS[self.token[1]])
            self.at += 1
            sides.append(self._side())
        if self.take("in"):
            return ("element", first, self._side()) if not signs else self._fail("a membership in a chain")
        return ("chain", tuple(sides), tuple(signs)) if signs else first

    def _fail(self, why: str) -> Node:
        raise Unreadable(why)

    def _side(self) -> Node:
        start = self.at
        node = self.union()
        here = self.found[start : self.at]
        if [token[0] for token in here] == ["n", "a"] and here[1][2] and here[1][1] in _UNITS:
            return ("letter", node, ("unit", _number_of(here[0][1]), _UNITS[here[1][1]]))
        if not self.inset and (self.peek(":") or (self.token[0] in "rw" and self.token[1] == "to")):
            items = [node]
            while self.take(":") or self._word("to"):
                items.append(self.union())
            node = ("colon", tuple(items))
        return self._tail(node)

    def union(self) -> Node:
        node = self.sum()
        while self.peek("cup", "cap", "setminus"):
            which = self.token[1]
            self.at += 1
            node = ({"cup": "union", "cap": "cap", "setminus": "minus"}[which], node, self.sum())
        return node

    def _words(self) -> Node | None:
        """A text at the start of an item: words to the next comma; None where mathematics stands here."""
        start = self.at
        words: list[str] = []
        while self.token[0] in "wr" or (words and self.token[0] in "a"):
            kind, text, _ = self.token
            if words and text.lower() in ("and", "or") and len(self.found) > self.at + 1:
                break
            if kind == "r" and not words and not _wordlike(text) and text.lower() not in ("no", "an"):
                break
            words += [text]
            self.at += 1
            while (
                self.token[1] in ("'", "-", ".") and self.found[self.at : self.at + 1] and self.at + 1 < len(self.found)
            ):
                if self.found[self.at + 1][0] not in "wra" or self.token[1] == ".":
                    break
                words[-1] += self.token[1] + self.found[self.at + 1][1]
                self.at += 2
        if not words:
            return None
        if len(words) == 1 and len(words[0]) == 1 and self.token[0] != "n":
            if self.rest and not self.peek(",", ";") and not self._next_word("and", "or"):
                self.at = start
                return None
            return ("sym", words[0])
        if self.token[0] == "end" or self.peek(",", ";") or self._next_word("and", "or"):
            value = _number_word(words)
            return ("num", Fraction(value), str(value)) if value is not None else ("text", " ".join(words))
        if self.peek("="):
            return ("name", " ".join(words))
        if self.take(":"):  # "Area: 12"
            return self.item()
        if self.token[0] == "n" and len(words) == 1 and _CURRENCY.fullmatch(words[0]):
            return self.item()
        if self.token[0] == "n" and all(token[0] in "wran" for token in self.found[self.at :]):
            rest = [token[1] for token in self.found[self.at :]]
            self.at = len(self.found)
            return ("text", " ".join([*words, *rest]))
        self.at = start
        return None

    def _next_word(self, *texts: str) -> bool:
        return self.token[0] in "wrc" and self.token[1].lower() in texts

    def _tail(self, node: Node) -> Node:
        """A unit, a percent sign, a base or an aside after an expression."""
        if self.take("%") or self._word("percent"):
            node = ("percent", node)
        if self.token[0] not in "wra" and not self.peek("(", "{", "frac", "$", "€", "£", "¥", "₹", "¢", "degree"):
            return node
        start = self.at
        opened = self.take("(")
        if opened and self.token[0] in "wra":
            words = []
            while self.token[0] in "wra":
                words.append(self.token[1])
                self.at += 1
            value = _number_word(words)
            if self.take(")") and not (self.rest and not self.peek(",", ";")):
                if value is not None:
                    return node if node[0] == "num" and node[1] == value else ("text", "aside")
                if _unit_words(words) is not None:
                    return ("unit", node, _unit_words(words))
            self.at = start
            return node
        self.at = start
        return self._unit(node)

    def _unit(self, node: Node) -> Node:
        start, parts = self.at, list[str]()
        number = node
        while self.rest and not self.peek(",", ";", "=", ")", "]", "approx"):
            kind, text, _ = self.token
            if kind in "wra":
                if text.lower() in ("and", "or") and parts:
                    break
                if not parts and text.lower() in _MAGNITUDES and node[0] == "num":
                    number = ("num", node[1] * _MAGNITUDES[text.lower()], "")
                else:
                    parts.append(text)
                self.at += 1
            elif text in ("$", "€", "£", "¥", "₹", "¢"):
                parts.append(text)
                self.at += 1
            elif text == "degree":
                parts.append("deg")
                self.at += 1
            elif text in ("/", "*", ".", "-") and (parts or number is not node):
                parts.append(text)
                self.at += 1
            elif text == "^" and parts:
                self.at += 1
                exponent = "".join(str(part) for part in _flat(self.atom()))
                parts.append("^" + exponent)
            elif text == "frac":
                self.at += 1
                parts += [*self._unit_group(), "/", *self._unit_group()]
            else:
                break
        unit = _unit_words(parts) if parts else ""
        if unit is None or (not parts and number is node):
            self.at = start
            return node
        return ("unit", number, unit) if parts else number

    def _unit_group(self) -> list[str]:
        self.need("{")
        words = []
        while not self.take("}"):
            if self.token[0] not in "wra":
                raise Unreadable("no unit")
            words.append(self.token[1])
            self.at += 1
        return words

    # expressions

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unreadable("nested too deeply")
        terms: list[Node] = []
        sign = self._sign()
        node = self.product()
        terms.append(_signed(sign, node))
        while self.peek("+", "-", "pm", "mp"):
            sign = self._sign()
            terms.append(_signed(sign, self.product()))
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def _sign(self) -> str:
        sign = ""
        while self.peek("+", "-", "pm", "mp"):
            text = self.token[1]
            if sign in ("pm", "mp") or (sign and text in ("pm", "mp")):
                raise Unreadable("several signs")
            sign = text if text in ("pm", "mp") else "-" if (text == "-") != (sign == "-") else "+"
            self.at += 1
        return sign

    def product(self) -> Node:
        factors = [self.power()]
        while True:
            if self.take("*"):
                self._apart()
                sign = self._sign()
                factors.append(_signed(sign, self.power()))
            elif self.take("/"):
                sign = self._sign()
                factors.append(_signed(sign, ("pow", self.power(), _NUM[-1])))
            elif self._times_ten():
                factors.append(self.power())
            elif self._continues():
                if self._letters_of_unit(factors):
                    break
                if self.token[0] in "nq":
                    factors = self._mixed(factors)
                    continue
                if self.peek("frac") and len(factors) == 1 and _is_integer(factors[0]):
                    start = self.at
                    fraction = self.power()
                    if _is_simple(fraction):
                        top, bottom = fraction[1][1], fraction[2][1][1]
                        if 0 < top < bottom:
                            factors = [("add", factors[0], fraction)]
                            continue
                        raise Unreadable("a mixed number with an improper fraction")
                    self.at = start
                if self.peek("(") and self.token[2] and self._aside(factors):
                    continue
                factors.append(self.power())
            else:
                break
        return factors[0] if len(factors) == 1 else ("mul", *factors)

    def _apart(self) -> None:
        if not self.rest:
            raise Unreadable("nothing after a sign of multiplication")

    def _times_ten(self) -> bool:
        """`2 x 10^3`"""
        here = self.found[self.at : self.at + 3]
        if (
            len(here) == 3
            and here[0][:2] in (("a", "x"), ("a", "X"))
            and here[1][:2] == ("n", "10")
            and here[2][1] == "^"
        ):
            self.at += 1
            return True
        return False

    def _mixed(self, factors: list[Node]) -> list[Node]:
        """`3 3/4` after its integer; two numbers side by side are nothing else."""
        here = self.found[self.at : self.at + 3]
        whole = len(factors) == 1 and _is_integer(factors[0]) and len(here) == 3 and here[1][1] == "/"
        if whole and here[0][1].isdigit() and here[2][1].isdigit() and 0 < int(here[0][1]) < int(here[2][1]):
            self.at += 3
            fraction = ("mul", _number_of(here[0][1]), ("pow", _number_of(here[2][1]), _NUM[-1]))
            return [("add", factors[0], fraction)]
        raise Unreadable("numbers side by side")

    def _aside(self, factors: list[Node]) -> bool:
        """Whether parentheses after a number repeat it, as in `3/4 (0.75)`; they are then passed over."""
        start = self.at
        self.at += 1
        if self.peek("or", "approx", "="):
            self.at += 1
        try:
            inside = self.sum()
        except Unreadable:
            self.at = start
            return False
        before = factors[0] if len(factors) == 1 else ("mul", *factors)
        if self.take(")") and not (self.rest and not self.peek(",", ";")):
            factors[:] = [("aside", before, inside)]
            return True
        self.at = start
        return False

    def _continues(self) -> bool:
        """Whether an operand stands here, to be multiplied with the one before."""
        kind, text, _ = self.token
        if kind in "nq":
            return True
        if kind == "a":
            return True
        if kind == "r":
            return not (
                _wordlike(text) or (text in _UNITS or text in _SHORT_WORDS or text.lower() in _NO_UNIT - {"i", "e"})
            )
        if kind == "w":
            return False
        if kind == "c":
            after = self.found[self.at + 1 : self.at + 3]
            if text == "frac" and len(after) == 2 and after[1][0] == "w":
                return False
            return text in FUNCTIONS or text in _ATOMS
        if text == "|":
            return not self.bars
        if text in ("{", "("):
            return not self._unit_ahead()
        return False

    def _letters_of_unit(self, factors: list[Node]) -> bool:
        """Whether what follows a number to the end is a unit with a power or a slash: `10 m/s`."""
        if self.token[0] not in "ar" or not self.token[2] or len(factors) != 1 or factors[0][0] != "num":
            return False
        rest = self.found[self.at :]
        signs = {text for kind, text, _ in rest if kind in "sn"}
        names = [text for kind, text, _ in rest if kind in "arw"]
        return (
            bool(signs & {"/", "^", "*"}) and signs <= {"/", "^", "*", "-", "{", "}", "1", "2", "3"}
            and all(name in _UNITS and name not in _AMBIGUOUS for name in names)
        )  # fmt: skip

    def _unit_ahead(self) -> bool:
        """Whether the group that opens here holds words."""
        after = self.found[self.at + 1 : self.at + 2]
        return bool(after) and (after[0][0] == "w" or (after[0][0] == "r" and _wordlike(after[0][1])))

    def power(self) -> Node:
        node = self.postfix(self.atom())
        while self.peek("^", "_"):
            if self.take("_"):
                node = self._subscript(node)
                continue
            self.at += 1
            if self.take("circ") or self._degree():
                node = ("call", "degree", node)
                if self.token[0] in "aw" and self.token[1] in ("C", "F") and len(self.found) <= self.at + 1:
                    node = ("unit", node[2], self.token[1])
                    self.at += 1
                continue
            if self._ordinal():
                continue
            node = ("pow", node, self._exponent())
            node = self.postfix(node)
        if (
            node[0] == "num"
            and self.token[0] in "rw"
            and not self.token[2]
            and self.token[1] in ("st", "nd", "rd", "th")
        ) or (node[0] == "num" and self.token[0] == "w" and self.token[1] in ("st", "nd", "rd", "th")):
            self.at += 1
        return node

    def _degree(self) -> bool:
        if self.found[self.at : self.at + 3] and [t[1] for t in self.found[self.at : self.at + 3]] == [
            "{",
            "circ",
            "}",
        ]:
            self.at += 3
            return True
        return False

    def _ordinal(self) -> bool:
        here = [t[1] for t in self.found[self.at : self.at + 4]]
        if here and here[0] in ("st", "nd", "rd", "th"):
            self.at += 1
            return True
        if len(here) > 2 and here[0] == "{" and here[1] in ("st", "nd", "rd", "th") and here[2] == "}":
            self.at += 3
            return True
        return False

    def _exponent(self) -> Node:
        sign = self._sign()
        return _signed(sign, self.power() if not self.peek("{") else self._right_tower(self.atom()))

    def _right_tower(self, node: Node) -> Node:
        if self.take("^"):
            return ("pow", node, self._exponent())
        return node

    def postfix(self, node: Node) -> Node:
        while self.peek("!", "'"):
            if self.take("!"):
                node = ("call", "factorial", node)
            else:
                self.at += 1
                if node[0] != "sym":
                    raise Unreadable("a prime")
                node = ("sym", node[1] + "'")
        if self.peek("degree"):
            self.at += 1
            node = ("call", "degree", node)
        return node

    def _subscript(self, node: Node) -> Node:
        """What stands below a letter is part of its name."""
        if node[0] != "sym":
            return self._fail("a subscript")
        return ("sym", f"{node[1]}_{''.join(self._script())}")

    def _script(self) -> list[str]:
        if not self.take("{"):
            text = self.token[1]
            if self.token[0] not in "nawrc":
                raise Unreadable("an empty subscript")
            self.at += 1
            return [text]
        parts = []
        while not self.take("}"):
            if not self.rest:
                raise Unreadable("a brace is not closed")
            parts.append(self.token[1])
            self.at += 1
        return parts

    def atom(self) -> Node:
        kind, text, _ = self.token
        self.at += 1
        if kind == "n":
            return _number_of(text)
        if kind == "q":
            return ("num", Fraction(text), "")
        if kind == "a":
            return self._name(text)
        if kind == "r":
            if _wordlike(text) or (self.found[self.at - 2 : self.at - 1] and len(text) > 3 and text in _UNITS):
                raise Unreadable(f"the word {text!r}")
            self.found[self.at - 1 : self.at] = [("a", letter, False) for letter in text]
            self.at -= 1
            return self.atom()
        if kind == "w" and len(text) == 1:
            return self._name(text)
        if kind == "c":
            return self._command(text)
        if text in ("(", "["):
            return self._group(text)
        if text == "{":
            return self._braced()
        if text == "|":
            self.bars += 1
            node = self.sum()
            self.need("|")
            self.bars -= 1
            return ("call", "abs", node)
        if text in ("$", "€", "£", "¥", "₹"):
            sign = self._sign()
            return (
                ("unit", _signed(sign, self.atom()), _UNITS.get(text, text))
                if self.token[0] in "nq"
                else self._fail("$")
            )
        raise Unreadable(f"{text!r}" if self.at <= len(self.found) else "something is missing at the end")

    def _name(self, letter: str) -> Node:
        """A symbol, or a function of the asker applied to something, `f(x)`, which is a name and has no value."""
        if self.peek("(") and not self.token[2] and letter in "fghFGHPTp":
            start, depth = self.at, 0
            parts = []
            while self.rest:
                depth += self.token[1] == "("
                depth -= self.token[1] == ")"
                parts.append(self.token[1])
                self.at += 1
                if not depth:
                    break
            if self.peek("=", "<", ">", "le", "ge") or self.token[0] == "end":
                return ("name", letter + "".join(parts))
            self.at = start
        return ("sym", letter)

    def _braced(self) -> Node:
        """A LaTeX group; `{a \\over b}` is a fraction."""
        top = self._tail(self.sum())
        if self.take("over"):
            top = ("mul", top, ("pow", self.sum(), _NUM[-1]))
        self.need("}")
        return top

    def _argument(self) -> Node:
        """The argument of a LaTeX command: a group or a single character."""
        kind, text, _ = self.token
        if kind == "n" and len(text) > 1 and text.isdigit():
            self.found[self.at : self.at + 1] = [("n", digit, False) for digit in text]
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unreadable("nested too deeply")
        if self.take("{"):
            node = self._braced()
        elif self.token[0] == "c" and self.token[1] not in _ATOMS:
            raise Unreadable("an argument is missing")
        else:
            node = self.atom()
        self.depth -= 1
        return node

    def _group(self, opened: str) -> Node:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unreadable("nested too deeply")
        bars, self.bars = self.bars, 0
        items = [self.item()]
        while self.take(",", ";"):
            items.append(self.item())
        closed = self.token[1]
        if not self.take(")", "]"):
            raise Unreadable("a parenthesis is not closed")
        self.bars = bars
        self.depth -= 1
        if len(items) > 1:
            return ("tuple", opened, closed, tuple(items))
        if (opened, closed) not in (("(", ")"), ("[", "]")):
            raise Unreadable("brackets that do not match")
        return ("paren", items[0]) if items[0][0] in ("num", "text") else items[0]

    def _command(self, name: str) -> Node:
        if name == "frac":
            if self.peek("/"):
                raise Unreadable("a fraction")
            top = self._argument()
            return ("mul", top, ("pow", self._argument(), _NUM[-1]))
        if name == "sqrt":
            index: Node = _NUM[2]
            if self.take("["):
                index = self.sum()
                self.need("]")
            inside = self.atom() if self.token[0] == "n" else self._argument()
            return ("call", "root", inside, index)
        if name == "binom":
            return ("call", "binom", self._argument(), self._argument())
        if name in FUNCTIONS:
            return self._function(name)
        if name == "pi":
            return ("call", "pi")
        if name == "infty":
            return ("inf",)
        if name in ("lfloor", "lceil"):
            inside = self.sum()
            self.need("rfloor" if name == "lfloor" else "rceil")
            return ("call", "floor" if name == "lfloor" else "ceil", inside)
        if name == "{":
            return self._set()
        if name == "emptyset":
            return ("set", ())
        if name == "langle":
            items = [self.item()]
            while self.take(",", ";"):
                items.append(self.item())
            self.need("rangle")
            return ("tuple", "(", ")", tuple(items)) if len(items) > 1 else self._fail("a single entry in angles")
        if name.startswith("begin "):
            return self._matrix(name[6:])
        if name == "mathbb":
            wanted = self.take("{")
            letter = self.token[1]
            self.at += 1
            if wanted:
                self.need("}")
            return ("reals",) if letter == "R" else ("sym", f"mathbb {letter}")
        if name in ("overline", "bar", "overrightarrow", "vec", "hat", "widehat", "tilde", "overleftrightarrow"):
            return ("name", name + "".join(_flat(self._script())))
        if name in ("angle", "triangle"):
            parts = []
            while self.token[0] in "arw":
                parts.append(self.token[1])
                self.at += 1
            return ("name", name + "".join(parts)) if parts else self._fail(name)
        if name in _GREEK or name in ("ell", "Delta", "Omega", "Sigma", "Gamma", "Theta", "Lambda", "Phi", "Psi", "Pi"):
            return ("sym", name)
        raise Unreadable(f"the command \\{name}")

    def _function(self, name: str) -> Node:
        name = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}.get(name, name)
        exponent: Node | None = None
        base: Node | None = None
        while self.peek("^", "_"):
            if self.take("^"):
                exponent = self._argument() if not self.peek("-") else self._exponent()
            elif name == "log":
                self.at += 1
                base = self._argument()
            else:
                raise Unreadable(f"a subscript of {name}")
        if name in ("gcd", "lcm", "max", "min"):
            self.need("(")
            group = self._group("(")
            return ("call", name, *(group[3] if group[0] == "tuple" else (group,)))
        if self.peek("(", "{", "["):
            inside = self.postfix(self.atom())
            while inside[0] == "paren":
                inside = inside[1]
            if inside[0] == "tuple":
                raise Unreadable(f"several arguments of {name}")
            if self.peek("^") and [t[1] for t in self.found[self.at + 1 : self.at + 2]] == ["circ"]:
                self.at += 2
                inside = ("call", "degree", inside)
        else:
            sign = self._sign()
            factors = [_signed(sign, self.power())]
            while self.token[0] in "anq" or self.peek("pi", "theta", "frac", "alpha", "beta", "sqrt"):
                factors.append(self.power())
            inside = factors[0] if len(factors) == 1 else ("mul", *factors)
            if self.take("/") and name not in ("ln", "log"):
                inside = ("mul", inside, ("pow", self.power(), _NUM[-1]))
            elif self.found[self.at - 1][1] == "/":
                self.at -= 1
        call: Node = ("call", name, inside) if base is None else ("call", "log", inside, base)
        if exponent is None:
            return call
        if exponent == ("num", Fraction(-1), "-1") or exponent == _signed("-", _number_of("1")):
            inverse = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}.get(name)
            return ("call", inverse, inside) if inverse else self._fail("an inverse")
        return ("pow", call, exponent)

    def _set(self) -> Node:
        if self.take("}"):
            return ("set", ())
        (bars, self.bars), (inset, self.inset) = (self.bars, 1), (self.inset, True)
        items = [self.item()]
        self.bars, self.inset = bars, inset
        if self.take("|", ":"):
            condition = self.answer()
            self.need("}")
            return ("builder", items[0], condition)
        while self.take(",", ";"):
            items.append(self.item())
        self.need("}")
        return ("set", tuple(items))

    def _matrix(self, name: str) -> Node:
        if name not in _MATRICES:
            raise Unreadable(f"the environment {name}")
        rows: list[list[Node]] = [[]]
        while not self.peek(f"end {name}"):
            if self.take("\\"):
                rows.append([])
                continue
            if self.take("hline"):
                continue
            if self.take("&"):
                continue
            rows[-1].append(self._side())
        self.at += 1
        if name == "array" or name in ("matrix", "smallmatrix"):
            name = "matrix"
        return ("matrix", tuple(tuple(row) for row in rows if row))


_MATRICES = frozenset(["pmatrix", "bmatrix", "matrix", "psmallmatrix", "bsmallmatrix", "smallmatrix", "array"])
_ATOMS = frozenset(
    ["frac", "sqrt", "binom", "pi", "infty", "lfloor", "lceil", "theta", "mathbb", "{", "langle", "ell", *_GREEK]
) - {"{"}  # fmt: skip
_CURRENCY = re.compile(r"USD|EUR|GBP|INR|CNY|JPY|CAD|AUD|Rs|US|RMB")


def _number_of(text: str) -> Node:
    if len(text) > 1 and "e" in text and abs(int(text.split("e")[1])) > 9999:
        raise Unreadable("too large an exponent")
    return ("num", Fraction(text.rstrip(".")), text)


_NUM = {number: ("num", Fraction(number), str(number)) for number in (-1, 2)}


def _signed(sign: str, node: Node) -> Node:
    if sign in ("pm", "mp"):
        return ("pm", sign, node)
    if sign != "-":
        return node
    if node[0] == "num":
        return ("num", -node[1], f"-{node[2]}" if node[2] else "")
    if node[0] == "unit":
        return ("unit", _signed("-", node[1]), node[2])
    return ("mul", _NUM[-1], node)


def _flat(node: Any) -> list[str]:
    """The spelling of a name in pieces."""
    if isinstance(node, tuple) and node and node[0] == "num":
        return [node[2]]
    if isinstance(node, tuple | list):
        return [part for item in node for part in _flat(item) if part not in ("sym", "mul")]
    return [str(node)]


def _is_integer(node: Node) -> bool:
    return bool(node[0] == "num" and node[2].lstrip("-").isdigit())


def _is_simple(node: Node) -> bool:
    """A fraction of two integers as they are written."""
    return (
        node[0] == "mul" and len(node) == 3 and _is_integer(node[1]) and node[2][0] == "pow" and _is_integer(node[2][1])
    )  # fmt: skip


def _wordlike(run: str) -> bool:
    """Whether a run of letters is a word rather than a product of letters: east, Evelyn, LQSX; not abc and xy."""
    if run in _SHORT_WORDS and len(run) > 2:
        return True
    if len(run) > 2 and run.isupper():
        return len(run) > 3 or run in ("USD", "EUR", "GBP", "INR", "CNY", "JPY", "CAD", "AUD", "DNE")
    lowered = run.lower()
    return (
        len(run) > 2
        and any(v in lowered for v in ("eiou" if len(run) == 3 else "aeiouy"))
        and lowered != "".join(sorted(set(lowered)))
    )


def _number_word(words: list[str]) -> int | None:
    parts = [part for word in words for part in word.lower().split("-")]
    if not parts or any(part not in _NUMBERS for part in parts) or len(parts) > 2:
        return None
    first = _NUMBERS[parts[0]]
    if len(parts) == 1:
        return first
    return first + _NUMBERS[parts[1]] if first >= 20 and first % 10 == 0 and 0 < _NUMBERS[parts[1]] < 10 else None


def _unit_words(parts: list[str]) -> str | None:
    """The unit that words after a number make, in one spelling (empty for counted things); None for no unit."""
    unit, known, single = [], False, True
    words = [part for part in parts if part[0].isalpha()]
    for part in parts:
        if not part[0].isalpha():
            unit.append(part)
            continue
        if part.lower() in _NO_UNIT or (re.fullmatch(r"\w+ths?", part) and part.lower() not in ("months", "month")):
            return None
        if part in _UNITS:
            known = True
            unit.append(_UNITS[part])
        elif (len(part) == 1 and part.lower() not in "a") or (
            len(part) < 4 and part.lower() not in _SHORT_WORDS and not _wordlike(part)
        ):
            return None
        single = single and len(part) > 3
    if parts[-1] in ("/", "*", "-") or parts[0] in ("/", "*", "-", ".", "^"):
        return None
    return "".join(unit).strip("./-") if known or words == [] else ""


def _values(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """`n = 3, 5, 7` and `x = 3, x = 5` as a list of values under one name."""
    first, *others = items
    if first[0] != "chain" or first[2] != ("=",) or any(item[0] in ("chain", "text") for item in others):
        return items
    return (first, *(("chain", (first[1][0], item), ("=",)) for item in others))
