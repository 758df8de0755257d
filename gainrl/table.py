"""The score table on disk: one Parquet row per dataset row, with what made it in the file's metadata.

    id               string   content hash of the prompt and its occurrence number (datasets do repeat problems)
    row              int64    index in the dataset, from 0
    status           string   ok | undefined | skipped | failed
    reason           string   why the status is not ok; for an ok row null, or that its question was truncated
    intra, inter     float32  C_intra and C_inter (design, part 4); NaN where undefined
    score            float32  C = C_intra + w·C_inter (metadata: definition), or C_intra where no prompt has a prefix
    position         int64    0 for the highest score; ties by row; rows without a score last, by row
    prefix_tokens, question_tokens   int32   p and q: the tokens that entered the two means
    direction        list<float16 or float32>  U_q / ‖U_q‖; null where undefined; optional
    nll              float32  mean negative log-likelihood of the question's tokens, nats per token; optional
    prompt           string   the prompt itself (plain text, or a chat as JSON), for reports; optional

Rows are in dataset order.  The metadata is one JSON object under the Parquet key `gainrl`.  Directions stay on disk
until they are asked for.  Needs pyarrow and NumPy only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gainrl.errors import UserError, first_line
from gainrl.files import atomic_path

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]

FORMAT_VERSION = 4
METADATA_KEY = b"gainrl"
STATUSES = ("ok", "undefined", "skipped", "failed")
_TYPES = {
    "id": pa.string(), "row": pa.int64(), "status": pa.string(), "reason": pa.string(),
    "intra": pa.float32(), "inter": pa.float32(), "score": pa.float32(), "position": pa.int64(),
    "prefix_tokens": pa.int32(), "question_tokens": pa.int32(),
}  # fmt: skip
SCHEMA = pa.schema([pa.field(name, kind, nullable=name == "reason") for name, kind in _TYPES.items()])
NLL_FIELD = pa.field("nll", pa.float32())
PROMPT_FIELD = pa.field("prompt", pa.string())


def direction_field(dtype: str = "float16") -> pa.Field:
    """The column of directions; dtype: float16 or float32.  (Nulls among lists of fixed size need pyarrow 26.)"""
    return pa.field("direction", pa.list_({"float16": pa.float16(), "float32": pa.float32()}[dtype]))


def as_written(value: Any, *, fold: bool = False) -> Any:
    """A prompt as its author wrote it, whichever library read it: plain lists, dicts and values, no null fields.

    Arrow gives each message the fields of all messages, with nulls (NaN in pandas) where there were none, and turns
    integers to floats in a column that also has floats or, in pandas, nulls; `fold` turns these back, for hashing.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {key: as_written(one, fold=fold) for key, one in value.items() if not is_null(one)}
    if isinstance(value, list | tuple):
        return [as_written(one, fold=fold) for one in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, tensors, pandas' columns
        plain = value.tolist()
        return plain if hasattr(plain, "tolist") else as_written(plain, fold=fold)
    if fold and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def is_null(value: Any) -> bool:
    """Whether this is what Arrow, NumPy or pandas put where there is no value."""
    missing = value is None or type(value).__name__ in ("NAType", "NaTType")
    return missing or (isinstance(value, float | np.floating) and value != value)


_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=repr)


def prompt_text(prompt: Any) -> str:
    """A prompt as one string: plain text as it is, anything else as compact JSON (keys sorted, UTF-8 kept)."""
    return prompt if isinstance(prompt, str) else _ENCODER.encode(as_written(prompt, fold=True))


