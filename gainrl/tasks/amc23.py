"""AMC 23: the 40 problems of the 2023 AMC 12 as open questions with numerical answers.

Hub: `math-ai/amc23`, split `test`, columns `question` and `answer`.  The file in Qwen2.5-Math's evaluation suite, which
this task reads as well, has `problem` and a float `answer`.  Evaluate with several samples: one problem is 2.5 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gainrl.tasks.base import Row
from gainrl.tasks.loading import Source
from gainrl.tasks.maths.task import MathTask


class AMC23(MathTask):
    name = "amc23"
    source = Source("math-ai/amc23")
    splits = ("test",)
    columns = ("problem|question", "answer")

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        return super().row({"problem": item.get("question"), **item}, index)
