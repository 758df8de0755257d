"""The training dataset together with its score table: checked to belong together, ranked, and told apart by row."""

from __future__ import annotations

import copy
import logging
import os
from typing import Any

from datasets import Dataset

from gainrl.curriculum import Ranking
from gainrl.errors import UserError
from gainrl.table import ScoreTable, content_ids

logger = logging.getLogger(__name__)

ROW = "gainrl_row"
"""Column with the dataset row; it travels with each rollout and never reaches a reward function."""


class ScoredDataset:
    """A dataset with a column `prompt` and the ranking of its prompts.

    `ids` are the content ids in dataset order, `row_of` their positions.  Raises UserError for a dataset that cannot
    be drawn from, a table that was made for another one, or no table at all.
    """

    def __init__(self, dataset: Any, scores: ScoreTable | str | os.PathLike[str] | None) -> None:
        self.dataset = require_dataset(dataset)
        if scores is None:
            raise UserError(
                "the curriculum needs the dataset's score table: give scores=PATH (make one with `gainrl score`)"
            )
        self.table = scores if isinstance(scores, ScoreTable) else ScoreTable.read(scores)
        self.ids = content_ids(self.dataset["prompt"])
        self.table.require_dataset(self.ids, "the training dataset")
        self.row_of = {name: row for row, name in enumerate(self.ids)}
        usable = self.table.usable.tolist()
        if len(usable) < len(self.ids):
            logger.warning("%d prompts that could not be scored are never drawn", len(self.ids) - len(usable))
        if not usable:
            raise UserError("the score table has no usable prompt: every row is skipped or failed")
        self.usable = usable
        """Rows that can be drawn: skipped prompts do not fit the model's context, failed ones cannot be rendered."""
        self.ranking = self.ranked(self.table.scores[usable])

    def ranked(self, scores: Any) -> Ranking:
        """The ranking by `scores` (N,) floating, one for each of the `usable` rows, NaN where undefined."""
        return Ranking([self.ids[row] for row in self.usable], scores, self.table.metadata.fingerprint)

    def without_directions(self) -> ScoredDataset:
        """The same without the directions, which are most of a table and are needed to make a navigator only."""
        if not self.table.has_directions:
            return self
        made = copy.copy(self)
        made.table = ScoreTable(self.table.columns.drop_columns(["direction"]), self.table.metadata)
        return made

    def with_rows(self) -> Dataset:
        """The dataset with its row numbers as a column of its own."""
        return self.dataset.add_column(ROW, list(range(len(self.dataset))))


def require_dataset(dataset: Any) -> Dataset:
    """UserError unless `dataset` is a map-style dataset with a column `prompt`."""
    if not isinstance(dataset, Dataset):
        what = "None" if dataset is None else f"of the type {type(dataset).__name__}"
        raise UserError(
            f"the curriculum draws prompts by their rank, which needs a map-style datasets.Dataset, but train_dataset "
            f"is {what}: a streamed dataset has to be loaded (streaming=False)"
        )
    if len(dataset) == 0:
        raise UserError("the training dataset is empty")
    if "prompt" not in dataset.column_names:
        raise UserError(f"the training dataset has no column 'prompt'; it has {', '.join(dataset.column_names)}")
    if ROW in dataset.column_names:
        raise UserError(f"the training dataset has a column {ROW!r}, which the curriculum uses: rename it")
    return dataset
