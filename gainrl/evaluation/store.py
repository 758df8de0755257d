"""Generations on disk, so that an evaluation can be read again and taken up where it stopped.

A folder with `batches.jsonl` (a line that says what is evaluated, then one for each finished batch) and, at the end,
`generations.parquet` with the columns of `Generation`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gainrl.errors import UserError
from gainrl.files import atomic_path, write_text

if TYPE_CHECKING:
    from gainrl.evaluation.evaluate import Generation


def rows_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """A digest of rows, in order, so that generations are never counted for other problems."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row["prompt"], row["answer"]], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


class Store:
    """The folder of one evaluation; `kept` holds the generations that are there, `seconds` the time they took.

    `settings` says what is evaluated (task, model, rows, samples, sampling ...).  With `resume`, a folder of equal
    settings goes on; any other folder that holds generations is refused, unless `overwrite`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ):
        self._lines, self._table = Path(folder) / "batches.jsonl", Path(folder) / "generations.parquet"
        self.kept: list[Generation] = []
        self.seconds = 0.0
        wanted = json.loads(json.dumps(dict(settings)))
        held = [path for path in (self._lines, self._table) if path.exists()]
        if held and not overwrite:
            if not resume:
                raise UserError(f"{os.fspath(folder)!r} holds generations already; give resume to go on, or overwrite")
            before = self._read()
            differ = sorted(key for key in before.keys() | wanted.keys() if before.get(key) != wanted.get(key))
            if differ:
                changes = "; ".join(f"{key}: {before.get(key)!r} there, {wanted.get(key)!r} now" for key in differ)
                raise UserError(f"{os.fspath(folder)!r} holds another evaluation ({changes}); choose another folder")
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        for old in held:
            old.unlink()
        write_text(self._lines, json.dumps(wanted) + "\n")

    def _read(self) -> dict[str, Any]:
        """The settings of the folder; a last line that was cut short is dropped."""
        from gainrl.evaluation.evaluate import Generation

        try:
            first, *batches, last = self._lines.read_text(encoding="utf-8").split("\n")
            settings = dict(json.loads(first))
            for line in batches:
                batch = json.loads(line)
                self.seconds = float(batch["seconds"])
                self.kept += [Generation(**row) for row in batch["generations"]]
            if any(type(number) is not int for one in self.kept for number in (one.row, one.sample, one.tokens)):
                raise ValueError("a number is missing")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{os.fspath(self._lines)!r} is damaged ({error}); give overwrite to start anew") from error
        if last:
            write_text(self._lines, "\n".join([first, *batches, ""]))
        return settings

    def add(self, finished: Sequence[Generation], seconds: float) -> None:
        """Keep one batch; `seconds` is the time the evaluation has taken so far."""
        with open(self._lines, "a", encoding="utf-8") as lines:
            lines.write(json.dumps({"seconds": seconds, "generations": [asdict(one) for one in finished]}) + "\n")
            lines.flush()
            os.fsync(lines.fileno())

    def merge(self, generations: Sequence[Generation]) -> Path:
        """All generations as `generations.parquet`, in order."""
        import pyarrow as pa
        import pyarrow.parquet

        from gainrl.evaluation.evaluate import Generation

        kinds = {"row": pa.int64(), "sample": pa.int64(), "tokens": pa.int64(), "share": pa.float64()}
        schema = pa.schema([(field.name, kinds.get(field.name, pa.string())) for field in fields(Generation)])
        # lone surrogates, which Parquet's UTF-8 cannot hold, become question marks
        rows = [
            {name: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for name, v in vars(one).items()}
            for one in generations
        ]
        with atomic_path(self._table) as temporary:
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
        return self._table
