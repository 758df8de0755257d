"""Dataset indices in the curriculum's order: a sampler, and a batch sampler that keeps groups together.

One iteration hands out one draw of n prompts, made when its first index is asked for.  Order and shares for n = 6
prompts, 2 processes, repeats = 2:

    drawn               a b c d e f
    CurriculumSampler   rank 0: a a c c e e            rank 1: b b d d f f
    batches of 1 prompt rank 0: [a a] [c c] [e e]      rank 1: [b b] [d d] [f f]
    batches of 2        rank 0: [a a b b] [e e]        rank 1: [c c d d] [f f]

On several processes rank 0 draws and tells the others; a prompt's repeats stay on one process.

A prompt is *finished* when enough of its rollouts were observed: `repeats` of them for `CurriculumSampler`, one call's
for `CurriculumBatchSampler`, which hands out whole groups.  After `load_state_dict()` an iteration hands out what is
unfinished of the draw, or draws if that is nothing: prompts that a loader had fetched ahead come again.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch.distributed as dist
from torch.utils.data import Sampler

from gainrl.errors import UserError
from gainrl.integrations.groups import Draw, Mask, from_json, to_json
from gainrl.integrations.torch_data.curriculum import Curriculum

Item = TypeVar("Item")
VERSION = 3
logger = logging.getLogger(__name__)


class DrawSampler(Sampler[Item]):
    """What both samplers share: the draw, this process's part of it, observing, the state."""

    _whole: ClassVar[bool]  # whether a prompt's repeats are handed out all at once

    def __init__(
        self, curriculum: Curriculum, *, repeats: int = 1, num_replicas: int | None = None, rank: int | None = None
    ) -> None:
        started = dist.is_available() and dist.is_initialized()
        world = dist.get_world_size() if started else 1
        self.num_replicas = num_replicas if num_replicas is not None else world
        self.rank = rank if rank is not None else dist.get_rank() if started else 0
        if self.num_replicas not in (1, world):
            raise UserError(f"num_replicas={self.num_replicas}: torch.distributed has {world}; give that number or 1")
        if curriculum.n % self.num_replicas:
            raise UserError(f"n = {curriculum.n} prompts do not divide among {self.num_replicas} processes")
        self.curriculum, self.repeats = curriculum, repeats
        self._step = self._least = self.num_replicas  # prompts that are handed out at once, and at least
        self._log = curriculum.log if self.rank == 0 else None
        self._draw = Draw(-1, np.empty(0, np.int64))
        self._rows: dict[int, int] = {}  # dataset rows of the draw under way, in its order, and their groups
        self._resumed = False  # whether the next iteration goes on with the draw under way

    @abstractmethod
    def _items(self, rows: list[int]) -> list[Item]:
        """This process's items of one step, from the step's rows."""

    @property
    def draw(self) -> int:
        """Number, from 0, of the draw under way; -1 before the first."""
        return self._draw.number

    @property
    def unfinished(self) -> list[int]:
        """Dataset rows of the draw under way whose groups are not finished, in the order of the draw."""
        return [row for row, group in self._rows.items() if not self._draw.finished[group]]

    @property
    def next_draw(self) -> int:
        """Number, from 0, of the draw that the next iteration hands out; `range(sampler.next_draw, draws)` are owed."""
        return self.draw + (not self._resumed or len(self.unfinished) < self._least)

    def __iter__(self) -> Iterator[Item]:
        """One draw; after `load_state_dict`, what is left of its draw."""
        return _Iteration(self)

    def _hand_out(self, begun: bool) -> Iterator[Item]:
        """The items of one draw; of an iteration that had begun before a resume, those that are left, if any."""
        if self.next_draw > self.draw:
            if begun:
                return
            self._begin()
        self._resumed = False
        rows = self.unfinished
        if extra := len(rows) % self.num_replicas:
            logger.warning("the draw's last %d are left out: %d processes cannot share them", extra, self.num_replicas)
            rows = rows[:-extra]
        # Processes hand out repeats in step: only the repeats that all of them have are not to come again.
        counts = self._draw.outcomes().rollouts
        done = 0 if self._whole else int(min(counts[self._rows[row]] for row in rows[: self._step]))
        for start in range(0, len(rows), self._step):
            yield from self._items(rows[start : start + self._step])[done:]
            done = 0

    def _begin(self) -> None:
        """End the draw under way, with the groups that will not be finished, and make the next one."""
        self._pass_on(~self._draw.finished & (self._draw.outcomes().rollouts > 0))
        if self._log is not None and not self._draw.finished.all():
            self._log.append(self._draw.record(self.draw, self.curriculum.navigator))

        def make() -> Draw:
            navigator = self.curriculum.navigator
            return Draw(self.draw + 1, navigator.draw(self.curriculum.n), navigator)

        self._take(make() if self.num_replicas == 1 else _from_rank_0(make))

    def _take(self, draw: Draw) -> None:
        rows = self.curriculum.dataset_rows(draw.rows).tolist()
        self._draw, self._rows = draw, dict(zip(rows, range(len(rows)), strict=True))
        if self._log is not None and (not draw.number or self._resumed):  # what another run has left there
            self._log.keep(draw.number + int(draw.finished.all()))

    def _pass_on(self, which: Mask) -> None:
        """Give the navigator the groups `which` of the draw under way."""
        if which.any():
            self._draw.finished |= which
            self.curriculum.navigator.observe(self._draw.outcomes()[which], self._draw.angle(which))
            if self._log is not None and self._draw.finished.all():
                self._log.append(self._draw.record(self.draw, self.curriculum.navigator))

    def observe(
        self,
        rows: Sequence[int],
        correct: Sequence[float | None],
        *,
        rewards: Sequence[float | None] | None = None,
        angles: Sequence[float | None] | None = None,
        draws: Sequence[int] | None = None,
    ) -> None:
        """Hand finished rollouts to the navigator: every argument has one entry for each, in any order.

        rows: dataset rows.  correct: accuracy in [0, 1]; None or NaN is unscored.  rewards: what tells whether a group
        is mixed, if that is not `correct`.  angles: for a navigator that asks for them.  draws: `sampler.draw` when the
        row was handed out; without it a row of the draw under way counts as its own.

        On several processes each hands in its own rollouts, and all get everybody's.  Raises UserError, changing
        nothing, for a row that cannot be drawn and an accuracy outside [0, 1].
        """
        given = (rows, correct, correct if rewards is None else rewards, angles, draws)
        columns = [[None] * len(rows) if column is None else list(column) for column in given]
        if self.num_replicas > 1:
            columns = _from_all(columns)
        accuracy, reward, angle = (np.array(column, np.float64) for column in columns[1:4])  # None becomes NaN
        if (wrong := (accuracy < 0) | (accuracy > 1)).any():
            raise UserError(f"the accuracy of a rollout is {accuracy[wrong][0]:g}: give one in [0, 1]")
        if len({len(column) for column in columns}) != 1:
            raise UserError(f"rows, correct and the others differ in length: {[len(column) for column in columns]}")
        row_list: list[int] = np.array(columns[0], np.int64).tolist()
        if wrong_rows := [row for row in row_list if not 0 <= row < len(self.curriculum.table_rows)]:
            raise UserError(f"row {wrong_rows[0]} is not among the dataset's {len(self.curriculum.table_rows)} rows")
        table_rows = self.curriculum.table_rows[row_list]
        self.curriculum.navigator.prompts.index(table_rows)  # UserError for a row that cannot be drawn
        group = np.array([self._rows.get(row, -1) for row in row_list], np.int64)
        own = (group >= 0) & np.array([draw in (None, self.draw) for draw in columns[4]], np.bool_)
        own[own] = ~self._draw.finished[group[own]]
        self._draw.add(group[own], accuracy[own], reward[own], angle[own], 0)
        late, index = np.unique(table_rows[~own], return_inverse=True)
        if len(late):
            earlier = Draw(-1, late)
            earlier.add(index, accuracy[~own], reward[~own], angle[~own], 0)
            self.curriculum.navigator.observe(earlier.outcomes(), earlier.angle())
        enough = 1 if self._whole else self.repeats
        self._pass_on(~self._draw.finished & (self._draw.outcomes().rollouts >= enough))

    def state_dict(self) -> dict[str, Any]:
        """JSON types: the navigator's state, the draw under way and what was observed of it."""
        state = {"navigator": self.curriculum.navigator.state_dict(), "draw": self._draw.state_dict()}
        return {"version": VERSION, **to_json(state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; UserError, changing nothing, for one of another navigator, table, dataset or setting."""
        if set(state) != {"version", "navigator", "draw"} or state["version"] != VERSION:
            raise UserError(f"no state of a curriculum sampler of version {VERSION}: it has the fields {sorted(state)}")
        draw = Draw.from_state(from_json(state["draw"]))
        self.curriculum.dataset_rows(draw.rows)
        self.curriculum.navigator.load_state_dict(from_json(state["navigator"]))
        self._resumed = True
        self._take(draw)


class _Iteration(Iterator[Item]):
    """One iteration.  StatefulDataLoader keeps its state beside the sampler's, and resumes it, even at its very end."""

    def __init__(self, sampler: DrawSampler[Item]) -> None:
        self._sampler, self._begun = sampler, False
        self._items: Iterator[Item] | None = None

    def __next__(self) -> Item:
        if self._items is None:  # not at iter(), which loaders call more than once for one epoch
            self._items, self._begun = self._sampler._hand_out(self._begun), True
        return next(self._items)

    def state_dict(self) -> dict[str, Any]:
        return {"begun": self._begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._begun = state["begun"]


class CurriculumSampler(DrawSampler[int]):
    """Indices of the dataset's rows, draw by draw, for `DataLoader(dataset, sampler=...)`.

    repeats: how often each prompt comes, in succession.  num_replicas, rank: the processes that share a draw (default:
    those of `torch.distributed`).  Raises UserError if n is not a multiple of num_replicas.
    """

    _whole = False

    def _items(self, rows: list[int]) -> list[int]:
        return [rows[self.rank]] * self.repeats

    def __len__(self) -> int:
        return self.curriculum.n // self.num_replicas * self.repeats


class CurriculumBatchSampler(DrawSampler[list[int]]):
    """Batches for `DataLoader(dataset, batch_sampler=...)`: whole groups of `prompts_per_batch` prompts.

    The last batch of a draw is smaller if n is no multiple of prompts_per_batch · num_replicas, or left out with
    `drop_last`.  Other arguments and errors as for `CurriculumSampler`.
    """

    _whole = True

    def __init__(
        self,
        curriculum: Curriculum,
        prompts_per_batch: int,
        *,
        repeats: int = 1,
        drop_last: bool = False,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(curriculum, repeats=repeats, num_replicas=num_replicas, rank=rank)
        self.drop_last, self._step = drop_last, prompts_per_batch * self.num_replicas
        self._least = self._step if drop_last else self.num_replicas

    def _items(self, rows: list[int]) -> list[list[int]]:
        if len(rows) < self._least:
            return []
        share = len(rows) // self.num_replicas
        mine = rows[self.rank * share : (self.rank + 1) * share]
        return [[row for row in mine for _ in range(self.repeats)]]

    def __len__(self) -> int:
        return self.curriculum.n // self._step if self.drop_last else -(-self.curriculum.n // self._step)


def _from_rank_0(make: Callable[[], Draw]) -> Draw:
    """The draw of rank 0, or its error, on all; the others draw, too, so that their navigators go on alike."""
    try:
        found: list[Any] = [make()]
    except Exception as error:
        found = [error]
    dist.broadcast_object_list(found, src=0)
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]  # type: ignore[no-any-return]


def _from_all(columns: list[list[Any]]) -> list[list[Any]]:
    """The columns of all processes, one after the other."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, columns)
    return [[value for part in column for value in part] for column in zip(*gathered, strict=True)]
