"""What verl's checkpoints leave out: the epochs' records, and the batch that the V0 trainer observes after it saves.

    epochs.jsonl              one line per finished epoch (docs/verl.md), rewritten on resume without what came later
    curriculum/after_K.json   the rollouts of the batch that was trained before the save after K observed batches,
                              written when the V0 trainer hands it over, with a digest of the state that it follows

Both lie in `trainer.default_local_dir`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gainrl.files import write_text


class EpochLog:
    """`epochs.jsonl` in `directory`."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = Path(directory) / "epochs.jsonl"

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record and flush it to disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def keep(self, finished: int) -> None:
        """Keep the records of the first `finished` epochs alone, and no line that a kill tore."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                break
            if record["epoch"] < finished:
                kept.append(line + "\n")
        write_text(self.path, "".join(kept))


class LateBatches:
    """The batches that were handed over after the checkpoint which they belong to."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory) / "curriculum"

    def write(self, state: Mapping[str, Any], rollouts: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rollouts that followed the saved `state`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        content = {"state": _digest(state), "rollouts": list(rollouts)}
        write_text(self._path(state), json.dumps(content))

    def read(self, state: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """The rollouts that followed this state; None where none were handed over, or after another state."""
        try:
            content = json.loads(self._path(state).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        rollouts: list[dict[str, Any]] = content["rollouts"]
        return rollouts if content["state"] == _digest(state) else None

    def _path(self, state: Mapping[str, Any]) -> Path:
        return self.directory / f"after_{state['batches']}.json"


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:32]
