"""DeepScaleR: 40 thousand competition problems (AIME, AMC, Omni-MATH, STILL; Luo et al. 2025).

Hub: `agentica-org/DeepScaleR-Preview-Dataset`, which has a `train` split only.  One problem in fifty, chosen by a hash
of its text, is this task's held-out split `test`; a problem that occurs twice stays on one side.  Columns: `problem`,
`answer`; an empty answer is unscorable.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

from gainrl.tasks.base import Row, held_out
from gainrl.tasks.loading import Source, stream_rows
from gainrl.tasks.maths.task import MathTask


class DeepScaleR(MathTask):
    name = "deepscaler"
    source = Source("agentica-org/DeepScaleR-Preview-Dataset", splits={"train": "train", "test": "train"})
    columns = ("problem", "answer")

    def _rows(self, split: str | None, source: str | os.PathLike[str] | None, limit: int | None) -> Iterator[Row]:
        split = self._check(split, limit)
        raw = stream_rows(source, self.source, split, self.columns, self.name)
        kept = (item for item in raw if held_out(" ".join(str(item["problem"]).split()), 1 / 50) == (split == "test"))
        for index, item in enumerate(islice(kept, limit)):
            yield self.row(item, index)
