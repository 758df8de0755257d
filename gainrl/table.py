"""The score table on disk: one Parquet row per dataset row, with what made it in the file's metadata.

    id               string   content hash of the prompt and its occurrence number (datasets do repeat problems)
    row              int64    position in the dataset, from 0
    status           string   ok | undefined | skipped | failed
    reason           string   why the status is not ok; for an ok row null, or that its question was truncated
    intra, inter     float32  C_intra and C_inter (design, part 2); NaN where undefined
    score            float32  C = C_intra + w·C_inter (metadata: definition), or C_intra where no prompt has a prefix
    rank             int64    0 for the highest score; ties by id; rows without a score last, by id
    prefix_tokens, question_tokens   int32   p and q: the tokens that entered the two means
    prompt           string   the prompt itself (plain text, or a chat as JSON), for reports; optional
    direction        list<float32>   U_q / ‖U_q‖, the prompt's embedding; optional
    nll              float32  mean negative log-likelihood of the question's tokens, nats per token; optional
    residual         float32  score minus what length predicts; there, and what is ranked by, with control = length

Rows are in dataset order.  A table can also be a folder of parts (`gainrl.parts`), whose rows follow each other by
rank over all parts; read into memory, it is the same table.  The metadata is one JSON object under the Parquet key
`gainrl`, in every part alike.  Needs pyarrow and NumPy only.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gainrl.correlation import length_correlations
from gainrl.errors import UserError
from gainrl.files import atomic_path
from gainrl.ids import (
    ContentIds,
    Fingerprint,
    Message,
    Prompt,
    content_digest,
    content_ids,
    fingerprint,
    prompt_text,
)
from gainrl.parts import files, is_table

__all__ = [
    "DIRECTION_FIELD", "FORMAT_VERSION", "METADATA_KEY", "NLL_FIELD", "PROMPT_FIELD", "RESIDUAL_FIELD", "SCHEMA",
    "STATUSES", "ContentIds", "Fingerprint", "Message", "Prompt", "ScoreTable", "TableMetadata", "content_digest",
    "content_ids", "fingerprint", "iter_rows", "prompt_text", "rank_order", "ranks",
]  # fmt: skip

FORMAT_VERSION = 2
"""2 added `control`, `control_fit`, and formulas with a weight; tables of version 1 are read as they are."""
METADATA_KEY = b"gainrl"

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("intra", pa.float32(), nullable=False),
        pa.field("inter", pa.float32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("prefix_tokens", pa.int32(), nullable=False),
        pa.field("question_tokens", pa.int32(), nullable=False),
    ]
)
PROMPT_FIELD = pa.field("prompt", pa.string())
DIRECTION_FIELD = pa.field("direction", pa.list_(pa.float32()))
NLL_FIELD = pa.field("nll", pa.float32())
RESIDUAL_FIELD = pa.field("residual", pa.float32(), nullable=False)
STATUSES = ("ok", "undefined", "skipped", "failed")
_CHUNK = 16_384
"""Rows of a chunk where a table in parts is put in order: 2^31 floats are 131,072 for each of its directions."""


@dataclass(frozen=True)
class TableMetadata:
    """What a score table was made from; two tables with equal metadata rank the same thing the same way."""

    model: str
    """As the user named it."""
    model_hash: str
    """Identity of the weights: `commit:<hub commit>` or `weights:<hash>`."""
    tokenizer_hash: str
    """Of the tokenizer's files."""
    chat_template_hash: str
    """Hash of the template's source; empty for plain text."""
    dataset: str
    """Hub id, file or task, as the user named it."""
    split: str | None
    """Split of the dataset or task, if one was named."""
    limit: int | None
    """How many of the first rows were scored, if not all."""
    fingerprint: str
    """`fingerprint` of the ids in order."""
    rows: int
    """Rows of the table."""
    template_date: str = ""
    """ISO date given to templates that print today's; empty for plain text."""
    task: str | None = None
    """The task that mapped the dataset's own columns to prompts, if any."""
    question_after: str | None = None
    """The text behind which the question begins, for plain text."""
    too_long: str = "skip"
    """What was done with prompts beyond the context: `skip` or `truncate`."""
    tokens_per_batch: int = 0
    """Token budget of a batch."""
    dtype: str = "float32"
    """Of the weights and activations."""
    tap: str = "final"
    """Where hidden states were taken."""
    definition: str = "intra+inter"
    """`intra+inter`, `intra+W*inter`, or `intra`, also where no prompt of the dataset has a prefix."""
    diagonal: bool = True
    """Whether C_intra includes each token's cosine with itself."""
    control: str = "none"
    """`none`, or `length`: ranked by `residual`, the score minus `b0 + b1 x + b2 x²`, x = ln(question_tokens)."""
    control_fit: list[float] | None = None
    """With control = length: b0, b1, b2 by ordinary least squares over the rows that have a score."""
    format_version: int = FORMAT_VERSION
    """Version of this format; older ones are read."""
    gainrl_version: str = ""
    """The gainrl that wrote the table."""

    @property
    def inter_weight(self) -> float:
        """The weight of C_inter in the score; 0 where the score is C_intra alone."""
        _, plus, term = self.definition.partition("+")
        weight, times, _ = term.partition("*")
        return 0.0 if not plus else float(weight) if times else 1.0

    def differences(self, other: TableMetadata) -> dict[str, tuple[Any, Any]]:
        """Fields in which the two differ (format and writer's version aside): name -> (this, other)."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        aside = ("gainrl_version", "format_version")
        return {key: (mine[key], theirs[key]) for key in mine if key not in aside and mine[key] != theirs[key]}

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> TableMetadata:
        """Parse; unknown or missing fields and newer formats are refused by name (UserError)."""
        fields = json.loads(text)
        if fields.get("format_version", 0) > FORMAT_VERSION:
            raise UserError(
                f"{source} has table format {fields['format_version']}, this gainrl reads up to {FORMAT_VERSION}: "
                "upgrade gainrl or score again"
            )
        known = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - set(known))
        missing = sorted(
            name for name, field in known.items() if field.default is dataclasses.MISSING and name not in fields
        )
        if unknown or missing:
            raise UserError(f"{source}: score table metadata has unknown fields {unknown}, lacks {missing}")
        return cls(**fields)

    def to_json(self) -> str:
        """One JSON object, keys sorted."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class ScoreTable:
    """A score table in memory: Arrow columns as in the module's docstring, and their metadata."""

    columns: pa.Table
    metadata: TableMetadata

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], columns: Sequence[str] | None = None, *, leave: Sequence[str] = ()
    ) -> ScoreTable:
        """Read a table (or only some `columns`, or all but those in `leave`).

        Raises UserError if the file is missing, is no Parquet, or is no score table of a version known here.
        """
        metadata, names = cls.describe(path)
        chosen = [name for name in (columns or names) if name not in leave]
        if not Path(path).is_dir():
            return cls(_read(Path(path), chosen), metadata)
        read = pa.concat_tables(_read(part, [*chosen, *{"row"}.difference(chosen)]) for part in files(path))
        return cls(_sorted_by_row(read, chosen), metadata)

    @staticmethod
    def describe(path: str | os.PathLike[str]) -> tuple[TableMetadata, list[str]]:
        """The metadata of the table at `path` and the names of its columns, without reading rows; as `read`."""
        source = f"score table {os.fspath(path)!r}"
        if not is_table(path):
            raise UserError(f"{source}: no such file (make one with: gainrl score --output {os.fspath(path)} ...)")
        try:
            schema = pq.read_schema(files(path)[0])
        except pa.ArrowInvalid as error:
            raise UserError(f"{source} is not a readable Parquet file: {error}") from error
        raw = (schema.metadata or {}).get(METADATA_KEY)
        if raw is None:
            raise UserError(f"{source} was not written by gainrl score: it has no gainrl metadata")
        wrong = [f.name for f in SCHEMA if f.name not in schema.names or schema.field(f.name).type != f.type]
        if wrong:
            raise UserError(f"{source}: columns missing or of another type: {wrong}")
        return TableMetadata.from_json(raw, source), list(schema.names)

    @staticmethod
    def pieces(path: str | os.PathLike[str], columns: Sequence[str], rows: int = 4096) -> Iterator[pa.RecordBatch]:
        """Some columns of the table at `path`, at most `rows` rows at a time; memory does not grow with the table.

        In dataset order; a table in parts, by rank.
        """
        for part in files(path):
            with pq.ParquetFile(part, buffer_size=1 << 16, pre_buffer=False) as file:
                yield from file.iter_batches(batch_size=rows, columns=list(columns))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table, whole or not at all (zstd-compressed)."""
        stamped = self.columns.replace_schema_metadata({METADATA_KEY: self.metadata.to_json().encode()})
        with atomic_path(path) as temporary:
            pq.write_table(stamped, temporary, compression="zstd")

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @property
    def ids(self) -> list[str]:
        """Ids in dataset order."""
        ids: list[str] = self.columns["id"].to_pylist()
        return ids

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """(N,) float64 values that the table is ranked by, in dataset order; NaN where there is none.

        The column `score`; with control = length the column `residual`.
        """
        return self.column("residual" if self.metadata.control == "length" else "score").astype(np.float64)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column as a NumPy array (text as objects), in dataset order."""
        values: npt.NDArray[Any] = self.columns[name].to_numpy()
        return values

    @property
    def usable(self) -> npt.NDArray[np.int64]:
        """Rows that can be drawn, ascending: skipped prompts do not fit the context, failed ones cannot be rendered."""
        return np.flatnonzero(np.isin(self.column("status").astype(str), ("ok", "undefined")))

    @property
    def has_directions(self) -> bool:
        """Whether it was made with `gainrl score --directions`."""
        return "direction" in self.columns.column_names

    def directions(self) -> npt.NDArray[np.float32]:
        """(N, D) float32 directions in dataset order, NaN where a row has none.

        Raises UserError if the table has none at all, or such of unequal length.
        """
        if not self.has_directions:
            raise UserError("the score table has no directions: score again with `gainrl score --directions`")
        column = self.columns["direction"]
        widths = {len(first) for chunk in column.chunks if len(first := chunk.drop_null()[:1].flatten())}
        found = np.full((len(column), widths.pop() if len(widths) == 1 else 0), np.nan, dtype=np.float32)
        start = 0
        for chunk in column.chunks:  # one array of all might not fit its 32-bit offsets
            there = np.flatnonzero(chunk.is_valid().to_numpy(zero_copy_only=False))
            flat = chunk.drop_null().flatten().to_numpy()
            if len(flat) != len(there) * found.shape[1]:
                raise UserError("the score table's directions are of unequal length: score again")
            found[start + there] = flat.reshape(len(there), found.shape[1])
            start += len(chunk)
        return found

    def length_correlations(self) -> list[dict[str, Any]]:
        """How much of the order is only length, with and without the diagonal (`gainrl.correlation`)."""
        ok = self.column("status") == "ok"
        columns = (self.column(name).astype(np.float64) for name in ("intra", "inter", "question_tokens"))
        return length_correlations(
            *(np.where(ok, values, np.nan) for values in columns),
            diagonal=self.metadata.diagonal, inter_weight=self.metadata.inter_weight,
        )  # fmt: skip

    def status_counts(self) -> dict[str, int]:
        """How many rows have each status; statuses that no row has are left out."""
        counts = Counter(self.columns["status"].to_pylist())
        return {status: counts[status] for status in STATUSES if counts[status]}

    def require_dataset(self, ids: Sequence[str], source: str) -> None:
        """Check that the table was made for exactly this dataset.

        `ids` are the dataset's content ids in order, `source` names it in the message.  Raises UserError if the
        table repeats ids, or lacks prompts of the dataset, or has prompts that the dataset lacks, or has
        them in another order.
        """
        table_ids = self.ids
        repeated = [name for name, count in Counter(table_ids).items() if count > 1]
        if repeated:
            raise UserError(f"the score table has {len(repeated)} repeated ids, first {repeated[0]!r}: score again")
        if self.metadata.fingerprint == fingerprint(ids) and len(ids) == len(table_ids):
            return
        missing = sorted(set(ids) - set(table_ids))
        extra = sorted(set(table_ids) - set(ids))
        if missing or extra:
            raise UserError(
                f"the score table was made for another dataset: of {len(ids)} prompts of {source}, {len(missing)} are "
                f"not in the table{_first(missing)}; of {len(table_ids)} rows of the table (made from "
                f"{self.metadata.dataset!r}, split {self.metadata.split!r}, limit {self.metadata.limit}), {len(extra)} "
                f"are not in the dataset{_first(extra)}. Score this dataset, with the same split and limit."
            )
        raise UserError(f"the score table holds the prompts of {source} in another order: score the dataset again")


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read(columns=list(columns)).replace_schema_metadata(None)


