# ruff: noqa: E501, PT018  (tables of values)
from __future__ import annotations

import json
import math
import os
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from gainrl.errors import UserError
from gainrl.tasks import Status, load_task
from gainrl.tasks.sandbox import GraderPool, Limits, codec, isolation
from gainrl.tasks.sandbox import pool as pool_module
from gainrl.tasks.sandbox.compare import is_root, same, same_text
from gainrl.tasks.sandbox.pool import packed
from tests.tasks.livecodebench_solutions import FUNCTIONAL, STDIN

needs_sandbox = pytest.mark.skipif(isolation() != "ok", reason=f"bubblewrap: {isolation()}")


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 10**400, 1.5, -0.0, float("inf"), 1 + 2j, "", "é\udcff", b"\x00\xff", [], [1, [2, (3,)]],
        {"a": {1: 2}}, list(range(300)), tuple(n / 3 if n % 2 else -n for n in range(300)), [*range(299), 2**60],
        [*range(299), True], [[1.5] * 300] * 2, [float("inf")] * 300, {1, 2}, frozenset([3]), (), [True, 1, 1.0], Fraction(1, 3), Decimal("1.50"), [1e22, 10**400], [math.nan, 1.0],
    ],
)  # fmt: skip
def test_plain_values_cross_unchanged(value: Any) -> None:
    back = codec.decode(codec.encode(value))
    assert back == value or math.isnan(value[0])
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_other_values_cross_as_what_equals_nothing() -> None:
    class Yes(str):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = str.__hash__

    assert codec.decode(codec.encode([object()])) != [object()]
    assert codec.decode(codec.encode(Yes("no"))) != "yes"
    assert not same(1, codec.decode(codec.encode(object())))


@pytest.mark.parametrize(
    "data",
    [b"", b"q", b"{}", b'{"t":1}', b'{"e":[[]]}', b'{"a":[]}', b'{"i":"z"}', b'{"m":"x"}', b'{"q":[1,0]}', b'{"d":[1]}', b"[1", b"[" * 10**5,
     b'{"t":' * 1000 + b"[]" + b"}" * 1000, b"1" * 5000, b"\xff", b'{"t":[],"e":[]}', b'{"b":5}', b'{"c":[1,2,3]}', b"1 2", b'{"q":["a","b"]}', b'{"d":[[],1]}'],
)  # fmt: skip
def test_malformed_text_is_a_value_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(ValueError):
        codec.decode(data)


def test_keys_of_one_hash_are_not_read_to_their_end() -> None:
    data = b'{"e":[' + b",".join(b"%d" % (k * (2**61 - 1)) for k in range(200_000)) + b"]}"
    began = time.thread_time()
    with pytest.raises(ValueError, match="too long to read"):
        codec.decode(data, 0.3)
    assert time.thread_time() - began < 2


def test_comparison_follows_the_tasks_rules() -> None:
    assert same([1, 2.0], [1, 2]) and same({"a": (1,)}, {"a": (1,)}) and same(float("nan"), float("nan"))
    assert not same([1], (1,)) and not same("1", 1) and not same(1.0, 1.0 + 1e-9)
    assert same(1.0, 1.0 + 1e-7, 1e-6) and same([1.0, {"x": 2.0}], [1.0, {"x": 2.0 + 1e-7}], 1e-6)
    assert not same(1.0, 1.1, 1e-6) and not same([1.0], (1.0,), 1e-6) and not same(1.0, "1.0", 1e-6)
    assert is_root([6, -5, 1], 2, 1e-4) and is_root([6, -5, 1], 3.0, 1e-4) and not is_root([6, -5, 1], 2.5, 1e-4)
    assert not is_root([1], None, 1e-4) and not is_root([1, 1], float("nan"), 1e-4) and not is_root([1, 1], True, 1e-4)
    assert same_text("1 2\n3\n", "1 2 \n3") and same_text("1.0", "1.00") and same_text("YES", "YES\n\n")
    assert not same_text("1\n2", "1 2") and not same_text("YES", "yes") and not same_text("1.0", "1.001")
    assert same_text("1.0", "1.0000001", 1e-6) and not same_text("", "x") and not same_text("NaN 1", "1 NaN")
    assert same_text("a b", "a  b") and not same_text("010", "10") and not same_text("1000", "1_000")
    assert not same_text("10000001", "10000002", 1e-6) and not same_text("1000", "１０００")
    assert same_text("YES 1", "Yes 1.0", any_case=True) and not same_text("YES", "NO", any_case=True)


