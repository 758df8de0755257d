"""GSM8K: grade-school word problems with integer answers (Cobbe et al. 2021, arXiv 2110.14168).

Hub: `openai/gsm8k`, configuration `main`, splits `train` (7473) and `test` (1319, held out); columns `question` and
`answer`, the gold number after `####`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gainrl.tasks.base import Row
from gainrl.tasks.loading import Source
from gainrl.tasks.maths.task import MathTask


class GSM8K(MathTask):
    name = "gsm8k"
    source = Source("openai/gsm8k", "main")
    columns = ("question", "answer")
    max_new_tokens = 512

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        # a file may carry the bare number instead of the worked answer
        worked = "" if item["answer"] is None else str(item["answer"])
        answer = worked.rsplit("####", 1)[-1].strip()
        question = str(item["question"])
        return {"prompt": self.prompt.render(question), "question": question, "answer": answer}
