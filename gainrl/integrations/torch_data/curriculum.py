"""From a score table and a dataset's prompts to a navigator over the dataset's rows."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gainrl.curriculum import DEFAULT, Navigator
from gainrl.errors import UserError
from gainrl.integrations.groups import Ints
from gainrl.integrations.shared import DrawLog, load_navigator
from gainrl.table import Prompt, ScoreTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Curriculum:
    """What a sampler needs: n prompts are a draw, `table_rows` (N,) has the table's row of each of the dataset's."""

    navigator: Navigator
    n: int
    table_rows: Ints
    log: DrawLog | None = None

    def dataset_rows(self, rows: Ints) -> Ints:
        """(n,) the dataset's row of each row of the table; UserError if the dataset lacks one."""
        order = np.argsort(self.table_rows, kind="stable")
        nearest = np.minimum(np.searchsorted(self.table_rows, rows, sorter=order), len(order) - 1)
        found = order[nearest]
        if (lacking := rows[self.table_rows[found] != rows]).size:
            raise UserError(f"the dataset lacks row {lacking[0]} of the score table, which the state has drawn")
        return found


def load_curriculum(
    scores: ScoreTable | str | os.PathLike[str],
    prompts: Iterable[Prompt],
    n: int,
    *,
    navigator: str = DEFAULT,
    navigator_args: Mapping[str, Any] | None = None,
    seed: int = 0,
    subset: bool = False,
    sources: Sequence[str] | None = None,
    quota: Mapping[str, float] | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Curriculum:
    """The curriculum of the dataset that the score table was made for, with n prompts a draw.

    prompts: the dataset's, in order, as they were scored; matched to the table by content.  subset: whether the table
    may have prompts that the dataset lacks, as some frameworks drop long ones.  sources: the source of each prompt, for
    `quota`, the largest share of a draw by source.  directory: where `draws.jsonl` is written.  Raises UserError for a
    table of another dataset, an unknown navigator or argument, and values that do not fit.
    """
    table = scores if isinstance(scores, ScoreTable) else ScoreTable.read(scores)
    rows = table.join(prompts, subset=subset)
    made = load_navigator(table, rows, navigator, navigator_args, seed=seed, sources=sources, quota=quota)
    if not 1 <= n <= len(made.prompts):
        raise UserError(f"n = {n}: {len(made.prompts)} of the {len(rows)} prompts can be drawn")
    if len(made.prompts) < len(rows):
        logger.warning("%d prompts that could not be scored are never drawn", len(rows) - len(made.prompts))
    return Curriculum(made, n, rows, None if directory is None else DrawLog(directory))
