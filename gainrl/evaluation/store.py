"""Generations on disk, so that an evaluation can be read again and taken up where it stopped.

A folder with `settings.json` (what is evaluated; a folder of other settings is refused) and one Parquet file a
finished batch, `batch-<number>.parquet`, each written whole or not at all.  Columns: those of `Generation`.
`merge` makes one file of them.
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
    settings goes on and one of others is refused, naming what differs; without, a folder that holds
    generations, whether or not their settings are still there, is refused unless `overwrite`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ):
        self.folder = Path(folder)
        self._settings = json.loads(json.dumps(dict(settings)))
        path = self.folder / "settings.json"
        if path.exists() and resume and not overwrite:
            self._check(path)
        elif path.exists() and not overwrite:
            raise UserError(f"{os.fspath(folder)!r} holds generations already; give resume to go on, or overwrite")
        else:
            merged = self.folder / "generations.parquet"
            held = [old for old in (merged, *self._batches()) if old.exists()]
            if held and not overwrite:
                raise UserError(
                    f"{os.fspath(folder)!r} holds {held[0].name} but no settings.json that says what was evaluated; "
                    "choose another folder, or give overwrite to delete it"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            for old in held:
                old.unlink()
            write_text(path, json.dumps(self._settings, indent=1) + "\n")
        self.seconds = max((self._seconds(batch) for batch in self._batches()), default=0.0)

    def _check(self, path: Path) -> None:
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{os.fspath(path)!r} is not JSON ({error}); give overwrite to start anew") from error
        differ = sorted(
            key for key in before.keys() | self._settings.keys() if before.get(key) != self._settings.get(key)
        )
        if differ:
            changes = "; ".join(f"{key}: {before.get(key)!r} there, {self._settings.get(key)!r} now" for key in differ)
            raise UserError(f"{os.fspath(self.folder)!r} holds another evaluation ({changes}); choose another folder")

    def _batches(self) -> list[Path]:
        return sorted(self.folder.glob("batch-*.parquet"))

    @staticmethod
    def _seconds(path: Path) -> float:
        import pyarrow.parquet

        return float(pyarrow.parquet.read_schema(path).metadata[b"gainrl.seconds"])

    def load(self) -> list[Generation]:
        """Every generation that was kept."""
        import pyarrow.parquet

        from gainrl.evaluation.evaluate import Generation

        rows = [row for path in self._batches() for row in pyarrow.parquet.read_table(path).to_pylist()]
        # a merge that was cut short leaves batches beside the file that holds them all
        once = {(row["row"], row["sample"]): row for row in rows}
        return [Generation(**row) for row in once.values()]

    def add(self, finished: Sequence[Generation], seconds: float) -> None:
        """Keep one batch; `seconds` is the time the evaluation has taken so far."""
        _write(self.folder / f"batch-{len(self._batches()):06d}.parquet", finished, seconds)

    def merge(self, generations: Sequence[Generation], seconds: float) -> Path:
        """All generations as `generations.parquet`, in order; the batches go."""
        path = self.folder / "generations.parquet"
        _write(path, generations, seconds)
        first, *others = self._batches() or [self.folder / "batch-000000.parquet"]
        _write(first, generations, seconds)  # a later resume finds everything done
        for other in others:
            other.unlink()
        return path


def _write(path: Path, generations: Sequence[Generation], seconds: float) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    kinds = {"row": pa.int64(), "sample": pa.int64(), "tokens": pa.int64(), "share": pa.float64()}
    from gainrl.evaluation.evaluate import Generation

    schema = pa.schema([(field.name, kinds.get(field.name, pa.string())) for field in fields(Generation)])
    table = pa.Table.from_pylist([_clean(asdict(one)) for one in generations], schema=schema)
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table.replace_schema_metadata({"gainrl.seconds": repr(seconds)}), temporary)


def _clean(row: dict[str, Any]) -> dict[str, Any]:
    """Lone surrogates, which Parquet's UTF-8 cannot hold, as question marks."""
    return {
        key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for key, value in row.items()
    }
