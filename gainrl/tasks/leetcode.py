"""LeetCode-style problems: a method of `class Solution`, tested by calls.

No hub id of its own; `source` names a file with the columns `problem` (with the class's head), `solutions` and
`tests`, an object (or its Python literal) whose `functional` holds `def check(candidate)` with lines `assert
candidate(...) == ...` and the call `check(Solution().method)`. The tests are read as literals and never run. A
tenth of the problems, chosen by a hash of the text, is the held-out split `test`; a file is taken whole with
`all`.
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Mapping
from typing import Any

from gainrl.tasks.base import Row
from gainrl.tasks.loading import read_rows
from gainrl.tasks.programs.extract import imports_for, program
from gainrl.tasks.programs.task import CodeTask, Unscorable
from gainrl.tasks.sandbox.pool import packed

_HELD_OUT = 1 / 10


class LeetCode(CodeTask):
    """See the module's docstring."""

    name = "leetcode"
    splits = ("train", "all", "test")
    columns = ("problem", "tests")
    template = "program"

    def load(
        self, split: str | None = None, source: str | os.PathLike[str] | None = None, limit: int | None = None
    ) -> list[Row]:
        split = self._check(split, limit)
        raw = read_rows(source, self.source, split="train", columns=self.columns, task=self.name)
        if split != "all":
            raw = [item for item in raw if _held_out(str(item["problem"])) == (split == "test")]
        return [self.row(item, index) for index, item in enumerate(raw[:limit])]

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        question = str(item["problem"])
        try:
            entry, tests = read_tests(item["tests"])
            why = ""
        except (ValueError, SyntaxError, TypeError, KeyError, AttributeError, RecursionError) as error:
            entry, tests, why = "", [], f"the row's tests cannot be read: {error}"
        return {
            "prompt": self.prompt.render(question),
            "question": question,
            "answer": str(item.get("solutions") or ""),
            "metadata": {"entry": entry, "tests": packed(tests), "why": why},
        }

    def request(self, completion: str, row: Mapping[str, Any]) -> dict[str, Any]:
        about = row["metadata"]
        if about["why"]:
            raise Unscorable(about["why"])
        code = program(completion, about["entry"].partition(".")[0])
        return {"kind": "calls", "code": imports_for(code) + code, "entry": about["entry"], "tests": about["tests"]}

    def gold(self, row: Mapping[str, Any]) -> str | None:
        return f"```python\n{row['answer']}\n```" if row["answer"] else None


def read_tests(tests: Any) -> tuple[str, list[tuple[list[Any], dict[str, Any], Any]]]:
    """(entry, [(args, kwargs, expected)]) of a row's tests, read as literals."""
    if isinstance(tests, str):
        tests = ast.literal_eval(tests)
    entry, found = "", []
    for node in ast.walk(ast.parse(tests["functional"])):
        if isinstance(node, ast.Assert):
            test = node.test
            if not (isinstance(test, ast.Compare) and isinstance(test.left, ast.Call) and len(test.ops) == 1):
                raise ValueError(f"not of the form candidate(...) == value: {ast.unparse(node)[:100]}")
            if not isinstance(test.ops[0], ast.Eq) or ast.unparse(test.left.func) != "candidate":
                raise ValueError(f"not of the form candidate(...) == value: {ast.unparse(node)[:100]}")
            args = [ast.literal_eval(value) for value in test.left.args]
            kwargs = {str(key.arg): ast.literal_eval(key.value) for key in test.left.keywords}
            found.append((args, kwargs, ast.literal_eval(test.comparators[0])))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "check":
            entry = ast.unparse(node.args[0]).replace("()", "")
    if not entry or not found:
        raise ValueError("no call of check, or no assertion")
    return entry, found


def _held_out(problem: str) -> bool:
    digest = hashlib.sha256(" ".join(problem.split()).encode()).digest()
    return int.from_bytes(digest[:8]) < _HELD_OUT * 2**64
