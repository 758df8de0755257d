"""From a score table to a navigator: what every integration does, and in the same words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import Navigator, Ranking
from gainrl.curriculum.building import Called, NavigatorSettings
from gainrl.curriculum.building import build_navigator as build
from gainrl.errors import UserError
from gainrl.table import ScoreTable


def build_navigator(
    settings: NavigatorSettings,
    table: ScoreTable,
    rows: npt.ArrayLike,
    n: int,
    *,
    fingerprint: str | None = None,
    ranking: Ranking | None = None,
    called: Called = str,
) -> Navigator:
    """The navigator that `settings` describe over these rows of a score table, with n prompts an epoch.

    rows: (N,) integer, positions in the table of the prompts that can be drawn (among `table.usable`).  fingerprint:
    names the dataset in the state, the table's own by default.  ranking: of the same prompts, where it is not the
    table's.  called: what the user's configuration calls a setting.  Raises UserError for an unknown navigator, values
    that do not fit, no prompt at all, and `probe` over a table without directions.
    """
    places = np.asarray(rows, dtype=np.int64)
    if not len(places):
        raise UserError("the score table has no usable prompt: every row is skipped, failed or filtered out")
    settings.check(called)
    every = table.ids
    ids = [every[row] for row in places.tolist()]
    if ranking is None:
        ranking = Ranking(ids, table.scores[places], fingerprint or table.metadata.fingerprint)

    def directions() -> npt.NDArray[np.float32]:
        if not table.has_directions:
            raise UserError(
                f"{called('navigator')}='probe' learns from the prompts' directions, and the score table has none: "
                "score again with `gainrl score --directions`"
            )
        return table.directions()[places]

    lengths = table.column("question_tokens")[places]
    return build(settings, ranking, n, ids=ids, question_tokens=lengths, directions=directions, called=called)
