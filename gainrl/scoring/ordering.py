"""Occurrence numbers and ranks of any number of rows, sorted on disk.

Both are sorts of fixed-size records in a file that has no name: it is mapped into memory, so the pages are the
kernel's to write back, and nothing is left behind after a kill.  Records are byte strings that sort as bytes do,
which NumPy does in place.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_CHUNK = 1 << 14
_OCCURRENCE_DIGITS = 12
_RANKED = 4 + 8 + _OCCURRENCE_DIGITS + 8


def on_disk(folder: Path, rows: int, dtype: Any) -> np.memmap[Any, Any]:
    """(rows,) zeros of `dtype` in a nameless file in `folder`; OSError (ENOSPC) if the disk cannot hold them."""
    size = max(1, rows) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile(dir=folder) as file:  # the mapping keeps it alive
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, and would be a crash in the mapping
        return np.memmap(file, dtype=dtype, mode="r+", shape=(rows,))


class Occurrences:
    """How often each row's digest occurs in the rows before it."""

    def __init__(self, folder: Path, rows: int) -> None:
        self._records = on_disk(folder, rows, "S16")
        self._numbers = on_disk(folder, rows, np.uint32)

    def put(self, first: int, digests: npt.NDArray[np.uint8]) -> None:
        """Take the (n, 8) uint8 digests of rows first .. first + n."""
        count = len(digests)
        record = np.empty((count, 16), dtype=np.uint8)
        record[:, :8] = digests
        record[:, 8:] = _big_endian(np.arange(first, first + count, dtype=np.uint64))
        self._records[first : first + count] = record.view("S16")[:, 0]

    def number(self) -> None:
        """Sort by digest and row, and number the rows of each digest from 0."""
        self._records.sort()
        digest, start = None, 0  # of the run of equal digests under way
        for first in range(0, len(self._records), _CHUNK):
            record = _bytes(self._records[first : first + _CHUNK])
            digests = np.ascontiguousarray(record[:, :8]).view(">u8")[:, 0]
            before = np.r_[digests[:1] if digest is None else digest, digests[:-1]]
            new = digests != before
            if digest is None:
                new[0] = True
            at = np.arange(first, first + len(digests))
            starts = np.maximum.accumulate(np.where(new, at, start))
            repeats = np.flatnonzero(at > starts)
            self._numbers[_rows(record[repeats, 8:])] = (at - starts)[repeats]
            digest, start = digests[-1:], int(starts[-1])

    def __getitem__(self, rows: slice) -> npt.NDArray[np.uint32]:
        return np.array(self._numbers[rows])


class Ranks:
    """The rank of each row: highest value first, ties by id (as text), rows without a value last, by id."""

    def __init__(self, folder: Path, rows: int) -> None:
        self._records = on_disk(folder, rows, f"S{_RANKED}")
        self._ranks = on_disk(folder, rows, np.int64)

    def put(
        self,
        first: int,
        values: npt.NDArray[np.float32],
        digests: npt.NDArray[np.uint8],
        occurrences: npt.NDArray[np.uint32],
    ) -> None:
        """Take values (n,) float32 (NaN: none), digests (n, 8) and occurrence numbers of rows first .. first + n."""
        count = len(values)
        bits = np.where(np.isnan(values), np.float32(0), values + np.float32(0)).view(np.uint32)  # + 0: -0.0 is 0.0
        rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
        falling = np.where(np.isnan(values), np.uint32(0xFFFFFFFF), ~rising)
        record = np.zeros((count, _RANKED), dtype=np.uint8)
        record[:, :4] = falling.astype(">u4").view(np.uint8).reshape(count, 4)
        record[:, 4:12] = digests
        digits = np.char.encode(occurrences.astype(np.str_), "ascii").astype(f"S{_OCCURRENCE_DIGITS}")
        record[:, 12:-8] = digits.view(np.uint8).reshape(count, _OCCURRENCE_DIGITS)
        record[:, -8:] = _big_endian(np.arange(first, first + count, dtype=np.uint64))
        self._records[first : first + count] = record.view(f"S{_RANKED}")[:, 0]

    def sort(self) -> None:
        """Rank all rows."""
        self._records.sort()
        for first, record in self._chunks():
            self._ranks[_rows(record[:, -8:])] = np.arange(first, first + len(record))

    def _chunks(self) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        for first in range(0, len(self._records), _CHUNK):
            yield first, _bytes(self._records[first : first + _CHUNK])

    def __getitem__(self, rows: slice) -> npt.NDArray[np.int64]:
        return np.array(self._ranks[rows])


def texts_of_ids(digests: npt.NDArray[np.uint8], occurrences: npt.NDArray[np.uint32]) -> list[str]:
    """Ids (`gainrl.table.ContentIds`) from (n, 8) uint8 digests and (n,) occurrence numbers."""
    digits = digests.tobytes().hex()
    return [f"{digits[16 * i : 16 * i + 16]}-{number}" for i, number in enumerate(occurrences.tolist())]


def _big_endian(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    return values.astype(">u8").view(np.uint8).reshape(len(values), 8)


def _rows(record: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    return np.ascontiguousarray(record).view(">u8")[:, 0].astype(np.int64) if len(record) else np.empty(0, np.int64)


def _bytes(records: npt.NDArray[np.bytes_]) -> npt.NDArray[np.uint8]:
    """(n, width) uint8 copy of byte-string records."""
    return np.array(records).view(np.uint8).reshape(len(records), records.dtype.itemsize)