def load(shared_data: Path, name: str, file: str, limit: int | None = None) -> tuple[Any, list[dict[str, Any]]]:
    task = load_task(name)
    return task, task.load("all" if name == "leetcode" else "test", shared_data / file, limit)


SETS = [
    ("humaneval", "humaneval/HumanEval.jsonl.gz", 164, 40),
    ("humanevalplus", "humaneval/HumanEvalPlus-Mini.jsonl.gz", 164, 25),
    ("humanevalplus", "humaneval/HumanEvalPlus.jsonl.gz", 164, 6),
    ("leetcode", "leetcode/test_leetcode.json", 200, 50),
]


@needs_sandbox
@pytest.mark.parametrize(("name", "file", "rows", "some"), SETS)
def test_gold_programs_are_right(shared_data: Path, name: str, file: str, rows: int, some: int) -> None:
    task, loaded = load(shared_data, name, file, some)
    assert str(task.self_check(loaded)) == f"{name}: {some} of {some} gold answers graded right"


@needs_sandbox
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "file", "rows", "some"), SETS)
def test_every_gold_program_is_right(shared_data: Path, name: str, file: str, rows: int, some: int) -> None:
    task, loaded = load(shared_data, name, file)
    assert str(task.self_check(loaded)) == f"{name}: {rows} of {rows} gold answers graded right"


def controls(row: dict[str, Any], gold: str) -> dict[str, str]:
    """Completions that must not be right: the gold program with its results changed, and what is no solution at all."""
    entry = row["metadata"].get("entry_point") or row["metadata"]["entry"]
    owner, _, method = entry.rpartition(".")
    stub = f"def {method}(*args, **kwargs):\n    "
    if owner:
        stub = f"class {owner}:\n    def {method}(self, *args, **kwargs):\n        "
    code = gold.removeprefix("```python\n").removesuffix("\n```")
    wrapped = (
        f"{code}\n\ndef _changed(inner):\n    def outer(*args, **kwargs):\n        value = inner(*args, **kwargs)\n        return CHANGE\n"
        f"    return outer\n\n{entry} = _changed({entry})\n"
    )
    off = "value + 1 if type(value) in (int, float) else (not value) if type(value) is bool else [value, 1]"
    return {
        "pass": f"```python\n{stub}pass\n```",
        "echo": f"```python\n{row['question']}\n```",
        "off by one": f"```python\n{wrapped.replace('CHANGE', off)}```",
        "wrong type": f"```python\n{wrapped.replace('CHANGE', 'repr(value) + chr(0)')}```",
        "prose": "The function returns the right value.",
        "empty": "",
    }


@needs_sandbox
@pytest.mark.parametrize(("name", "file", "rows", "some"), [SETS[0], SETS[1], SETS[3]])
def test_negative_controls_are_never_right(shared_data: Path, name: str, file: str, rows: int, some: int) -> None:
    task, loaded = load(shared_data, name, file, 10)
    _never_right(task, loaded)


@needs_sandbox
@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "file", "rows", "some"), [SETS[0], SETS[1], SETS[3]])
def test_no_negative_control_of_any_row_is_right(shared_data: Path, name: str, file: str, rows: int, some: int) -> None:
    task, loaded = load(shared_data, name, file)
    _never_right(task, loaded)


def _never_right(task: Any, rows: list[dict[str, Any]]) -> None:
    pairs = [(row, control, text) for row in rows for control, text in controls(row, task.gold(row)).items()]
    grades = task.grade_many([text for _, _, text in pairs], [row for row, _, _ in pairs])
    assert [
        (row["question"][-80:], control, grade)
        for (row, control, _), grade in zip(pairs, grades, strict=True)
        if grade.status is not Status.WRONG and "several outputs are right" not in grade.reason
    ] == []


