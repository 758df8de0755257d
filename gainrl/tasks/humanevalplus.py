"""HumanEval+: HumanEval with 80 times the tests (Liu et al. 2023, arXiv 2305.01210; release v0.1.10).

Hub: `evalplus/humanevalplus`, split `test`. Columns: `task_id`, `prompt`, `entry_point`, `canonical_solution`, and
either `base_input` and `plus_input` (the release's file, with `atol`) or `test` (the hub's, whose list `inputs` is
read, not run). Expected outputs are what the canonical solution returns in the sandbox, once in a
process. Numbers are compared as EvalPlus does: within `atol` + 1e-7 of the expected one, `atol` being 1e-6 where the
row gives none and the expected value is a float or a list or tuple of floats. Of HumanEval/32 any root is right.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gainrl.tasks.base import Completion, Grade, Row, Status
from gainrl.tasks.humaneval import HumanEval, whole
from gainrl.tasks.loading import Source
from gainrl.tasks.sandbox import Limits, Verdict, shared_graders
from gainrl.tasks.sandbox.pool import packed

_ATOL = {"HumanEval/2": 1e-6, "HumanEval/4": 1e-6, "HumanEval/32": 1e-4}  # where a file names none
_FLOAT_ATOL = 1e-6  # of expected floats where atol is 0
_TRUSTED = Limits(test=30, total=120, memory=4 << 30)


class HumanEvalPlus(HumanEval):
    name = "humanevalplus"
    limits = Limits(test=10, total=60)  # HumanEval/130 has ten answers of a million numbers
    source = Source("evalplus/humanevalplus")
    columns = ("task_id", "prompt", "entry_point", "canonical_solution")

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        name = str(item["task_id"])
        if "base_input" in item and "plus_input" in item:
            inputs = [*item["base_input"], *item["plus_input"]]
        else:
            inputs = _inputs_of(str(item.get("test", "")))
        atol, rule = float(item.get("atol", _ATOL.get(name, 0.0))), "root" if name == "HumanEval/32" else ""
        entry = str(item["entry_point"])
        metadata = {"entry_point": entry, "inputs": json.dumps(inputs), "atol": atol, "rule": rule}
        return {**super().row({"test": "", **item}, index), "metadata": metadata}

    def grade_many(self, completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]]) -> list[Grade]:
        self.check_ready()
        _expect(rows)
        return super().grade_many(completions, rows)

    def request(self, completion: str, row: Mapping[str, Any]) -> dict[str, Any] | Grade:
        about, entry, known = row["metadata"], row["metadata"]["entry_point"], _known[_key(row)]
        if known.verdict != "right":
            return Grade(Status.UNSCORABLE, known.reason)
        code = whole(completion, str(row["question"]), entry)
        rules = {"atol": about["atol"], "float_atol": _FLOAT_ATOL, "rule": about["rule"]}
        return {"kind": "calls", "code": code, "entry": entry, "tests": known.outputs, **rules}


def _inputs_of(test: str) -> list[Any]:
    """The literal list assigned to `inputs` in the hub's test code; empty (unscorable) where there is none."""
    for node in ast.walk(ast.parse(test)):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "inputs" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return []


_known: dict[bytes, Verdict] = {}  # canonical solutions' outputs, or why there are none


def _key(row: Mapping[str, Any]) -> bytes:
    fields = (row["question"], row["answer"], row["metadata"]["entry_point"], row["metadata"]["inputs"])
    return hashlib.sha256("\0".join(map(str, fields)).encode()).digest()


def _expect(rows: Sequence[Mapping[str, Any]]) -> None:
    """Have the expected outputs of every row, from the canonical solutions, isolated.

    What failed by other causes than the solution itself is tried again the next time.
    """
    requests = {}
    for key, row in {_key(row): row for row in rows}.items():
        if key not in _known or not (_known[key].verdict == "right" or _known[key].lasting):
            inputs, entry = json.loads(row["metadata"]["inputs"]), row["metadata"]["entry_point"]
            code, tests = f"{row['question']}{row['answer']}", packed([(args, {}, None) for args in inputs])
            requests[key] = {"kind": "outputs", "code": code, "entry": entry, "tests": tests}
    _known.update(zip(requests, shared_graders().grade([*requests.values()], _TRUSTED), strict=True))
