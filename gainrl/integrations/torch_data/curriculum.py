"""From a score table and a dataset's prompts to a navigator."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gainrl.curriculum import Navigator
from gainrl.curriculum.building import DEFAULT, NavigatorSettings, settings_of
from gainrl.errors import UserError
from gainrl.integrations.navigation import build_navigator
from gainrl.table import Prompt, ScoreTable, content_ids, fingerprint

logger = logging.getLogger(__name__)


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
    navigator: str = DEFAULT,
    subset: bool = False,
    **settings: Any,
) -> Curriculum:
    """The navigator `navigator` over the dataset that the score table was made for, with n prompts per epoch.

    `prompts` are the dataset's, in order, as they were scored (plain text, or chats); they are matched to the table by
    content.  `subset=True` lets the table have prompts that the dataset lacks, in any order: some frameworks drop long
    ones.  `settings` are those of `gainrl.curriculum.building.NavigatorSettings` that this navigator looks at: `seed`
    and `order` for all, `sigma`, `alpha`, `beta`, ... .  `probe` learns from the directions of `gainrl score
    --directions`; over a table without them it goes by ranking and length, and the log says so.  Prompts that were
    skipped or failed are never drawn.

    Raises UserError for a table of another dataset, an unknown navigator or setting, and values that do not fit.
    """
    table = scores if isinstance(scores, ScoreTable) else ScoreTable.read(scores, leave=("prompt",))
    ids = content_ids(prompts)
    NavigatorSettings(navigator).check()
    if unknown := sorted(set(settings) - NavigatorSettings.__dataclass_fields__.keys()):
        known = ", ".join(sorted(settings_of(navigator)))
        raise UserError(f"settings of the navigator {navigator!r}: it has {known}; no {', '.join(unknown)}")
    chosen = NavigatorSettings(navigator, **settings)
    chosen.check()
    rows = _table_rows(table, ids, subset)
    can = set(table.usable.tolist())
    usable = [row for row in rows if row in can]
    if usable and len(usable) < len(ids):
        logger.warning("%d prompts that could not be scored are never drawn", len(ids) - len(usable))
    made = build_navigator(chosen, table, usable, n, fingerprint=fingerprint(ids))
    table_ids = table.ids
    known_scores = zip((table_ids[row] for row in usable), table.column("score")[usable].tolist(), strict=True)
    return Curriculum(made, ids, {name: score for name, score in known_scores if score == score})


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
