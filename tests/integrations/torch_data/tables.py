"""Score tables for tests, without a model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gainrl.table import DIRECTION_FIELD, SCHEMA, ScoreTable, TableMetadata, content_ids, fingerprint, ranks


def score_table(prompts: Sequence[Any], *, failed: Collection[int] = (), directions: bool = False) -> ScoreTable:
    """A table of these prompts, scored 0.9 to 0.2 in their order, with shorter and shorter questions."""
    ids, count = content_ids(prompts), len(prompts)
    scores = np.linspace(0.9, 0.2, count)
    status = ["failed" if row in failed else "ok" for row in range(count)]
    scores[list(failed)] = np.nan
    columns = [
        ids, range(count), status, [None] * count, scores, scores, scores, ranks(ids, scores),
        [3] * count, [count - row for row in range(count)],
    ]  # fmt: skip
    fields = list(SCHEMA)
    if directions:
        random = np.random.default_rng(0)
        columns.append([None if row in failed else random.normal(size=4).astype(np.float32) for row in range(count)])
        fields.append(DIRECTION_FIELD)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
    made = dict.fromkeys(("model", "model_hash", "tokenizer_hash", "chat_template_hash"), "")
    metadata = TableMetadata(**made, dataset="memory", split=None, limit=None, fingerprint=fingerprint(ids), rows=count)
    return ScoreTable(pa.table(arrays, schema=pa.schema(fields)), metadata)
