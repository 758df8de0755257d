"""Score tables of prompts in their order, for the samplers' tests."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from gainrl.table import ScoreTable, content_ids
from tests.score_tables import score_table as make


def score_table(prompts: Sequence[Any], *, failed: Collection[int] = (), directions: bool = False) -> ScoreTable:
    """A table of these prompts, scored 0.9 to 0.2 in their order, with shorter and shorter questions."""
    count = len(prompts)
    scores = np.linspace(0.9, 0.2, count)
    scores[list(failed)] = np.nan
    columns: dict[str, Any] = {
        "status": ["failed" if row in failed else "ok" for row in range(count)],
        "question_tokens": [count - row for row in range(count)],
    }
    if directions:
        random = np.random.default_rng(0)
        columns["direction"] = [None if row in failed else random.normal(size=4).tolist() for row in range(count)]
    return make(content_ids(prompts), scores, columns, dataset="memory")
