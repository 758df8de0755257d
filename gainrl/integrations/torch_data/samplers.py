"""Dataset indices in the curriculum's order: a sampler, and a batch sampler that keeps groups together.

One iteration is one epoch of the navigator.  It is drawn when iteration begins (never for a length or at construction),
so what was observed until then counts.  Order and shares, for n = 6 prompts, 2 processes, repeats = 2:

    drawn               a b c d e f                    the navigator's order
    CurriculumSampler   rank 0: a a c c e e            rank 1: b b d d f f
    batches of 1 prompt rank 0: [a a] [c c] [e e]      rank 1: [b b] [d d] [f f]
    batches of 2        rank 0: [a a b b] [e e]        rank 1: [c c d d] [f f]

A prompt's repeats stay on one process, neighbours in the order are in one step, and all processes have equally many.

`state_dict()` holds the navigator's state and the epoch's prompts that are done: `CurriculumSampler`'s when as many
rollouts as `repeats` were observed, `CurriculumBatchSampler`'s, which hands out whole groups, with the first.  What a
loader's workers had fetched ahead, and what was still being generated, comes again after a resume; what is done does
not, nor the repeats that were observed of the prompt that is next.  So every rollout that came to an end is to be
reported, one that could not be graded with `scored` False.  After `load_state_dict()` an iteration has what is left of
that epoch, or the next epoch if nothing is; `epoch` says which.  The number of processes may be another, if the state
was not saved amid a prompt's repeats.

torchdata's StatefulDataLoader keeps a state of its own, in which prompts count as done when their batch leaves the
loader, and has the sampler's in it; there the iteration after an epoch's last batch is empty, as with torchdata's own
samplers.  With workers it takes that state when a batch is sent to a worker, so rollouts observed since are not in it;
`navigator_in_state=False` then leaves the navigator out, for the caller to save beside the loader's state
(`navigator.state_dict()`) and to load before iterating.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch.distributed as dist
from torch.utils.data import Sampler

from gainrl.curriculum import Navigator, Ranking, Totals
from gainrl.errors import UserError
from gainrl.integrations.torch_data.place import Place

Item = TypeVar("Item")

logger = logging.getLogger(__name__)

_VERSION = 2
_FIELDS = {"version", "navigator", "epoch", "num_replicas", *Place.FIELDS}


class _Draw(NamedTuple):
    """What the positions of an epoch mean."""

    epoch: int
    ranking: Ranking
    ranks: npt.NDArray[np.int64]
    """(n,) the navigator's own array, which it replaces whenever something of the draw may have changed."""
    positions: dict[str, int]
    """Position of each id, in the order of the draw."""


