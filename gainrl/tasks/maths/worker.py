"""Compares answers with math-verify, in a process of `worker_process.py`; imports nothing of gainrl.

Request: {"gold": str, "answer": str or null}; null asks whether the gold answer evaluates by itself.  Reply:
{"verdict": "right" | "wrong" | "unscorable", "reason": str, "answer": canonical spelling}.
"""

from __future__ import annotations

import logging
import re
from typing import Any

MEMORY = 2 << 30  # bytes of address space; sympy with everything loaded takes 0.3 GiB

_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textbf|textit|textnormal)\s*\{([^{}]*)\}")
_UP = {">": "<", "\\gt": "<", "\\ge": "\\le ", "\\geq": "\\le "}
_SPACE = re.compile(r"\\[,;:! ]|\\quad|\\qquad|~|\s")
_GAP = re.compile(r"(?<=\d)(?:\\[,;:! ]|~|\s)+(?!\d{3}(?!\d))(?=\d)")  # 1 2 is two numbers, 1 000 is one
_MIXED = re.compile(r"([+-]?\d+)\s+(\d+)\s*/\s*(\d+)")
_BASED = re.compile(r"([0-9A-Za-z]+)_\{?(\d+)\}?")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar)\{(\d+)\}")
_WORD = re.compile(r"(?=[A-Za-z]*[eiouEIOU])[A-Za-z]{3,}")  # east, Evelyn, odd; abc and xy are products
_DESCENDING = re.compile(r"([^<>=,]+?)(>|\\geq?\b|\\gt\b)([^<>=,]+?)(>|\\geq?\b|\\gt\b)([^<>=,]+)")
_LETTER = re.compile(r"\(?([A-Z])\)?\.?")


def literal(text: str) -> str:
    """A spelling without what never changes the meaning: spaces, text commands, sizes, dollar signs, final stop."""
    text = _TEXT.sub(r"\1", text.strip().strip("$"))
    text = text.replace("\\left", "").replace("\\right", "").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = _GAP.sub(";", text.replace("\\varnothing", "\\emptyset"))
    return _SPACE.sub("", text).rstrip(".")


def compare(gold: str, answer: str) -> tuple[str, str, str]:
    """(verdict, reason, canonical answer) of two answers, both without their box."""
    from math_verify import verify

    gold, answer = (_MIXED.sub(r"\1\\frac{\2}{\3}", text) for text in (gold, answer))
    expected, found = literal(gold), literal(answer)
    if expected and expected == found:
        return "right", "", found
    # a bare letter is a choice, not a symbol: (B) and B are one answer, b and B are not
    choices = _LETTER.fullmatch(expected), _LETTER.fullmatch(found)
    if all(choices):
        same = choices[0][1] == choices[1][1]  # type: ignore[index]
        return ("right" if same else "wrong"), ("" if same else f"{found} is not {expected}"), found
    bases = _BASED.fullmatch(expected), _BASED.fullmatch(found)
    if bases[0] and found[:1].isalnum():  # 52_8 is also 52, the question having said which base, but not 52_9
        same = found == bases[0][1] if bases[1] is None else bases[0].groups() == bases[1].groups()
        return ("right" if same else "wrong"), ("" if same else f"{found} is not {expected}"), found
    if _WORD.fullmatch(expected):
        same = expected.lower() == found.lower()
        return ("right" if same else "wrong"), ("" if same else f"{found!r} is not {expected!r}"), found.lower()
    if _numbers(gold) != _numbers(answer):
        return "wrong", f"{answer[:80]!r} is another count of numbers than {gold[:80]!r}", found
    golds, answers = _parsed(gold), _parsed(answer)
    canonical = str(answers[0]) if answers else found
    if not answers:
        return "wrong", f"{answer[:80]!r} cannot be read as mathematics", canonical
    if not golds:
        return (
            "wrong",
            f"{answer[:80]!r} is not, as text, {gold[:80]!r}, which cannot be read as mathematics",
            canonical,
        )
    if _shape(gold) != _shape(answer) and "" not in (_shape(gold), _shape(answer)):
        return "wrong", f"{answer[:80]!r} is another kind of interval or tuple than {gold[:80]!r}", canonical
    if verify(golds, answers, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True):
        return "right", "", canonical
    return "wrong", f"{answer[:80]!r} is not {gold[:80]!r}", canonical


