"""Datasets as rows of prompts: a hub id, a local file, a `datasets.Dataset`, a list of rows; read a row at a time.

A row has a column `prompt`: a chat (list of {role, content}) or plain text.  For plain text, a column `question`
may hold the question's text.  Other columns are left alone.  Files are known by what they hold, not by their name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from gainrl.errors import UserError, first_line
from gainrl.rows import KINDS, Row, open_file
from gainrl.scoring.prompts import ScoringPrompt
from gainrl.table import as_written, is_null

MEMORY = "rows in memory"


@dataclass(frozen=True)
class Rows:
    """A dataset that can be iterated anew: name, split and limit are provenance; `size` is None where unknown."""

    name: str
    split: str | None
    limit: int | None
    size: int | None
    open: Callable[[], Iterable[Row]]

    def __iter__(self) -> Iterator[Row]:
        return islice(_checked(self.open(), self.name), self.limit)


def open_rows(dataset: Any, *, split: str | None = None, limit: int | None = None) -> Rows:
    """Open a dataset: a name or path, several names as one, or rows that are in memory already.

    Raises UserError if the file, the split or the hub's dataset is missing, or if it is empty.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: give at least 1, or leave it out for all rows")
    names = [dataset] if isinstance(dataset, str | os.PathLike) else dataset
    if isinstance(names, Sequence) and names and all(isinstance(name, str | os.PathLike) for name in names):
        opened = [_named(os.fspath(name), split) for name in names]
        name, sizes = " + ".join(one.name for one in opened), [one.size for one in opened]
        size = None if None in sizes else sum(size or 0 for size in sizes)
        found = Rows(name, opened[0].split, None, size, lambda: chain.from_iterable(opened))
    else:
        found = _in_memory(dataset, split)
    if found.size == 0:
        raise UserError(f"dataset {found.name!r} is empty")
    size = found.size if limit is None or found.size is None else min(limit, found.size)
    return replace(found, limit=limit, size=size)


def _checked(rows: Iterable[Any], name: str, kinds: Any = Mapping) -> Iterator[Any]:
    """The rows; UserError for one that is not of these kinds, or if the first one has no column `prompt`."""
    for number, row in enumerate(rows):
        if not isinstance(row, kinds):
            raise UserError(
                f"{name}, entry {number}: expected an object with a column 'prompt', got {type(row).__name__}"
            )
        if not number and isinstance(row, Mapping) and "prompt" not in row:
            raise UserError(
                f"row 0 of the dataset has no column 'prompt', only {sorted(row)} ({name}): rename the column, or name "
                "the task that maps this dataset's own columns with --task"
            )
        yield row


def scoring_prompts(rows: Iterable[Any]) -> Iterator[ScoringPrompt]:
    """Rows, or prompts as they are, to prompts; a row without a column `prompt` has a `problem` instead."""
    for row in rows:
        if isinstance(row, ScoringPrompt):
            yield row
        elif not isinstance(row, Mapping):
            yield ScoringPrompt(row)
        elif "prompt" in row:
            question = row.get("question")
            yield ScoringPrompt(as_written(row["prompt"]), None if is_null(question) else as_written(question))
        else:
            yield ScoringPrompt("", problem=f"the row has no column 'prompt', only {sorted(row)}")


def as_prompts(given: Any) -> Iterator[ScoringPrompt]:
    """What callers give to `AngleScorer.score`, as prompts; UserError where it is no prompt and holds none."""
    if hasattr(given, "tolist"):  # NumPy, pandas, Arrow
        given = given.tolist()
    if isinstance(given, Mapping) and "role" in given:
        raise UserError("score takes prompts; this is one message: give a list")
    first = given[0] if isinstance(given, list | tuple) and given else None
    chat = isinstance(first, Mapping) and "role" in first
    if chat or isinstance(given, str | ScoringPrompt) or (isinstance(given, Mapping) and "prompt" in given):
        given = [given]
    return scoring_prompts(_checked(_in_memory(given, None).open(), MEMORY, object))


def _in_memory(rows: Any, split: str | None, name: str = MEMORY) -> Rows:
    """A Dataset, IterableDataset or DatasetDict, a pandas frame, an Arrow table, or a list of rows."""
    if isinstance(rows, Mapping):
        splits = sorted(map(str, rows))
        if split is None and len(splits) != 1:
            raise UserError(f"dataset {name!r} has the splits {splits}: choose one with --split (split=...)")
        if split is not None and split not in splits:
            raise UserError(f"dataset {name!r} has no split {split!r}; it has {splits}")
        return replace(_in_memory(rows[split or splits[0]], None, name), split=split or splits[0])
    if split is not None:
        raise UserError(f"--split {split!r}: {name} has no splits; name the file or dataset of that split")
    if hasattr(rows, "to_pylist"):
        rows = rows.to_pylist()
    elif hasattr(rows, "to_dict") and hasattr(rows, "itertuples"):
        rows = rows.to_dict("records")
    if isinstance(rows, str | bytes) or not isinstance(rows, Iterable):
        raise UserError(f"{type(rows).__name__} is no dataset: give a name, a Dataset or a list of rows (dicts)")
    if hasattr(rows, "with_format") and getattr(rows, "format", {}).get("type") != "custom":  # a transform makes rows
        rows = rows.with_format(None)
    return Rows(name, None, None, len(rows) if hasattr(rows, "__len__") else None, lambda: rows)


def _named(dataset: str, split: str | None) -> Rows:
    path = Path(dataset).expanduser()
    if path.is_file():
        if split is not None:
            raise UserError(f"--split {split!r}: a local file has no splits; name the file of that split")
        return Rows(dataset, None, None, *open_file(path))
    local = dataset.startswith((".", "/", "~")) or path.suffix.lower() in (".json", ".jsonl", ".parquet")
    if local and not path.is_dir():
        raise UserError(f"dataset {dataset!r}: no such file (a local dataset is a file of {KINDS})")
    try:
        import datasets
    except ImportError:
        raise UserError(f"dataset {dataset!r} is no local file: others need the package 'datasets'") from None
    name, _, config = dataset.partition(":")
    try:
        if any((path / mark).is_file() for mark in ("dataset_info.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(str(path) if path.is_dir() else name, config or None)
    except Exception as error:  # the library raises many kinds: connection, not found, gated, scripts
        raise UserError(
            f"cannot load the dataset {dataset!r}: {first_line(error)} (give a hub id as name or name:configuration, "
            f"or a local file of {KINDS})"
        ) from error
    return _in_memory(loaded, split, dataset)
