"""What a run left on disk, read without importing what wrote it.

A run directory may hold any of config.yaml, scores.parquet, epochs.jsonl and evals.jsonl (design, part 5); a run in
progress lacks some of them, and the last line of a .jsonl may be torn.  Whatever could not be used becomes a note,
never an exception, as long as something is left to report.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gainrl.errors import UserError
from gainrl.table import ScoreTable

Record = dict[str, Any]


@dataclass
class RunRecords:
    """Everything a report is made from.

    epochs: one record per finished epoch, sorted, the last line of an epoch number wins.
    evals: evaluation records in the order of the file.
    notes: what was missing or unreadable, in words for the reader.
    """

    name: str
    config: Mapping[str, Any] | None = None
    table: ScoreTable | None = None
    epochs: list[Record] = field(default_factory=list)
    evals: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def planned_epochs(self) -> int | None:
        """How many epochs the configuration asks for, where it says so."""
        training = (self.config or {}).get("training")
        planned = number(training.get("num_train_epochs")) if isinstance(training, Mapping) else None
        return None if planned is None or planned <= 0 else math.ceil(planned)


def read_run(path: str | os.PathLike[str]) -> RunRecords:
    """Read a run directory, or a score table (a file, or a folder of parts) alone.

    Raises UserError if there is nothing there, or nothing that a run writes, or a lone table cannot be read.
    """
    path = Path(path)
    if path.is_file():
        return RunRecords(name=path.stem, table=ScoreTable.read(path))
    if not path.is_dir():
        raise UserError(
            f"no run at {os.fspath(path)!r}: give a run directory (the output of gainrl train) or a score table"
        )
    records = RunRecords(name=path.resolve().name)
    if (path / "config.yaml").is_file():
        records.config = _config(path / "config.yaml", records.notes)
    records.table = _table(path, records)
    if (path / "epochs.jsonl").is_file():
        by_number: dict[int, Record] = {}
        for record in _lines(path / "epochs.jsonl", records.notes):
            epoch = number(record.get("epoch"))
            if epoch is None:
                records.notes.append("epochs.jsonl has a record without an epoch number; it is left out")
            else:
                by_number[int(epoch)] = record
        records.epochs = [by_number[epoch] for epoch in sorted(by_number)]
    if (path / "evals.jsonl").is_file():
        records.evals = list(_lines(path / "evals.jsonl", records.notes))
    if records.config is None and records.table is None and not records.epochs and not records.evals:
        raise UserError(
            f"{os.fspath(path)!r} holds no run: none of config.yaml, scores.parquet, epochs.jsonl and evals.jsonl can "
            "be read there"
        )
    return records


def number(value: object) -> float | None:
    """A finite number as float; None for everything else (absent, null, NaN, text that is no number)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except ValueError:
        return None
    return result if math.isfinite(result) else None


def seconds(epoch: Record) -> float | None:
    """Wall-clock seconds that an epoch took, with ranking the dataset again before it; None where it is not known."""
    own = number(epoch.get("seconds"))
    return None if own is None else own + (number(epoch.get("rerank_seconds")) or 0.0)


def _config(path: Path, notes: list[str]) -> Mapping[str, Any] | None:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        notes.append(f"config.yaml cannot be read: {_first_line(error)}")
        return None
    if not isinstance(config, Mapping):
        notes.append("config.yaml holds no settings")
        return None
    return config


def _table(directory: Path, records: RunRecords) -> ScoreTable | None:
    """The run's own table, or the one that its configuration names."""
    path = directory / "scores.parquet"
    named = (records.config or {}).get("scores")
    if not path.is_file() and isinstance(named, str):
        path = Path(named).expanduser()
    if not path.is_file():
        records.notes.append("There is no score table in the run directory (yet).")
        return None
    try:
        return ScoreTable.read(path)
    except (UserError, OSError) as error:
        records.notes.append(f"The score table cannot be used: {_first_line(error)}")
        return None


def _lines(path: Path, notes: list[str]) -> Iterator[Record]:
    """Objects of a .jsonl file; a torn last line is passed over (the run writes it again), others are noted."""
    lines = path.read_bytes().split(b"\n")
    for index, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if index < len(lines):
                notes.append(f"{path.name}, line {index}, is no JSON; it is left out")
            continue
        if isinstance(record, dict):
            yield record
        else:
            notes.append(f"{path.name}, line {index}, is no record; it is left out")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
