r"""Finding the final answer in a completion, and reading plain numbers exactly.

The answer is what the last `\boxed{...}` (or `\fbox`) holds, braces counted; without one, what follows the last
`####`; without that, what follows the last "answer is" or "answer:" on its line.  There is no fallback to "the last
number in the text": it grades an echo of the prompt right whenever the question ends with the answer.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

# These read whatever a model wrote, in the process that trains: each takes time linear in the text.
_BOX = re.compile(r"\\(?:boxed|fbox)\s*+")
_BARE = re.compile(r"[^\s$.,;{}]+")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # `\{` is a character of the answer, not a brace
_PHRASE = re.compile(r"answer\s*+(?:is|would\s++be|will\s++be|:|=)", re.IGNORECASE)
_HEADING = re.compile(r"[\s*_]*+(?:step|part|solution|(?:the\s++)?(?:final\s++)?answer)\b", re.IGNORECASE)
_STARS = re.compile(r"\*\*(?!\d)")  # and no power: 2**3
_CLAUSE = re.compile(r"(?<=, )(?:as|so|where|given)\b|(?<=[\s,])(?:since|because|which)\b")
_BEFORE = re.compile(r"\s*+:?\s*+\**+\s*+")


def after_question(completion: str, question: str) -> str:
    """What follows the last occurrence of the question, so that an echoed prompt answers nothing."""
    question = question.strip()
    position = completion.rfind(question) if question else -1
    return completion if position < 0 else completion[position + len(question) :]


def boxes(text: str) -> list[str]:
    """The contents of every complete box, in order; an inner box follows the one that holds it."""
    return [text[start:end] for start, end in _boxes(text)]


def _boxes(text: str) -> list[tuple[int, int]]:
    """Where the contents of every complete box start and end."""
    found = []
    ends = _closing(text)
    for match in _BOX.finditer(text):
        start = match.end()
        if start in ends:
            found.append((start + 1, ends[start]))
        elif match.group().endswith(("d", "x")) or text[start : start + 1] == "{":
            continue
        elif bare := _BARE.match(text, start):  # `\boxed 5`
            found.append(bare.span())
    return found


def _closing(text: str) -> dict[int, int]:
    """Where each brace that opens is closed."""
    opened: list[int] = []
    ends: dict[int, int] = {}
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            opened.append(match.start())
        elif match.group() == "}" and opened:
            ends[opened.pop()] = match.start()
    return ends


def final_answer(completion: str, question: str = "") -> str | None:
    """The final answer of a completion, or None where it gives none (see the module's docstring)."""
    text = after_question(completion, question)
    for start, end in reversed(_boxes(text)):  # an inner box comes after the one that holds it
        if content := text[start:end].strip():
            return content
    if "####" in text:
        text = text.rsplit("####", 1)[1].strip()
        first, _, rest = text.partition("\n")
        if not _HEADING.match(first):
            return _bare(first) or None
        # "#### Final Answer" or "#### Step 2: ..." is a heading, and the answer stands below it
        return _phrased(text) or _bare((rest.strip() or first).split("\n", 1)[0]) or None
    return _phrased(text)


def _phrased(text: str) -> str | None:
    """What follows the last "answer is" that something follows."""
    for match in reversed(list(_PHRASE.finditer(text))):
        before = _BEFORE.match(text, match.end())
        line = text[before.end() if before else match.end() :].split("\n", 1)[0]
        if line:
            line = _STARS.sub("", line, count=1)  # those that open before the number close here
            if clause := _CLAUSE.search(line):
                line = line[: clause.start()].rstrip(" ,")
            return _bare(line) or None
    return None


def _bare(line: str) -> str:
    """A line without the stars and backquotes around it."""
    line = line.strip()
    if line.endswith(("*.", "`.")):
        line = line[:-1]
    return line.strip("*`").strip()


_UNIT = re.compile(r"\\(?:text|mbox|mathrm|textbf|textit)\s*\{([^{}]*)\}(\^\{?[23]\}?)?")
_DROP = re.compile(r"\\[,;:! ]|\\(?:left|right)|\\?\$|\^?\\circ|\^\{\\circ\}|~|\{,\}|[€£¥°]")
_GAP = re.compile(r"\d(?:\\[,;:! ]|~|\s)+(?!\d{3}(?!\d))\d")  # 1\,000 is a number, 1\,2 is two
_LEAD = re.compile(r"(?:the\s++)?(?:final\s++)?answer\s*+(?:is|:|=)\s*+", re.IGNORECASE)
_NUMBER = re.compile(r"([+-]?)\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)")
_WORDS = re.compile(r"\s+\(?([A-Za-z][A-Za-z0-9 .²³/^{}]*)\)?")
_WORD = re.compile(r"([A-Za-z]+)(\^[23]|\^\{[23]\}|[²³])?")
_MAGNITUDES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# words after a number that make it another number, or a statement, so that they are no unit
_NO_UNIT = _words(
    "pi sqrt inf oo infinity half halves third thirds quarter quarters plus minus times over or and to by squared "
    "cubed factorial choose mod pair pairs dozens hundreds thousands millions billions root roots base less more "
    "if than squares cubes when unless where fewer greater power zero one two three four five six seven eight "
    "nine ten eleven twelve sin cos tan cot csc sinh cosh tanh coth arcsin arccos arctan log ln lg exp gcd lcm "
    "max det arg lim"
)
_ORDINAL = re.compile(r"\w+ths?", re.IGNORECASE)
_LETTERS = frozenset("mgshlLAVWJNKCF")
# two or three letters after a number are a product of variables, unless they are one of these
_SHORT = _words(
    "mm cm dm km mg kg ml mL dl cl ft in yd yds mi oz lb lbs gal qt pt pts hr hrs min mins sec ms mph kph kWh kw "
    "kW hp Hz mol Pa cal deg rad of per sq cu the no old day cup men egg box bag can car cow cat dog pig hen bee "
    "ant kid boy man jar pen pie bus row set way job toy hat cap bed tea ice age air all new red big his her its "
    "gum ads fan tip"
)


def _is_unit(words: str, *, text: bool) -> bool:
    """Whether words after a number leave it the number that it is; `text` says that a text command held them."""
    for number, word in enumerate(words.replace("/", " / ").split()):
        name = _WORD.fullmatch(word)
        if word == "/":
            if number == 0 or words.rstrip().endswith("/"):
                return False
            continue
        if name is None or name[1].lower() in _NO_UNIT or _ORDINAL.fullmatch(name[1]):
            return False
        if len(name[1]) == 1 and (text or "/" in words or name[2]) and name[1] in _LETTERS:
            continue
        if name[1] == "a" and number:
            continue
        if len(name[1]) < 4 and name[1] not in _SHORT and name[1].lower() not in _SHORT:
            return False
        if name[2] and len(name[1]) > 3 and not text and not name[1].endswith("s") and name[1] not in ("feet", "inch"):
            return False
    return True


def plain_number(text: str) -> Fraction | None:
    """`text` as an exact number, if it is one number with at most a currency sign, a unit or a percent sign.

    `1,234`, `$-3.50`, `12 dollars`, `10 m/s`, `2 million`, `40\\%`, `(18)`, `+7.`: yes.  A percent sign is dropped, not
    divided by (datasets write "40" and "40%" for the same answer).  Anything else, fractions and `2x` included: None.
    """
    read = _read(text)
    return read[0] if read and read[1] else None


def other_than(text: str) -> Fraction | None:
    """The number that `text` begins with where words follow that are no unit (`5 xy`, `3 cos x`); else None."""
    read = _read(text)
    return read[0] if read and not read[1] else None


def _read(text: str) -> tuple[Fraction, bool] | None:
    """The number that `text` is or begins with, and whether what follows leaves it that number; None for the rest."""
    if _GAP.search(text):
        return None
    inside = _UNIT.search(text) is not None
    text = _UNIT.sub(r" \1\2", text)
    text = _DROP.sub(lambda match: "," if match.group() == "{,}" else "", text).strip()
    if lead := _LEAD.match(text):
        text = text[lead.end() :]
    if text.startswith("(") and text.rstrip(". ").endswith(")") and text.count("(") == 1:
        text = text.rstrip(". ")[1:-1].strip()
    match = _NUMBER.match(text)
    if match is None:
        return None
    number = Fraction(Decimal(match[1] + match[2].replace(",", "")))
    rest = text[match.end() :]
    if rest.strip() in ("", ".", "%", "\\%", "%.", "\\%."):
        return number, True
    words = _WORDS.fullmatch(rest)
    if words is None:
        return None
    names = words[1].strip(" .")
    first, *others = names.split()
    if first.lower() in _MAGNITUDES:
        return number * _MAGNITUDES[first.lower()], _is_unit(" ".join(others), text=inside)
    return number, _is_unit(names, text=inside)


def spell(number: Fraction) -> str:
    """One spelling for equal numbers: an integer, or numerator/denominator."""
    return str(number)


_POWERS = re.compile(r"(?:(?:\^|\*\*)[({]?[-+]?\d++)+")
_FACTORIAL = re.compile(r"(?<!\d)(\d++)[)}]?!")
_LARGE = 10**9


def effort(text: str) -> int:
    """The largest exponent (a tower of them multiplied out) or factorial written in `text`, at most 10**9.

    What a computer algebra system may have to carry out before it can compare anything: `2^{10}` 10, `9^{9^9}` 9**9,
    `100!` 100, `2x` 0.
    """
    text = "".join(text.split())
    largest = max((_bounded(match[1]) for match in _FACTORIAL.finditer(text)), default=0)
    for match in _POWERS.finditer(text):
        exponent = 1
        for base in reversed([_bounded(digits) for digits in re.findall(r"\d+", match.group())]):
            # 2**30 is past the bound already, and nothing larger is ever computed
            exponent = 1 if base < 2 or not exponent else _LARGE if exponent > 30 else min(_LARGE, base**exponent)
        largest = max(largest, exponent)
    return largest


def _bounded(digits: str) -> int:
    return int(digits) if len(digits) < 10 else _LARGE
