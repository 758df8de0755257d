# ruff: noqa: E501  (patterns and tables read better without breaks)
"""How outputs are judged, by a problem's statement: a tolerance, letters in any case, several right answers."""

from __future__ import annotations

import re
from typing import Any

_SENTENCES = re.compile(r"(?<=[.!?;])\s+|\n\s*\n|\n(?=[A-Z\-*])")
_JUDGED = re.compile(
    r"\b(?:errors?|within|tolerances?|differs?|difference|precision|accura\w+|accepted|considered|deviat\w+)\b",
    re.IGNORECASE,
)
_SMALL = re.compile(
    r"10\s*(?:\^|\*\*)?\s*[{(]*\s*[-−–]\s*[{(]*\s*(\d{1,2})\b|\b1(?:\.0)?[eE][-−–](\d{1,2})\b|(?<![\d.])0?\.(0{0,11}1)\b"
)
_CASE = re.compile(
    r"\b(?:in|of) (?:any|either|arbitrary) (?:letter )?case\b|\bany (?:letter )?case\b|case[- ]insensitive|"
    r"case (?:of \w+ )?(?:does not|doesn't) matter|(?:upper|lower)[- ]?case or (?:upper|lower)[- ]?case|in any register",
    re.IGNORECASE,
)
_VERBS = (
    r"\b(?:print|output|return|report|give|accept|answer|choose|find|display|write|construct|provide)(?:s|ed|ing)?\b"
)
_OUTCOMES = (
    r"\b(?:answers?|solutions?|outputs?|ways|results?|possibilit\w+|permutations?|sequences?|strings?|arrays?|pairs?|"
    r"constructions?|arrangements?|assignments?|paths?|choices|values|sets?|options)\b"
)
_SEVERAL = re.compile(
    r"\b(?:print|output|return|report|write)(?:s|ed|ing)?\s+(?:\w+\s+)?any\b(?!\s+(?:number|other|more|case|integer|additional|extra|time|further))|"
    rf"{_VERBS}[^.]{{0,90}}\bany (?:one )?of (?:them|these|those|the (?:\w+ )?{_OUTCOMES})|"
    rf"{_VERBS}[^.]{{0,120}}\bin (?:any|arbitrary) order\b|"
    rf"\b(?:multiple|several|more than one|many|different|various|two or more)\b[^.]{{0,60}}{_OUTCOMES}[^.]{{0,40}}[.,;]?[^.]{{0,60}}"
    r"\b(?:any|either|arbitrary)\b(?! case)|"
    r"\bany (?:one )?(?:of (?:them|these|those)|(?:\w+ ){0,2}(?:answer|solution|output|one))\b[^.]{0,40}"
    r"\b(?:accepted|allowed|fine|ok|okay|correct|right|will do|valid)\b|\b(?:answer|solution|output)s? (?:is|are) not unique\b|"
    r"\bspecial (?:judge|checker)\b",
    re.IGNORECASE,
)
_INPUT_ORDER = re.compile(
    r"\b(?:(?:is|are|be) (?:given|provided|listed)|input)\b[^.]{0,40}\bin any order\b", re.IGNORECASE
)


def tolerance(statement: str) -> float:
    """The error that the statement allows, 0 if it names none."""
    for sentence in _SENTENCES.split(statement):
        if _JUDGED.search(sentence) and (match := _SMALL.search(sentence)):
            power = match[1] or match[2] or str(len(match[3]))
            if 1 <= int(power) <= 15:
                return float(f"1e-{int(power)}")
    return 0.0


def any_case(statement: str) -> bool:
    """Whether letters may be printed in any case."""
    return _CASE.search(statement) is not None


def several(statement: str) -> bool:
    """Whether other outputs than the expected one are right too, which only a checker could tell."""
    return _SEVERAL.search(_INPUT_ORDER.sub("", _CASE.sub("", statement))) is not None


def stated(statement: str) -> dict[str, Any]:
    """The fields of a grader's request that follow from the statement."""
    return {"atol": tolerance(statement), "any_case": any_case(statement), "tuple_as_list": True}
