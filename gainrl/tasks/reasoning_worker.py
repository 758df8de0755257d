"""Scores answers with reasoning-gym's own scorers, in a process of `gainrl.tasks.workers`.

Several of those scorers hand the answer to `eval` or to sympy's `parse_expr`, which is
`eval` again: a model that answers `__import__("os").system(...)` would run it.  To a scorer that
calls `eval`, only plain literals are handed; to one that calls `parse_expr`, only formulas of numbers, known names and
operators, and no string in any form, which sympy would evaluate a second time.  The gold answer itself always goes.

This check is the one wall.  The process has the user's rights, the network and the files: it is not in the sandbox that
runs programs, which shows neither this environment's packages nor enough memory.  Datasets of other versions of
reasoning-gym, whose scorers evaluate in ways that `way` does not see, need a container around the run.

Request: {"dataset", "options", "entry", "answer", "gold"}; an answer of None asks whether the scorer takes the gold
answer or, if there is none, whether it ends.  Reply: {"verdict", "reason", "answer", "share": 0..1}.  The entry comes
pickled from the process that made it: it holds tuples and sets that JSON would change, and a few datasets come out
differently in every process.
"""

from __future__ import annotations

import ast
import base64
import inspect
import json
import pickle
import re
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

MEMORY = 4 << 30  # bytes of address space
_EVALUATES = re.compile(r"(?<![\w.])(?:eval|exec)\s*\(")
_PARSES = re.compile(r"\b(?:parse_expr|sympify|S)\s*\(")
_NO_NUMBER = re.compile(r"(?<![A-Za-z])s?(?:nan|inf|infinity)[ij]?(?![A-Za-z])", re.IGNORECASE)
_ECHO = 12  # characters from which a piece of the question is an echo, if it is not the gold answer
_LARGEST = 1000  # exponent that a formula may hold
_LONGEST = 2000  # characters of an answer that is evaluated
_FORMULA = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Name, ast.Load, ast.Call, ast.Add, ast.Sub, ast.Mult,
    ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitXor, ast.UAdd, ast.USub,
)  # fmt: skip
_FUNCTIONS = {
    "Abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "cot", "csc", "exp", "ln", "log", "sec",
    "sin", "sinh", "sqrt", "tan", "tanh",
}  # fmt: skip
_OTHER = re.compile(r"[\"'`\\#@!:;\[\]{}]")
_NAME = re.compile(r"[A-Za-z][0-9]?|pi")


def way(module: Any) -> str:
    """How a dataset's module reads answers: "formula" (sympy), "literal" (eval) or "" where it evaluates nothing."""
    source = inspect.getsource(module)
    return "formula" if _PARSES.search(source) else "literal" if _EVALUATES.search(source) else ""


def harmless(answer: str, how: str) -> bool:
    """Whether evaluating the answer runs nothing but arithmetic."""
    if not how:
        return True
    if len(answer) > _LONGEST:
        return False
    if how == "formula":
        return _is_formula(answer.strip())
    for text in (answer.lstrip(" \t"), answer.strip()):  # as `eval` reads it, and as scorers hand it to `eval`
        try:
            ast.literal_eval(ast.parse(text, mode="eval"))
        except SyntaxError:
            continue  # eval refuses it as well
        except (ValueError, TypeError, MemoryError, RecursionError):
            return False
    return True


def _is_formula(text: str) -> bool:
    """Numbers, known names and operators only.  A string literal would do: what sympy is handed, it evaluates again."""
    # sympy rewrites the tokens before it evaluates them; what Python ignores goes no further than here
    if not text.isascii() or not text.isprintable() or _OTHER.search(text):
        return False
    try:
        nodes = list(ast.walk(ast.parse(text.replace("^", "**"), mode="eval")))
        powers = [node.right for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)]
        return all(map(_allowed, nodes)) and not any(map(_is_large, powers))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


def _is_large(exponent: ast.AST) -> bool:
    """Whether carrying out a power may take for ever: 9**9**9, x**100000."""
    return any(
        isinstance(node, ast.Pow) or (isinstance(node, ast.Constant) and abs(node.value) > _LARGEST)  # type: ignore[arg-type]
        for node in ast.walk(exponent)
    )


