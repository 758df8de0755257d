"""Programs as models write them and as the benchmarks' own graders accept them are right here too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gainrl.tasks.sandbox import GraderPool, Limits, Verdict, isolation
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
    return pool.grade([request], Limits())[0]


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
