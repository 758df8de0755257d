"""DeepScaleR: 40 thousand competition problems (AIME, AMC, Omni-MATH, STILL; Luo et al. 2025).

Hub: `agentica-org/DeepScaleR-Preview-Dataset`, which has a `train` split only.  One problem in fifty, chosen by a hash
of its text, is this task's held-out split `test`; a problem that occurs twice stays on one side.  Columns: `problem`,
`answer`; an empty answer is unscorable.
"""

from __future__ import annotations

import hashlib
import os

from gainrl.tasks.base import Row
from gainrl.tasks.loading import Source, read_rows
from gainrl.tasks.maths.task import MathTask

_HELD_OUT = 1 / 50


class DeepScaleR(MathTask):
    """See the module's docstring."""

    name = "deepscaler"
    source = Source("agentica-org/DeepScaleR-Preview-Dataset", splits={"train": "train", "test": "train"})
    columns = ("problem", "answer")

    def load(
        self, split: str | None = None, source: str | os.PathLike[str] | None = None, limit: int | None = None
    ) -> list[Row]:
        split = self._check(split, limit)
        raw = read_rows(source, self.source, split=split, columns=self.columns, task=self.name)
        kept = [item for item in raw if _held_out(str(item["problem"])) == (split == "test")]
        return [self.row(item, index) for index, item in enumerate(kept[:limit])]


def _held_out(problem: str) -> bool:
    digest = hashlib.sha256(" ".join(problem.split()).encode()).digest()
    return int.from_bytes(digest[:8]) < _HELD_OUT * 2**64