def judged(gold: str, answer: str | None) -> tuple[str, str, str]:
    """What `compare` says; an expression that it cannot take is wrong where the gold answer by itself can be taken."""
    try:
        if answer is not None:
            return compare(gold, answer)
    except RecursionError:
        why = "the expression is nested too deeply"
    except Exception as error:
        why = f"{type(error).__name__}: {str(error)[:200]}"
    else:
        why = ""
    try:
        from math_verify import verify

        parsed = _parsed(gold)
        for other in ("1", "2x+1"):  # itself it would equal without being evaluated
            verify(parsed, _parsed(other), timeout_seconds=None, raise_on_error=True)
    except Exception as error:
        return "unscorable", why or f"{type(error).__name__}: {str(error)[:200]}", ""
    return ("right", "", "") if answer is None else ("wrong", f"{answer[:80]!r} cannot be evaluated ({why})", "")


def _parsed(text: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse
    from sympy import I, Symbol

    text = _REPEATING.sub(_fraction, text.strip().strip("$")).replace("\\varnothing", "\\emptyset")
    text = re.sub(r"(?<=\d)i(?![A-Za-z])", r"\\cdot i", text)  # math-verify knows the imaginary unit by itself only
    if chain := _DESCENDING.fullmatch(text):
        a, first, x, second, b = chain.groups()
        text = f"{b}{_UP[second]}{x}{_UP[first]}{a}"
    text = re.sub(r"(?<![A-Za-z\\])(?:oo|infinity|inf)(?![A-Za-z])", r"\\infty", text).replace("∞", "\\infty ")
    parsed = parse(
        f"\\boxed{{{text}}}",
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,
        raise_on_error=True,
    )
    # math-verify reads i as a symbol that is not real, which leaves (1+i)^2 and 2i apart
    unit = Symbol("i", real=False)
    return [item.subs(unit, I) if unit in getattr(item, "free_symbols", ()) else item for item in parsed]


def _fraction(match: re.Match[str]) -> str:
    """A repeating decimal as a LaTeX fraction: 0.1\\overline{6} is (16 - 1) / 90."""
    whole, fixed, repeated = match[1] or "0", match[2], match[3]
    top = int(whole + fixed + repeated) - int(whole + fixed)
    return f"\\frac{{{top}}}{{{(10 ** len(repeated) - 1) * 10 ** len(fixed)}}}"


def _numbers(text: str) -> bool:
    """Whether it is digits that spaces divide into several numbers."""
    return re.fullmatch(r"[\d\s\\,;:!~.+-]+", text.strip()) is not None and _GAP.search(text) is not None


def _shape(text: str) -> str:
    """The brackets around a list: of a set, of a tuple, which of `(a,b)`, `[a,b)`, ... an interval is; else empty."""
    text = literal(text)
    if text.startswith("\\{") and text.endswith("\\}") and "," in text and "(" not in text:
        return "{}"
    if text.startswith("(") and text.endswith(")") and text.count(",") > 1 and "(" not in text[1:]:
        return "()"
    inside = text[1:-1]
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and inside.count(",") == 1 and "(" not in inside:
        return text[0] + text[-1]
    return ""


def prepare() -> str:
    """Load what comparing needs; why it cannot be done here, or nothing."""
    logging.disable(logging.CRITICAL)
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        return f"grading mathematics needs math-verify ({error}): pip install 'gainrl[tasks]'"
    judged("2x", None)  # loads what is loaded at the first use, which is no comparison's time
    return ""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request; see the module's docstring."""
    verdict, reason, spelling = judged(request["gold"], request["answer"])
    return {"verdict": verdict, "reason": reason, "answer": spelling}
