"""Rows of a local file, one at a time: JSON lines, a JSON list (both also gzipped) or Parquet, known by content.

Values are those of `json.loads`, with its NaN, large integers and lone surrogates.  A leaf: every package may import
it, it imports `errors` alone.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from gainrl.errors import UserError

KINDS = "JSON lines, a JSON list or Parquet"
Row = Mapping[str, Any]
_SPACE = re.compile(r"[ \t\n\r]*")


def open_file(path: str | os.PathLike[str]) -> tuple[int | None, Callable[[], Iterator[Row]]]:
    """How many rows `path` holds (None where only reading tells), and what opens them, any number of times.

    Raises UserError, there or while reading, for a file that cannot be read or is of no such kind.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{str(path)!r} is {'a folder' if path.is_dir() else 'no file'}: give a file of {KINDS}")
    try:
        with open(path, "rb") as file:
            head = file.read(4)
        return _parquet(path) if head == b"PAR1" else _json(path, gzip.open if head[:2] == b"\x1f\x8b" else open)
    except (OSError, EOFError) as error:
        raise UserError(f"cannot read {str(path)!r}: {error}") from error


def _json(path: Path, opener: Any) -> tuple[int | None, Callable[[], Iterator[Row]]]:
    with opener(path, "rb") as file:
        head = file.read(1 << 16)
    encoding = json.detect_encoding(head[:4])
    start = head.decode(encoding, "replace").lstrip("\ufeff \t\r\n")[:1]
    if start not in ("", "[", "{"):
        raise UserError(f"{str(path)!r} holds neither {KINDS.replace(' or', ' nor')}")
    reader, unit, before = (_items, "item", -1) if start == "[" else (_lines, "line", 0)

    def rows() -> Iterator[Row]:
        number = before
        with opener(path, "rt", encoding=encoding, errors="surrogatepass") as text:
            try:
                for number, row in reader(text):
                    if not isinstance(row, dict):
                        raise UserError(f"{path}, {unit} {number}: an object is wanted, not {type(row).__name__}")
                    yield row
            except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, OSError, EOFError) as error:
                raise UserError(f"{path}, {unit} {number + 1}: not valid JSON ({error})") from error

    if start == "":
        return 0, rows
    if start == "[" or opener is not open:
        return None, rows
    with open(path, "rb") as file:
        return sum(1 for line in file if line.strip()), rows


def _lines(text: TextIO) -> Iterator[tuple[int, Any]]:
    """(line number, value) of JSON lines."""
    return ((number, json.loads(line)) for number, line in enumerate(text, 1) if line.strip())


def _items(text: TextIO, size: int = 1 << 18) -> Iterator[tuple[int, Any]]:
    """(number, value) of a JSON list; memory holds `size` characters and twice the longest value."""
    decoder, held, number = json.JSONDecoder(), text.read(size), 0
    at = _space(held, 0) + 1
    while (at := _space(held, at)) == len(held) or held[at] != "]":
        try:
            value, end = decoder.raw_decode(held, at)
            end = _space(held, end)
            if held[end : end + 1] not in (",", "]"):
                raise json.JSONDecodeError("expected ',' or ']'", held, end)
        except json.JSONDecodeError:  # the value may go on beyond what was read
            if not (more := text.read(max(size, len(held) - at))):
                raise
            held, at = held[at:] + more, 0
            continue
        yield number, value
        number, at = number + 1, end + (held[end] == ",")
    if rest := (held[at + 1 :] + text.read()).strip():
        raise json.JSONDecodeError("more text after the end of the list", rest, 0)


def _space(text: str, at: int) -> int:
    """Where the next character stands that is no space."""
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _parquet(path: Path) -> tuple[int, Callable[[], Iterator[Row]]]:
    import pyarrow
    import pyarrow.parquet

    def rows() -> Iterator[Row]:
        try:
            # read in pieces: by default a whole row group would be fetched at once
            with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=1024):
                    yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"cannot read {str(path)!r}: {error}") from error

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return int(file.metadata.num_rows), rows
    except pyarrow.ArrowException as error:
        raise UserError(f"cannot read {str(path)!r}: {error}") from error
