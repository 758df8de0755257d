"""MATH-500: the 500 held-out problems of MATH (Lightman et al. 2023, arXiv 2305.20050).

Hub: `HuggingFaceH4/MATH-500`, split `test`.  Columns: `problem`, `answer`, `solution`, `subject`, `level`, `unique_id`.
"""

from __future__ import annotations

from gainrl.tasks.loading import Source
from gainrl.tasks.maths.task import MathTask


class Math500(MathTask):
    name = "math500"
    source = Source("HuggingFaceH4/MATH-500")
    splits = ("test",)
    columns = ("problem", "answer")
