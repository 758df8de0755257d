"""`epochs.jsonl`: one line per finished epoch, each exactly once, also across kills and resumes.

A line is written when the epoch's last rollout has been observed, before the checkpoint that knows of it.  A resume
rewrites the file without the epochs that the checkpoint does not know, and without a torn last line.

Fields of a record (`EpochLog.append`); null where undefined:

    navigator, epoch, prompts, rollouts, scored, tokens, seconds, ranks, undefined_drawn     as drawn and counted
    accuracy, angle, reward         means over the epoch's rollouts of all ranks; accuracy is credit in [0, 1]
    mean, sigma, uniform, next_mean, held                  windows over the ranks (gaussian, target)
    target                          accuracy or pass rate that is looked for (target, posterior)
    tried, expected                 prompts tried before the epoch, pass rate expected of its prompts (posterior, probe)
    useful, by_pass_rate            share of the groups expected to differ in reward, and the share of the model of pass
                                    rates in that expectation (probe)
    explored                        share of the epoch that is drawn uniformly (probe)
    fading, residual                what predicts best: share that old rollouts keep an epoch, variance of the prompts
                                    about the regression in squared logits (probe)
    correlation, log_loss, constant_log_loss    of predicted and observed pass rates; nats a rollout of the
                                    predictions, and of the epoch's mean rate for every prompt (probe)
    resting                         prompts left out of the draw because they are mastered (skip_mastered)
    reward_errors                   rows on which a reward function raised, over all ranks
    groups, zero_variance           groups generated, and those of them whose rewards are all equal
    backfilled                      groups without variance that others took the place of (backfill)
    rerank_correlation, rerank_seconds    Spearman's rank correlation of the ranking of this epoch with the one before,
                                    and what making it took; null unless the dataset was scored again before this epoch
    unscored                        rollouts that nothing said right or wrong of (verl)
    angle_source, unmeasured        where angles come from, actor (the policy's own passes) or table, and rollouts that
                                    have none (verl)
    in_flight                       prompts not yet observed when the epoch was drawn (verl)
    late, late_accuracy             rollouts of earlier epochs that came back in this one, in none of the counts and
                                    means above but in next_mean, and their accuracy (verl)
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gainrl.errors import UserError
from gainrl.files import write_text

NAME = "epochs.jsonl"


class EpochLog:
    """The epoch records of one run, in `directory`."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = Path(directory) / NAME

    def begin(self) -> None:
        """Start a new run; UserError if records of an earlier one are there."""
        if self.path.exists() and self.path.stat().st_size:
            raise UserError(
                f"{self.path} holds the epochs of an earlier run: resume it, choose another directory, or remove it"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def set_aside(self) -> Path | None:
        """Start a new run; the records of an earlier one, if there are any, move to the path that is returned."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists() or not self.path.stat().st_size:
            return None
        free = (self.path.with_stem(f"{self.path.stem}-{number}") for number in itertools.count(1))
        kept = next(path for path in free if not path.exists())
        self.path.rename(kept)
        return kept

    def keep(self, finished: int) -> None:
        """Keep the records of the first `finished` epochs alone."""
        if not self.path.exists():
            return
        kept = [record for record in self.read() if record["epoch"] < finished]
        write_text(self.path, "".join(f"{json.dumps(record)}\n" for record in kept))

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record and flush it to disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """The records; a last line that a kill tore is left out.

        Raises UserError for any other line that is no record: rewriting the file would lose what follows it.
        """
        if not self.path.exists():
            return []
        records = []
        lines = self.path.read_bytes().split(b"\n")  # a whole file ends in a newline: the last part is empty, or torn
        for place, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                _ = record["epoch"]
            except (ValueError, TypeError, KeyError):
                if place == len(lines):
                    break
                raise UserError(f"{self.path}, line {place}, is no epoch record: repair or remove that line") from None
            records.append(record)
        return records
