"""Generations on disk, so that an evaluation can be read again and taken up where it stopped.

A folder with `settings.json` (what is evaluated), `batches.jsonl` (one line a finished batch) and, at the end,
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
    """The folder of one evaluation.

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
        self.folder, self.seconds = Path(folder), 0.0
        self._lines, self._table = self.folder / "batches.jsonl", self.folder / "generations.parquet"
        described, settings = self.folder / "settings.json", json.loads(json.dumps(dict(settings)))
        held = [path for path in (described, self._lines, self._table) if path.exists()]
        if held and not overwrite:
            if not resume:
                raise UserError(f"{os.fspath(folder)!r} holds generations already; give resume to go on, or overwrite")
            self._check(described, settings)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in held:
            old.unlink()
        write_text(described, json.dumps(settings, indent=1) + "\n")

    def _check(self, described: Path, settings: Mapping[str, Any]) -> None:
        try:
            before = dict(json.loads(described.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{os.fspath(described)!r} does not say what was evaluated ({error}); choose another folder, or give "
                "overwrite to start anew"
            ) from error
        differ = sorted(key for key in before.keys() | settings.keys() if before.get(key) != settings.get(key))
        if differ:
            changes = "; ".join(f"{key}: {before.get(key)!r} there, {settings.get(key)!r} now" for key in differ)
            raise UserError(f"{os.fspath(self.folder)!r} holds another evaluation ({changes}); choose another folder")

    def load(self) -> list[Generation]:
        """Every generation that was kept; a last line that was cut short is dropped."""
        from gainrl.evaluation.evaluate import Generation

        kept: list[Generation] = []
        lines = self._lines.read_bytes().split(b"\n") if self._lines.exists() else [b""]
        try:
            for line in lines[:-1]:
                batch = json.loads(line)
                self.seconds = float(batch["seconds"])
                kept += [Generation(**row) for row in batch["generations"]]
            for one in kept:
                if type(one.row) is not int or type(one.sample) is not int or type(one.tokens) is not int:
                    raise ValueError("numbers are missing")
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{os.fspath(self._lines)!r} is damaged ({error}); give overwrite to start anew") from error
        if lines[-1]:
            write_text(self._lines, b"\n".join([*lines[:-1], b""]).decode())
        return kept

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
            {
                name: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v
                for name, v in asdict(one).items()
            }
            for one in generations
        ]
        with atomic_path(self._table) as temporary:
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
        return self._table
