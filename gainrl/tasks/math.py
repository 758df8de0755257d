"""MATH: competition mathematics with LaTeX answers (Hendrycks et al. 2021, arXiv 2103.03874).

Hub: `DigitalLearningGmbH/MATH-lighteval`, splits `train` (7500) and `test` (5000, held out).  Columns: `problem`, and
`answer` or `solution` (whose last box is then the gold answer).  Rows without any are unscorable.
"""

from __future__ import annotations

from gainrl.tasks.loading import Source
from gainrl.tasks.maths.task import MathTask


class Math(MathTask):
    name = "math"
    source = Source("DigitalLearningGmbH/MATH-lighteval")
