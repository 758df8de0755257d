"""What a run left on disk: config.yaml, scores.parquet, draws.jsonl, evals.jsonl; any of them may be missing.

The last line of a .jsonl may be torn while a run goes on.  What cannot be read becomes a note, not an exception, if
something is left to report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from gainrl.errors import UserError, first_line
from gainrl.table import ScoreTable

CONTROLS = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
Record = dict[str, Any]
Floats = npt.NDArray[np.float64]


@dataclass
class Run:
    """Everything a report is made from."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    table: ScoreTable | None = None
    draws: list[Record] = field(default_factory=list)
    evals: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rollouts(self) -> Floats:
        """(D,) rollouts of the run up to and with each draw."""
        return np.nancumsum(series(self.draws, "rollouts"))

    def rollouts_at(self, step: float | None) -> float:
        """Rollouts drawn before optimizer step `step`; all of them for None (an evaluation after the run)."""
        spent = self.rollouts
        before = np.sum(series(self.draws, "step") < (math.inf if step is None else step))
        return float(spent[int(before) - 1]) if before else 0.0


def read_run(path: Path) -> Run:
    """Read a run directory, or a score table alone; UserError if nothing of a run is there."""
    if path.is_file():
        return Run(path.stem, table=ScoreTable.read(path))
    if not path.is_dir():
        raise UserError(f"no run at {str(path)!r}: give the output_dir of gainrl train, or a score table")
    run = Run(path.resolve().name)
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        run.config = config if isinstance(config, Mapping) else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        run.notes.append(f"config.yaml cannot be read: {first_line(error)}")
    run.table = _table(path, run)
    run.draws = [one for one in _lines(path / "draws.jsonl", run.notes) if one.get("rows")]
    run.evals = list(_lines(path / "evals.jsonl", run.notes))
    if run.table and any(max(draw["rows"]) >= len(run.table) for draw in run.draws):
        run.table = None
        run.notes.append("the score table is of another dataset than the draws")
    if not (run.config or run.table or run.draws or run.evals):
        raise UserError(f"{str(path)!r} holds no run: none of config.yaml, scores.parquet, draws.jsonl, evals.jsonl")
    return run


def number(value: object) -> float | None:
    """A finite number as float; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def series(records: Sequence[Mapping[str, Any]], *path: str) -> Floats:
    """(R,) numbers of the records at a path of keys; NaN where a record has none."""
    found = []
    for record in records:
        value: Any = record
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        taken = number(value)
        found.append(math.nan if taken is None else taken)
    return np.array(found, dtype=np.float64)


def plain(value: object) -> str:
    """Text that can be shown: control characters as the pictures that stand for them, lone surrogates as `?`."""
    return str(value).translate(CONTROLS).encode("utf-8", "replace").decode()


def _table(directory: Path, run: Run) -> ScoreTable | None:
    named, own = run.config.get("scores"), directory / "scores.parquet"
    path = own if own.is_file() or named is None else Path(str(named)).expanduser()
    if named and not path.is_file():
        run.notes.append(f"the score table {named} is not here")
    try:
        return ScoreTable.read(path) if path.is_file() else None
    except UserError as error:
        run.notes.append(f"the score table cannot be read: {first_line(error)}")
        return None


def _lines(path: Path, notes: list[str]) -> Iterator[Record]:
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line) if line.strip() else None
        except ValueError:
            record = None if number == len(lines) else line  # a torn last line is written again by the run
        if isinstance(record, dict):
            yield record
        elif record is not None:
            notes.append(f"{path.name}, line {number}, is no record and is left out")
