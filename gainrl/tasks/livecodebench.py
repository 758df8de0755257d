"""LiveCodeBench: contest problems from LeetCode, AtCoder and Codeforces (Jain et al. 2024, arXiv 2403.07974).

Hub: `livecodebench/code_generation_lite`, split `test`; give a local copy where the installed `datasets` no longer
runs that dataset's loading script.  Two schemas are read: LiveCodeBench's own (`question_content`, `starter_code`,
`public_test_cases`, `private_test_cases`, `metadata`) and rLLM's (`problem`, `starter_code`, `tests`).  Problems with
starter code are functional (a method called with JSON arguments), the others read stdin and write stdout.

The private tests come as base64 of zlib of a pickle that holds one JSON string.  The pickle is never loaded: its one
string operand is read and any other opcode refused.  The dataset carries no solutions, so there is no self-check.
"""

from __future__ import annotations

import ast
import base64
import binascii
import json
import pickletools
import re
import zlib
from collections.abc import Mapping
from typing import Any

from gainrl.errors import UserError
from gainrl.tasks.base import Row
from gainrl.tasks.loading import Source
from gainrl.tasks.programs.extract import imports_for, program
from gainrl.tasks.programs.task import CodeTask, Unscorable
from gainrl.tasks.sandbox.pool import packed

_LARGEST = 1 << 30  # bytes of unpacked tests; the largest published problem has 0.2 GiB
_HARMLESS = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}
_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_STDIN = "Read the input from standard input and print the answer to standard output."
_METHOD = "Complete this class:\n```python\n{starter}\n```"


class LiveCodeBench(CodeTask):
    """See the module's docstring."""

    name = "livecodebench"
    source = Source("livecodebench/code_generation_lite")
    splits = ("test",)
    columns = ("starter_code",)
    template = "program"

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        problem = item.get("question_content", item.get("problem"))
        if problem is None or not ({"tests", "public_test_cases"} & set(item)):
            raise UserError(
                f"task {self.name!r} needs the fields question_content and public_test_cases, or problem and tests; "
                f"row {index} has {', '.join(map(str, item))}"
            )
        starter = str(item.get("starter_code") or "").rstrip()
        try:
            tests, why = _tests(item), ""
        except (ValueError, SyntaxError, TypeError, KeyError) as error:
            tests, why = [], f"the row's tests cannot be read: {error}"
        functional = any(test["testtype"] == "functional" for test in tests)
        metadata: dict[str, Any] = {"why": why, "kind": "calls" if functional else "stdin", "entry": "", "tests": ""}
        if functional:
            metadata["entry"] = _entry(item, starter)
            metadata["tests"] = packed([_call(test) for test in tests])
        else:
            metadata["tests"] = json.dumps([[test["input"], test["output"]] for test in tests])
        asked = _METHOD.replace("{starter}", starter) if starter else _STDIN
        row: Row = {
            "prompt": self.prompt.render(f"{problem}\n\n{asked}"),
            "question": str(problem),
            "answer": "",
            "metadata": metadata,
        }
        if item.get("question_id") is not None:
            row["id"] = str(item["question_id"])
        return row

    def request(self, completion: str, row: Mapping[str, Any]) -> dict[str, Any]:
        about = row["metadata"]
        if about["why"]:
            raise Unscorable(about["why"])
        code = program(completion, about["entry"].partition(".")[0])
        request = {"kind": about["kind"], "code": imports_for(code) + code, "entry": about["entry"]}
        tests = about["tests"] if about["kind"] == "calls" else json.loads(about["tests"])
        return {**request, "tests": tests}

    def gold(self, row: Mapping[str, Any]) -> str | None:
        return None


def _tests(item: Mapping[str, Any]) -> list[dict[str, str]]:
    """All tests of a record, public and private."""
    if "tests" in item:
        tests = item["tests"]
        found = ast.literal_eval(tests) if isinstance(tests, str) else list(tests)
    else:
        found = json.loads(item["public_test_cases"])
        private = item.get("private_test_cases") or "[]"
        try:
            found = found + json.loads(private)
        except ValueError:
            found = found + unpack(private)
    if not found:
        raise ValueError("there are none")
    for test in found:
        missing = {"input", "output", "testtype"} - set(test)
        if missing:
            raise ValueError(f"a test without {', '.join(sorted(missing))}")
    return list(found)


def unpack(packed_tests: str) -> list[dict[str, str]]:
    """Private tests from their packed form, without unpickling.  ValueError for anything but one string."""
    try:
        inflater = zlib.decompressobj()
        data = inflater.decompress(base64.b64decode(packed_tests, validate=True), _LARGEST)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"private tests are not base64 of zlib: {error}") from error
    if inflater.unconsumed_tail:
        raise ValueError(f"private tests unpack to more than {_LARGEST} bytes")
    strings = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _STRINGS:
            strings.append(str(argument))
        elif opcode.name not in _HARMLESS:
            raise ValueError(f"the pickle of the private tests has the opcode {opcode.name}, which is refused")
    if len(strings) != 1:
        raise ValueError(f"the pickle of the private tests holds {len(strings)} strings instead of one")
    found = json.loads(strings[0])
    if not isinstance(found, list):
        raise ValueError("the private tests are not a list")
    return found


def _entry(item: Mapping[str, Any], starter: str) -> str:
    about = item.get("metadata") or "{}"
    named = (json.loads(about) if isinstance(about, str) else about).get("func_name")
    if not named:
        match = re.search(r"def\s+(\w+)\s*\(\s*self", starter)
        if match is None:
            raise UserError(f"task 'livecodebench': no method name in the starter code {starter[:100]!r}")
        named = match[1]
    return f"Solution.{named}"


def _call(test: Mapping[str, str]) -> tuple[list[Any], dict[str, Any], Any]:
    """Arguments are JSON values, one a line; so is the expected result."""
    args = [json.loads(line) for line in test["input"].split("\n") if line.strip()]
    return args, {}, json.loads(test["output"])