@needs_sandbox
def test_livecodebench_solutions_are_right_and_their_variants_wrong(shared_data: Path) -> None:
    task, rows = load(shared_data, "livecodebench", "livecodebench/rllm_lcb_test_279_public_only.json")
    assert len(rows) == 279
    assert not [row["metadata"]["why"] for row in rows if row["metadata"]["why"]]
    assert len(STDIN) >= 6
    assert len(FUNCTIONAL) >= 6
    for kind, solutions in (("stdin", STDIN), ("calls", FUNCTIONAL)):
        assert {rows[number]["metadata"]["kind"] for number in solutions} == {kind}
        for which, status in ((0, Status.RIGHT), (1, Status.WRONG)):
            texts = [f"```python\n{pair[which]}\n```" for pair in solutions.values()]
            grades = task.grade_many(texts, [rows[number] for number in solutions])
            wrong = [(n, g) for n, g in zip(solutions, grades, strict=True) if g.status is not status]
            assert wrong == []


@needs_sandbox
def test_private_tests_are_read_and_used(shared_data: Path) -> None:
    task, rows = load(shared_data, "livecodebench", "livecodebench/lcb_1873_A_with_private.jsonl")
    assert rows[0]["id"] == "1873_A"
    assert json.loads(rows[0]["metadata"]["public"])
    assert task.request("pass", rows[0])["tests"][0] == [*json.loads(rows[0]["metadata"]["public"])[0].values()][:2]
    assert len(task.request("pass", rows[0])["tests"]) > len(json.loads(rows[0]["metadata"]["public"]))
    line = "print('YES' if sum(a != b for a, b in zip(s, 'abc')) < {} else 'NO')"
    right = f"```python\nfor _ in range(int(input())):\n    s = input()\n    {line.format(3)}\n```"
    assert task.grade(right, rows[0]).status is Status.RIGHT
    assert task.grade(right.replace("< 3", "< 1"), rows[0]).status is Status.WRONG


@needs_sandbox
@pytest.mark.parametrize(
    "change", [{"private_test_cases": "!!"}, {"public_test_cases": "{"}, {"public_test_cases": '[{"input": "1"}]'}]
)
def test_a_contest_row_whose_tests_cannot_be_read_is_unscorable(shared_data: Path, change: dict[str, str]) -> None:
    item = json.loads((shared_data / "livecodebench" / "lcb_1873_A_with_private.jsonl").read_text().splitlines()[0])
    task: Any = load_task("livecodebench")
    grade = task.grade("```python\nprint(1)\n```", task.row({**item, **change}, 0))
    assert grade.status is Status.UNSCORABLE
    assert "cannot be read" in grade.reason


def test_rows_whose_tests_cannot_be_read_are_unscorable() -> None:
    if isolation() != "ok":
        pytest.skip(f"bubblewrap: {isolation()}")
    row = load_task("leetcode").row({"problem": "p", "tests": {"functional": "import os\nassert os.getpid()"}}, 0)  # type: ignore[attr-defined]
    grade = load_task("leetcode").grade("```python\nclass Solution: pass\n```", row)
    assert grade.status is Status.UNSCORABLE
    assert "cannot be read" in grade.reason


@needs_sandbox
def test_the_share_of_tests_passed_is_counted_past_a_failure_and_a_hang() -> None:
    code = "class Solution:\n    def f(self, x):\n        while x == 1: pass\n        return x"
    tests = [([0], {}, 0), ([1], {}, 1), ([2], {}, 2), ([3], {}, 4)]
    pool = GraderPool(1)
    request = {"kind": "calls", "code": code, "entry": "Solution.f", "tests": packed(tests), "all": True}
    verdict = pool.grade([request], Limits(test=0.5, total=10))[0]
    assert (verdict.verdict, verdict.passed, verdict.total) == ("wrong", 2, 4)
    assert "test 2 of 4: the time limit passed" in verdict.reason
    pool.close()


