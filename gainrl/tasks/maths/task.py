"""What the tasks with mathematical answers share: reading the final answer, comparing it, right/wrong/unscorable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gainrl.tasks.base import Completion, Grade, Row, Status, Task, text_of
from gainrl.tasks.maths.extract import boxes, effort, final_answer, other_than, plain_number, spell
from gainrl.tasks.maths.pool import shared_pool

_LONGEST = 1000  # characters; the longest gold answer of MATH has 159
_EFFORT = 10_000  # exponents and factorials that sympy carries out in a moment


class MathTask(Task):
    """Problems in the column `problem`, gold answers in `answer` or in the last box of `solution`.

    Plain numbers are compared exactly and at once, everything else by math-verify in processes of its own
    (`gainrl.tasks.maths.pool`).  A row without a gold answer is unscorable.
    """

    template = "maths"
    columns: tuple[str, ...] = ("problem",)
    max_new_tokens = 2048

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        problem = str(item["problem"])
        answer = item.get("answer")
        if answer is None:
            boxed = boxes(str(item.get("solution", "")))
            answer = boxed[-1] if boxed else ""
        elif isinstance(answer, float) and answer.is_integer():
            answer = int(answer)
        row: Row = {"prompt": self.prompt.render(problem), "question": problem, "answer": str(answer).strip()}
        named = item.get("unique_id", item.get("id"))
        if named is not None:
            row["id"] = str(named)
        return row

    def judge(self, completion: str, row: Mapping[str, Any]) -> Grade:
        return self.grade_many([completion], [row])[0]

    def grade(self, completion: Completion, row: Mapping[str, Any]) -> Grade:
        return self.grade_many([completion], [row])[0]

    def grade_many(self, completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]]) -> list[Grade]:
        grades: list[Grade | None] = []
        pending: list[tuple[str, str]] = []
        for completion, row in zip(completions, rows, strict=True):
            gold = row.get("answer")  # missing and None are no answer, like an empty one
            gold = "" if gold is None else str(gold)
            decided = _at_once(text_of(completion), gold, str(row.get("question") or ""))
            if isinstance(decided, Grade):
                grades.append(decided)
            else:
                grades.append(None)
                pending.append(decided)
        compared = iter(shared_pool().compare_many(pending) if pending else [])
        return [grade or _grade(*next(compared)) for grade in grades]

    def gold(self, row: Mapping[str, Any]) -> str:
        # where there is none, the self-check names the row as unscorable
        return f"The answer is $\\boxed{{{row['answer']}}}$."


def _grade(verdict: str, reason: str, answer: str) -> Grade:
    return Grade(Status(verdict), reason, answer=answer or None)


def _at_once(completion: str, gold: str, question: str) -> Grade | tuple[str, str]:
    """The grade where no computer algebra is needed, else the (gold, answer) pair to compare."""
    if not gold.strip():
        return Grade(Status.UNSCORABLE, "the row has no gold answer")
    answer = final_answer(completion, question)
    if answer is None:
        return Grade(Status.WRONG, "no final answer")
    if len(answer) > max(_LONGEST, 4 * len(gold)):
        return Grade(Status.WRONG, f"the answer is {len(answer)} characters long")
    if answer == gold:
        number = plain_number(answer)
        return Grade(Status.RIGHT, answer=answer if number is None else spell(number))
    expected, found = plain_number(gold), plain_number(answer)
    if expected is not None and found is not None and ("%" in gold) == ("%" in answer):
        if expected == found:
            return Grade(Status.RIGHT, answer=spell(found))
        if expected.denominator == found.denominator == 1:
            return Grade(Status.WRONG, f"{spell(found)} is not {spell(expected)}", answer=spell(found))
    if expected is not None and other_than(answer) == expected:
        return Grade(Status.WRONG, f"{answer[:80]!r} says more than the number {spell(expected)}")
    if effort(answer) > max(_EFFORT, 10 * effort(gold)):
        return Grade(Status.WRONG, f"{answer[:80]!r} asks for a larger power or factorial than the gold answer could")
    return gold, answer
