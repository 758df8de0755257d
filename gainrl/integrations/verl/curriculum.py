"""The curriculum of a verl run: which prompt comes next, and what came of those before.  Knows no verl.

One draw has `data.train_batch_size` prompts and is made when the loader asks for the first of them.  verl fetches a
whole batch, or single prompts if it refills exactly (asynchronous trainers, DAPO's filter).  Every prompt carries its
draw and its group there, so that rollouts may come back late and in any order.

If the navigator asks for angles, rollouts are held until the actor's workers have measured them, and observed before
the next draw, sample or save.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gainrl.errors import UserError
from gainrl.integrations.groups import Draw, Floats, Ints, by_source, from_json, summary, to_json
from gainrl.integrations.shared import DrawLog, accuracy_of, load_navigator
from gainrl.integrations.verl.settings import SECTION, Settings
from gainrl.table import ScoreTable

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))  # as verl's own modules do

MARK = "gainrl"
"""Key of `extra_info` under which a prompt's draw and its group there travel with it through verl."""
REWARD, DEFAULT_ACCURACY = "reward", "acc"
_OPEN = 8
"""A draw is logged when all its groups have come back, or this many draws later: some never do, if they fail."""


@dataclass(frozen=True)
class Rollouts:
    """Rollouts as verl reports them: one entry each."""

    keys: list[str]
    """`{uid}_{session}`: verl's name of this generation of the prompt, and which of the group it is."""
    marks: list[dict[str, Any]]
    accuracy: Floats
    """In [0, 1]; NaN where unscored."""
    reward: Floats
    tokens: Ints


