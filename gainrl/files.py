"""Files that appear whole or not at all: written beside the target, flushed to disk, renamed over it.

Also where gainrl keeps what it prepares once.  A leaf: every package may import it, it imports nothing.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any error it is removed.

    Whoever holds the old file keeps it until the rename, which is atomic on one POSIX file system; a full disk
    or a kill leaves the old file as it was.
    """
    path = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes 0600; a result file follows the user's umask
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Have on the disk which files `folder` holds: what was created, renamed or removed survives a power cut."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def cache_directory() -> Path:
    """The folder for what is prepared once: `$GAINRL_CACHE`, `$XDG_CACHE_HOME/gainrl` or `~/.cache/gainrl`."""
    if named := os.environ.get("GAINRL_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gainrl"


def plain(value: Any) -> Any:
    """`value` as JSON types: arrays as lists, NumPy's numbers as Python's, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_lines(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Add one JSON object a line, `plain`, and have them on the disk; makes the folder if there is none."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(plain(record), allow_nan=False) + "\n" for record in records))
        file.flush()
        os.fsync(file.fileno())
