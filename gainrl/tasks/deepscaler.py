"""DeepScaleR: 40 thousand competition problems (AIME, AMC, Omni-MATH, STILL; Luo et al. 2025).

Hub: `agentica-org/DeepScaleR-Preview-Dataset`, which has a `train` split only.  One problem in fifty, chosen by a hash
of its text, is this task's held-out split `test`; a problem that occurs twice stays on one side.  Columns: `problem`,
`answer`; an empty answer is unscorable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gainrl.tasks.base import held_out
from gainrl.tasks.loading import Source
from gainrl.tasks.maths.task import MathTask


class DeepScaleR(MathTask):
    name = "deepscaler"
    source = Source("agentica-org/DeepScaleR-Preview-Dataset", splits={"train": "train", "test": "train"})
    columns = ("problem", "answer")

    def keeps(self, item: Mapping[str, Any], split: str) -> bool:
        return held_out(" ".join(str(item["problem"]).split()), 1 / 50) == (split == "test")
