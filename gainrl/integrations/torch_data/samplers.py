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

from collections.abc import Sequence

from gainrl.curriculum import Navigator
from gainrl.errors import UserError
from gainrl.integrations.torch_data.base import EpochSampler


class CurriculumSampler(EpochSampler[int]):
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


class CurriculumBatchSampler(EpochSampler[list[int]]):
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
