"""Score tables for tests, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gainrl.table import DIRECTION_FIELD, PROMPT_FIELD, SCHEMA, ScoreTable, TableMetadata, fingerprint, ranks


def score_table(
    ids: Sequence[str], scores: npt.ArrayLike, columns: Mapping[str, Any] | None = None, **metadata: Any
) -> ScoreTable:
    """A table of these prompts (N,), in dataset order; NaN in `scores` is an undefined score.

    columns: N values each, in the place of what stands here or beside it (`prompt`, `direction`).  metadata: fields
    of `TableMetadata`.
    """
    count, given = len(ids), np.asarray(scores, dtype=np.float64)
    values: dict[str, Any] = {
        "id": ids,
        "row": range(count),
        "status": ["undefined" if missing else "ok" for missing in np.isnan(given)],
        "reason": [None] * count,
        "intra": given,
        "inter": np.zeros(count),
        "score": given,
        "rank": ranks(ids, given),
        "prefix_tokens": [1] * count,
        "question_tokens": [2] * count,
        **(columns or {}),
    }
    schema = pa.schema([*SCHEMA, *(field for field in (PROMPT_FIELD, DIRECTION_FIELD) if field.name in values)])
    made = {
        "model": "m", "model_hash": "weights:0", "tokenizer_hash": "t", "chat_template_hash": "", "dataset": "d",
        "split": None, "limit": None, "fingerprint": fingerprint(ids), "rows": count,
    }  # fmt: skip
    arrays = [pa.array(values[field.name], field.type) for field in schema]
    return ScoreTable(pa.table(arrays, schema=schema), TableMetadata(**{**made, **metadata}))
