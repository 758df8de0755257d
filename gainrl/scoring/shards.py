"""Rows that arrive in dataset order, leaving in order of rank: a distribution sort through one spill file.

Ranks are known, so a row's part is known when it arrives: the one whose bounds its rank lies in.  Each window is cut
up by part and written to a file without a name (compressed Arrow record batches); then one part after the other is
read back and sorted.  Memory holds one window, or one part, and 24 bytes for every piece.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROWS_PER_PART = 16_384
"""Rows of a part where the user names no number of parts."""

_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


class RankShards:
    """Sorts `rows` rows by their column `rank`, a permutation of 0 .. rows - 1, into `count` parts of even size.

    Sizes differ by one row at most; of fewer rows than `count` each has a part of its own.  `count` 0 stands for parts
    of ROWS_PER_PART rows, with a last one of what is left.  OSError if the disk of `folder` is full.
    """

    def __init__(self, folder: Path, rows: int, schema: pa.Schema, count: int = 0) -> None:
        even = min(count, rows)
        starts = [rows * k // even for k in range(even)] if count else range(0, rows, ROWS_PER_PART)
        self._starts = np.asarray(starts, dtype=np.int64)  # the rank that each part begins with
        self._schema = schema
        self._file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (as long as this object)
        self._pieces = array("q")  # (part, offset, length) of each, flat

    def put(self, table: pa.Table) -> None:
        """Take rows, in any order."""
        part = np.searchsorted(self._starts, table["rank"].to_numpy(), side="right") - 1
        order = np.argsort(part, kind="stable")
        numbers, starts = np.unique(part[order], return_index=True)
        for number, picked in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            (batch,) = table.take(pa.array(picked)).combine_chunks().to_batches()
            offset = self._file.tell()
            self._file.write(_packed(batch))
            self._pieces.extend((number, offset, self._file.tell() - offset))

    def __iter__(self) -> Iterator[pa.Table]:
        """The parts, each sorted, one after the other by rank."""
        pieces = np.frombuffer(self._pieces, dtype=np.int64).reshape(-1, 3)
        for number in range(len(self._starts)):
            batches = []
            for _, offset, length in pieces[pieces[:, 0] == number].tolist():
                self._file.seek(offset)
                batches += pa.ipc.open_stream(self._file.read(length)).read_all().to_batches()
            yield pa.Table.from_batches(batches).sort_by("rank").cast(self._schema)
            del batches
            pa.default_memory_pool().release_unused()

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()


def _packed(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_OPTIONS) as writer:
        writer.write_batch(batch)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed
