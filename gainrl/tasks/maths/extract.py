r"""Finding the final answer in a completion, and reading plain numbers exactly.

The answer is what the last `\boxed{...}` (or `\fbox`) holds, braces counted; without one, what follows the last
`####`; without that, what follows the last "answer is" or "answer:" on its line.  There is no fallback to "the last
number in the text": it grades an echo of the prompt right whenever the question ends with the answer.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_PHRASE = re.compile(r"answer\s*(?:is|:|=)\s*:?\s*\**\s*(.+)", re.IGNORECASE)


def after_question(completion: str, question: str) -> str:
    """What follows the last occurrence of the question, so that an echoed prompt answers nothing."""
    question = question.strip()
    position = completion.rfind(question) if question else -1
    return completion if position < 0 else completion[position + len(question) :]


def boxes(text: str) -> list[str]:
    """The contents of every complete box, in order; an inner box follows the one that holds it."""
    found = []
    for match in _BOX.finditer(text):
        start = match.end()
        if start >= len(text) or text[start] != "{":
            bare = re.match(r"[^\s$.,;{}]+", text[start:])  # `\boxed 5`
            if bare and match.group() != match.group().rstrip():
                found.append(bare.group())
            continue
        depth, position = 0, start
        while position < len(text):
            char = text[position]
            if char == "\\":  # `\{` is a character of the answer, not a brace
                position += 2
                continue
            depth += (char == "{") - (char == "}")
            if depth == 0:
                found.append(text[start + 1 : position])
                break
            position += 1
    return found


def final_answer(completion: str, question: str = "") -> str | None:
    """The final answer of a completion, or None where it gives none (see the module's docstring)."""
    text = after_question(completion, question)
    boxed = [content for content in boxes(text) if content.strip()]
    if boxed:
        last = boxed[-1]
        inner = boxes(last)
        return (inner[-1] if inner else last).strip()
    if "####" in text:
        lines = text.rsplit("####", 1)[1].strip().splitlines()
        return lines[0].strip() if lines else None
    phrases = _PHRASE.findall(text)
    return phrases[-1].strip().rstrip("*").strip() or None if phrases else None


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
