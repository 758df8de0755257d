"""What both samplers share: the epoch, this process's part of it, observing, the state (see `samplers`)."""

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
from gainrl.integrations.torch_data.records import by_epoch

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


class EpochSampler(Sampler[Item]):
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
        own, earlier = by_epoch(mine, self.navigator.epoch, positions, late)
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

    def is_done(self, name: str) -> bool:
        """Whether enough rollouts of the epoch's prompt `name` (its id) were observed, here or before a resume.

        Where a framework's rollouts name their prompt by its text alone, this tells equal prompts of an epoch apart.
        Raises KeyError for a prompt that is not of the epoch under way.
        """
        return bool(self._count[self._note_epoch()[name]] >= self._enough)

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

    def __init__(self, sampler: EpochSampler[Item]) -> None:
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
