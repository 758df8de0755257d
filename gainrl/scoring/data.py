"""Datasets as rows of prompts: a hub id, or a local .jsonl, .json or .parquet file, read a row at a time.

A row has a column `prompt`: a chat (list of {role, content}) or plain text.  For plain text, a column `question`
may hold the question's text.  Other columns are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gainrl import json_array
from gainrl.errors import UserError
from gainrl.scoring.prompts import ScoringPrompt

SUFFIXES = (".jsonl", ".json", ".parquet")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """A dataset that can be iterated anew: name, split and limit are provenance; `size` is None where unknown."""

    name: str
    split: str | None
    limit: int | None
    size: int | None
    open: Callable[[], Iterator[Row]]

    def __iter__(self) -> Iterator[Row]:
        return islice(self.open(), self.limit)


def open_rows(dataset: str | Sequence[str], *, split: str | None = None, limit: int | None = None) -> Rows:
    """Open a dataset by name, or several as one, their rows one after another.

    Raises UserError if the file, the split or the hub's dataset cannot be had, or if it is empty.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: give at least 1, or leave it out for all rows")
    if not isinstance(dataset, str):
        parts = [open_rows(name, split=split) for name in dataset]
        if not parts:
            raise UserError("no dataset is named: give a hub id or a local file")
        return _together(parts, limit) if len(parts) > 1 else replace(parts[0], limit=limit, size=_cut(parts[0], limit))
    path = Path(dataset).expanduser()
    local = path.suffix in SUFFIXES
    if local or path.exists():
        return _local(dataset, path, split, limit)
    if dataset.startswith((".", "/", "~")):
        raise UserError(f"dataset {dataset!r}: no such file (a local dataset ends in {', '.join(SUFFIXES)})")
    return _hub(dataset, split, limit)


def _together(parts: Sequence[Rows], limit: int | None) -> Rows:
    def rows() -> Iterator[Row]:
        for part in parts:
            for number, row in enumerate(part):
                if not number and "prompt" not in row:
                    raise UserError(f"dataset {part.name!r}: row 0 has no column 'prompt', only {sorted(row)}")
                yield row

    sizes = [part.size for part in parts]
    whole = Rows(
        " + ".join(part.name for part in parts),
        parts[0].split,
        limit,
        None if None in sizes else sum(size or 0 for size in sizes),
        rows,
    )
    return replace(whole, size=_cut(whole, limit))


def _cut(rows: Rows, limit: int | None) -> int | None:
    return rows.size if limit is None or rows.size is None else min(rows.size, limit)


def _local(dataset: str, path: Path, split: str | None, limit: int | None) -> Rows:
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "no such file"
        raise UserError(f"dataset {dataset!r}: {what}; give one {', '.join(SUFFIXES)} file or a hub id")
    if path.suffix not in SUFFIXES:
        raise UserError(f"dataset {dataset!r}: unknown kind {path.suffix!r}; known are {', '.join(SUFFIXES)}")
    if split is not None:
        raise UserError(f"--split {split!r}: a local file has no splits; name the file of that split")
    readers: dict[str, Callable[[Path], tuple[int, Callable[[], Iterator[Row]]]]] = {
        ".jsonl": _jsonl,
        ".json": _json,
        ".parquet": _parquet,
    }
    size, opener = readers[path.suffix](path)
    if size == 0:
        raise UserError(f"dataset {dataset!r} is empty")
    return Rows(dataset, None, limit, size if limit is None else min(size, limit), opener)


def _jsonl(path: Path) -> tuple[int, Callable[[], Iterator[Row]]]:
    def rows() -> Iterator[Row]:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _object(_parse(line, f"{path.name}, line {number}"), f"{path.name}, line {number}")

    with open(path, "rb") as file:
        size = sum(1 for line in file if line.strip())
    return size, rows


def _json(path: Path) -> tuple[int, Callable[[], Iterator[Row]]]:
    def items() -> Iterator[Any]:
        with open(path, "rb") as file:
            encoding = json.detect_encoding(file.read(4))
        with open(path, encoding=encoding, errors="surrogatepass", newline="") as text:
            yield from json_array.items(text)

    try:
        size = sum(1 for _ in items())  # and whatever is wrong with the file is found before anything is scored
    except (json_array.NotJSON, UnicodeDecodeError) as error:
        raise UserError(f"dataset {path.name}: not valid JSON ({error})") from error
    except json_array.NotAnArray as error:
        raise UserError(f"dataset {path.name}: a .json dataset is a list of objects, this is a {error}") from error
    return size, lambda: (_object(row, f"{path.name}, entry {i}") for i, row in enumerate(items()))


def _parquet(path: Path) -> tuple[int, Callable[[], Iterator[Row]]]:
    def rows() -> Iterator[Row]:
        # read in pieces: by default a whole row group would be fetched at once
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()

    try:
        with pq.ParquetFile(path) as file:
            return int(file.metadata.num_rows), rows
    except pa.ArrowInvalid as error:
        raise UserError(f"dataset {path.name} is not a readable Parquet file: {error}") from error


def _parse(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"dataset {where}: not valid JSON ({error})") from error


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise UserError(f"dataset {where}: expected an object with a column 'prompt', got {type(row).__name__}")
    return row


def _hub(dataset: str, split: str | None, limit: int | None) -> Rows:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"dataset {dataset!r} is no local file, and the hub's need the package 'datasets': pip install datasets"
        ) from None
    name, _, config = dataset.partition(":")
    try:
        loaded = datasets.load_dataset(name, config or None)
    except Exception as error:  # the library raises many kinds: connection, not found, gated, scripts
        first = str(error).strip().splitlines()[:1]
        raise UserError(
            f"cannot load the dataset {dataset!r} from the hub: {' '.join(first)} (give a hub id as name or "
            f"name:configuration, or a local {', '.join(SUFFIXES)} file)"
        ) from error
    splits = sorted(loaded)
    if split is None:
        if len(splits) > 1:
            raise UserError(f"dataset {dataset!r} has the splits {splits}: choose one with --split")
        split = splits[0]
    if split not in loaded:
        raise UserError(f"dataset {dataset!r} has no split {split!r}; it has {splits}")
    rows = loaded[split]
    if not len(rows):
        raise UserError(f"dataset {dataset!r}, split {split!r}, is empty")
    size = len(rows) if limit is None else min(len(rows), limit)
    return Rows(dataset, split, limit, size, lambda: iter(rows))


def scoring_prompts(rows: Iterable[Row]) -> Iterator[ScoringPrompt]:
    """Rows to prompts.  Raises UserError if the first row lacks the column `prompt`; later ones are named as failed."""
    for number, row in enumerate(rows):
        if "prompt" in row:
            yield ScoringPrompt(row["prompt"], row.get("question"))
        elif number:
            yield ScoringPrompt("", problem=f"the row has no column 'prompt', only {sorted(row)}")
        else:
            raise UserError(
                f"row 0 of the dataset has no column 'prompt', only {sorted(row)}: rename the column, or name the task "
                "that maps this dataset's own columns with --task"
            )
