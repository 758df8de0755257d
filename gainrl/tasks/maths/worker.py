"""Compares answers in a process of `worker_process.py`, so that one may hang, crash or eat memory.

Request: {"gold": str, "answer": str or null, "question": str}; null asks whether the gold answer evaluates by itself.
Reply: {"verdict": "right" | "wrong" | "unscorable", "reason": str, "answer": canonical spelling}.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from gainrl.tasks.maths.equality import Undefined, asked, evaluate, form, has_sign, pieces, same, symbols
from gainrl.tasks.maths.notation import Node, Unreadable, clean, read

MEMORY = 2 << 30  # bytes of address space
_LEAD = re.compile(r"^\s*(?:\\text\s*\{)?\s*(?:the\s+)?(?:final\s+)?answer\s+is:?\s*\}?\s*", re.IGNORECASE)
_CHOICE = re.compile(
    r"(?:\\text(?:bf|it|rm)?\s*\{|\\mathrm\s*\{|\\mathbf\s*\{)?\s*(?:(?:option|choice|answer)\s+)?"
    r"(?:\(\s*(?:\\(?:text|mathrm|textbf)\s*\{\s*)?([A-Z])\s*\}?\s*\)|([A-Z])(?=\s*(?:[).:]|\}?\s*$)))\s*[).:]*\s*\}?[).:]*\s*(.*)",
    re.DOTALL | re.IGNORECASE,
)


def compare(gold: str, answer: str, question: str) -> tuple[str, str, str]:
    """(verdict, reason, canonical answer) of two answers, both without their box."""
    answer = _LEAD.sub("", answer, count=1)
    expected, found = pieces(gold), pieces(answer)
    if expected and expected == found:
        return "right", "", canonical(answer)
    about = f"{answer[:80]!r} is not {gold[:80]!r}"
    options = _choice(gold), _choice(answer)
    if options[0] and not options[0][1]:
        letter = options[1][0] if options[1] else clean(answer)
        return ("right", "", letter) if letter == options[0][0] else ("wrong", about, letter)
    if options[1] and options[1][1] and _parsed(options[1][1]) and not options[0]:
        answer = options[1][1]  # "(C) 12" where the gold answer is 12
    if options[0] and options[0][1]:
        if options[1] and options[1][0] != options[0][0]:
            return "wrong", about, canonical(answer)
        if options[1] and not options[1][1]:
            return "right", "", options[1][0]
        gold = options[0][1]
        answer = options[1][1] if options[1] else answer
    wanted, given = _parsed(gold), _parsed(answer)
    if wanted is None:
        return "wrong", f"{answer[:80]!r} is not, as text, {gold[:80]!r}", found
    _check(wanted)
    if given is None:
        return "wrong", f"{answer[:80]!r} cannot be read as mathematics", found
    ask = asked(question)
    try:
        if not same(wanted, given, ask):
            return "wrong", about, canonical(answer)
    except (Undefined, Unreadable, ArithmeticError) as error:
        return "wrong", f"{answer[:80]!r} cannot be compared: {error}", canonical(answer)
    other = form(given) != form(wanted)
    if (other and ask.shows(given)) or ((other or given[0] == "chain" != wanted[0]) and ask.spells(answer)):
        return "wrong", f"{answer[:80]!r} stands in the question", canonical(answer)
    return "right", "", canonical(gold)


def _choice(text: str) -> tuple[str, str] | None:
    """(letter, option text) of a choice such as `(C)`, `C) 12`, `\\text{(B)}`."""
    match = _CHOICE.fullmatch(text.strip().strip("$").strip().rstrip("."))
    if match is None:
        return None
    letter, rest = match[1] or match[2], match[3].strip().strip("}")
    if re.search(r"(?<![A-Za-z\\])\(?[A-H][.)]", rest):  # several of them
        return None
    if not letter.isupper() or re.match(
        r"(?:or|and)\b|[-+=^*/_!,]|\\(?:cdot|times|cup|cap|text\s*\{\s*(?:or|and))", rest, re.IGNORECASE
    ):
        return None
    return letter, rest


def _parsed(text: str) -> Node | None:
    try:
        return read(text)
    except (Unreadable, RecursionError):
        return None


def _check(gold: Node) -> None:
    """Raise what evaluating a constant gold answer raises: the row's fault, not the answer's."""
    if gold[0] in ("num", "add", "mul", "pow", "call") and not symbols(gold) and not has_sign(gold):
        evaluate(gold, {})


def canonical(text: str) -> str:
    """One spelling for answers that are literally the same, for votes."""
    node = _parsed(text)
    if node is not None and not symbols(node):
        try:
            value = evaluate(node, {})
        except (Unreadable, ArithmeticError):
            return pieces(text)
        if isinstance(value, Fraction):
            return str(value)
    return pieces(text)


def judged(gold: str, answer: str | None, question: str) -> tuple[str, str, str]:
    """The verdict of `compare`; a gold answer without a value makes the row unscorable."""
    try:
        return compare(gold, "0" if answer is None else answer, question) if answer is not None else _alone(gold)
    except (ArithmeticError, Unreadable) as error:
        return "unscorable", f"the gold answer {gold[:80]!r} has no value: {error}", ""


def _alone(gold: str) -> tuple[str, str, str]:
    node = _parsed(gold)
    if node is not None:
        _check(node)
    return "right", "", ""


def prepare() -> str:
    """Load what comparing needs."""
    judged("(-\\infty,0)\\cup(1,\\infty)", "x<0 \\text{ or } x^2>x", "")  # and sympy's solvers, which load late
    return ""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request; see the module's docstring."""
    verdict, reason, spelling = judged(request["gold"], request["answer"], request.get("question", ""))
    return {"verdict": verdict, "reason": reason, "answer": spelling}
