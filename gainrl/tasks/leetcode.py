"""LeetCode-style problems: a method of `class Solution`, tested by calls.

Hub: `newfacade/LeetCodeDataset` (Xia et al. 2025, arXiv 2504.14655), splits `train` and `test`, and `all` for both.
Columns: `problem_description`, `starter_code`, `prompt` (imports that programs may rely on), `completion`,
`entry_point` and `test`.  A local file may also have rLLM's schema: `problem` (with the class's head), `solutions`
and `tests`, an object (or its Python literal) whose `functional` holds the tests and the call
`check(Solution().method)`; of such a file, which has no splits, a tenth, chosen by a hash of the text, is `test`.

The tests are lines `assert candidate(...) == ...`, with `list_node` and `tree_node` around linked lists and trees and
`is_same_list` or `is_same_tree` in place of `==`.  They are read as literals and never run; a row with any other kind
of test is unscorable.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from gainrl.tasks.base import Row, held_out
from gainrl.tasks.loading import Source
from gainrl.tasks.programs import nodes
from gainrl.tasks.programs.extract import imports_for, lifted, program
from gainrl.tasks.programs.statement import stated
from gainrl.tasks.programs.task import METHOD, UNREADABLE, CodeTask
from gainrl.tasks.sandbox.pool import packed

_NODES = ("list_node", "tree_node")


class LeetCode(CodeTask):
    name = "leetcode"
    source = Source("newfacade/LeetCodeDataset", splits={"all": "train+test"})
    splits = ("train", "all", "test")
    columns = ("problem_description|problem", "test|tests")
    template = "program"

    def keeps(self, item: Mapping[str, Any], split: str) -> bool:
        if "problem" not in item or split == "all":
            return True
        return held_out(" ".join(str(item["problem"]).split()), 1 / 10) == (split == "test")

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        if "problem" in item:
            question, gold, before = str(item["problem"]), item.get("solutions"), ""
            asked = question
        else:
            question, gold = str(item["problem_description"]), item.get("completion")
            before = str(item.get("prompt") or "")
            asked = f"{question}\n\n{METHOD.replace('{starter}', str(item.get('starter_code') or '').rstrip())}"
        try:
            entry, tests = read_tests(item)
            metadata = {"entry": entry, "tests": packed(tests), "why": "", "before": before}
        except (*UNREADABLE, AttributeError) as error:
            metadata = {"entry": "", "tests": "[]", "why": f"the row's tests cannot be read: {error}", "before": ""}
        return self.row_of(item.get("task_id"), asked, question, gold, metadata)

    def request(self, completion: str, row: Mapping[str, Any]) -> dict[str, Any]:
        about = row["metadata"]
        entry, _, adapter = about["entry"].partition(":")
        code = program(completion, entry)
        # the dataset's own imports hold names like inf that programs take for granted
        code = lifted(f"{about['before']}\n{imports_for(code)}{code}")
        if adapter:
            code, entry = nodes.adapted(code, entry), adapter
        return {"kind": "calls", "code": code, "entry": entry, "tests": about["tests"], **stated(str(row["question"]))}

    def gold(self, row: Mapping[str, Any]) -> str | None:
        return f"```python\n{row['answer']}\n```" if row["answer"] else None


def read_tests(item: Mapping[str, Any]) -> tuple[str, list[tuple[list[Any], dict[str, Any], Any]]]:
    """(entry, [(args, kwargs, expected)]) of a record's tests, read as literals."""
    if "problem" not in item:
        tree, entry = ast.parse(str(item["test"])), str(item["entry_point"])
    else:
        tests = item["tests"]
        tree = ast.parse((ast.literal_eval(tests) if isinstance(tests, str) else tests)["functional"])
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "check"]
        entry = ast.unparse(calls[-1].args[0]) if calls else ""
    found = [_assertion(node) for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    entry = entry.replace("()", "")
    if not entry or not found:
        raise ValueError("no call of check, or no assertion")
    if any(isinstance(node, ast.Name) and node.id in _NODES for node in ast.walk(tree)):
        entry = f"{entry}:{nodes.ENTRY}"
    return entry, found


def _assertion(node: ast.Assert) -> tuple[list[Any], dict[str, Any], Any]:
    test, call, expected = node.test, node.test, node.test
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        call, expected = test.left, test.comparators[0]
    elif isinstance(test, ast.Call) and ast.unparse(test.func) in ("is_same_list", "is_same_tree"):
        call, expected = test.args
    if call is test or not isinstance(call, ast.Call) or ast.unparse(call.func) != "candidate":
        raise ValueError(f"not of the form candidate(...) == value: {ast.unparse(node)[:100]}")
    kwargs = {str(key.arg): _literal(key.value) for key in call.keywords}
    return [_literal(value) for value in call.args], kwargs, _literal(expected)


def _literal(node: ast.expr) -> Any:
    """A literal, or linked lists and trees of literals as plain values."""
    if isinstance(node, ast.Call) and (kind := ast.unparse(node.func)) in _NODES:
        values = list(ast.literal_eval(node.args[0]))
        while kind == "tree_node" and values and values[-1] is None:
            values.pop()
        return {kind: values} if values else None
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    return ast.literal_eval(node)
