"""The scoring pass's journal: finished batches on disk, so that a killed run loses only the batch in flight.

`<output>.partial` is an Arrow IPC stream; every batch of results is one record batch, flushed when it is written.
A torn last record batch (power loss) is owed work: it is cut off when the journal is opened again.  The file is
locked while a run writes to it; a second writer is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from gainrl.errors import UserError
from gainrl.scoring.scorer import RowResult
from gainrl.table import Prompt, prompt_text

_SETTINGS_KEY = b"gainrl-settings"
_SYNC_SECONDS = 1.0
"""Written batches reach the disk at least this often (a kill loses none of them, a power cut at most this much)."""

_FIELDS = [
    pa.field("row", pa.int64(), nullable=False),
    pa.field("id", pa.string(), nullable=False),
    pa.field("prompt", pa.string()),
    pa.field("status", pa.string(), nullable=False),
    pa.field("reason", pa.string()),
    pa.field("intra", pa.float32(), nullable=False),
    pa.field("inter", pa.float32(), nullable=False),
    pa.field("prefix_tokens", pa.int32(), nullable=False),
    pa.field("question_tokens", pa.int32(), nullable=False),
    pa.field("direction", pa.list_(pa.float32())),
]


class Journal:
    """Open `path` for appending: a new journal, or what an interrupted run with the same settings left.

    `settings` is what must agree for results to be continued (model, tokenizer, dataset name, dtype, ...).  Raises
    UserError if another process writes to it, or if it was made with other settings (all differences named).
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.schema = pa.schema(_FIELDS, metadata={_SETTINGS_KEY: json.dumps(settings, sort_keys=True).encode()})
        self._lock: IO[bytes] = open(path.with_name(path.name + ".lock"), "ab")  # noqa: SIM115 - held while open
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(
                f"another gainrl score is writing to {path}: wait for it, or choose another --output"
            ) from None
        try:
            self.done: dict[int, str] = self._recover(settings)
            self._file: IO[bytes] = open(path, "ab")  # noqa: SIM115
            self._file.truncate(self._valid)
            if self._valid == 0:
                self._file.write(self.schema.serialize().to_pybytes())
                self._file.flush()
        except BaseException:
            self._release()
            raise
        self._synced = time.monotonic()
        self._written = 0

    def _recover(self, settings: dict[str, Any]) -> dict[int, str]:
        """Row -> id of all results in the journal; `_valid` becomes the length of its whole record batches."""
        self._valid = 0
        done: dict[int, str] = {}
        if not self.path.exists() or self.path.stat().st_size == 0:
            return done
        with pa.memory_map(str(self.path)) as source:
            try:
                schema = pa.ipc.read_schema(source)
            except (pa.ArrowInvalid, OSError, EOFError):
                return done  # cut off within its first bytes
            before = json.loads((schema.metadata or {}).get(_SETTINGS_KEY, b"{}"))
            if before != settings:
                differences = ", ".join(
                    f"{key}: {before.get(key)!r} then, {settings.get(key)!r} now"
                    for key in sorted({*before, *settings})
                    if before.get(key) != settings.get(key)
                )
                raise UserError(
                    f"cannot resume from {self.path}: it was made with other settings ({differences}); use the "
                    "settings of that run, or start anew with --overwrite"
                )
            self._valid = source.tell()
            for batch, end in _batches(source, self.schema):
                done.update(zip(batch["row"].to_pylist(), batch["id"].to_pylist(), strict=True))
                self._valid = end
        return done

    def append(
        self, rows: Sequence[int], ids: Sequence[str], prompts: Sequence[Prompt] | None, results: Sequence[RowResult]
    ) -> None:
        """Write the results of one batch; they are kept from here on."""
        columns = [
            pa.array(rows, pa.int64()),
            pa.array(ids, pa.string()),
            pa.array([None] * len(rows) if prompts is None else [prompt_text(p) for p in prompts], pa.string()),
            pa.array([result.status for result in results], pa.string()),
            pa.array([result.reason for result in results], pa.string()),
            pa.array([result.intra for result in results], pa.float32()),
            pa.array([result.inter for result in results], pa.float32()),
            pa.array([result.prefix_tokens for result in results], pa.int32()),
            pa.array([result.question_tokens for result in results], pa.int32()),
            pa.array([result.direction for result in results], pa.list_(pa.float32())),
        ]
        batch = pa.record_batch(columns, schema=self.schema)
        self._file.write(batch.serialize().to_pybytes())
        self._file.flush()
        self._written += len(rows)
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def __len__(self) -> int:
        return len(self.done) + self._written

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All results written so far, in the order of writing."""
        self._file.flush()
        with pa.memory_map(str(self.path)) as source:
            pa.ipc.read_schema(source)
            for batch, _ in _batches(source, self.schema):
                yield batch

    def close(self) -> None:
        """Flush to disk and let go of the lock; the journal stays for a later --resume."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self._release()

    def remove(self) -> None:
        """The table is written: the journal is no longer needed."""
        self._file.close()
        self.path.unlink(missing_ok=True)
        Path(self._lock.name).unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        if not self._lock.closed:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._lock.close()


def _batches(source: Any, schema: pa.Schema) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Whole record batches from where `source` stands, each with the offset of its end; stops before a torn one."""
    size = source.size()
    while source.tell() < size:
        try:
            message = pa.ipc.read_message(source)
            if source.tell() > size:
                return
            batch = pa.ipc.read_record_batch(message, schema)
        except (pa.ArrowInvalid, OSError, EOFError):
            return
        yield batch, source.tell()
