"""HumanEval+: HumanEval with 80 times the tests (Liu et al. 2023, arXiv 2305.01210; release v0.1.10).

Hub: `evalplus/humanevalplus`, split `test`. Columns: `task_id`, `prompt`, `entry_point`, `canonical_solution`, and
either `base_input` and `plus_input` (the release's file, with `atol`) or `test` (the hub's, whose list `inputs` is
read, not run). Expected outputs are what the canonical solution returns, computed in the sandbox and kept in the
user's cache. Numbers are compared as EvalPlus does: within `atol` + 1e-7 of the expected one, `atol` being 1e-6 where
the row gives none and the expected value is a float or a list or tuple of floats. Of HumanEval/32 any root is right.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gainrl.files import atomic_path, cache_directory
from gainrl.tasks.base import Completion, Grade, Row
from gainrl.tasks.humaneval import HumanEval, whole
from gainrl.tasks.loading import Source
from gainrl.tasks.programs.task import Unscorable
from gainrl.tasks.sandbox import Limits, codec, require_isolation, shared_graders
from gainrl.tasks.sandbox.pool import packed

_ATOL = {"HumanEval/2": 1e-6, "HumanEval/4": 1e-6, "HumanEval/32": 1e-4}  # where a file says nothing of it
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
        require_isolation()
        _expect(rows)
        return super().grade_many(completions, rows)

    def request(self, completion: str, row: Mapping[str, Any]) -> dict[str, Any]:
        about, entry = row["metadata"], row["metadata"]["entry_point"]
        pairs = zip(json.loads(about["inputs"]), _expected(row), strict=True)
        tests = packed([(args, {}, value) for args, value in pairs])
        code = whole(completion, str(row["question"]), entry)
        rules = {"atol": about["atol"], "float_atol": _FLOAT_ATOL, "rule": about["rule"]}
        return {"kind": "calls", "code": code, "entry": entry, "tests": tests, **rules}


def _inputs_of(test: str) -> list[Any]:
    """The literal list assigned to `inputs` in the hub's test code; empty (unscorable) where there is none."""
    for node in ast.walk(ast.parse(test)):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "inputs" for t in node.targets):
            found = ast.literal_eval(node.value)
            return list(found)
    return []


def _key(row: Mapping[str, Any]) -> str:
    parts = (row["question"], row["answer"], row["metadata"]["entry_point"], row["metadata"]["inputs"])
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


_known: dict[str, list[Any] | str] = {}  # expected outputs, or why there are none
_failed: dict[str, str] = {}  # why there are none yet: a failure that is not the canonical solution's own


def _expect(rows: Sequence[Mapping[str, Any]]) -> None:
    """Load the expected outputs of every row: from the cache, else from the canonical solutions, isolated."""
    folder, requests = cache_directory() / "humanevalplus", dict[str, dict[str, Any]]()
    for key, row in {key: row for row in rows if (key := _key(row)) not in _known}.items():
        try:
            _known[key] = list(codec.decode((folder / key).read_bytes()))
        except (OSError, ValueError):  # not there yet, or not whole
            inputs, entry = json.loads(row["metadata"]["inputs"]), row["metadata"]["entry_point"]
            tests = packed([(args, {}, None) for args in inputs])
            code = f"{row['question']}{row['answer']}"
            requests[key] = {"kind": "outputs", "code": code, "entry": entry, "tests": tests}
    for key, verdict in zip(requests, shared_graders().grade([*requests.values()], _TRUSTED), strict=True):
        if verdict.verdict != "right":
            (_known if verdict.lasting else _failed)[key] = verdict.reason
            continue
        _known[key] = verdict.outputs
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / key) as temporary:
            temporary.write_bytes(codec.encode(verdict.outputs))


def _expected(row: Mapping[str, Any]) -> list[Any]:
    found = _known.get(_key(row)) or _failed.get(_key(row), "the row has no test inputs")
    if isinstance(found, str):
        raise Unscorable(found)
    return found
