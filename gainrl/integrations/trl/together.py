"""What several processes of a run settle before training: one run directory that all see, and one checkpoint."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from gainrl.errors import UserError
from gainrl.integrations.epoch_log import NAME as EPOCHS
from gainrl.integrations.trl.checkpoints import STATE_NAME, checkpoints, last_complete
from gainrl.scoring.team import Team

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

VISIBLE_SECONDS = 90.0
"""How long what one machine wrote may take to be seen by another: NFS remembers a missing file for up to a minute."""


def agreed(team: Team, action: Callable[[], Result]) -> Result:
    """What `action` returns, once it has succeeded in every process; the first UserError of any one, in all, if not."""
    result = refused = None
    try:
        result = action()
    except UserError as error:
        refused = str(error)
    said = team.gather(refused)
    if any(said):
        first = next(rank for rank, text in enumerate(said) if text)
        raise UserError(said[first] if all(said) else f"rank {first}: {said[first]}")
    return cast(Result, result)


def require_shared(directory: Path, team: Team) -> None:
    """UserError, on every rank, unless every process sees what the first one writes to `directory`."""
    if team.size == 1:
        return
    marker = directory / f".shared-{team.gather(secrets.token_hex(8))[0]}"
    try:
        if team.leads:
            marker.touch()
        team.barrier()
        _require_seen(_seen(marker, None), directory, team)
    finally:
        if team.leads:
            marker.unlink(missing_ok=True)


def chosen_checkpoint(output_dir: Path, team: Team) -> Path | None:
    """The newest whole checkpoint, the same on every rank; None for a run that was cut short before its first one.

    Raises UserError, on every rank, if there are checkpoints and none can be resumed from, or if another process
    does not see the one that the first process chose.
    """
    found: Path | None = None
    refused = digest = None
    if team.leads:
        try:
            found = _resumable(output_dir)
            digest = None if found is None else _digest(found / STATE_NAME)
        except UserError as error:
            refused = str(error)
    found, digest, refused = team.gather((found, digest, refused))[0]
    if refused is not None:
        raise UserError(refused)
    if found is not None:
        _require_seen(_seen(found / STATE_NAME, digest), output_dir, team)
    return found


def _resumable(output_dir: Path) -> Path | None:
    found, passed = last_complete(output_dir)
    for name, why in passed.items():
        logger.warning("passing over %s: %s", name, why)
    if found is not None:
        return found
    there = checkpoints(output_dir)
    records = output_dir.parent / EPOCHS
    trained = bool(there) and records.exists() and records.stat().st_size > 0
    if trained or any((directory / STATE_NAME).exists() for directory in there):
        listed = "".join(f"; {name}: {why}" for name, why in passed.items())
        raise UserError(f"no checkpoint to resume from in {output_dir}{listed}: --overwrite starts anew")
    return None


def _seen(path: Path, digest: str | None) -> bool:
    """Whether `path` is there (with that content), waiting for file systems that are slow to show it."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    while True:
        try:
            if path.exists() and digest in (None, _digest(path)):
                return True
        except OSError:
            pass  # a stale handle: ask again
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)


def _require_seen(seen: bool, directory: Path, team: Team) -> None:
    blind = [rank for rank, sees in enumerate(team.gather(seen)) if not sees]
    if blind:
        raise UserError(
            f"the run directory must be shared by all machines: ranks {blind} do not see what rank 0 has in {directory}"
        )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
