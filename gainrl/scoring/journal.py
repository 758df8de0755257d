"""The scoring pass's journal: finished batches on disk, so that a killed run loses only the batch in flight.

`<output>.partial` (and `.partial-1`, ... of the other processes of one run) is a sequence of frames: length, CRC-32
(both little-endian uint32), then that many bytes.  The first frame is an Arrow schema whose metadata holds the
run's settings; every other one is a record batch with the results of one batch, written before the next batch begins.
Whatever follows the last whole frame (a torn write, blocks of zeros after a power cut) is owed work: it is cut
off when the journal is opened again.  The file is
locked while a run writes to it; a second writer is refused.

In memory there are 24 bytes per batch (where its frame is and which window of the dataset it belongs to); rows are
read back a window at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import threading
import time
import zlib
from array import array
from collections.abc import Iterator, Sequence
from glob import escape as glob_escape
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from gainrl.errors import UserError
from gainrl.files import sync_folder
from gainrl.scoring.results import RowResult
from gainrl.table import Prompt, prompt_text

_FRAME = struct.Struct("<II")
_SETTINGS_KEY = b"gainrl-settings"
_SYNC_SECONDS = 1.0
"""Written batches reach the disk at least this often (a kill loses none of them, a power cut at most this much)."""

_FIELDS = [
    pa.field("row", pa.int64(), nullable=False),
    pa.field("digest", pa.binary(8), nullable=False),
    pa.field("prompt", pa.string()),
    pa.field("status", pa.string(), nullable=False),
    pa.field("reason", pa.string()),
    pa.field("intra", pa.float32(), nullable=False),
    pa.field("inter", pa.float32(), nullable=False),
    pa.field("prefix_tokens", pa.int32(), nullable=False),
    pa.field("question_tokens", pa.int32(), nullable=False),
    pa.field("direction", pa.list_(pa.float32())),
    pa.field("nll", pa.float32()),
]


class Journal:
    """Open `path` for appending: a new journal, or what an interrupted run with the same settings left.

    `settings` is what must agree for results to be continued (model, tokenizer, dataset name, dtype, batch plan,
    columns, ...); `window` is the number of dataset rows in a window.  `fresh=True` drops what is there, once nobody
    else writes to it.  `reading=True` opens the journal of a process that is no more, without changing it.  Raises
    UserError if another process writes to it, or if it holds results of other settings (all differences named).
    """

    def __init__(
        self, path: Path, settings: dict[str, Any], *, window: int, fresh: bool = False, reading: bool = False
    ) -> None:
        self.path = path
        self.schema = pa.schema(_FIELDS, metadata={_SETTINGS_KEY: json.dumps(settings, sort_keys=True).encode()})
        self.rows = 0
        self.kept = 0
        """Rows that were there when the journal was opened."""
        self._window = window
        self._file = _locked(path) if not reading else open(path, "rb", buffering=0)  # noqa: SIM115
        self._reading = reading
        self._synced = time.monotonic()
        self._end = 0
        self._frames = array("q")  # (window, offset, length) of each batch, flat
        self._lock = threading.Lock()  # of `_frames`: windows ahead are looked up while batches are appended
        empty = fresh
        try:
            if not fresh:
                self._recover(settings)
                empty = self.rows == 0
            self.kept = self.rows
            if not reading:
                self._file.truncate(self._end)
                if self._end == 0:
                    self._write(self.schema.serialize().to_pybytes())
                    sync_folder(path.parent)  # else a power cut may take the file, whatever of it is on the disk
        except BaseException:
            if empty and not reading:
                path.unlink(missing_ok=True)
            self._file.close()  # results of other settings, or not yet read to the end, stay
            raise

    def _recover(self, settings: dict[str, Any]) -> None:
        """Read the whole frames; `_end` is where they end."""
        frames = _frames(self._file)
        header = next(frames, None)
        if header is None:
            return
        before = _settings_in(header)
        first = next(frames, None)
        if first is None:
            return  # nothing was finished with those settings
        if before != settings:
            differences = ", ".join(
                f"{key}: {before.get(key)!r} then, {settings.get(key)!r} now"
                for key in sorted({*before, *settings})
                if before.get(key) != settings.get(key)
            )
            raise UserError(
                f"cannot resume from {self.path}: it was made with other settings ({differences}); use the settings "
                "of that run, or start anew with --overwrite"
            )
        self._end = _FRAME.size + len(header)
        for frame in chain([first], frames):
            batch = pa.ipc.read_record_batch(pa.py_buffer(frame), self.schema)
            self._note(batch["row"][0].as_py(), len(frame), batch.num_rows)
            self._end += _FRAME.size + len(frame)

    def _note(self, first_row: int, length: int, rows: int) -> None:
        with self._lock:
            self._frames.extend((first_row // self._window, self._end + _FRAME.size, length))
        self.rows += rows

    def window(self, number: int) -> list[pa.RecordBatch]:
        """The results of one window of the dataset, in the order of writing."""
        with self._lock:
            index = np.frombuffer(self._frames, dtype=np.int64).reshape(-1, 3)
            places = index[index[:, 0] == number].tolist()
            del index  # a view would keep the array from growing
        read = [os.pread(self._file.fileno(), length, offset) for _, offset, length in places]
        return [pa.ipc.read_record_batch(pa.py_buffer(content), self.schema) for content in read]

    @property
    def last_window(self) -> int:
        """The number of the last window of which there are results; -1 if there are none."""
        return max(self._frames[::3], default=-1)

    def append(
        self,
        rows: Sequence[int],
        digests: Sequence[bytes],
        prompts: Sequence[Prompt] | None,
        results: Sequence[RowResult],
    ) -> None:
        """Write the results of one batch, all of one window; they are kept from here on."""
        texts = [None] * len(rows) if prompts is None else [_storable(prompt_text(prompt)) for prompt in prompts]
        columns = [
            pa.array(rows, pa.int64()),
            pa.array(digests, pa.binary(8)),
            pa.array(texts, pa.string()),
            pa.array([result.status for result in results], pa.string()),
            pa.array([None if result.reason is None else _storable(result.reason) for result in results], pa.string()),
            pa.array([result.intra for result in results], pa.float32()),
            pa.array([result.inter for result in results], pa.float32()),
            pa.array([result.prefix_tokens for result in results], pa.int32()),
            pa.array([result.question_tokens for result in results], pa.int32()),
            pa.array([result.direction for result in results], pa.list_(pa.float32())),
            pa.array([result.nll for result in results], pa.float32()),
        ]
        content = pa.record_batch(columns, schema=self.schema).serialize().to_pybytes()
        begin = self._end
        self._write(content)
        end, self._end = self._end, begin
        self._note(rows[0], len(content), len(rows))
        self._end = end
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Have what was appended on the disk (without it, at most a second later), for other machines to read."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _write(self, content: bytes) -> None:
        """Append one frame, whole; a failed write (full disk) is taken back."""
        frame = memoryview(_FRAME.pack(len(content), zlib.crc32(content)) + content)
        self._file.seek(self._end)
        try:
            done = 0
            while done < len(frame):
                done += self._file.write(frame[done:])
        except OSError:
            self._file.truncate(self._end)
            raise
        self._end += len(frame)

    def __len__(self) -> int:
        return self.rows

    def close(self) -> None:
        """Let go of the journal, for a later --resume; one without results is removed."""
        if self._file.closed:
            return
        if len(self) == 0 and not self._reading:
            self.path.unlink(missing_ok=True)
        elif not self._reading:
            os.fsync(self._file.fileno())
        self._file.close()  # and with it the lock

    def remove(self) -> None:
        """The table is written, or nothing here is worth keeping: remove the journal, still under its lock."""
        self.path.unlink(missing_ok=True)
        self._file.close()


def journal_path(output: Path, rank: int = 0) -> Path:
    """Where the results of an unfinished run lie (those of process `rank`)."""
    return output.with_name(f"{output.name}.partial{f'-{rank}' * (rank > 0)}")


def journal_paths(output: Path) -> list[Path]:
    """The journals of an unfinished run that lie beside `output`, that of the first process first, empty ones too."""
    first = journal_path(output)
    others = sorted(first.parent.glob(f"{glob_escape(first.name)}-*"))
    return [*([first] if first.exists() else []), *others]


def holds_results(path: Path) -> bool:
    """Whether a whole batch is in the journal; a run that was killed before its first one leaves a header at most."""
    try:
        with open(path, "rb") as file:
            return any(True for _ in islice(_frames(file), 1, 2))
    except FileNotFoundError:  # its run has just ended
        return False


def stored_settings(path: Path) -> dict[str, Any] | None:
    """The settings of an unfinished run, from its journal's header; None if there is no whole header."""
    try:
        with open(path, "rb") as file:
            header = next(_frames(file), None)
    except FileNotFoundError:
        return None
    return None if header is None else _settings_in(header)


