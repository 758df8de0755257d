"""From a score table and a dataset's prompts to a navigator."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import (
    NAVIGATORS,
    GaussianNavigator,
    Navigator,
    ProbeNavigator,
    PromptFeatures,
    Ranking,
    ShortestFirstNavigator,
    TargetNavigator,
    WindowSettings,
    shortest_first_ranking,
)
from gainrl.errors import UserError
from gainrl.table import Prompt, ScoreTable, content_ids, fingerprint

logger = logging.getLogger(__name__)

_WINDOW = {field.name for field in dataclasses.fields(WindowSettings)}


@dataclass(frozen=True)
class Curriculum:
    """What a sampler needs."""

    navigator: Navigator
    ids: list[str]
    """Ids of the dataset's rows, in dataset order."""
    scores: dict[str, float]
    """C of each prompt that has one: the angle of a rollout's record where the policy's own is not measured."""


def load_curriculum(
    scores: ScoreTable | str | os.PathLike[str],
    prompts: Iterable[Prompt],
    n: int,
    *,
    navigator: str = "gaussian",
    subset: bool = False,
    **settings: Any,
) -> Curriculum:
    """The navigator `navigator` over the dataset that the score table was made for, with n prompts per epoch.

    `prompts` are the dataset's, in order, as they were scored (plain text, or chats); they are matched to the table by
    content.  `subset=True` lets the table have prompts that the dataset lacks, in any order: some frameworks drop long
    ones.  `settings` are those of `WindowSettings` (sigma, sigma_fraction, alpha, beta, mean, at_end) for
    `gaussian` and `target`, and those of the navigator's class: order, seed, skip_mastered, ...; `components` for
    `probe` (whose table needs `gainrl score --directions`).  Prompts that were skipped or failed are never drawn.

    Raises UserError for a table of another dataset, an unknown navigator or setting, and values that do not fit.
    """
    table = scores if isinstance(scores, ScoreTable) else ScoreTable.read(scores, leave=("prompt",))
    ids = content_ids(prompts)
    if navigator not in NAVIGATORS:
        raise UserError(f"navigator {navigator!r}: choose {', '.join(NAVIGATORS)}")
    rows = _table_rows(table, ids, subset)
    status = table.columns["status"].to_pylist()
    usable = [row for row in rows if status[row] in ("ok", "undefined")]
    if not usable:
        raise UserError("the score table has no usable prompt: every row is skipped or failed")
    if len(usable) < len(ids):
        logger.warning("%d prompts that could not be scored are never drawn", len(ids) - len(usable))
    table_ids = table.ids
    names = [table_ids[row] for row in usable]
    ranking = Ranking(names, table.scores[usable], fingerprint(ids))
    kind, more = NAVIGATORS[navigator], dict(settings)
    lengths = table.column("question_tokens")[usable]
    if kind in (GaussianNavigator, TargetNavigator):
        window = {name: more.pop(name) for name in list(more) if name in _WINDOW}
        more["window"] = WindowSettings(**window)
    elif kind is ShortestFirstNavigator:
        ranking = shortest_first_ranking(names, lengths.tolist(), ranking.fingerprint)
    elif kind is ProbeNavigator:
        components = {name: more.pop(name) for name in ("components",) if name in more}
        more["features"] = PromptFeatures(ranking, names, _directions(table)[usable], lengths, **components)
    try:
        made = kind(ranking, n, **more)
    except TypeError as error:
        raise UserError(f"settings of the navigator {navigator!r}: {error}") from error
    known = zip(names, table.column("score")[usable].tolist(), strict=True)
    return Curriculum(made, ids, {name: score for name, score in known if score == score})


def _table_rows(table: ScoreTable, ids: list[str], subset: bool) -> list[int]:
    """The table's row of each of the dataset's prompts; UserError if the table was not made for them."""
    if not subset:
        table.require_dataset(ids, "the dataset")
        return list(range(len(ids)))
    row_of = {name: row for row, name in enumerate(table.ids)}
    missing = [name for name in ids if name not in row_of]
    if missing:
        raise UserError(
            f"{len(missing)} of the dataset's {len(ids)} prompts are not in the score table (first {missing[0]!r}), "
            f"which was made from {table.metadata.dataset!r}: score a dataset that has them"
        )
    return [row_of[name] for name in ids]


def _directions(table: ScoreTable) -> npt.NDArray[np.float32]:
    """(N, D) float32 directions in dataset order, NaN where a row has none; UserError if the table has none."""
    if "direction" not in table.columns.column_names:
        raise UserError(
            "the navigator 'probe' learns from the prompts' directions, and the score table has none: score again with "
            "`gainrl score --directions`"
        )
    parts = []
    width = next((len(row) for chunk in table.columns["direction"].chunks for row in chunk.drop_null()[:1]), 0)
    for chunk in table.columns["direction"].chunks:  # one array of all might not fit its 32-bit offsets
        part = np.full((len(chunk), width), np.nan, dtype=np.float32)
        there = chunk.is_valid().to_numpy(zero_copy_only=False)
        part[there] = chunk.drop_null().flatten().to_numpy().reshape(-1, width)
        parts.append(part)
    return np.concatenate(parts)
