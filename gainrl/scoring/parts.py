"""What a scoring run has finished, as Parquet files beside its output, and the table that is made of them.

    scores.parquet.parts/000012-3f2a9c01.parquet      rows of chunk 12: 12·4096 to 13·4096 - 1, in any order

A part is written beside its place and renamed, so it is whole.  It carries the settings that scored its rows.  The
parts are the journal: rows that no part holds are owed.  Several processes write to one folder, each its own chunks.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gainrl.errors import UserError
from gainrl.files import atomic_path, sync_folder
from gainrl.scoring.results import Scores
from gainrl.scoring.settings import CHUNK, Definition
from gainrl.table import METADATA_KEY, NLL_FIELD, PROMPT_FIELD, SCHEMA, TableMetadata, content_id, direction_field
from gainrl.table import fingerprint as fingerprint_of

SETTINGS_KEY = b"gainrl_settings"
_STORED: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["status", "reason"]}


@dataclass(frozen=True)
class Parts:
    """The parts of one output, all with the same `settings`; picklable.

    Settings are an identity (`BaseScorer.identity`), the dataset's provenance, and what is stored besides scores:
    directions (their dtype, or None), nll, prompts.
    """

    output: Path
    settings: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.output.with_name(self.output.name + ".parts")

    @property
    def schema(self) -> pa.Schema:
        """Columns of a part: a table's, before the dataset is known as a whole; digests of prompt and question."""
        names = ("row", "status", "reason", "intra", "inter", "prefix_tokens", "question_tokens")
        fields = [pa.field("digest", pa.uint64()), pa.field("asked", pa.uint64()), *map(SCHEMA.field, names)]
        if dtype := self.settings["directions"]:
            fields.append(direction_field(dtype))
        optional = {"nll": NLL_FIELD, "prompts": PROMPT_FIELD}
        return pa.schema(fields + [field for name, field in optional.items() if self.settings[name]])

    def files(self) -> dict[int, list[Path]]:
        """The parts there are, by chunk."""
        found: dict[int, list[Path]] = defaultdict(list)
        for path in sorted(self.folder.glob("[0-9]*-*.parquet")):
            found[int(path.name.partition("-")[0])].append(path)
        return found

    def check(self) -> None:
        """UserError unless every part was made with these settings."""
        for paths in self.files().values():
            for path in paths:
                with _whole(path):
                    stored = json.loads((pq.read_schema(path).metadata or {})[SETTINGS_KEY])
                if differ := differences(stored, self.settings):
                    kept = f"{self.folder} holds results of other settings ({differ})"
                    raise UserError(f"{kept}: give those to --resume, or start anew with --overwrite")

    def read(self, paths: Sequence[Path], columns: Sequence[str]) -> pa.Table:
        """Some columns of a chunk's parts, by row; a row that two parts hold is taken from the first."""
        tables = []
        for path in paths:
            with _whole(path), pq.ParquetFile(path, pre_buffer=False) as file:
                tables.append(file.read(columns=list(dict.fromkeys(["row", *columns]))).replace_schema_metadata(None))
        if not tables:
            return self.schema.empty_table().select(["row", *columns])
        table = pa.concat_tables(tables).combine_chunks()
        _, first = np.unique(table["row"].to_numpy(), return_index=True)
        return table.take(pa.array(first))

    def table(self, known: dict[str, list[Any]], scores: Scores) -> pa.Table:
        """Results of some rows as a part's columns; `known` are row, digest, asked and prompt."""
        schema = self.schema
        values = {**vars(scores), **known, "reason": _storable(scores.reasons), "prompt": _storable(known["prompt"])}
        values["nll"] = pa.array(scores.nll, pa.float32(), from_pandas=True) if scores.nll is not None else None
        if (rays := scores.directions) is not None:
            there, kind = rays.any(axis=1), schema.field("direction").type
            flat = pa.array(rays[there].astype(self.settings["directions"]).reshape(-1), kind.value_type)
            ends = pa.array(np.append(0, np.cumsum(there * rays.shape[1])), pa.int32())
            values["direction"] = pa.ListArray.from_arrays(ends, flat, type=kind, mask=pa.array(~there))
        given = [(values[field.name], field.type) for field in schema]
        return pa.table([a if isinstance(a, pa.Array) else pa.array(a, kind) for a, kind in given], schema=schema)

    def write(self, chunk: int, tables: Sequence[pa.Table]) -> None:
        """Add a part."""
        stamp = {SETTINGS_KEY: json.dumps(self.settings).encode()}
        with atomic_path(self.folder / f"{chunk:06d}-{secrets.token_hex(4)}.parquet") as temporary:
            table = pa.concat_tables(tables).replace_schema_metadata(stamp)
            pq.write_table(table, temporary, **_STORED)

    def remove(self) -> None:
        """Forget all that was finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


def require_alike(mine: dict[str, Any], theirs: dict[str, Any], who: str) -> None:
    """UserError unless the settings of a process or worker are those of the others."""
    if differ := differences(mine, theirs):
        raise UserError(f"{who} do not score alike ({differ}): name the --dtype, and give all of them the same model")


def differences(stored: dict[str, Any], settings: dict[str, Any]) -> str:
    """The settings in which the two differ, for a message; empty if they agree."""
    names = sorted(name for name in {*stored, *settings} if stored.get(name) != settings.get(name))
    return ", ".join(f"{name}: {stored.get(name)!r} there, {settings.get(name)!r} now" for name in names)


def write_table(parts: Parts, rows: int, metadata: TableMetadata, definition: Definition) -> None:
    """Write the table of `rows` rows in dataset order, a chunk at a time, from parts that hold them all.

    A prompt without a prefix is undefined if another has one; if none has, the score is C_intra alone.  A million
    rows take 10 MB of memory, whatever the columns.
    """
    files = parts.files()

    def chunks(columns: Sequence[str]) -> Iterator[tuple[slice, pa.Table]]:
        for chunk in range(max([-(-rows // CHUNK), *(number + 1 for number in files)])):
            span = slice(chunk * CHUNK, min((chunk + 1) * CHUNK, rows))
            table = parts.read(files.get(chunk, []), columns)
            if not np.array_equal(table["row"].to_numpy(), np.arange(span.start, span.stop)):
                raise UserError(
                    f"{parts.folder} lacks rows of chunk {chunk}, or has more than the dataset's {rows}: it is another "
                    "dataset (start anew with --overwrite), or not all machines share the folder (go on with --resume)"
                )
            yield span, table
            pa.default_memory_pool().release_unused()  # else the pool keeps what the largest chunk took, several times

    digests, any_prefix, asked = np.empty(rows, dtype=np.uint64), False, hashlib.sha256()
    for span, table in chunks(["digest", "asked", "status", "prefix_tokens"]):
        digests[span] = table["digest"].to_numpy()
        asked.update(table["asked"].to_numpy().astype("<u8").tobytes())
        any_prefix |= bool(((table["status"].to_numpy() == "ok") & (table["prefix_tokens"].to_numpy() > 0)).any())
    digests.sort()
    repeated = _repeated(digests)
    del digests

    def ids() -> Iterator[list[str]]:
        found = (table["digest"].to_numpy() for _, table in chunks(["digest"]))
        for values, before in _occurrences(repeated, found):
            yield [content_id(*one) for one in zip(values.tolist(), before.tolist(), strict=True)]

    keys = np.empty(rows, dtype=np.float32)  # ascending keys are descending scores, rows without one last
    for span, table in chunks(["status", "reason", "intra", "inter", "prefix_tokens"]):
        score = _scores(table).settled(any_prefix, definition).score
        keys[span] = np.where(np.isnan(score), np.inf, -score)
    ordered = np.sort(keys)
    positions = (
        np.searchsorted(ordered, values) + tie
        for values, tie in _occurrences(_repeated(ordered), (keys[i : i + CHUNK] for i in range(0, rows, CHUNK)))
    )
    formula = definition.formula if any_prefix else "intra"
    whole_print = fingerprint_of(name for some in ids() for name in some)
    metadata = replace(metadata, fingerprint=whole_print, definition=formula)
    schema = pa.schema([*SCHEMA, *(field for field in parts.schema if field.name in ("direction", "nll", "prompt"))])
    settings = {**parts.settings, "questions": asked.hexdigest()}
    stamp = {METADATA_KEY: metadata.to_json().encode(), SETTINGS_KEY: json.dumps(settings).encode()}
    whole, stamped = parts.folder / "table.parquet", schema.with_metadata(stamp)
    with atomic_path(whole) as path, pq.ParquetWriter(path, stamped, **_STORED) as writer:
        for (_, table), names, position in zip(chunks(parts.schema.names), ids(), positions, strict=True):
            settled = _scores(table).settled(any_prefix, definition)
            made = {"id": names, "status": settled.status, "reason": settled.reasons, "score": settled.score}
            made["position"] = position
            columns = [pa.array(made[f.name], f.type) if f.name in made else table[f.name] for f in schema]
            writer.write_table(pa.table(columns, schema=schema))
    whole.replace(parts.output)
    sync_folder(parts.output.parent)
    parts.remove()


def _repeated(ordered: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values that stand more than once in a sorted array."""
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _occurrences(repeated: npt.NDArray[Any], pieces: Iterable[Any]) -> Iterator[tuple[Any, npt.NDArray[np.int64]]]:
    """(values, how often each came before) of the pieces; counted are the values that repeat, alone."""
    counts = np.zeros(len(repeated), dtype=np.int32)
    for values in pieces:
        before = np.zeros(len(values), dtype=np.int64)
        if len(repeated):
            at = np.minimum(np.searchsorted(repeated, values), len(repeated) - 1)
            for i in np.flatnonzero(repeated[at] == values).tolist():
                before[i] = counts[at[i]]
                counts[at[i]] += 1
        yield values, before


def _scores(table: pa.Table) -> Scores:
    """The columns that `Scores.settled` needs; C_intra and p stand in for those that it does not."""
    intra, inter, prefix = (table[name].to_numpy() for name in ("intra", "inter", "prefix_tokens"))
    return Scores(table["status"].to_pylist(), table["reason"].to_pylist(), intra, inter, intra, prefix, prefix)


def _storable(texts: Sequence[str | None]) -> list[str | None]:
    """Text as Arrow can hold it: lone surrogates, which are legal in JSON, become question marks."""
    return [None if text is None else text.encode("utf-8", "replace").decode() for text in texts]


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """A part that something else wrote or damaged, as one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, and --resume scores its rows again") from error
