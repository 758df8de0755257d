"""What all integrations share: a navigator from a score table, accuracy from rewards, and the log of draws."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import DEFAULT, Navigator, Prompts, make_navigator
from gainrl.errors import UserError
from gainrl.files import append_lines, write_text
from gainrl.table import ScoreTable

logger = logging.getLogger(__name__)


def load_navigator(
    table: ScoreTable,
    rows: npt.ArrayLike,
    name: str = DEFAULT,
    args: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    sources: Sequence[str] | None = None,
    quota: Mapping[str, float] | None = None,
) -> Navigator:
    """The navigator `name` with the settings `args` over these rows of a score table.

    rows: (n,) distinct rows of the prompts that the run has (`ScoreTable.join`); rows that are not usable are left out.
    sources: n names parallel to `rows`.  quota: by source, the largest share of a draw.  Directions are streamed from
    the table; a warning is logged if `probe` has none.

    Raises UserError for an unknown navigator, argument or source, values out of range, and no usable row.
    """
    every = np.asarray(rows, dtype=np.int64)
    usable = np.isin(every, table.usable)
    chosen = every[usable]
    names = None if sources is None else np.asarray(sources, dtype=np.str_)[usable].tolist()
    index_of = np.full(len(table), -1, dtype=np.int64)
    index_of[chosen] = np.arange(len(chosen))

    def directions() -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        for rows, block in table.directions() or ():
            index = index_of[rows]
            yield index[index >= 0], block[index >= 0]

    there = table.directions() is not None
    if name == "probe" and not there:
        logger.warning(
            "the score table has no directions: the navigator 'probe' goes by ranking and question length alone; "
            "score again with `gainrl score --directions`"
        )
    prompts = Prompts(
        rows=chosen,
        score=table.column("score")[chosen],
        tokens=table.column("question_tokens")[chosen],
        directions=directions if there else None,
        fingerprint=table.metadata.fingerprint,
        sources=names,
    )
    return make_navigator(name, prompts, args, seed=seed, quota=quota)


def accuracy_of(
    rewards: npt.ArrayLike | Sequence[float | None], accuracy_range: Sequence[float] | None = None
) -> npt.NDArray[np.float64]:
    """Accuracy in [0, 1] of rewards, any shape; NaN where a reward is NaN or None: such a rollout is unscored.

    accuracy_range: (low, high), the rewards of a wrong and a correct rollout; (0, 1) by default.  Raises UserError for
    a range that is none, and for a reward outside it.
    """
    try:
        low, high = (float(value) for value in ((0.0, 1.0) if accuracy_range is None else accuracy_range))
    except (TypeError, ValueError):
        raise UserError(f"accuracy_range={accuracy_range!r} is not a pair [low, high]") from None
    if not -np.inf < low < high < np.inf:
        raise UserError(f"accuracy_range=[{low:g}, {high:g}] must be finite, with low below high")
    values = np.asarray(rewards, dtype=np.float64)
    accuracy = (values - low) / (high - low)
    if (outside := (accuracy < -1e-6) | (accuracy > 1 + 1e-6)).any():
        raise UserError(
            f"a reward of {values[outside].flat[0]:g} lies outside accuracy_range=[{low:g}, {high:g}]: "
            "set the range of the reward, or name another reward in accuracy_rewards"
        )
    return np.clip(accuracy, 0.0, 1.0)


class DrawLog:
    """`draws.jsonl` in a run's directory: one JSON object per draw, in the order of the draws.

    A record's field `draw` counts the run's draws from 0.  A resume rewrites the file without the draws that its
    checkpoint does not know, and without a last line that a kill tore.
    """

    NAME = "draws.jsonl"

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = Path(directory) / self.NAME

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record and flush it to disk; numbers that are not finite become null."""
        append_lines(self.path, [record])

    def keep(self, draws: int) -> None:
        """Keep the records of the first `draws` draws alone."""
        if self.path.exists():
            kept = [record for record in self.read() if record["draw"] < draws]
            write_text(self.path, "".join(f"{json.dumps(record)}\n" for record in kept))

    def read(self) -> list[dict[str, Any]]:
        """The records, without a torn last line.  Raises UserError for any other line that is no record."""
        if not self.path.exists():
            return []
        records = []
        *lines, _ = self.path.read_bytes().split(b"\n")  # what follows the last newline is empty or torn
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                _ = record["draw"]
            except (ValueError, TypeError, KeyError):
                raise UserError(f"{self.path}, line {number}, is no record of a draw: remove the line") from None
            records.append(record)
        return records