class _Base(Sampler[Item]):
    """What both samplers share: the epoch, this process's part of it, observing, the state."""

    _whole: ClassVar[bool]
    """Whether a prompt's repeats are handed out all at once."""

    def __init__(
        self,
        navigator: Navigator,
        ids: Sequence[str],
        *,
        repeats: int = 1,
        num_replicas: int | None = None,
        rank: int | None = None,
        navigator_in_state: bool = True,
    ) -> None:
        started = dist.is_available() and dist.is_initialized()
        self.num_replicas = num_replicas if num_replicas is not None else dist.get_world_size() if started else 1
        self.rank = rank if rank is not None else dist.get_rank() if started else 0
        if self.num_replicas < 1 or not 0 <= self.rank < self.num_replicas:
            raise UserError(f"rank {self.rank} of num_replicas {self.num_replicas}: give 0 <= rank < num_replicas")
        if repeats < 1:
            raise UserError(f"repeats={repeats}: give at least 1")
        if navigator.n % self.num_replicas:
            raise UserError(
                f"n = {navigator.n} prompts per epoch do not divide among {self.num_replicas} processes: choose a "
                f"multiple of {self.num_replicas} for n"
            )
        self.navigator = navigator
        self.ids = list(ids)
        """Ids of the dataset's rows, in dataset order."""
        self.repeats = repeats
        self.navigator_in_state = navigator_in_state
        self.row_of = {name: row for row, name in enumerate(self.ids)}
        """Row of each id."""
        missing = [name for name in navigator.ranking.ids if name not in self.row_of]
        if missing:
            raise UserError(
                f"{len(missing)} of the ranking's prompts are not in the dataset, first {missing[0]!r}: it was "
                "made for another dataset (gainrl.table.content_ids makes a dataset's ids)"
            )
        self._done = Place(navigator.n)  # of which enough was observed
        self._count = np.zeros(navigator.n, dtype=np.int64)  # how often each position was observed
        self._reported = 0  # rollouts that were observed through this sampler in the epoch under way
        self._noted: _Draw | None = None  # the epoch that all these are of
        self._sent = Place(navigator.n)  # what the iteration under way has handed out
        self._resumed: Place | None = None  # what the next iteration leaves out of the epoch under way

    @property
    @abstractmethod
    def _step(self) -> int:
        """Prompts that all processes together hand out at once."""

    @property
    def _least(self) -> int:
        """Fewer prompts than these make no item."""
        return self.num_replicas

    @property
    def _enough(self) -> int:
        """Observed rollouts with which a prompt is done."""
        return 1 if self._whole else self.repeats

    @abstractmethod
    def _items(self, rows: list[int]) -> list[Item]:
        """This process's items of one step, from the step's rows."""

    def _over(self, place: Place) -> bool:
        """Whether nothing comes after a place in its epoch."""
        return len(place.rest) < self._least

    @property
    def epoch(self) -> int:
        """Number, from 0, of the epoch that the next iteration goes through.

        After a resume, `for epoch in range(sampler.epoch, epochs)` has the epochs that are owed.
        """
        if self._resumed is not None:
            self._note_epoch()
        if self._resumed is not None:
            return self.navigator.epoch + self._over(self._resumed)
        return self.navigator.epoch + (self.navigator.totals.rollouts > 0)

    def __iter__(self) -> Iterator[Item]:
        """One epoch, drawn when its first item is asked for; after `load_state_dict`, what is left of its epoch."""
        return _Epoch(self)

    def _begin(self) -> Place:
        """Where an iteration begins: in the epoch that a state was loaded of, if it has not ended, or in the next."""
        self._note_epoch()
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not self._over(resumed):
            return resumed
        return Place(len(self.navigator.draw()))

    def _hand_out(self, place: Place) -> Iterator[Item]:
        """What `place` leaves of the epoch under way; the place moves with it."""
        self._note_epoch()
        self._sent = place
        names, positions = self.navigator.ids, place.rest
        if extra := len(positions) % self.num_replicas:
            logger.warning(
                "%d prompts are left of the epoch, which %d processes cannot share: the last %d are left out",
                len(positions), self.num_replicas, extra,
            )  # fmt: skip
            positions = positions[:-extra]
        for start in range(0, len(positions), self._step):
            step = positions[start : start + self._step]
            items = self._items([self.row_of[names[position]] for position in step])
            # The place is moved on before an item is handed out: a state taken then counts it.
            for item in items[place.repeated : -1]:
                place.repeated += 1
                yield item
            place.add(step)
            yield from items[-1:]

    def _note_epoch(self) -> dict[str, int]:
        """Position of each prompt of the epoch under way; of a new one, or of another draw, nothing is done yet."""
        navigator, noted = self.navigator, self._noted
        epoch, ranking, ranks = navigator.epoch, navigator.ranking, navigator.ranks
        if noted is not None and noted.epoch == epoch and noted.ranking is ranking and noted.ranks is ranks:
            return noted.positions
        positions = {name: position for position, name in enumerate(navigator.ids)}
        # The same epoch number may come with other prompts: after a new ranking, or a state of another run.
        if noted is not None and (noted.epoch != epoch or list(noted.positions) != list(positions)):
            self._done, self._sent, self._resumed = Place(navigator.n), Place(navigator.n), None
            self._count[:] = 0
            self._reported = 0
        self._noted = _Draw(epoch, ranking, ranks, positions)
        return positions

    def observe(self, records: Iterable[Mapping[str, Any]], *, gather: bool = True, late: bool = False) -> None:
        """Hand finished rollouts of the epoch to the navigator: {id, correct, scored, angle, reward, tokens} each.

        A `CurriculumSampler`'s prompt is done with its record number `repeats`, a batch sampler's with its first.

        On several processes the navigators must see the same: with `gather` every process calls this with the rollouts
        of its own and gets everybody's (`torch.distributed.all_gather_object`); a rollout that several processes hold,
        as tensor-parallel ranks do, is handed in by one.  Without `gather`, `records` are everybody's already.

        With `late`, rollouts of earlier epochs that come back only now are taken, too (`Navigator.observe_late`).  A
        record's optional field `epoch`, `sampler.navigator.epoch` when its index was handed out, says which they are;
        of records without it, those whose prompt is not of the epoch under way, and an earlier rollout of a prompt that
        is drawn again counts as this epoch's.  Raises UserError, changing nothing, as `Navigator.observe` does, for an
        epoch that is still to come, and without `late` for an earlier one.
        """
        mine = list(records)
        if gather and self.num_replicas > 1:
            if not (dist.is_available() and dist.is_initialized()):
                raise UserError(
                    f"num_replicas={self.num_replicas}, but torch.distributed is not running: gather the records of "
                    "all processes and call observe(records, gather=False)"
                )
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, mine)
            mine = [record for part in parts for record in part]
        positions = self._note_epoch()
        own, earlier = self._split(mine, positions, late)
        if earlier:  # all of them or none
            Totals.from_records(earlier)
            for record in earlier:
                self.navigator.ranking.rank_of(record["id"])
        self.navigator.observe(own)
        if earlier:
            self.navigator.observe_late(earlier)
        for record in own:
            if (position := positions.get(record["id"])) is not None:  # else: a spare
                self._count[position] += 1
        self._reported += len(own)
        self._settle()

    def _split(
        self, records: Iterable[Mapping[str, Any]], positions: Mapping[str, int], late: bool
    ) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        """Records of the epoch under way, and those of earlier ones; all without the field `epoch`."""
        own: list[Mapping[str, Any]] = []
        earlier: list[Mapping[str, Any]] = []
        now = self.navigator.epoch
        for record in records:
            epoch = record.get("epoch")
            if "epoch" in record:
                record = {name: value for name, value in record.items() if name != "epoch"}
            if epoch is None:
                (earlier if late and record.get("id") not in positions else own).append(record)
            elif type(epoch) is not int or not 0 <= epoch <= now:
                raise UserError(
                    f"a rollout of prompt {record.get('id')!r} is of epoch {epoch!r}, and epoch {now} is under way: "
                    "give sampler.navigator.epoch as it was when the prompt was handed out"
                )
            elif epoch < now and not late:
                raise UserError(
                    f"a rollout of prompt {record.get('id')!r} is of epoch {epoch}, and epoch {now} is under way: "
                    "observe(records, late=True) takes those of earlier epochs, too"
                )
            else:
                (earlier if epoch < now else own).append(record)
        return own, earlier

    def _settle(self) -> None:
        """Which prompts are done, by the counts, and how many repeats of the next."""
        self._done.add(np.flatnonzero(self._count >= self._enough))
        following = self._done.rest[: self._step]
        # Processes hand out repeats in step: what all of them have is not to come again.
        self._done.repeated = 0 if self._whole or not following else int(self._count[following].min())

    def _take_as_observed(self, place: Place) -> None:
        """What is behind a place counts as if it had been observed."""
        self._count[place.gone] = np.maximum(self._count[place.gone], self._enough)
        following = place.rest[: self._step]
        self._count[following] = np.maximum(self._count[following], place.repeated)

    @property
    def _observed(self) -> int:
        """Rollouts that the navigator has of the epoch under way."""
        return self.navigator.totals.rollouts - self.navigator.late.rollouts

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON types: the navigator's state, and which of the epoch's prompts are done.

        Rollouts that went past `observe`, straight to the navigator, name no prompt here: what was handed out then
        counts as done, which with a loader that fetches ahead is more than was trained on.
        """
        self._note_epoch()
        known = self._reported == self._observed
        navigator = self.navigator.state_dict() if self.navigator_in_state else None
        return self._state(self._done if known else self._sent, navigator)

    def _state(self, place: Place, navigator: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "navigator": navigator,
            "epoch": self.navigator.epoch,
            "num_replicas": self.num_replicas,
            **place.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: the next iteration has what is left of its epoch.

        Raises UserError, changing nothing, for unknown or missing fields, another version, a place that the epoch does
        not have, a navigator that is of another epoch than the state (where the state leaves it out), and whatever the
        navigator refuses.
        """
        place = self._place_of(state)
        self._done, self._sent, self._resumed = place.copy(), place.copy(), place
        self._count[:] = 0
        self._take_as_observed(place)
        self._noted = None
        self._note_epoch()
        self._reported = self._observed

    def _place_of(self, state: Mapping[str, Any]) -> Place:
        """The place that a state tells, with the navigator set to its epoch."""
        # A navigator's state has a version of its own, but never a number of processes.
        if "num_replicas" in state and type(version := state.get("version")) is int and version != _VERSION:
            raise UserError(
                f"state of version {version}: this gainrl reads version {_VERSION}; finish the run with the release "
                "that began it"
            )
        if set(state) != _FIELDS or state["version"] != _VERSION:
            fields = sorted(map(str, state))
            raise UserError(f"no state of a curriculum sampler (version {_VERSION}): it has the fields {fields}")
        place = Place.from_state(state, self.navigator.n, self.repeats)
        if place.repeated and state["num_replicas"] != self.num_replicas:
            raise UserError(
                f"the state was made amid a prompt's repeats on {state['num_replicas']} processes: resume with as many "
                "or save after whole groups"
            )
        if state["navigator"] is not None:
            self.navigator.load_state_dict(state["navigator"])
        elif state["epoch"] != self.navigator.epoch:
            raise UserError(
                f"the sampler's state is of epoch {state['epoch']}, its navigator is in epoch {self.navigator.epoch}: "
                "load the navigator's own state first (navigator_in_state is off)"
            )
        return place


