"""GSM8K: grade-school word problems with integer answers (Cobbe et al. 2021, arXiv 2110.14168).

Hub: `openai/gsm8k`, configuration `main`, splits `train` (7473) and `test` (1319, held out); columns `question` and
`answer`, the gold number after `####`.  Compared exactly, as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gainrl.tasks.base import Grade, Row, Status, Task
from gainrl.tasks.loading import Source
from gainrl.tasks.maths.extract import final_answer, plain_number, spell


class GSM8K(Task):
    """See the module's docstring."""

    name = "gsm8k"
    source = Source("openai/gsm8k", "main")
    template = "maths"
    max_new_tokens = 512

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        question, worked = str(item["question"]), str(item["answer"])
        # a file may carry the bare number instead of the worked answer
        answer = worked.rsplit("####", 1)[-1].strip()
        return {"prompt": self.prompt.render(question), "question": question, "answer": answer}

    def judge(self, completion: str, row: Mapping[str, Any]) -> Grade:
        gold = plain_number(str(row["answer"]))
        if gold is None:
            return Grade(Status.UNSCORABLE, f"the gold answer {row['answer']!r} is not a number")
        found = final_answer(completion, str(row.get("question", "")))
        if found is None:
            return Grade(Status.WRONG, "no final answer")
        number = plain_number(found)
        if number is None:
            return Grade(Status.WRONG, f"{found[:80]!r} is not a number", answer=found[:200])
        if number == gold:
            return Grade(Status.RIGHT, answer=spell(number))
        return Grade(Status.WRONG, f"{spell(number)} is not {spell(gold)}", answer=spell(number))

    def gold(self, row: Mapping[str, Any]) -> str:
        return f"The answer is \\boxed{{{row['answer']}}}."
