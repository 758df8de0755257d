"""From the journals of a finished pass to the score table, a window at a time.

Ids need to know how often a prompt came before, ranks every score: both are sorted on disk (`gainrl.scoring.ordering`).
The journals are read three times, four with `control="length"`: digests, (regression,) ranks, table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gainrl.errors import UserError
from gainrl.files import atomic_path
from gainrl.parts import writing
from gainrl.scoring.definition import Definition
from gainrl.scoring.journal import Journal
from gainrl.scoring.ordering import Occurrences, Ranks, texts_of_ids
from gainrl.scoring.results import NO_PREFIX
from gainrl.scoring.shards import RankShards
from gainrl.table import (
    DIRECTION_FIELD,
    METADATA_KEY,
    NLL_FIELD,
    PROMPT_FIELD,
    RESIDUAL_FIELD,
    SCHEMA,
    Fingerprint,
    TableMetadata,
)

CONTROLS = ("none", "length")


@dataclass(frozen=True)
class Columns:
    """The optional columns of a table."""

    prompt: bool = True
    direction: bool = False
    nll: bool = False


def write_table(
    journals: Sequence[Journal],
    output: Path,
    metadata: TableMetadata,
    definition: Definition,
    columns: Columns,
    *,
    window: int,
    shards: int | None = None,
) -> TableMetadata:
    """Write the table of `metadata.rows` rows to `output`, in dataset order; returns its final metadata.

    With `shards` it becomes a folder of so many parts, by rank (`gainrl.parts`; 0: parts of even size).
    `metadata` lacks the fingerprint, and names the control; OSError if the disk is full.
    """
    rows, folder = metadata.rows, output.parent
    source = _Windows(journals, rows, window)
    occurrences, any_prefix = Occurrences(folder, rows), False
    for first, table in source:
        occurrences.put(first, _digests(table))
        ok = table["status"].to_numpy() == "ok"
        any_prefix |= bool((ok & (table["prefix_tokens"].to_numpy() > 0)).any())
    occurrences.number()
    if not any_prefix:
        definition = replace(definition, inter_weight=0.0)
    fit = _length_fit(source, definition) if metadata.control == "length" else None
    ranking, rolling = Ranks(folder, rows), Fingerprint()
    for first, table in source:
        digests, numbers = _digests(table), occurrences[first : first + len(table)]
        settled = _settle(table, definition)
        rolling.update(texts_of_ids(digests, numbers))
        ranking.put(first, settled.score if fit is None else settled.residual(fit), digests, numbers)
    ranking.sort()
    metadata = replace(
        metadata, fingerprint=rolling.hexdigest(), definition=definition.formula, diagonal=definition.diagonal,
        control_fit=None if fit is None else fit.tolist(),
    )  # fmt: skip
    chosen = [(PROMPT_FIELD, columns.prompt), (DIRECTION_FIELD, columns.direction), (NLL_FIELD, columns.nll)]
    fields = [*SCHEMA, *(name for name, wanted in [*chosen, (RESIDUAL_FIELD, fit is not None)] if wanted)]
    schema = pa.schema(fields, metadata={METADATA_KEY: metadata.to_json().encode()})
    tables = _final(source, schema, definition, fit, occurrences, ranking)
    if shards is None:
        with atomic_path(output) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)
    else:
        _write_parts(tables, output, rows, schema, shards)
    return metadata


def _final(
    source: _Windows, schema: pa.Schema, definition: Definition, fit: Any, occurrences: Occurrences, ranking: Ranks
) -> Iterator[pa.Table]:
    """The table in dataset order, a window at a time."""
    for first, table in source:
        span = slice(first, first + len(table))
        settled = _settle(table, definition)
        values: dict[str, Any] = {
            "id": pa.array(texts_of_ids(_digests(table), occurrences[span]), pa.string()),
            "status": pa.array(settled.status, pa.string()),
            "reason": pa.array(settled.reason, pa.string()),
            "inter": pa.array(settled.inter, pa.float32()),
            "score": pa.array(settled.score, pa.float32()),
            "rank": pa.array(ranking[span], pa.int64()),
        }
        if fit is not None:
            values["residual"] = pa.array(settled.residual(fit), pa.float32())
        yield pa.table([values[n] if n in values else table[n] for n in schema.names], schema=schema)


def _write_parts(tables: Iterator[pa.Table], output: Path, rows: int, schema: pa.Schema, count: int) -> None:
    """Sort by rank and write a folder of parts, whole or not at all."""
    with closing(RankShards(output.parent, rows, schema, count)) as shards, writing(output) as parts:
        for table in tables:
            shards.put(table)
        for table in shards:
            path = parts.next()
            pq.write_table(table, path, compression="zstd")
            parts.wrote(path, len(table))


class _Windows:
    """The journals' results in row order, one window at a time: (first row, table).  Can be iterated again."""

    def __init__(self, journals: Sequence[Journal], rows: int, window: int) -> None:
        self._journals, self._rows, self._window = journals, rows, window

    def __iter__(self) -> Iterator[tuple[int, pa.Table]]:
        for first in range(0, self._rows, self._window):
            batches = [b for journal in self._journals for b in journal.window(first // self._window)]
            expected = np.arange(first, min(first + self._window, self._rows))
            table = pa.Table.from_batches(batches).sort_by("row").combine_chunks() if batches else None
            if table is None or not np.array_equal(table["row"].to_numpy(), expected):
                path = self._journals[0].path
                raise RuntimeError(f"{path} lacks or repeats rows from {first} on: a bug in gainrl, please report it")
            yield first, table
            pa.default_memory_pool().release_unused()  # else the pool keeps what the largest window took, several times


@dataclass(frozen=True)
class _Settled:
    """A window's columns once it is known whether any prompt of the dataset has a prefix (see `results.settle`)."""

    status: npt.NDArray[np.object_]
    reason: npt.NDArray[np.object_]
    inter: npt.NDArray[np.float32]
    score: npt.NDArray[np.float32]
    question_tokens: npt.NDArray[np.int32]

    def residual(self, fit: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Score minus what length predicts, NaN where there is no score."""
        predicted = _basis(self.question_tokens) @ fit
        return (self.score.astype(np.float64) - predicted).astype(np.float32)


def _settle(table: pa.Table, definition: Definition) -> _Settled:
    status, reason = (table[name].to_numpy().copy() for name in ("status", "reason"))
    intra, inter = (table[name].to_numpy().astype(np.float64) for name in ("intra", "inter"))
    ok = status == "ok"
    score = intra
    if definition.inter_weight:
        alone = ok & (table["prefix_tokens"].to_numpy() == 0)
        status[alone], reason[alone], inter[alone] = "undefined", NO_PREFIX, np.nan
        score, ok = intra + definition.inter_weight * inter, ok & ~alone
    score = np.where(ok, score, np.nan).astype(np.float32)
    return _Settled(status, reason, inter.astype(np.float32), score, table["question_tokens"].to_numpy())


def _basis(question_tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """(n, 3): 1, x, x² for x = ln(question_tokens)."""
    x = np.log(np.maximum(question_tokens, 1).astype(np.float64))
    return np.stack([np.ones_like(x), x, x * x], axis=1)


def _length_fit(source: _Windows, definition: Definition) -> npt.NDArray[np.float64]:
    """(3,) float64 ordinary least squares of the score on `_basis`, over the rows that have a score.

    From the normal equations, summed a window at a time, so the result does not depend on the batches; with fewer
    different lengths than coefficients the solution of least norm.
    """
    gram, moment, count = np.zeros((3, 3)), np.zeros(3), 0
    for _, table in source:
        settled = _settle(table, definition)
        scored = np.isfinite(settled.score)
        basis = _basis(settled.question_tokens[scored])
        gram += basis.T @ basis
        moment += basis.T @ settled.score[scored].astype(np.float64)
        count += int(scored.sum())
    if count < 4:
        raise UserError(f"--control length: {count} rows have a score, a regression on length needs at least 4")
    norm = np.sqrt(np.diag(gram))
    scale = np.divide(1.0, norm, out=np.zeros(3), where=norm > 0)
    solution = np.linalg.pinv(gram * np.outer(scale, scale), rcond=1e-12, hermitian=True) @ (moment * scale)
    fit: npt.NDArray[np.float64] = solution * scale
    return fit


def _digests(table: pa.Table) -> npt.NDArray[np.uint8]:
    """(n, 8) uint8."""
    return np.frombuffer(b"".join(table["digest"].to_pylist()), dtype=np.uint8).reshape(-1, 8)
