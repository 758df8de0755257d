"""The process that scores answers with reasoning-gym's own scorers: one JSON object a line in, one out.

Run by file name from `gainrl.tasks.reasoning_gym`, so it imports nothing of gainrl.  A scorer that hangs or eats memory
takes only this process along.  Several of those scorers hand the answer to `eval` or to sympy's `parse_expr`, which is
`eval` again: a model that answers `__import__("os").system(...)` would run it.  To a scorer that
calls `eval`, only plain literals are handed; to one that calls `parse_expr`, only formulas of numbers, known names and
operators, and no string in any form, which sympy would evaluate a second time.  The gold answer itself always goes.

This check is the one wall.  The process has the user's rights, the network and the files: it is not in the sandbox that
runs programs, which shows neither this environment's packages nor enough memory.  Datasets of other versions of
reasoning-gym, whose scorers evaluate in ways that `way` does not see, need a container around the run.

Request: {"dataset", "options", "entry", "answer"}.  Reply: {"share": 0..1}, or {"error": str}.  The entry comes pickled
from the process that made it: it holds tuples and sets that JSON would change, and a few datasets come out differently
in every process.
"""

from __future__ import annotations

import ast
import base64
import inspect
import json
import os
import pickle
import re
import resource
import signal
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


def main(limit: float) -> None:
    requests, replies = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # nothing that a library prints may look like a reply
        os.dup2(quiet, descriptor)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    import reasoning_gym

    print(json.dumps({"ready": True}), file=replies, flush=True)
    known: dict[str, Any] = {}
    reply: dict[str, Any]
    for line in requests:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, limit)
        key = json.dumps([request["dataset"], request["options"]], sort_keys=True)
        try:
            if key not in known:
                known.clear()  # one task at a time is the rule, and some datasets are large
                known[key] = reasoning_gym.create_dataset(request["dataset"], **request["options"])
            entry = pickle.loads(base64.b64decode(request["entry"]))  # written by the process that grades, nobody else
            reply = {"share": score(known[key], entry, request["answer"])}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
