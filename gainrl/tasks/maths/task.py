"""What the tasks with mathematical answers share: reading the final answer, comparing it, right/wrong/unscorable."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from gainrl.tasks.base import Grade, Row, Status, Task
from gainrl.tasks.maths.extract import boxes, final_answer
from gainrl.tasks.workers import shared_pool

_WORKER = "gainrl.tasks.maths.worker"
_SECONDS = 10.0  # for one comparison
_LONGEST = 1000  # characters; the longest gold answer of MATH has 159
_NUMBER = re.compile(r"[+-]?(?:\d{1,30}(?:\.\d{1,30})?|\d{1,3}(?:,\d{3}){1,9}(?:\.\d{1,30})?)\.?")


class MathTask(Task):
    """Problems in the column `problem`, gold answers in `answer` or in the last box of `solution`.

    Plain numbers are compared at once, everything else in processes of its own (`gainrl.tasks.maths.worker`).  A row
    without a gold answer is unscorable.
    """

    template = "maths"
    columns: tuple[str, ...] = ("problem",)
    max_new_tokens = 2048

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        problem = str(item["problem"])
        answer = item.get("answer")
        if isinstance(answer, list | tuple):
            answer = ", ".join(map(_spelled, answer))
        answer = "" if answer is None else _spelled(answer)
        if not answer and (boxed := boxes(str(item.get("solution") or ""))):
            answer = boxed[-1].strip()
        named = item.get("unique_id", item.get("id"))
        row: Row = {} if named is None else {"id": str(named)}
        return {**row, "prompt": self.prompt.render(problem), "question": problem, "answer": answer}

    def judge(self, completion: str, row: Mapping[str, Any]) -> Grade | dict[str, Any]:
        gold, question = ("" if row.get(name) is None else str(row[name]) for name in ("answer", "question"))
        if not gold.strip():
            return Grade(Status.UNSCORABLE, "the row has no gold answer")
        answer = final_answer(completion, question)
        if answer is None:
            return Grade(Status.WRONG, "no final answer")
        if len(answer) > max(_LONGEST, 4 * len(gold)):
            return Grade(Status.WRONG, f"the answer is {len(answer)} characters long")
        numbers = [Fraction(text.replace(",", "").rstrip(".")) for text in (gold, answer) if _NUMBER.fullmatch(text)]
        if len(numbers) == 2:
            if numbers[0] == numbers[1]:
                return Grade(Status.RIGHT, answer=str(numbers[1]))
            if numbers[0].denominator == numbers[1].denominator == 1:
                return Grade(Status.WRONG, f"{numbers[1]} is not {numbers[0]}", answer=str(numbers[1]))
        return {"gold": gold, "answer": answer, "question": question}

    def ask(self, requests: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        return shared_pool(_WORKER).ask_many(requests, _SECONDS, lambda request: {**request, "answer": None})

    def gold(self, row: Mapping[str, Any]) -> str:
        # where there is none, the self-check names the row as unscorable
        return f"The answer is $\\boxed{{{row['answer']}}}$."


def _spelled(answer: Any) -> str:
    """A gold answer as text; floats without an exponent."""
    if isinstance(answer, float) and answer == answer and abs(answer) < 1e300:
        return f"{Decimal(repr(answer)).normalize():f}"
    return str(answer).strip()
