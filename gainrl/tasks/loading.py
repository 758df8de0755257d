"""Records of a dataset, from a local file or from the hub, with errors that say what to do.

Local files: `.jsonl`, `.json` (a list of objects), either also gzipped, and `.parquet`.  Everything else is taken for
a hub id and needs `datasets`.  Nothing here unpickles or runs a dataset's own code.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gainrl.errors import UserError, first_line
from gainrl.rows import open_file

_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")


@dataclass(frozen=True)
class Source:
    """A dataset on the hub: id, configuration, and the hub's name of each of the task's splits.

    `files` names JSONL files of the repository that hold the rows, where `datasets` cannot read it.
    """

    hub: str
    config: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.hub} ({self.config})" if self.config else self.hub


def stream_rows(
    source: str | os.PathLike[str] | None,
    default: Source | None,
    split: str,
    columns: Sequence[str],
    task: str,
) -> Iterator[dict[str, Any]]:
    """The records of `source` (or of the task's own `default`), each checked to have `columns` ("a|b": either).

    A file, or the hub's copy on disk, is read as records are taken.  UserError, where they stand, for what cannot be
    read, for a record without all `columns`, and for a source without records.
    """
    fields = ", ".join(columns).replace("|", " or ")
    if source is None and default is None:
        raise UserError(f"task {task!r} has no dataset of its own; give one with source=PATH (--source PATH)")
    if source is not None and is_path(source):
        records, origin = open_file(source)[1](), os.fspath(source)
    else:
        wanted = default or Source("")
        if source is not None:
            wanted = Source(os.fspath(source), None, wanted.splits)
        records, origin = _hub(wanted, split, fields, task), str(wanted)
    number = -1
    for number, row in enumerate(map(dict, records)):
        missing = [column.replace("|", " or ") for column in columns if not set(column.split("|")) & set(row)]
        if missing:
            raise UserError(
                f"{origin!r}, row {number}: task {task!r} needs the fields {fields}; "
                f"missing: {', '.join(missing)} (the row has {', '.join(map(str, row)) or 'no fields'})"
            )
        yield row
    if number < 0:
        raise UserError(f"{origin!r} holds no rows")


def is_path(source: str | os.PathLike[str]) -> bool:
    """Whether `source` names a file rather than a hub id (`owner/name`, which has no such suffix)."""
    text = os.fspath(source)
    return text.endswith(_SUFFIXES) or text.startswith((".", "/", "~")) or Path(text).exists()


def _hub(source: Source, split: str, fields: str, task: str) -> Iterator[Mapping[str, Any]]:
    remedy = (
        f"give a local copy with source=PATH (--source PATH): a .jsonl, .json or .parquet file with the fields {fields}"
    )
    try:
        import datasets
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"task {task!r} reads {str(source)!r} from the hub, which needs the package {error.name!r} "
            f"(pip install 'gainrl[tasks]'), or {remedy}"
        ) from error
    for name in source.files or ("",):
        try:
            data: Any
            if name:
                data = open_file(huggingface_hub.hf_hub_download(source.hub, name, repo_type="dataset"))[1]()
            else:
                data = datasets.load_dataset(source.hub, source.config, split=source.splits.get(split, split))
        except Exception as error:  # the clients raise a dozen unrelated types for "no network" and "no such dataset"
            first = first_line(error)
            raise UserError(
                f"{f'{name} of ' if name else ''}the dataset {str(source)!r} of task {task!r} could not be loaded from "
                f"the hub ({first}); {remedy}"
            ) from error
        yield from data
