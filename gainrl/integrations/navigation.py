"""From a score table to a navigator: what every integration does, and in the same words."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import Navigator, Ranking
from gainrl.curriculum.building import Called, NavigatorSettings, in_force
from gainrl.curriculum.building import build_navigator as build
from gainrl.errors import UserError
from gainrl.table import ScoreTable

logger = logging.getLogger(__name__)

TYPICAL_EPOCH = 1024
"""Prompts of an epoch where nobody says how many, as near as whole batches come to it; not for probe, which draws for
every step (docs/evidence.md).  The published runs have about as many."""

_told: weakref.WeakValueDictionary[int, ScoreTable] = weakref.WeakValueDictionary()
"""Tables of which it was said that they have no directions: a run builds its navigator more than once."""


def build_navigator(
    settings: NavigatorSettings,
    table: ScoreTable,
    rows: npt.ArrayLike,
    n: int,
    *,
    fingerprint: str | None = None,
    ranking: Ranking | None = None,
    called: Called = str,
    directions: bool = True,
) -> Navigator:
    """The navigator that `settings` describe over these rows of a score table, with n prompts an epoch.

    rows: (N,) integer, positions in the table of the prompts that can be drawn (among `table.usable`).  fingerprint:
    names the dataset in the state, the table's own by default.  ranking: of the same prompts, where it is not the
    table's.  called: what the user's configuration calls a setting.  directions: False does without them, silently, for
    a navigator that only shows whether the settings fit: features take long.  `probe` over a table without directions
    goes by ranking and length, and the log says so once for each table.  Raises UserError for an unknown navigator,
    values that do not fit or belong to another navigator, and no prompt at all.
    """
    places = np.asarray(rows, dtype=np.int64)
    if not len(places):
        raise UserError("the score table has no usable prompt: every row is skipped, failed or filtered out")
    settings.check(called)
    every = table.ids
    ids = [every[row] for row in places.tolist()]
    if ranking is None:
        ranking = Ranking(ids, table.scores[places], fingerprint or table.metadata.fingerprint)

    def read() -> npt.NDArray[np.float32] | None:
        if not directions:
            return None
        if not table.has_directions:
            _say_once(table, called)
            return None
        found = table.directions()
        return found if np.array_equal(places, np.arange(len(found))) else found[places]  # they may be gigabytes

    lengths = table.column("question_tokens")[places]
    return build(settings, ranking, n, ids=ids, question_tokens=lengths, directions=read, called=called)


def _say_once(table: ScoreTable, called: Called) -> None:
    if id(table) in _told:
        return
    _told[id(table)] = table
    if os.environ.get("RANK", "0") == "0":  # the other processes of a launcher would only repeat it
        logger.warning(
            "the score table has no directions, so that %s=probe goes by ranking and question length alone: score "
            "again with `gainrl score --directions`",
            called("navigator"),
        )


def require_navigator(state: Mapping[str, Any], kind: str, called: Called = str) -> None:
    """UserError if a navigator's state is of another kind than the run's, which may be the default of this release."""
    saved = state.get("navigator", kind)
    if saved != kind:
        raise UserError(
            f"the state is of the navigator {saved!r}, this run uses {in_force(kind)}: go on with "
            f"{called('navigator')}={saved!r}, or begin a new run"
        )
