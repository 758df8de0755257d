"""The processes of one run, started by torchrun, and how they divide a window's batches: by work, not by count.

Every process tokenises its share of each window (`gainrl.scoring.feed`), and from the shares of all plans the same
batches; each takes those that `share` gives it, and writes them to a journal of its own.  A batch's results do not
depend on who computes it, so the table is the one of a single process (with the same kind of device and number of
threads).
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from gainrl.errors import UserError
from gainrl.scoring.batching import Batch
from gainrl.scoring.prompts import Rendered

_PATIENCE = datetime.timedelta(days=7)  # one process may wait for the others as long as they work


@dataclass(frozen=True)
class Team:
    """This process (`rank`) among `size`; one process alone is a team of 1 and needs no `torch.distributed`."""

    rank: int = 0
    size: int = 1
    group: Any = field(default=None, compare=False)
    """torch.distributed's group for `exchange`; see `ready`."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes the table and speaks to the user."""
        return self.rank == 0

    def device(self, wanted: str) -> str:
        """Where this process computes: of several, each has the GPU of its place on its machine, if there is one."""
        if self.size > 1 and wanted in ("auto", "cuda"):
            import torch

            if torch.cuda.is_available():
                return f"cuda:{int(os.environ.get('LOCAL_RANK', self.rank)) % torch.cuda.device_count()}"
        return wanted

    @contextmanager
    def ready(self) -> Iterator[Team]:
        """The team with a group of its own for `exchange`, over CPUs whatever the others are over.

        `exchange` may be called in a thread, whose collectives must not meet those of the main thread.
        """
        if self.size == 1:
            yield self
            return
        import torch.distributed as dist

        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        yield replace(self, group=group)
        dist.destroy_process_group(group)  # not after an error: another thread may still wait in it

    def barrier(self) -> None:
        """Wait for all."""
        self.gather(None)

    def gather(self, value: Any) -> list[Any]:
        """Everybody's small values, in the order of ranks."""
        return self._all(value, None)

    def exchange(self, value: Any) -> list[Any]:
        """Everybody's values, in the order of ranks; for the one thread that prepares windows."""
        return self._all(value, self.group)

    def _all(self, value: Any, group: Any) -> list[Any]:
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group)
        return values

    def share(self, batches: Sequence[Batch], rendered: Sequence[Rendered], loads: list[int]) -> list[Batch]:
        """This process's part of the batches: the largest first, each to whoever has least to do so far.

        `loads` (one entry per process) is carried from window to window.
        """
        if self.size == 1:
            return list(batches)
        mine: list[int] = []
        costs = [work(batch, rendered) for batch in batches]
        for index in sorted(range(len(batches)), key=lambda i: (-costs[i], i)):
            owner = loads.index(min(loads))
            loads[owner] += costs[index]
            if owner == self.rank:
                mine.append(index)
        return [batches[i] for i in sorted(mine)]


ALONE = Team()


def work(batch: Batch, rendered: Sequence[Rendered]) -> int:
    """What a batch costs, in tokens: each token, and a little for each pair that attention looks at."""
    skip = len(batch.shared)
    lengths = [len(rendered[i].tokens) for i in batch.members]
    return sum((length - skip) * (4096 + length) for length in lengths) // 4096


def join() -> tuple[Team, Callable[[], None]]:
    """The team that torchrun started this process in (alone without it), and how to leave it.

    Raises UserError if torchrun's settings are there but the processes cannot find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "MASTER_ADDR" not in os.environ:
        return Team(), lambda: None
    import torch.distributed as dist

    if dist.is_initialized():
        return Team(dist.get_rank(), dist.get_world_size()), lambda: None
    try:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"torchrun asked for {size} processes, but they do not find each other: {error}") from error
    return Team(dist.get_rank(), dist.get_world_size()), dist.destroy_process_group