def _allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS or _NAME.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    return isinstance(node, _FORMULA)


def score(data: Any, entry: dict[str, Any], answer: str) -> float:
    """The share in [0, 1] of one answer, by the dataset's own scorer and the checks of this module.

    0 for what is no answer, and for an answer that the scorer cannot take where it can take the gold answer.
    """
    gold = entry.get("answer")
    if answer != gold and (_is_none(answer, entry) or not harmless(answer, way(sys.modules[type(data).__module__]))):
        return 0.0
    try:
        share = float(data.score_answer(answer, entry))
    except Exception:
        if answer == gold:
            raise
        if isinstance(gold, str):
            data.score_answer(gold, entry)  # raises where the fault is the dataset's
        return 0.0
    if answer != gold and share >= 1.0 and not _believed(data, entry, answer):
        return 0.0
    return max(0.0, min(share, 1.0)) if share == share else 0.0


def _is_none(answer: str, entry: dict[str, Any]) -> bool:
    """Whether a text is no answer: no number where numbers are meant, or the question over again."""
    if _NO_NUMBER.search(answer) and not _NO_NUMBER.search(str(entry.get("answer"))):
        return True
    question, text = _plain(str(entry.get("question"))), _plain(answer)
    return len(text) > _ECHO and (text in question or question in text)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _believed(data: Any, entry: dict[str, Any], answer: str) -> bool:
    """Whether a full score means a right answer: the dataset's own check here, and no decoy that scores as much."""
    name = (entry.get("metadata") or {}).get("source_dataset")
    if name in _CHECKS and not _CHECKS[name](entry, answer):
        return False
    for decoy in _DECOYS:
        try:
            taken = float(data.score_answer(decoy, entry)) >= 1.0
        except Exception:
            continue
        if taken:
            return _plain(answer) == _plain(str(entry.get("answer")))
    return True


def _relative(entry: dict[str, Any], answer: str) -> bool:
    gold = Fraction(str(entry["answer"]).replace(",", ""))
    return abs(Fraction(answer.replace(",", "")) - gold) <= abs(gold) / 100


def _target(entry: dict[str, Any], answer: str) -> bool:
    """Whether whole numbers and + - * / give the target exactly, with each of the numbers used once."""
    about = entry["metadata"]
    if re.fullmatch(r"[\d+\-*/() \t]+", answer) is None or "**" in answer or "//" in answer:
        return False
    if sorted(map(int, re.findall(r"\d+", answer))) != sorted(about["numbers"]):
        return False
    exact = re.sub(r"\d+", r"Fraction(\g<0>)", answer.strip())  # nothing but numbers and signs, so that it may be run
    try:
        return bool(eval(exact, {"__builtins__": {}, "Fraction": Fraction}) == about.get("target", 24))
    except (SyntaxError, TypeError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return False


_CHECKS: dict[str, Callable[[dict[str, Any], str], bool]] = {
    "coin_flip": _relative,  # its own takes 0 for what is small, and 15 for 1
    "countdown": _target,  # its own scorer counts 5e2 as none of the numbers, and takes what is nearly right
    "puzzle24": _target,  # its own takes any four numbers
}
_DECOYS = ("qzv no answer", "-98765.4321")


def prepare() -> str:
    """Load what scoring needs."""
    import reasoning_gym  # noqa: F401

    return ""


_known: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request; see the module's docstring."""
    import reasoning_gym

    key = json.dumps([request["dataset"], request["options"]], sort_keys=True)
    if key not in _known:
        _known.clear()  # one task at a time is the rule, and some datasets are large
        _known[key] = reasoning_gym.create_dataset(request["dataset"], **request["options"])
    entry = pickle.loads(base64.b64decode(request["entry"]))  # written by the process that grades, and by no other
    given, gold = request["answer"], request["gold"]
    share = score(_known[key], entry, gold if given is None else given)
    reason = "" if share >= 1.0 or not (given or gold) else f"reasoning-gym scores {share:g}"
    return {"verdict": "wrong" if reason else "right", "reason": reason, "answer": given, "share": share}
