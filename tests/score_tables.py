"""Score tables for tests, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gainrl.table import PROMPT_FIELD, SCHEMA, ScoreTable, TableMetadata, direction_field, fingerprint, positions


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
        "position": positions(given),
        "prefix_tokens": [1] * count,
        "question_tokens": [2] * count,
        **(columns or {}),
    }
    optional = [PROMPT_FIELD] if "prompt" in values else []
    if "direction" in values:
        optional.append(direction_field("float32"))
    schema = pa.schema([*SCHEMA, *optional])
    made = {
        "model": "m", "model_hash": "weights:0", "tokenizer_hash": "t", "chat_template_hash": "", "dataset": "d",
        "split": None, "limit": None, "fingerprint": fingerprint(ids), "rows": count,
    }  # fmt: skip
    arrays = [pa.array(values[field.name], field.type) for field in schema]
    return ScoreTable(pa.table(arrays, schema=schema), TableMetadata(**{**made, **metadata}))
