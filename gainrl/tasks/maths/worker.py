"""Compares answers in a process of `gainrl.tasks.workers`, so that one may hang, crash or eat memory.

Request: {"gold": str, "answer": str or null, "question": str}; null asks whether the gold answer evaluates by itself.
Reply: {"verdict": "right" | "wrong" | "unscorable", "reason": str, "answer": canonical spelling}.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from gainrl.tasks.maths.equality import Undefined, asked, evaluate, form, has_sign, pieces, same, symbols
from gainrl.tasks.maths.notation import Node, Unreadable, clean, parsed

MEMORY = 2 << 30  # bytes of address space
_LEAD = re.compile(r"^\s*(?:\\text\s*\{)?\s*(?:the\s+)?(?:final\s+)?answer\s+is:?\s*\}?\s*", re.IGNORECASE)
_CHOICE = re.compile(
    r"(?:\\text(?:bf|it|rm)?\s*\{|\\mathrm\s*\{|\\mathbf\s*\{)?\s*(?:(?:option|choice|answer)\s+)?"
    r"(?:\(\s*(?:\\(?:text|mathrm|textbf)\s*\{\s*)?([A-Z])\s*\}?\s*\)|([A-Z])(?=\s*(?:[).:]|\}?\s*$)))\s*[).:]*\s*\}?[).:]*\s*(.*)",
    re.DOTALL | re.IGNORECASE,
)
# several choices, or a symbol that goes on
_NO_CHOICE = re.compile(
    r"(?<![A-Za-z\\])\(?[A-H][.)]|^(?:(?i:or|and)\b|[-+=^*/_!,]|\\(?:cdot|times|cup|cap|text\s*\{\s*(?i:or|and)))"
)


def compare(gold: str, answer: str, question: str) -> tuple[str, str, str]:
    """(verdict, reason, canonical answer) of two answers, both without their box."""
    answer = _LEAD.sub("", answer, count=1)
    expected, found = pieces(gold), pieces(answer)
    if expected and expected == found:
        return "right", "", canonical(answer)
    about = f"{answer[:80]!r} is not {gold[:80]!r}"
    (letter, meant), (chosen, said) = _choice(gold), _choice(answer)
    if letter and (chosen or not meant):
        chosen = chosen or clean(answer)
        if chosen != letter or not (meant and said):
            return ("right", "", chosen) if chosen == letter else ("wrong", about, chosen)
    gold = meant or gold
    if said and (letter or parsed(said)):
        answer = said  # "(C) 12" where the gold answer is 12
    wanted, given = parsed(gold), parsed(answer)
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
    literal, shape = form(wanted), form(given)
    single = wanted[0] not in ("list", "set", "tuple")  # entries of several may well stand in the question
    parts = given[1] if given[0] == "chain" or (single and given[0] in ("list", "set")) else (given,)
    sides = list(map(form, parts)) or [shape]
    stands = shape in ask.formulas or (literal not in sides and ask.formulas.issuperset(sides))
    if (shape != literal and stands) or ((shape != literal or given[0] == "chain" != wanted[0]) and ask.spells(answer)):
        return "wrong", f"{answer[:80]!r} stands in the question", canonical(answer)
    return "right", "", canonical(gold)


def _choice(text: str) -> tuple[str, str]:
    """(letter, option text) of a choice such as `(C)`, `C) 12`, `\\text{(B)}`; empty if it is none."""
    match = _CHOICE.fullmatch(text.strip().strip("$").strip().rstrip("."))
    letter, rest = ((match[1] or match[2]), match[3].strip().strip("}")) if match else ("", "")
    return (letter, rest) if letter.isupper() and not _NO_CHOICE.search(rest) else ("", "")


def _check(gold: Node | None) -> None:
    """Raise what evaluating a constant gold answer raises: the row's fault, not the answer's."""
    if gold and gold[0] in ("num", "add", "mul", "pow", "call") and not symbols(gold) and not has_sign(gold):
        evaluate(gold, {})


def canonical(text: str) -> str:
    """One spelling for answers that are literally the same, for votes."""
    node = parsed(text)
    try:
        value = evaluate(node, {}) if node is not None and not symbols(node) else None
        return str(value) if isinstance(value, Fraction) else pieces(text)
    except (ValueError, ArithmeticError):  # unreadable, or too long to be written
        return pieces(text)


def judged(gold: str, answer: str | None, question: str) -> tuple[str, str, str]:
    """The verdict of `compare`; a gold answer without a value makes the row unscorable."""
    try:
        if answer is not None:
            return compare(gold, answer, question)
        _check(parsed(gold))
        return "right", "", ""
    except (ArithmeticError, Unreadable) as error:
        return "unscorable", f"the gold answer {gold[:80]!r} has no value: {error}", ""


def prepare() -> str:
    """Load what comparing needs."""
    judged("(-\\infty,0)\\cup(1,\\infty)", "x<0 \\text{ or } x^2>x", "")  # and sympy's solvers, which load late
    return ""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request; see the module's docstring."""
    verdict, reason, spelling = judged(request["gold"], request["answer"], request.get("question", ""))
    return {"verdict": verdict, "reason": reason, "answer": spelling}