class Curriculum:
    """Draws, observes, logs, and keeps the state of one training dataset.

    rows: (N,) the table's row of each row that verl kept, in verl's order.  sources: (N,) names, or None.  batch:
    prompts of a draw.  Raises UserError if these do not fit together.
    """

    def __init__(
        self, settings: Settings, table: ScoreTable, rows: Ints, sources: Sequence[str] | None, batch: int
    ) -> None:
        self.settings, self.batch = settings, batch
        self.navigator = load_navigator(
            table, rows, settings.navigator, settings.navigator_args,
            seed=settings.seed or 0, sources=sources, quota=settings.quota,
        )  # fmt: skip
        if (count := len(self.navigator.prompts)) < batch:
            raise UserError(f"{count} prompts can be drawn: lower data.train_batch_size={batch} to that")
        if count < len(table):
            logger.warning("%d prompts that verl or the scoring pass left out are never drawn", len(table) - count)
        if self.navigator.needs_angle:
            settings.require_angles()
        self.collect: Callable[[], Mapping[str, float]] = collect_angles
        """Returns the angles measured since it was last called, by `{uid}_{session}`."""
        self._index = dict(zip(rows.tolist(), range(len(rows)), strict=True))
        self._log = DrawLog(settings.run.directory)
        self._open: list[Draw] = []  # draws without a line in the log, the last of them under way
        self._draws = 0
        self._handed = batch  # prompts of the last draw that were handed out
        self._held: list[Rollouts] = []
        self._step = 0
        self._seen: Draw | None = None  # the groups observed last

    def next_prompt(self) -> tuple[int, dict[str, Any]]:
        """The index of the next prompt in verl's dataset, and what travels with it."""
        if self._handed >= self.batch:
            self._draw()
        draw, group = self._open[-1], self._handed
        self._handed += 1
        mark = {"draw": draw.number, "group": group, "row": int(draw.rows[group]), "angle": self.navigator.needs_angle}
        return self._index[mark["row"]], mark

    def _draw(self) -> None:
        self.settle()
        if not self._draws:
            self._log.keep(0)
        self._open.append(Draw(self._draws, self.navigator.draw(self.batch), self.navigator))
        self._draws, self._handed = self._draws + 1, 0
        self._write_lines()

    def accuracy(self, reward: Floats, extras: Sequence[Mapping[str, Any]], *, whole: bool) -> Floats:
        """How correct rollouts are, in [0, 1]; NaN where unscored.

        reward: verl's scores.  extras: the reward function's extra information.  whole: whether this is a batch, and
        not some groups that verl put away.  UserError for a whole batch without the value that `accuracy` names.
        """
        name = self.settings.accuracy
        if name is None:
            name = DEFAULT_ACCURACY if any(DEFAULT_ACCURACY in extra for extra in extras) else REWARD
        if name == REWARD:
            return accuracy_of(reward, self.settings.accuracy_range)
        if whole and extras and not any(name in extra for extra in extras):
            there = ", ".join(sorted({REWARD, *(key for extra in extras for key in extra)}))
            raise UserError(f"{SECTION}.accuracy={name!r}, but no rollout of a batch reports it: choose of {there}")
        values = [np.nan if extra.get(name) is None else float(extra[name]) for extra in extras]
        return accuracy_of(values, self.settings.accuracy_range)

    def take(self, rollouts: Rollouts, step: int) -> None:
        """Take finished groups: at once, or when their angles are measured if the navigator asks for them."""
        self._step = step
        self._held.append(rollouts)
        if not self.navigator.needs_angle:
            self.settle()

    def settle(self) -> None:
        """Observe what is held, with the angles measured meanwhile."""
        held, self._held = [rollouts for rollouts in self._held if rollouts.keys], []
        if not held:
            return
        angles = self.collect() if self.navigator.needs_angle else {}
        keys = [key for rollouts in held for key in rollouts.keys]
        marks = [mark for rollouts in held for mark in rollouts.marks]
        accuracy, reward, tokens = (
            np.concatenate([getattr(rollouts, name) for rollouts in held]) for name in ("accuracy", "reward", "tokens")
        )
        angle = np.array([angles.get(key, np.nan) for key in keys], np.float64)
        uids = [key.rpartition("_")[0] for key in keys]
        rows = {uid: mark["row"] for uid, mark in zip(uids, marks, strict=True)}
        index = {uid: number for number, uid in enumerate(rows)}
        seen = Draw(-1, np.array(list(rows.values()), np.int64))
        seen.add([index[uid] for uid in uids], accuracy, reward, angle, tokens)
        self.navigator.observe(seen.outcomes(), seen.angle())
        number, group = np.array([[mark["draw"], mark["group"]] for mark in marks]).T
        for draw in self._open:  # a draw that was logged gets no more
            own = number == draw.number
            draw.add(group[own], *seen.rollouts[own, 1:].T)
            draw.finished[group[own]] = True
        self._seen = seen
        self._write_lines()

    def _write_lines(self) -> None:
        """Log the oldest draws, in their order, if all their groups came back or too many draws are open."""
        while self._open and (len(self._open) > _OPEN or self._open[0].finished.all()):
            self._log.append(self._open.pop(0).record(self._step, self.navigator))

    def metrics(self) -> dict[str, float]:
        """The navigator's numbers and what came of the groups observed last, as `curriculum/...`."""
        found: dict[str, Any] = self.navigator.metrics()
        if self._seen is not None:
            outcomes = self._seen.outcomes()
            unscored = int((outcomes.rollouts - outcomes.scored).sum())
            found.update(summary(outcomes), angle=self._seen.angle(), unscored=unscored)
            for source, values in by_source(self.navigator, outcomes).items():
                found.update({f"{name}/{source}": value for name, value in values.items()})
        return {f"curriculum/{name}": float(value) for name, value in found.items() if isinstance(value, int | float)}

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON types; what is held is observed first."""
        self.settle()
        return {
            "version": 1,
            "draws": self._draws,
            "handed": self._handed,
            "open": [to_json(draw.state_dict()) for draw in self._open],
            "navigator": to_json(self.navigator.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises UserError, changing nothing, for other fields, another `data.train_batch_size`, and whatever the
        navigator refuses: another navigator, table or setting.
        """
        if (
            not isinstance(state, Mapping)
            or set(state) != {"version", "draws", "handed", "open", "navigator"}
            or state["version"] != 1
        ):
            raise UserError("the checkpoint's data.pt has no state of this curriculum: it is of a run without it")
        opened = [Draw.from_state(from_json(draw)) for draw in state["open"]]
        if any(len(draw.rows) != self.batch for draw in opened):
            raise UserError(f"the checkpoint was made with data.train_batch_size={len(opened[0].rows)}: use it again")
        self.navigator.load_state_dict(from_json(state["navigator"]))
        self._open, self._draws, self._handed, self._held = opened, state["draws"], state["handed"], []
        self._log.keep(self._draws - len(opened))


def collect_angles() -> dict[str, float]:
    """The measurements that the actor's workers have left, by `{uid}_{session}`; they are taken away."""
    import transfer_queue as tq

    tags = (tq.kv_list(partition_id=MARK) or {}).get(MARK, {})
    if tags:
        tq.kv_clear(keys=list(tags), partition_id=MARK)
    return {key: float(tag["angle"]) for key, tag in tags.items()}
