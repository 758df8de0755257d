"""Dataset indices in the curriculum's order: a sampler, and a batch sampler that keeps groups together.

One iteration is one epoch of the navigator.  It is drawn when iteration begins (never for a length or at construction),
so what was observed until then counts.  Order and shares, for n = 6 prompts, 2 processes, repeats = 2:

    drawn               a b c d e f                    the navigator's order
    CurriculumSampler   rank 0: a a c c e e            rank 1: b b d d f f
    batches of 1 prompt rank 0: [a a] [c c] [e e]      rank 1: [b b] [d d] [f f]
    batches of 2        rank 0: [a a b b] [e e]        rank 1: [c c d d] [f f]

A prompt's repeats stay on one process, neighbours in the order are in one step, and all processes have equally many.

`state_dict()` holds the navigator's state and how many of the epoch's prompts were handed out, counted over all
processes: a run may be resumed with another number of them.  The iteration after `load_state_dict()` has what is left
of that epoch (nothing, if it had ended), the one after that is the next epoch, as with torchdata's own samplers.

torchdata's StatefulDataLoader keeps this state within its own.  With workers it takes it when a batch is sent to a
worker, so rollouts observed since are not in it; `navigator_in_state=False` then leaves the navigator out, for the
caller to save beside the loader's state (`navigator.state_dict()`) and to load before iterating.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from torch.utils.data import Sampler

from gainrl.curriculum import Navigator
from gainrl.errors import UserError

Item = TypeVar("Item")

_VERSION = 1
_FIELDS = {"version", "navigator", "epoch", "handed_out", "repeated", "num_replicas"}


class _Base(Sampler[Item]):
    """What both samplers share: the epoch, this process's part of it, observing, the state."""

    def __init__(
        self,
        navigator: Navigator,
        ids: Sequence[str],
        *,
        repeats: int,
        num_replicas: int | None,
        rank: int | None,
        navigator_in_state: bool,
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
        self._handed_out = 0
        self._repeated = 0  # of the step after those: how often it was handed out already
        self._resumes = False

    @property
    @abstractmethod
    def _step(self) -> int:
        """Prompts that all processes together hand out at once."""

    @abstractmethod
    def _items(self, rows: list[int]) -> list[Item]:
        """This process's items of one step, from the step's rows."""

    def __iter__(self) -> Iterator[Item]:
        """One epoch, drawn when its first item is asked for; after `load_state_dict`, what is left of its epoch."""
        resumes, self._resumes = self._resumes, False
        return self._epoch(resumes)

    def _epoch(self, resumes: bool) -> Iterator[Item]:
        if resumes:
            drawn = self.navigator.ids
        else:
            drawn = self.navigator.draw()
            self._handed_out = self._repeated = 0
        left = len(drawn) - self._handed_out
        if left % self.num_replicas:
            raise UserError(
                f"{left} prompts are left of the epoch, which {self.num_replicas} processes cannot share: resume "
                "with a number of processes that divides them"
            )
        while self._handed_out < len(drawn):
            step = drawn[self._handed_out : self._handed_out + self._step]
            items = self._items([self.row_of[name] for name in step])
            # The place is moved on before an item is handed out: a state taken then counts it.
            for item in items[self._repeated : -1]:
                self._repeated += 1
                yield item
            self._handed_out, self._repeated = self._handed_out + len(step), 0
            yield from items[-1:]

    def observe(self, records: Iterable[Mapping[str, Any]], *, gather: bool = True) -> None:
        """Hand finished rollouts of the epoch to the navigator: {id, correct, scored, angle, reward, tokens} each.

        On several processes the navigators must see the same: with `gather` every process calls this with the
        rollouts of its own and gets everybody's (`torch.distributed.all_gather_object`); a rollout that several
        processes hold, as tensor-parallel ranks do, is handed in by one.  Without `gather`, `records` are everybody's
        already.  Raises UserError as `Navigator.observe` does.
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
        self.navigator.observe(mine)

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON types: the navigator's state, and the prompts of the epoch that all processes have handed out."""
        return {
            "version": _VERSION,
            "navigator": self.navigator.state_dict() if self.navigator_in_state else None,
            "epoch": self.navigator.epoch,
            "handed_out": self._handed_out,
            "repeated": self._repeated,
            "num_replicas": self.num_replicas,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: the next iteration has what is left of its epoch.

        Raises UserError, changing nothing, for unknown or missing fields, another version, a place that the epoch does
        not have, a navigator that is of another epoch than the state (where the state leaves it out), and whatever the
        navigator refuses.
        """
        if set(state) != _FIELDS or state["version"] != _VERSION:
            fields = sorted(map(str, state))
            raise UserError(f"no state of a curriculum sampler (version {_VERSION}): it has the fields {fields}")
        handed_out, repeated = state["handed_out"], state["repeated"]
        if not 0 <= handed_out <= self.navigator.n or not 0 <= repeated < self.repeats:
            raise UserError(
                f"the state was made {handed_out} prompts and {repeated} repeats into an epoch, of which this sampler "
                f"has {self.navigator.n} and {self.repeats}"
            )
        if repeated and state["num_replicas"] != self.num_replicas:
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
        self._handed_out, self._repeated = handed_out, repeated
        self._resumes = True


class CurriculumSampler(_Base[int]):
    """Indices of the dataset's rows, epoch by epoch, for `DataLoader(dataset, sampler=...)`.

    navigator: any of `gainrl.curriculum`.  ids: the ids of the dataset's rows in dataset order
        (`gainrl.table.content_ids`); the ranking's must be among them.  repeats: how often each prompt comes, in
        succession.  num_replicas, rank: the processes that share an epoch (default: those of `torch.distributed`).
        navigator_in_state: whether `state_dict` holds the navigator's state, too (see the module's docstring).

    Raises UserError if n is not a multiple of num_replicas, or if the dataset lacks prompts of the ranking.
    """

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
        super().__init__(
            navigator, ids,
            repeats=repeats, num_replicas=num_replicas, rank=rank, navigator_in_state=navigator_in_state,
        )  # fmt: skip

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
