"""What a run is made of: the settings that must agree to go on after a kill, and the dataset's fingerprint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gainrl import __version__
from gainrl.scoring.contract import Scorer
from gainrl.scoring.finish import Columns
from gainrl.scoring.ordering import Occurrences, on_disk, texts_of_ids
from gainrl.scoring.prompts import ScoringPrompt, template_hash, tokenizer_hash
from gainrl.table import Fingerprint, content_digest

_PART = 4096
"""Rows whose digests are held at once."""


@dataclass(frozen=True)
class Source:
    """Where a dataset's prompts come from: what the table's provenance says of them."""

    name: str
    split: str | None = None
    limit: int | None = None
    size: int | None = None
    task: str | None = None


def table_settings(scorer: Scorer, source: Source, model_name: str, model_hash: str, control: str) -> dict[str, Any]:
    """The fields of the metadata that are known before the first row: what must agree to go on after a kill."""
    renderer = scorer.renderer
    return {
        "model": model_name,
        "model_hash": model_hash,
        "tokenizer_hash": tokenizer_hash(scorer.tokenizer),
        "chat_template_hash": template_hash(scorer.tokenizer),
        "template_date": renderer.date.isoformat() if template_hash(scorer.tokenizer) else "",
        "dataset": source.name,
        "split": source.split,
        "limit": source.limit,
        "task": source.task,
        "question_after": renderer.question_after,
        "too_long": renderer.too_long,
        "dtype": scorer.dtype,
        "tokens_per_batch": scorer.tokens_per_batch,
        "tap": scorer.tap,
        "definition": scorer.definition.formula,
        "diagonal": scorer.definition.diagonal,
        "control": control,
    }


def plan_settings(scorer: Scorer, columns: Columns, window: int) -> dict[str, Any]:
    """What else must agree to go on: all that shapes batches, columns and rounding."""
    import torch
    import transformers

    return {
        "backend": scorer.backend,
        "form": scorer.form,
        "device": scorer.device.type,
        "window": window,
        "directions": columns.direction,
        "prompts": columns.prompt,
        "nll": columns.nll,
        "gainrl": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def dataset_fingerprint(prompts: Iterable[ScoringPrompt], rows: int, folder: Path) -> str | None:
    """The fingerprint of a dataset that should have `rows` rows; None if it has another number of them."""
    occurrences, kept = Occurrences(folder, rows), on_disk(folder, rows, np.uint64)
    given, first = iter(prompts), 0
    while part := list(islice(given, _PART)):
        if first + len(part) > rows:
            return None
        digests = np.frombuffer(b"".join(content_digest(row.prompt) for row in part), dtype=np.uint8).reshape(-1, 8)
        occurrences.put(first, digests)
        kept[first : first + len(part)] = digests.view(np.uint64)[:, 0]
        first += len(part)
    if first != rows:
        return None
    occurrences.number()
    rolling = Fingerprint()
    for start in range(0, rows, _PART):
        span = slice(start, start + _PART)
        rolling.update(texts_of_ids(np.array(kept[span]).view(np.uint8).reshape(-1, 8), occurrences[span]))
    return rolling.hexdigest()