def _settings_in(header: bytes) -> dict[str, Any]:
    metadata = pa.ipc.read_schema(pa.py_buffer(header)).metadata or {}
    settings: dict[str, Any] = json.loads(metadata.get(_SETTINGS_KEY, b"{}"))
    return settings


def _locked(path: Path) -> IO[bytes]:
    """The file, created if need be, open for reading and writing without a buffer, and locked by this process."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
            file.close()  # its owner removed it between open and lock
        except BlockingIOError:
            file.close()
            raise UserError(
                f"another gainrl score is writing to {path}: wait for it, or choose another --output"
            ) from None
        except FileNotFoundError:  # removed while it was looked at
            file.close()
        except OSError as error:
            file.close()
            raise UserError(
                f"{path} cannot be locked ({error.strerror}): choose an --output on a file system with locks (flock)"
            ) from error


def _frames(file: IO[bytes]) -> Iterator[bytes]:
    """Contents of the whole frames from the start of the file; stops before the first that is torn."""
    file.seek(0)
    while len(head := file.read(_FRAME.size)) == _FRAME.size:
        length, checksum = _FRAME.unpack(head)
        content = file.read(length) if length else b""
        if not length or len(content) < length or zlib.crc32(content) != checksum:
            return
        yield content


def _storable(text: str) -> str:
    """Text as Arrow can hold it: lone surrogates, which are legal in JSON, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
