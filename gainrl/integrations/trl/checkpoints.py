"""The curriculum's state in a checkpoint, which is also the mark that the checkpoint is whole.

`curriculum_state.json` is written last, when every rank has written its files, flushed to disk, and before older
checkpoints rotate away.  It lists the other files with their sizes.  A checkpoint without it, or whose files are
not those it lists, was cut short by a kill or a full disk and is passed over.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from gainrl.errors import UserError
from gainrl.files import write_text

STATE_NAME = "curriculum_state.json"
FORMAT_VERSION = 2
_FIELDS = {"format_version", "gainrl_version", "settings", "progress", "navigator", "resumable", "files"}
_CHECKPOINT = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


def unseal(directory: Path) -> None:
    """Take the mark off a checkpoint that is about to be written again."""
    (directory / STATE_NAME).unlink(missing_ok=True)


def seal(directory: Path, state: Mapping[str, Any]) -> None:
    """Flush the checkpoint's files to disk, then write `state` beside them, whole or not at all."""
    files = {}
    for path in sorted(directory.rglob("*")):
        if not path.is_file() or path.name == STATE_NAME:
            continue
        with open(path, "rb") as written:
            os.fsync(written.fileno())
        files[path.relative_to(directory).as_posix()] = path.stat().st_size
    write_text(directory / STATE_NAME, json.dumps({"format_version": FORMAT_VERSION, **state, "files": files}) + "\n")


def why_incomplete(directory: Path) -> str | None:
    """What is missing from a checkpoint, or None if it is whole and can be resumed from."""
    return _why_torn(directory) or _why_not_resumable(directory)


def _why_torn(directory: Path) -> str | None:
    """What was not written, or None if every file is there."""
    path = directory / STATE_NAME
    if not path.is_file():
        return f"it has no {STATE_NAME}, which is written last"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return f"its {STATE_NAME} is not JSON"
    for name, size in state.get("files", {}).items():
        if not (directory / name).is_file():
            return f"its file {name} is missing"
        if (actual := (directory / name).stat().st_size) != size:
            return f"its file {name} has {actual} bytes instead of {size}"
    return None


def _why_not_resumable(directory: Path) -> str | None:
    """What keeps a run from going on from a checkpoint with all its files."""
    state = json.loads((directory / STATE_NAME).read_text(encoding="utf-8"))
    if not state.get("resumable", False):
        return "it was saved inside a generation batch (the run stopped there), or without the optimizer's state"
    return None


def checkpoints(output_dir: str | os.PathLike[str]) -> list[Path]:
    """The checkpoint directories in `output_dir`, newest step first."""
    root = Path(output_dir)
    found = [
        path for path in root.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir() and _CHECKPOINT.fullmatch(path.name)
    ]
    return sorted(found, key=step_of, reverse=True)


def rotate_checkpoints(newest: Path, limit: int | None, best: str | None) -> None:
    """Delete checkpoints beside `newest`, which was just sealed, until `limit` are left (None or 0: no limit).

    Torn ones go first and count for nothing; then the oldest.  `newest`, the last one that can be resumed from and the
    `best` one always stay, so more than `limit` are left where these are more.
    """
    if limit is None or limit <= 0:
        return
    kept = {newest.resolve()} | ({Path(best).resolve()} if best else set())
    # Steps beyond the newest belong to an earlier run in the same place.
    found = sorted(checkpoints(newest.parent), key=lambda path: (step_of(path) <= step_of(newest), step_of(path)))
    whole = [path for path in found if _why_torn(path) is None]
    kept.update([path.resolve() for path in whole if _why_not_resumable(path) is None][-1:])
    surplus = max(0, len(whole) - limit)
    old = [path for path in whole if path.resolve() not in kept][:surplus]
    for path in [path for path in found if path not in whole and path.resolve() not in kept] + old:
        unseal(path)
        shutil.rmtree(path, ignore_errors=True)


def step_of(directory: Path) -> int:
    """The optimizer step in a checkpoint directory's name, `checkpoint-<step>`."""
    match = _CHECKPOINT.fullmatch(directory.name)
    assert match is not None
    return int(match[1])


def saved_step(directory: Path) -> int:
    """The optimizer step at which a checkpoint was saved, by HF's own state: a copy may have any name."""
    try:
        step = json.loads((directory / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
    except (OSError, ValueError, TypeError, KeyError):
        step = None
    if isinstance(step, bool) or not isinstance(step, int):
        raise UserError(f"cannot resume from {directory}: its {TRAINER_STATE_NAME} does not tell the step")
    return step


def last_complete(output_dir: str | os.PathLike[str]) -> tuple[Path | None, dict[str, str]]:
    """The newest whole checkpoint (None if there is none), and why each newer one was passed over."""
    passed: dict[str, str] = {}
    for directory in checkpoints(output_dir):
        why = why_incomplete(directory)
        if why is None:
            return directory, passed
        passed[directory.name] = why
    return None, passed


def read_state(directory: Path) -> dict[str, Any]:
    """The state in a whole checkpoint; UserError if it is not whole or of a version not known here."""
    if (why := why_incomplete(directory)) is not None:
        raise UserError(f"cannot resume from {directory}: {why}")
    state: dict[str, Any] = json.loads((directory / STATE_NAME).read_text(encoding="utf-8"))
    if state.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{directory / STATE_NAME} has format {state.get('format_version')}, this gainrl reads {FORMAT_VERSION}"
        )
    unknown, missing = sorted(set(state) - _FIELDS), sorted(_FIELDS - set(state))
    if unknown or missing:
        raise UserError(f"{directory / STATE_NAME} has unknown fields {unknown}, lacks {missing}")
    return state


def require_settings(saved: Mapping[str, Any], now: Mapping[str, Any], directory: Path) -> None:
    """UserError naming every setting in which the checkpoint and this run differ."""
    different = [
        f"{name}: {saved.get(name)!r} in the checkpoint, {now.get(name)!r} now"
        for name in sorted(set(saved) | set(now))
        if saved.get(name) != now.get(name)
    ]
    if different:
        raise UserError(
            f"cannot resume from {directory}, which was saved under other settings ({'; '.join(different)})"
        )
