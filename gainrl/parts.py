"""A table in several Parquet files: a folder whose manifest, written last, names the parts in their order.

    scores/manifest.json                    {"format_version": 1, "rows": N, "parts": [{"name", "rows", "bytes"}, ...]}
    scores/part-<run>-00000.parquet ...     the parts of that writing; others are left-overs and count for nothing

A folder is a table from the moment that its manifest is renamed into place; until then the table that was there before
is whole.  A leaf: every package may import it, it imports no other room.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gainrl.errors import UserError
from gainrl.files import write_text

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_PREFIX, _SUFFIX = "part-", ".parquet"


@dataclass(frozen=True)
class Part:
    """One file of a table: its name in the folder, its rows and its size in bytes."""

    name: str
    rows: int
    bytes: int


def is_parts(path: str | os.PathLike[str]) -> bool:
    """Whether a whole table in parts lies at `path`."""
    return (Path(path) / MANIFEST).is_file()


def is_table(path: str | os.PathLike[str]) -> bool:
    """Whether something lies at `path` that can be read as a table: a file, or a folder with a manifest."""
    return Path(path).is_file() or is_parts(path)


def files(path: str | os.PathLike[str]) -> list[Path]:
    """The Parquet files of the table at `path`, in order: the file itself, or the parts of a folder.

    UserError if the manifest is damaged or of a newer format, or if a part is missing or has another size.
    """
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    source = f"table {os.fspath(path)!r}"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, parts = manifest["format_version"], [Part(**part) for part in manifest["parts"]]
    except FileNotFoundError:
        raise UserError(f"{source} has no {MANIFEST}, which is written last: it was never finished") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source}: {MANIFEST} is damaged ({error}): write the table again") from error
    if version != FORMAT_VERSION:
        raise UserError(f"{source}: {MANIFEST} has format {version}, this gainrl reads {FORMAT_VERSION}")
    for part in parts:
        there = folder / part.name
        if not there.is_file() or there.stat().st_size != part.bytes:
            raise UserError(f"{source}: its part {part.name} is missing or was changed: write the table again")
    return [folder / part.name for part in parts]


def foreign(folder: Path) -> str | None:
    """The name of something in `folder` that no table put there; None if there is nothing of the kind."""
    own = [_PREFIX, f".{_PREFIX}", f".{MANIFEST}"]
    names = sorted(path.name for path in folder.iterdir())
    return next((name for name in names if name != MANIFEST and not any(name.startswith(p) for p in own)), None)


@dataclass
class Writing:
    """The parts written so far."""

    folder: Path
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    parts: list[Part] = field(default_factory=list)

    def next(self) -> Path:
        """Where the next part is to be written."""
        return self.folder / f"{_PREFIX}{self.run}-{len(self.parts):05d}{_SUFFIX}"

    def wrote(self, path: Path, rows: int) -> None:
        """Flush the part at `path` to disk and take it into the table."""
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        self.parts.append(Part(path.name, rows, path.stat().st_size))


@contextmanager
def writing(folder: Path) -> Iterator[Writing]:
    """Write a table of parts to `folder`, whole or not at all; the parts of an older one go when the new one stands."""
    folder.mkdir(exist_ok=True)
    new = Writing(folder)
    try:
        yield new
        manifest = {
            "format_version": FORMAT_VERSION,
            "rows": sum(part.rows for part in new.parts),
            "parts": [asdict(part) for part in new.parts],
        }
        write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")  # flushes the folder, too
    except BaseException:
        _sweep(folder, lambda path: path.name.startswith(f"{_PREFIX}{new.run}-"))
        if not any(folder.iterdir()):
            folder.rmdir()
        raise
    named = {part.name for part in new.parts}
    _sweep(folder, lambda path: path.name not in named)


def _sweep(folder: Path, goes: Callable[[Path], bool]) -> None:
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        if goes(path):
            path.unlink(missing_ok=True)
