"""Scores answers with reasoning-gym's own scorers, in a process of `worker_process.py`; imports nothing of gainrl.

Several of those scorers hand the answer to `eval` or to sympy's `parse_expr`, which is
`eval` again: a model that answers `__import__("os").system(...)` would run it.  To a scorer that
calls `eval`, only plain literals are handed; to one that calls `parse_expr`, only formulas of numbers, known names and
operators, and no string in any form, which sympy would evaluate a second time.  The gold answer itself always goes.

This check is the one wall.  The process has the user's rights, the network and the files: it is not in the sandbox that
runs programs, which shows neither this environment's packages nor enough memory.  Datasets of other versions of
reasoning-gym, whose scorers evaluate in ways that `way` does not see, need a container around the run.

Request: {"dataset", "options", "entry", "answer", "gold"}.  Reply: {"verdict", "reason", "share": 0..1}.  The entry
comes pickled from the process that made it: it holds tuples and sets that JSON would change, and a few datasets come
out differently in every process.
"""

from __future__ import annotations

import ast
import base64
import inspect
import json
import pickle
import re
import sys
from typing import Any

MEMORY = 4 << 30  # bytes of address space
_EVALUATES = re.compile(r"(?<![\w.])(?:eval|exec)\s*\(")
_PARSES = re.compile(r"\b(?:parse_expr|sympify|S)\s*\(")
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
    try:
        ast.literal_eval(ast.parse(answer.lstrip(" \t"), mode="eval"))  # as `eval` reads it
    except SyntaxError:
        return True  # eval refuses it as well
    except (ValueError, TypeError, MemoryError, RecursionError):
        return False
    return True


def _is_formula(text: str) -> bool:
    """Numbers, known names and operators only.  A string literal would do: what sympy is handed, it evaluates again."""
    if not text.isascii() or not text.isprintable() or _OTHER.search(text):
        return (
            False  # sympy rewrites the tokens before it evaluates them; what Python ignores goes no further than here
        )
    try:
        return all(map(_allowed, ast.walk(ast.parse(text, mode="eval"))))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


def _allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS or _NAME.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    return isinstance(node, _FORMULA)


def score(data: Any, entry: dict[str, Any], answer: str) -> float:
    """The share in [0, 1] of one answer, by the dataset's own scorer."""
    if answer != entry["answer"] and not harmless(answer, way(sys.modules[type(data).__module__])):
        return 0.0
    return max(0.0, min(1.0, float(data.score_answer(answer, entry))))


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
    entry = pickle.loads(base64.b64decode(request["entry"]))  # written by the process that grades, nobody else
    share = score(_known[key], entry, request["answer"])
    right = share >= 1.0
    reason = "" if right else f"reasoning-gym scores {share:g}"
    return {"verdict": "right" if right else "wrong", "reason": reason, "share": share}
