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
_PHRASE = re.compile(r"answer\s*+(?:is|:|=)", re.IGNORECASE)
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
        lines = text.rsplit("####", 1)[1].strip().splitlines()
        return lines[0].strip() if lines else None
    for match in reversed(list(_PHRASE.finditer(text))):
        before = _BEFORE.match(text, match.end())
        line = text[before.end() if before else match.end() :].split("\n", 1)[0]
        if line:
            return line.strip().rstrip("*").strip() or None
    return None


_UNIT = re.compile(r"\\(?:text|mbox|mathrm|textbf|textit)\s*\{([^{}]*)\}(?:\^\{?[23]\}?)?")
_DROP = re.compile(r"\\[,;:! ]|\\(?:left|right)|\\?\$|\^?\\circ|\^\{\\circ\}|~|\{,\}")
_NUMBER = re.compile(r"([+-]?)\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)")
_WORDS = re.compile(r"\s+([A-Za-z]{2,}[A-Za-z .²³]*)")
_MAGNITUDES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# words after a number that make it another number, so that they are no unit
_NO_UNIT = re.compile(
    r"\b(?:pi|sqrt|inf|oo|infinity|hal(?:f|ves)|thirds?|quarters?|\w+ths?|plus|minus|times|over|or|and|to|by|squared|cubed"
    r"|factorial|choose|mod|pairs?|dozens|hundreds|thousands|millions|billions)\b",
    re.IGNORECASE,
)


def plain_number(text: str) -> Fraction | None:
    """`text` as an exact number, if it is one number with at most a currency sign, a unit or a percent sign.

    `1,234`, `$-3.50`, `12 dollars`, `2 million`, `40\\%`, `+7.`: yes.  A percent sign is dropped, not divided by
    (datasets write "40" and "40%" for the same answer).  Anything else, fractions and `2x` included: None.
    """
    text = _UNIT.sub(r" \1", text)
    text = _DROP.sub(lambda match: "," if match.group() == "{,}" else "", text).strip()
    match = _NUMBER.match(text)
    if match is None:
        return None
    number = Fraction(Decimal(match[1] + match[2].replace(",", "")))
    rest = text[match.end() :]
    if rest.strip() in ("", ".", "%", "\\%", "%.", "\\%."):
        return number
    words = _WORDS.fullmatch(rest)
    if words is None:
        return None
    first, *others = words[1].strip(" .").split()
    if first.lower() in _MAGNITUDES:
        return number * _MAGNITUDES[first.lower()] if not _NO_UNIT.search(" ".join(others)) else None
    return None if _NO_UNIT.search(words[1]) else number


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