def _sorted_by_row(table: pa.Table, chosen: Sequence[str]) -> pa.Table:
    """The `chosen` columns in dataset order, in chunks: a column of them all may not fit 32-bit offsets."""
    order = np.argsort(table["row"].to_numpy(), kind="stable")
    table = table.select(chosen)
    wide = pa.schema([field.with_type(_wide(field.type)) for field in table.schema])
    together = table.cast(wide).combine_chunks()
    pieces = (order[first : first + _CHUNK] for first in range(0, max(1, len(order)), _CHUNK))
    return pa.concat_tables([together.take(pa.array(piece)).cast(table.schema) for piece in pieces])


def _wide(kind: pa.DataType) -> pa.DataType:
    """The type with 64-bit offsets."""
    if pa.types.is_string(kind):
        return pa.large_string()
    return pa.large_list(kind.value_field) if pa.types.is_list(kind) else kind


def _first(names: Sequence[str]) -> str:
    return f" (first {names[0]!r})" if names else ""


def rank_order(ids: Sequence[str], scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Positions sorted by score, highest first, ties by id, rows without a score (NaN) last, by id.

    `scores` is (N,) floating; returns (N,) int64: entry r is the position of the row that has rank r.
    """
    values = np.asarray(scores, dtype=np.float64)
    key = np.where(np.isnan(values), np.inf, -values)
    order: npt.NDArray[np.int64] = np.lexsort((np.asarray(ids, dtype=np.str_), key)).astype(np.int64)
    return order


def ranks(ids: Sequence[str], scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """(N,) int64 rank of each row: the inverse of `rank_order`."""
    order = rank_order(ids, scores)
    result = np.empty_like(order)
    result[order] = np.arange(len(order))
    return result


def iter_rows(table: ScoreTable) -> Iterator[dict[str, Any]]:
    """The rows as dictionaries, in dataset order."""
    for batch in table.columns.to_batches(max_chunksize=4096):
        yield from batch.to_pylist()