class _Epoch(Iterator[Item]):
    """One iteration.  Its state, which StatefulDataLoader keeps beside the sampler's, says what it has handed out."""

    def __init__(self, sampler: _Base[Item]) -> None:
        self._sampler = sampler
        self._place: Place | None = None
        self._items: Iterator[Item] | None = None

    def __next__(self) -> Item:
        if self._items is None:  # not at iter(), which loaders call more than once for one epoch
            if self._place is None:
                self._place = self._sampler._begin()
            self._items = self._sampler._hand_out(self._place)
        return next(self._items)

    def state_dict(self) -> dict[str, Any]:
        """The place, without the navigator; empty before the first item, when the sampler's own state says all."""
        if self._items is None or self._place is None:
            return {}
        return self._sampler._state(self._place, None)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind what was handed out: with nothing, if that was all."""
        if state:
            self._place = self._sampler._place_of(state)
            self._sampler._resumed = None
            self._sampler._take_as_observed(self._place)
            self._sampler._settle()


class CurriculumSampler(_Base[int]):
    """Indices of the dataset's rows, epoch by epoch, for `DataLoader(dataset, sampler=...)`.

    Args:
        navigator: any of `gainrl.curriculum`.
        ids: the ids of the dataset's rows in dataset order (`gainrl.table.content_ids`); the ranking's are among them.
        repeats: how often each prompt comes, in succession.
        num_replicas, rank: the processes that share an epoch (default: those of `torch.distributed`).
        navigator_in_state: whether `state_dict` holds the navigator's state, too (see the module's docstring).

    Raises UserError if n is not a multiple of num_replicas, or if the dataset lacks prompts of the ranking.
    """

    _whole = False

    @property
    def _step(self) -> int:
        return self.num_replicas

    def _items(self, rows: list[int]) -> list[int]:
        return [rows[self.rank]] * self.repeats

    def __len__(self) -> int:
        """Indices of one epoch on this process."""
        return self.navigator.n // self.num_replicas * self.repeats


class CurriculumBatchSampler(_Base[list[int]]):
    """Batches of indices, for `DataLoader(dataset, batch_sampler=...)`: `prompts_per_batch` prompts of this process,
    each `repeats` times in succession.

    The last batch of an epoch is smaller where n is no multiple of prompts_per_batch · num_replicas, or left out with
    `drop_last` (its prompts are then not trained on).  Other arguments and errors as for `CurriculumSampler`.
    """

    _whole = True

    def __init__(
        self,
        navigator: Navigator,
        ids: Sequence[str],
        prompts_per_batch: int,
        *,
        repeats: int = 1,
        drop_last: bool = False,
        num_replicas: int | None = None,
        rank: int | None = None,
        navigator_in_state: bool = True,
    ) -> None:
        super().__init__(
            navigator, ids,
            repeats=repeats, num_replicas=num_replicas, rank=rank, navigator_in_state=navigator_in_state,
        )  # fmt: skip
        if prompts_per_batch < 1:
            raise UserError(f"prompts_per_batch={prompts_per_batch}: give at least 1")
        if drop_last and prompts_per_batch * self.num_replicas > navigator.n:
            raise UserError(
                f"a batch of {prompts_per_batch} prompts on each of {self.num_replicas} processes is more than the "
                f"n = {navigator.n} of an epoch, and drop_last would leave nothing: raise n or lower prompts_per_batch"
            )
        self.prompts_per_batch = prompts_per_batch
        self.drop_last = drop_last

    @property
    def batch_size(self) -> int:
        """Indices of a whole batch, as loaders and trainers ask for it."""
        return self.prompts_per_batch * self.repeats

    @property
    def _step(self) -> int:
        return self.prompts_per_batch * self.num_replicas

    @property
    def _least(self) -> int:
        return self._step if self.drop_last else self.num_replicas

    def _items(self, rows: list[int]) -> list[list[int]]:
        if self.drop_last and len(rows) < self._step:
            return []
        share = len(rows) // self.num_replicas
        mine = rows[self.rank * share : (self.rank + 1) * share]
        return [[row for row in mine for _ in range(self.repeats)]]

    def __len__(self) -> int:
        """Batches of one epoch."""
        whole, rest = divmod(self.navigator.n, self._step)
        return whole + (rest > 0 and not self.drop_last)
