# ruff: noqa: E501  (tables of completions)
"""The program in a completion, and LiveCodeBench's packed tests."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from gainrl.tasks.livecodebench import unpack
from gainrl.tasks.programs.extract import imports_for, lifted, program
from gainrl.tasks.programs.statement import any_case, several, tolerance

FUTURE = "from __future__ import annotations\n"
BARE = "n = int(input())\nprint(n * 2)\nif __name__ == '__main__':\n    pass\nprint()\n"


@pytest.mark.parametrize(
    ("completion", "entry", "expected"),
    [
        ("Here:\n```python\nx = 1\n```\nDone.", "", "x = 1\n"),
        ("```\nx = 1\n```", "", "x = 1\n"),
        ("```python\ndef f(): pass\n```\nUse:\n```python\nf()\n```", "f", "def f(): pass\n"),
        ("```python\na = 1\n```\n```python\nb = 2\n```", "f", "b = 2\n"),
        ("```bash\nls\n```\n```py\nb = 2\n```", "", "b = 2\n"),
        ("```python\nx = '''\nunclosed", "", "x = '''\nunclosed"),
        ("    return 1\nprint(f())", "f", "    return 1"),
        ("    return 1\n\nif __name__ == '__main__':\n    f()", "f", "    return 1\n"),
        (BARE, "", BARE),
        (f"{BARE}```\n", "", BARE.removesuffix("\n")),
        (f"```python\n{BARE}```\nSample output:\n```\n8\n```", "", BARE),
        (f"```python\n{BARE}```\nSample output:\n```\n8\n```", "f", BARE),
        (f"{BARE}Sample output:\n```text\n8\n```\n", "", BARE),
        ("```\ndef f(): pass\n```\n```python\nf()\n```", "f", "def f(): pass\n"),
        ("```\nx = 1\n```\n```\ny = 1\n```", "", "y = 1\n"),
        ('```python\nprint("a ```python\\n b")\n```', "", 'print("a ```python\\n b")\n'),
        ('print("```")\nprint(2)', "", 'print("```")\nprint(2)'),
        ("    return 1\n```\n", "f", "    return 1"),
        ("def f():\n    return 1\nprint(f())", "f", "def f():\n    return 1"),
    ],
)
def test_the_program_in_a_completion_is_found(completion: str, entry: str, expected: str) -> None:
    assert program(completion, entry).strip("\n") == expected.strip("\n")


def test_only_names_that_the_code_mentions_are_imported() -> None:
    lines = imports_for("def f(x: List[int]): return heapq.nlargest(2, x) + [inf]")
    assert set(lines.splitlines()) == {
        "import heapq", "from heapq import nlargest", "from math import inf", "from typing import List",
    }  # fmt: skip


def test_future_imports_are_lifted_whole_and_once() -> None:
    code = f'"""Doc."""\nimport math\n{FUTURE}from __future__ import (\n    division,\n)\n{FUTURE.strip()}; x = 1\n'
    above = "from __future__ import annotations\nfrom __future__ import (\n    division,\n)\n"
    assert lifted(code) == above + '"""Doc."""\nimport math\n\n\nx = 1\n'
    assert lifted("x = 1\n") == "x = 1\n"
    compile(lifted(code), "code", "exec")


def test_packed_tests_are_read_without_unpickling(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    def pack(value: Any, protocol: int = 4) -> str:
        return base64.b64encode(zlib.compress(pickle.dumps(value, protocol))).decode()

    tests = [{"input": "1", "output": "2", "testtype": "stdin"}]
    for protocol in range(6):
        assert unpack(pack(json.dumps(tests), protocol)) == tests
    for value in (Evil(), [json.dumps(tests)], b"[]"):
        with pytest.raises(ValueError, match="refused"):
            unpack(pack(value))
    for text in ("!!", "aGVsbG8=", base64.b64encode(zlib.compress(b"junk")).decode()):
        with pytest.raises(ValueError):
            unpack(text)
    assert not (tmp_path / "pwned").exists()


READING = "n=int(input())\nprint(n*2)"
WRITTEN = [
    "{}", "```python\n{}\n```", "````py3\n{}\n````", "```{{.python}}\n{}\n```", "```python  # solution\n{}\n```", "~~~python\n{}\n~~~",
    "Sure! ```python\n{}\n``` Done.", "<answer>```python\n{}\n```</answer>", "<answer>\n{}\n</answer>", "```python\n{}```",
    "{}\n```\nThis doubles n.\n```\n4\n```", "{}\n\nThis doubles n.", "Here is the code:\n\n{}", "{}</s>", "{}<|eot_id|>\nmore",
    "<think>\n```python\nbad(\n```\n</think>\n```python\n{}\n```", "Draft:\n```python\nn = in\n\nFinal:\n```python\n{}\n```",
    "```python\n{}\n```\nThe key:\n```python\nprint(n*2)\n```", "```python\n{}\n```\nTest:\n```python\nassert 1\n```",
    "```python\nn=int(input())\nprint(n*3)\n```\nOops:\n```python\n{}\n```", "```python\n{}\n```\n```cpp\nint main(){{}}\n```",
    "Input:\n```\n4\n```\nOutput:\n```\n8\n```\nCode:\n```\n{}\n```", "```python\nx = '''```'''\n{}\n```", "\ufeff{}",
    "python\n{}\n```\nDone.", "```python:main.py\n{}\n```", "```python,ignore\n{}\n```", "{}<end_of_turn>",
]  # fmt: skip


@pytest.mark.parametrize("written", WRITTEN)
def test_the_program_that_was_meant_is_found(written: str) -> None:
    found = program(written.replace("{{", "{").replace("}}", "}").replace("{}", READING))
    assert found.removeprefix("x = '''```'''\n").strip("\n\ufeff") == READING


@pytest.mark.parametrize(
    ("statement", "atol", "case", "many"),
    [
        ("Accepted if its absolute or relative error is at most 10^{-6}.", 1e-6, False, False),
        ("Answers within 10^-5 of the actual answer will be accepted.", 1e-5, False, False),
        ("It is right if the error does not exceed 1e-9.", 1e-9, False, False),
        ("Constraints: -10^5 <= x <= 10^5. Print x.", 0.0, False, False),
        ("You can print each letter in any case.", 0.0, True, False),
        ("If there are multiple solutions, print any of them.", 0.0, False, True),
        ("Return the answer in any order.", 0.0, False, True),
        ("You can perform the operation any number of times. Print the least.", 0.0, False, False),
        ("If there are several, print the lexicographically smallest one.", 0.0, False, False),
    ],
)
def test_what_a_statement_says_of_judging_is_read(statement: str, atol: float, case: bool, many: bool) -> None:
    assert (tolerance(statement), any_case(statement), several(statement)) == (atol, case, many)
