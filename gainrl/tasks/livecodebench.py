"""LiveCodeBench: contest problems from LeetCode, AtCoder and Codeforces (Jain et al. 2024, arXiv 2403.07974).

Hub: `livecodebench/code_generation_lite`, split `test`, whose files are read as they are, since `datasets` no longer
runs that dataset's loading script.  `livecodebench:release_v5` is the first five of them (up to `release_v6`, the
default, 4.5 GB), `livecodebench:v6` what the sixth added.  Two schemas are read: LiveCodeBench's own
(`question_content`, `starter_code`, `public_test_cases`, `private_test_cases`, `metadata`) and rLLM's (`problem`,
`starter_code`, `tests`).  Problems with starter code are functional (a method, or a bare function, called with JSON
arguments; a tuple that comes back is a list), the others read stdin and write stdout.  As in LiveCodeBench's own
grader, names of the standard library are imported for programs and recursion may be 50 000 deep.

The private tests come as base64 of zlib of a pickle that holds one JSON string.  The pickle is never loaded: its one
string operand is read and any other opcode refused.  The dataset carries no solutions, so there is no self-check.
"""

from __future__ import annotations

import ast
import base64
import binascii
import functools
import json
import os
import pickletools
import re
import zlib
from collections.abc import Mapping
from typing import Any

from gainrl.errors import UserError
from gainrl.tasks.base import Grade, Row, Status
from gainrl.tasks.loading import Source
from gainrl.tasks.programs.extract import contest_preamble, defines, lifted, program
from gainrl.tasks.programs.statement import stated
from gainrl.tasks.programs.task import METHOD, UNREADABLE, CodeTask
from gainrl.tasks.prompts import PromptTemplate
from gainrl.tasks.sandbox.pool import packed

_FILES = ("test.jsonl", *(f"test{number}.jsonl" for number in range(2, 7)))
_LARGEST = 1 << 30  # bytes of unpacked tests; the largest published problem has 0.2 GiB
_FRAME = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}  # of a pickle, around its values
_STDIN = "Read the input from standard input and print the answer to standard output."


class LiveCodeBench(CodeTask):
    name = "livecodebench"
    splits = ("test",)
    columns = ("question_content|problem", "starter_code", "public_test_cases|tests")
    template = "program"

    def __init__(self, argument: str = "", *, prompt: PromptTemplate | str | os.PathLike[str] | None = None):
        super().__init__(prompt=prompt)
        releases = {f"release_v{last}": _FILES[:last] for last in range(1, len(_FILES) + 1)}
        additions = {f"v{number}": (name,) for number, name in enumerate(_FILES, 1)}
        chosen = argument or f"release_v{len(_FILES)}"
        files = (releases | additions).get(chosen)
        if files is None:
            raise UserError(f"task 'livecodebench' has no release {chosen!r}: {', '.join([*releases, *additions])}")
        self.name = f"{self.name}:{argument}" if argument else self.name
        self.source = Source("livecodebench/code_generation_lite", files=files)

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        problem = item.get("question_content", item.get("problem"))
        starter = str(item.get("starter_code") or "").rstrip()
        # private tests stay packed: all of them unpacked would fill the memory of most machines
        private = "" if "tests" in item else str(item.get("private_test_cases") or "")
        metadata: dict[str, Any] = {"why": "", "kind": "stdin", "entry": "", "public": "[]", "private": private}
        try:
            public = _public(item)
            kinds = {test["testtype"] for test in public or unpack(private)}
            metadata["public"] = json.dumps(public)
            if "functional" in kinds:
                metadata |= {"kind": "calls", "entry": _entry(item, starter)}
        except UNREADABLE as error:
            metadata["why"] = f"the row's tests cannot be read: {error}"
        asked = METHOD.replace("{starter}", starter) if starter else _STDIN
        return self.row_of(item.get("question_id"), f"{problem}\n\n{asked}", str(problem), "", metadata)

    def request(self, completion: str, row: Mapping[str, Any]) -> dict[str, Any] | Grade:
        about = row["metadata"]
        entry = about["entry"]
        owner, _, method = entry.partition(".")
        code = program(completion, entry)
        if owner and not defines(code, owner):  # a bare function will do
            entry, code = method, program(completion, method)
        try:
            tests = _tests(about["kind"], about["public"], about["private"])
        except UNREADABLE as error:
            return Grade(Status.UNSCORABLE, f"the row's tests cannot be read: {error}")
        code = lifted(contest_preamble(code) + code)
        return {"kind": about["kind"], "code": code, "entry": entry, "tests": tests, **stated(str(row["question"]))}

    def gold(self, row: Mapping[str, Any]) -> str | None:
        return None


@functools.lru_cache(2)  # the samples of a problem follow each other, and one may hold 0.2 GiB
def _tests(kind: str, public: str, private: str) -> Any:
    """All tests of a row, public and private, as the grader takes them."""
    tests = [*json.loads(public), *unpack(private)]
    if not tests:
        raise ValueError("there are none")
    return packed(list(map(_call, tests))) if kind == "calls" else [[t["input"], t["output"]] for t in tests]


def _public(item: Mapping[str, Any]) -> list[dict[str, str]]:
    """The tests of a record that are not packed."""
    if "tests" not in item:
        return list(json.loads(item["public_test_cases"]))
    tests = item["tests"]
    return list(ast.literal_eval(tests) if isinstance(tests, str) else tests)


def unpack(private: str) -> list[dict[str, str]]:
    """Private tests: none, JSON, or packed, which is never unpickled: ValueError for anything but one string."""
    try:
        return list(json.loads(private or "[]"))
    except ValueError:
        inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(base64.b64decode(private, validate=True), _LARGEST)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"private tests are not base64 of zlib: {error}") from error
    if inflater.unconsumed_tail:
        raise ValueError(f"private tests unpack to more than {_LARGEST} bytes")
    held = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(data) if opcode.name not in _FRAME]
    if len(held) != 1 or "UNICODE" not in held[0][0]:
        raise ValueError(f"private tests are one pickled string; {', '.join(name for name, _ in held)} is refused")
    return list(json.loads(str(held[0][1])))


def _entry(item: Mapping[str, Any], starter: str) -> str:
    about = item.get("metadata") or "{}"
    named = (json.loads(about) if isinstance(about, str) else about).get("func_name")
    found = [named] if named else re.findall(r"def\s+(\w+)\s*\(\s*self", starter)
    if not found:
        raise ValueError(f"no method name in the starter code {starter[:100]!r}")
    return f"Solution.{found[0]}"


def _call(test: Mapping[str, str]) -> tuple[list[Any], dict[str, Any], Any]:
    """Arguments are JSON values, one a line; so is the expected result."""
    args = [json.loads(line) for line in test["input"].split("\n") if line.strip()]
    return args, {}, json.loads(test["output"])