@needs_sandbox
def test_float_tolerance_and_any_root_reach_the_grader() -> None:
    pool = GraderPool(1)
    base = {"kind": "calls", "code": "def f(x): return 2.0000001", "entry": "f"}
    tests = packed([([[6, -5, 1]], {}, 3.0)])
    verdicts = pool.grade([{**base, "tests": tests, "atol": 1e-4, "rule": "root"}, {**base, "tests": tests}], Limits())
    assert [verdict.verdict for verdict in verdicts] == ["right", "wrong"]
    pool.close()


def test_the_time_of_all_tests_together_is_not_extended() -> None:
    pool = GraderPool(1)
    for hang in ("while True: pass", "import time; time.sleep(60)"):
        began = time.monotonic()
        request = {"kind": "stdin", "code": hang, "tests": [["", "1"]] * 60, "all": True}
        verdict = pool.grade([request], Limits(test=0.1, total=0.5))[0]
        assert (verdict.verdict, verdict.passed) == ("wrong", 0)
        assert time.monotonic() - began < 1.5 * 0.5 + 1 + 1  # and a second to start the pool
    many = {"kind": "calls", "code": "def f(x):\n    while True: pass", "entry": "f", "tests": packed([((1,), {}, 1)])}
    began = time.monotonic()
    assert pool.grade([many], Limits(test=0.2, total=1000))[0].verdict == "wrong"
    assert time.monotonic() - began < 2
    pool.close()


@needs_sandbox
def test_sleeping_takes_none_of_the_cpu_time_that_decides() -> None:
    pool = GraderPool(1)
    code = "import time\ntime.sleep(0.5)\nprint(int(input()) * 2)"
    request = {"kind": "stdin", "code": code, "tests": [[str(n), str(2 * n)] for n in range(4)]}
    assert pool.grade([request], Limits(test=0.4, total=1.2))[0].verdict == "right"
    pool.close()


@needs_sandbox
def test_what_a_grader_cannot_cope_with_is_wrong_if_it_copes_with_another() -> None:
    pool = GraderPool(1)
    bad = {"kind": "calls", "code": "def f(x): return x", "entry": "f", "tests": "not JSON"}
    assert pool.grade([bad], Limits())[0].verdict == "wrong"
    pool.close()


def test_code_tasks_refuse_where_programs_cannot_be_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    isolation.cache_clear()
    monkeypatch.setattr(pool_module.shutil, "which", lambda _: None)
    try:
        task = load_task("humaneval")
        with pytest.raises(UserError, match="apt-get install bubblewrap"):
            task.grade("pass", {})
        with pytest.raises(UserError, match="apt-get install bubblewrap"):
            task.reward_function()
    finally:
        isolation.cache_clear()


@needs_sandbox
def test_a_sandbox_that_leaks_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    isolation.cache_clear()
    monkeypatch.setattr(
        pool_module, "_BREAK_OUT", "def test(bound, names): return {'reach the network': True, 'fork': False}"
    )
    try:
        assert isolation() == "bubblewrap does not isolate here; a program in it can reach the network"
    finally:
        isolation.cache_clear()


@needs_sandbox
@pytest.mark.full
@pytest.mark.timeout(3600)
def test_ten_thousand_gradings_leave_no_process_file_or_descriptor_behind() -> None:
    pool = GraderPool()
    requests = [
        {"kind": "calls", "code": "def f(x): return x", "entry": "f", "tests": packed([([n], {}, n)])}
        for n in range(200)
    ]
    pool.grade(requests[: 2 * pool.pool.workers], Limits())

    def state() -> tuple[int, ...]:
        graders = [worker.process.pid for worker in pool.pool._idle.queue if worker]
        inside = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in graders)
        children = sum(len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) for pid in graders)
        return len(os.listdir("/proc/self/fd")), len(graders), inside, children, len(os.listdir("/tmp"))

    before = state()
    for _ in range(50):
        assert {verdict.verdict for verdict in pool.grade(requests, Limits())} == {"right"}
    assert state()[:4] == before[:4]
    assert state()[3] == 0
    pool.close()