def content_digest(prompt: Any, text: str | None = None) -> int:
    """The first 64 bits of the SHA-256 of a prompt's kind and text (`prompt_text`, where the caller has it)."""
    kind = b"text\0" if isinstance(prompt, str) else b"chat\0"
    text = prompt_text(prompt) if text is None else text
    return int.from_bytes(hashlib.sha256(kind + text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def content_id(digest: int, occurrence: int) -> str:
    """`<16 hex digits>-<occurrence, from 0>`: the same on every machine."""
    return f"{digest:016x}-{occurrence}"


def content_ids(prompts: Iterable[Prompt]) -> list[str]:
    """The ids of a dataset's prompts, in order."""
    seen: Counter[int] = Counter()
    ids = []
    for prompt in prompts:
        digest = content_digest(prompt)
        ids.append(content_id(digest, seen[digest]))
        seen[digest] += 1
    return ids


def fingerprint(ids: Iterable[str]) -> str:
    """A hash of a dataset's ids in order: 32 hex digits of SHA-256 over the ids, each ended by a newline."""
    rolling = hashlib.sha256()
    for name in ids:
        rolling.update(f"{name}\n".encode())
    return rolling.hexdigest()[:32]


def positions(scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """(N,) int64 positions in the ranking by score (N,), highest first; ties by row, NaN last."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.arange(len(order))
    return found


@dataclass(frozen=True)
class TableMetadata:
    """What a score table was made from; two tables with equal metadata rank the same thing the same way.

    Fields that have the name of one of `gainrl.scoring.ScoringSettings` are what that was.
    """

    model: str
    """As the user named it."""
    model_hash: str
    """Identity of the weights: `commit:<hub commit>` or `weights:<hash>`."""
    tokenizer_hash: str
    chat_template_hash: str
    dataset: str
    """Hub id, file or task, as the user named it."""
    split: str | None
    limit: int | None
    fingerprint: str
    rows: int
    template_date: str = ""
    """ISO date given to templates that print today's; empty for plain text."""
    chat_template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    task: str | None = None
    """The task that mapped the dataset's own columns to prompts, if any."""
    question_after: str | None = None
    too_long: str = "skip"
    dtype: str = "float32"
    tap: str = "final"
    definition: str = "intra+inter"
    """`intra+inter`, `intra+W*inter`, or `intra`, also where no prompt of the dataset has a prefix."""
    diagonal: bool = True
    """Whether C_intra includes each token's cosine with itself."""
    loaded_with: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """How a loaded model is quantised; options of vLLM that change numbers."""
    format_version: int = FORMAT_VERSION
    gainrl_version: str = ""

    def differences(self, other: TableMetadata) -> dict[str, tuple[Any, Any]]:
        """Fields in which the two differ (format and writer's version aside): name -> (this, other)."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        aside = ("gainrl_version", "format_version")
        return {key: (mine[key], theirs[key]) for key in mine if key not in aside and mine[key] != theirs[key]}

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> TableMetadata:
        """Parse; other formats, unknown fields, and missing ones without a default are refused by name (UserError)."""
        try:
            fields = dict(json.loads(text))
        except (ValueError, TypeError) as error:
            raise UserError(f"{source}: its metadata is damaged ({error}): score again") from error
        if (version := fields.get("format_version")) != FORMAT_VERSION:
            raise UserError(f"{source} has table format {version}, this gainrl reads {FORMAT_VERSION}: score again")
        known = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        optional = {f.name for f in dataclasses.fields(cls) if hasattr(cls, f.name) or f.default_factory is dict}
        wrong = sorted((known.keys() ^ fields.keys()) - (optional - fields.keys()))
        wrong += [n for n in ("rows", "fingerprint", "dataset") if n in fields and type(fields[n]).__name__ != known[n]]
        if wrong:
            raise UserError(f"{source}: the metadata fields {wrong} are missing, unknown or damaged: score again")
        return cls(**fields)

    def to_json(self) -> str:
        """One JSON object, keys sorted."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


@dataclass(frozen=True)
class ScoreTable:
    """A score table: Arrow columns as in the module's docstring, their metadata, and the file that holds the rest."""

    columns: pa.Table
    metadata: TableMetadata
    path: Path | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> ScoreTable:
        """Read a table: the `columns` named, by default all but the directions, which `directions` reads by itself.

        Raises UserError if the file is missing, is no score table of this format, or was damaged.
        """
        path = Path(path).expanduser()
        metadata, names = cls.describe(path)
        chosen = [name for name in columns or names if columns or name != "direction"]
        if unknown := sorted(set(chosen) - set(names)):
            raise UserError(f"score table {str(path)!r} has no columns {unknown}, only {names}")
        with _readable(path), pq.ParquetFile(path) as file:
            table = cls(file.read(columns=chosen).replace_schema_metadata(None), metadata, path)
            table._check(str(path))
        return table

    @staticmethod
    def describe(path: str | os.PathLike[str]) -> tuple[TableMetadata, list[str]]:
        """The metadata of the table at `path` and the names of its columns, without reading rows; as `read`."""
        path = Path(path).expanduser()
        source = f"score table {str(path)!r}"
        if not path.is_file():
            raise UserError(f"{source}: no such file (make one with: gainrl score --output {path} ...)")
        with _readable(path), pq.ParquetFile(path) as file:
            schema, raw = file.schema_arrow, (file.metadata.metadata or {}).get(METADATA_KEY)
        if raw is None:
            raise UserError(f"{source} was not written by gainrl score: it has no gainrl metadata")
        metadata = TableMetadata.from_json(raw, source)
        wrong = [f.name for f in SCHEMA if f.name not in schema.names or schema.field(f.name).type != f.type]
        if "direction" in schema.names and not pa.types.is_list(schema.field("direction").type):
            wrong.append("direction")
        if wrong:
            raise UserError(f"{source}: columns missing or of another type: {wrong}")
        return metadata, list(schema.names)

    def _check(self, source: str) -> None:
        """UserError unless the columns are what `write_table` wrote, as far as they can tell."""
        rows = np.arange(self.metadata.rows)
        checks: dict[str, Callable[[Any], bool]] = {
            "id": lambda column: fingerprint(column.to_pylist()) == self.metadata.fingerprint,
            "row": lambda column: np.array_equal(column.to_numpy(), rows),
            "status": lambda column: set(column.unique().to_pylist()) <= set(STATUSES),
            "position": lambda column: np.array_equal(np.sort(column.to_numpy()), rows),
        }
        there = set(self.columns.column_names)
        if "score" in there:
            checks["position"] = lambda column: np.array_equal(column.to_numpy(), positions(self.column("score")))
        wrong = [name for name, holds in checks.items() if name in there and not holds(self.columns[name])]
        if len(self) != self.metadata.rows or wrong:
            raise UserError(
                f"score table {source!r} was changed after it was written: it has {len(self)} of "
                f"{self.metadata.rows} rows, and these columns do not fit its metadata: {wrong}. Score again"
            )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the columns in memory as a table, whole or not at all (zstd-compressed)."""
        stamped = self.columns.replace_schema_metadata({METADATA_KEY: self.metadata.to_json().encode()})
        with atomic_path(Path(path).expanduser()) as temporary:
            pq.write_table(stamped, temporary, compression="zstd")

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @property
    def ids(self) -> list[str]:
        """Ids in dataset order."""
        ids: list[str] = self.columns["id"].to_pylist()
        return ids

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column as a NumPy array (text as objects), in dataset order."""
        values: npt.NDArray[Any] = self.columns[name].to_numpy()
        return values

    @property
    def usable(self) -> npt.NDArray[np.int64]:
        """Rows that can be drawn, ascending: those with status ok."""
        return np.flatnonzero(self.column("status") == "ok")

    def directions(self, batch: int = 4096) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]] | None:
        """Blocks of (rows (m,), their directions (m, D) float32), in dataset order; None if the table has none.

        Read from the file block by block, so memory does not grow with the table.  Rows without one are left out.
        """
        if "direction" in self.columns.column_names:
            return _blocks(self.columns.select(["direction"]).to_batches(max_chunksize=batch))
        if self.path is None or "direction" not in self.describe(self.path)[1]:
            return None
        return _blocks(_read_directions(self.path, batch))

    def status_counts(self) -> dict[str, int]:
        """How many rows have each status; statuses that no row has are left out."""
        counts = Counter(self.columns["status"].to_pylist())
        return {status: counts[status] for status in STATUSES if counts[status]}

    def join(self, prompts: Iterable[Prompt], *, subset: bool = False) -> npt.NDArray[np.int64]:
        """(n,) int64: the table's row of each of the dataset's prompts, by content and occurrence.

        Raises UserError if the table lacks a prompt, or has rows that the dataset lacks (unless `subset`).
        """
        ids = content_ids(prompts)
        rows = {name: row for row, name in enumerate(self.ids)}
        found = np.array([rows.get(name, -1) for name in ids], dtype=np.int64)
        missing = np.flatnonzero(found < 0)
        if not len(missing) and (subset or len(ids) == len(self)):
            return found
        first = f" (first: row {missing[0]})" if len(missing) else ""
        raise UserError(
            f"the score table was made for another dataset: of {len(ids)} prompts, {len(missing)} are not in the table"
            f"{first}; of {len(self)} rows of the table (made from {self.metadata.dataset!r}, split "
            f"{self.metadata.split!r}, limit {self.metadata.limit}), {len(self) - len(ids) + len(missing)} are not in "
            "the dataset. Score this dataset, with the same split and limit."
        )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A damaged Parquet file as one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"score table {str(path)!r} cannot be read: {first_line(error)}") from error


def _read_directions(path: Path, batch: int) -> Iterator[pa.RecordBatch]:
    with _readable(path), pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=batch, columns=["direction"])


def _blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    first = 0
    for batch in batches:
        column = batch.column("direction")
        there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        flat = column.drop_null().flatten().to_numpy().astype(np.float32)
        if len(there):
            widths = column.drop_null().value_lengths().to_numpy()
            if widths.min() != widths.max():
                raise UserError("the score table's directions differ in length: it was changed after it was written")
            yield there + first, flat.reshape(len(there), -1)
        first += len(batch)
