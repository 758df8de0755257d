# ruff: noqa: E501  (programs in a table)
"""Programs as models write them and as the benchmarks' own graders accept them are right here too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gainrl.errors import UserError
from gainrl.tasks import Status, humanevalplus, load_task
from gainrl.tasks.sandbox import GraderPool, Limits, Verdict, isolation
from gainrl.tasks.sandbox.compare import is_floats, same
from gainrl.tasks.sandbox.pool import packed

needs_sandbox = pytest.mark.skipif(isolation() != "ok", reason=f"bubblewrap: {isolation()}")


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    graders = GraderPool(1)
    yield graders
    graders.close()


def prints(pool: GraderPool, code: str, given: str, expected: str) -> Verdict:
    return pool.grade([{"kind": "stdin", "code": code, "tests": [[given, expected]]}], Limits())[0]


def returns(pool: GraderPool, code: str, args: list[Any], expected: Any, **more: Any) -> Verdict:
    request = {"kind": "calls", "code": code, "entry": "f", "tests": packed([(args, {}, expected)]), **more}
    return pool.grade([request], Limits(test=20, total=40))[0]


@needs_sandbox
@pytest.mark.parametrize("end", ["exit()", "quit()", "exit(0)", "import sys; sys.exit()"])
def test_a_program_may_end_itself(pool: GraderPool, end: str) -> None:
    assert prints(pool, f"n = int(input()); print(n * 2); {end}; print(n)", "4\n", "8\n").verdict == "right"


@needs_sandbox
def test_a_failing_exit_status_is_wrong(pool: GraderPool) -> None:
    assert prints(pool, "print(8); exit(3)", "", "8").reason == "test 1 of 1: exit status 3"


@needs_sandbox
@pytest.mark.parametrize("end", ["exit", "quit"])
def test_a_call_that_ends_the_program_is_wrong_for_that(pool: GraderPool, end: str) -> None:
    verdict = returns(pool, f"def f(x): {end}()", [1], None)
    assert verdict.verdict == "wrong"
    assert "SystemExit" in verdict.reason


FUTURE = "from __future__ import annotations\n"
LCB_STDIN = {
    "question_content": "Double.",
    "starter_code": "",
    "public_test_cases": '[{"input": "4", "output": "8", "testtype": "stdin"}]',
}
LCB_CALLS = {
    "question_content": "Double.",
    "starter_code": "class Solution:\n    def twice(self, n: int) -> int:\n        ",
    "public_test_cases": '[{"input": "4", "output": "8", "testtype": "functional"}]',
}
HUMANEVAL = {
    "task_id": "HumanEval/900",
    "prompt": 'from typing import List\n\ndef twice(n: int) -> int:\n    """Double."""\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * n\n",
    "test": "def check(candidate):\n    assert candidate(4) == 8\n",
}
LEETCODE = {
    "problem_description": "Double.",
    "starter_code": LCB_CALLS["starter_code"],
    "prompt": "from typing import *\n",
    "completion": "",
    "entry_point": "Solution().twice",
    "test": "def check(candidate):\n    assert candidate(n = 4) == 8\n",
}
NODES = {
    **LEETCODE,
    "entry_point": "Solution().turn",
    "test": "def check(candidate):\n    assert is_same_list(candidate(head = list_node([1, 2])), list_node([2, 1]))\n",
}
TWICE = "class Solution:\n    def twice(self, n: Later) -> int:\n        return 2 * n\n"
TURN = (
    "class Solution:\n    def turn(self, head: Later) -> Later:\n        before = None\n        while head:\n"
    "            head.next, before, head = before, head, head.next\n        return before\n"
)


def graded(name: str, item: dict[str, Any], program: str) -> Status:
    task: Any = load_task(name)
    return Status(task.grade(f"```python\n{program}\n```", task.row(item, 0)).status)


@needs_sandbox
@pytest.mark.parametrize(
    ("name", "item", "program"),
    [
        ("humaneval", HUMANEVAL, "def twice(n: Later) -> List[int]:\n    return 2 * n"),
        ("livecodebench", LCB_STDIN, "import math\ndef twice(n: Later): return 2 * n\nprint(twice(int(input())))"),
        ("livecodebench", LCB_CALLS, TWICE),
        ("leetcode", LEETCODE, TWICE),
        ("leetcode", NODES, TURN),
    ],
)
def test_a_program_may_begin_with_a_future_import(name: str, item: dict[str, Any], program: str) -> None:
    assert graded(name, item, FUTURE + program) is Status.RIGHT


@needs_sandbox
def test_a_bare_program_is_run_whole() -> None:
    task: Any = load_task("livecodebench")
    text = "n = int(input())\nif __name__ == '__main__':\n    n *= 2\nprint(n)\n"
    assert task.grade(text, task.row(LCB_STDIN, 0)).status is Status.RIGHT


INF = float("inf")


@pytest.mark.parametrize(
    ("expected", "found", "atol", "right"),
    [
        (2, 2.0000001, 1e-6, True),
        ([1, 2.5], [1.0000001, 2.5], 1e-6, True),
        (2, 2.1, 1e-6, False),
        (1, True, 1e-6, True),
        (0, False + 1, 1e-6, False),
        (10**400, 1.5, 1e-6, False),
        (INF, 1.0, 1e-6, False),
        (INF, -INF, 1e-6, False),
        (1.0, INF, 1e-6, False),
        (1.0, float("nan"), 1e-6, False),
        (INF, INF, 1e-6, True),
        ([INF], [5.0], 1e-6, False),
    ],
)
def test_a_tolerance_is_for_finite_numbers_of_any_kind(expected: Any, found: Any, atol: float, right: bool) -> None:
    assert same(expected, found, atol) is right


def test_floats_are_told_from_what_is_compared_exactly() -> None:
    assert [is_floats(v) for v in (1.0, [1.0], (1.0, 2.0))] == [True] * 3
    assert [is_floats(v) for v in (1, True, [], [1.0, 2], {1.0}, "1.0", [[1.0]])] == [False] * 7


@needs_sandbox
@pytest.mark.parametrize(
    ("expected", "found", "status"),
    [
        ("0.3", "0.1 + 0.2", Status.RIGHT),
        ("[0.3, 1.0]", "[0.1 + 0.2, 1]", Status.RIGHT),
        ("(0.3,)", "(0.1 + 0.2,)", Status.RIGHT),
        ("0.3", "0.30001", Status.WRONG),
        ("float('inf')", "1.0", Status.WRONG),
        ("[0.3, 1]", "[0.1 + 0.2, 1]", Status.WRONG),
        ("3", "3.0000001", Status.WRONG),
    ],
)
def test_floats_are_compared_as_evalplus_does(expected: str, found: str, status: Status) -> None:
    prompt = "def f(x):\n"
    item = {
        "task_id": "HumanEval/901",
        "prompt": prompt,
        "entry_point": "f",
        "canonical_solution": f"    return {expected}\n",
        "base_input": [[1]],
        "plus_input": [],
        "atol": 0,
    }
    assert graded("humanevalplus", item, f"{prompt}    return {found}") is status


@needs_sandbox
@pytest.mark.parametrize(
    "code",
    [
        "print(int(open('/dev/stdin').read()) * 2)",
        "import sys\nsys.stdin = open(0)\nn = int(input())\nopen('/dev/stdout', 'w').write(str(n * 2))",
        "import atexit, io\nout = io.StringIO()\natexit.register(lambda: print(out.getvalue()))\nout.write('8')",
        "import threading\ndef main(): print(int(input()) * 2)\nthreading.Thread(target=main).start()",
        "n = int(input())\nassert len(str(10**5000)) == 5001\nassert int('1' * 5000)\nprint(n * 2)",
        "n = int(stdin.readline())\nprint(n * 2)",
        "n = int(input())\nprint(int(mean([n, 3 * n])))",
        "n = findall(r'[0-9]+', input())\nprint(int(n[0]) * 2)",
        "def down(n): return 0 if n == 0 else 1 + down(n - 1)\nprint(down(20_000) - 20_000 + 2 * int(input()))",
        "fabs = 4\nassert ge(fabs, 4)\nprint(int(input()) * 2)",
        "import asyncio\nasync def main(): print(int(input()) * 2)\nasyncio.run(main())",
        "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (-1, -1))\nprint(int(input()) * 2)",
        "from functools import lru_cache\n@lru_cache(None)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(20_000) - 20_000 + 2 * int(input()))",
        "import os\nprint(int(os.read(0, os.fstat(0).st_size)) * 2)",
        "def conv(x: int) -> int: return x\nprint(conv.__annotations__['x'](input()) * 2)",
        "import threading, time\nts = [threading.Thread(target=lambda: time.sleep(len('x' * 2**20) / 2**22)) for _ in range(40)]\nfor t in ts: t.start()\nb = bytearray(400 << 20)\nfor t in ts: t.join()\nprint(int(input()) * 2)",
        "import threading\nthreading.stack_size(2**27)\nt = threading.Thread(target=lambda: print(int(input()) * 2))\nt.start()\nt.join()",
    ],
)
def test_a_contest_program_may_do_what_livecodebench_lets_it(code: str) -> None:
    assert graded("livecodebench", LCB_STDIN, code) is Status.RIGHT


@needs_sandbox
def test_a_program_whose_thread_never_ends_is_late(pool: GraderPool) -> None:
    code = "import threading, time\nprint(8)\nthreading.Thread(target=time.sleep, args=(60,)).start()"
    request = {"kind": "stdin", "code": code, "tests": [["", "8"]]}
    assert "the time limit passed" in pool.grade([request], Limits(test=0.5, total=1))[0].reason


@needs_sandbox
@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("def twice(n):\n    return 2 * n", Status.RIGHT),
        ("def twice(n):\n    return 3 * n", Status.WRONG),
        ("def helper(n):\n    return 2 * n", Status.WRONG),
        ("class Solution:\n    def twice(self, n):\n        return 2 * n", Status.RIGHT),
        ("def twice(n):\n    return n\nclass Solution:\n    def twice(self, n):\n        return 2 * n", Status.RIGHT),
    ],
)
def test_a_functional_problem_may_be_solved_by_a_bare_function(program: str, status: Status) -> None:
    assert graded("livecodebench", LCB_CALLS, program) is status


@needs_sandbox
def test_a_tuple_is_a_list_in_livecodebench_alone(pool: GraderPool) -> None:
    item = {**LCB_CALLS, "public_test_cases": '[{"input": "4", "output": "[4, 8]", "testtype": "functional"}]'}
    assert graded("livecodebench", item, "def twice(n):\n    return n, 2 * n") is Status.RIGHT
    assert returns(pool, "def f(x): return x, 2 * x", [4], [4, 8]).verdict == "wrong"


@needs_sandbox
@pytest.mark.parametrize("value", ["[[n, n + 1] for n in range(120_000)]", "[str(n) for n in range(400_000)]"])
def test_a_long_honest_answer_is_right(pool: GraderPool, value: str) -> None:
    assert returns(pool, f"def f(x): return {value}", [1], eval(value)).reason == ""


@needs_sandbox
def test_a_long_answer_where_a_short_one_is_expected_is_not_read(pool: GraderPool) -> None:
    verdict = returns(pool, "def f(x): return [[n] for n in range(300_000)]", [1], [1])
    assert verdict.reason == "test 1 of 1: too much output"


@needs_sandbox
@pytest.mark.parametrize("name", ["flat", "built", "LONGEST", "Any", "lifted"])
def test_the_adapter_for_nodes_leaves_a_programs_names_alone(name: str) -> None:
    used = f"def {name}(node):\n    return node\n\n" + TURN.replace("return before", f"return {name}(before)")
    assert graded("leetcode", NODES, FUTURE + used) is Status.RIGHT
    constant = f"{name} = 7\n" + TURN.replace("return before", f"return before if {name} == 7 else None")
    assert graded("leetcode", NODES, FUTURE + constant) is Status.RIGHT


@needs_sandbox
def test_a_grader_that_no_longer_starts_makes_unscorable() -> None:
    request = {"kind": "calls", "code": "def f(x): return x", "entry": "f", "tests": packed([([1], {}, 1)])}
    graders = GraderPool(1)
    assert graders.grade([request], Limits())[0].verdict == "right"
    graders.close()
    graders.pool.module = "gainrl.tasks.nowhere"
    verdicts = graders.grade([request] * 3, Limits())
    assert {verdict.verdict for verdict in verdicts} == {"unscorable"}
    assert "does not start any more" in verdicts[0].reason
    first = GraderPool(1)
    first.pool.module = "gainrl.tasks.nowhere"
    with pytest.raises(UserError, match="does not start"):
        first.grade([request], Limits())


@needs_sandbox
@pytest.mark.parametrize(
    ("body", "again"), [("    while x == 1: pass\n    return x\n", True), ("    return 1 / 0\n", False)]
)
def test_only_a_canonical_solutions_own_failure_is_remembered(
    monkeypatch: pytest.MonkeyPatch, body: str, again: bool
) -> None:
    """A time limit that was too short for a busy machine is not the program's failure, an exception is."""
    monkeypatch.setattr(humanevalplus, "_TRUSTED", Limits(test=0.3, total=0.6))
    item = {
        "task_id": "HumanEval/902",
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "canonical_solution": body,
        "base_input": [[1]],
        "plus_input": [],
    }
    assert graded("humanevalplus", item, "def f(x): return x") is Status.UNSCORABLE
    asked: list[Any] = []

    class Working:
        def grade(self, requests: list[Any], limits: Limits) -> list[Verdict]:
            asked.extend(requests)
            return [Verdict("right", "", outputs=packed([((1,), {}, 1)])) for _ in requests]

    monkeypatch.setattr(humanevalplus, "shared_graders", Working)
    grade = graded("humanevalplus", item, "def f(x): return x")
    assert (len(asked), grade) == ((1, Status.RIGHT) if again else (0, Status.UNSCORABLE))


@needs_sandbox
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("    a.sort()\n    m.update(n=len(s))\n    s.clear()", Status.RIGHT),
        ("    a.sort()\n    m.update(n=2)", Status.WRONG),
    ],
)
def test_a_check_sees_arguments_that_were_changed_in_place(body: str, status: Status) -> None:
    test = (
        "def check(candidate):\n    a, m, s = [3, 1, [2].pop()], {}, {4, 5}\n    candidate(a, s, m=m)\n"
        "    assert (a, m, s) == ([1, 2, 3], {'n': 2}, set())\n"
    )
    prompt = 'def f(a, s, m):\n    """Sort."""\n'
    item = {"task_id": "x", "prompt": prompt, "entry_point": "f", "canonical_solution": "", "test": test}
    assert graded("humaneval", item, prompt + body) is status
    echo = "def check(candidate):\n    a = [3, 1]\n    assert candidate(a) == sorted(a)\n"
    emptied = "def f(a):\n    a.clear()\n    return []"
    assert (
        graded("humaneval", {**item, "prompt": 'def f(a):\n    """Sort."""\n', "test": echo}, emptied) is Status.WRONG
    )
