"""The order in which an epoch's prompts reach TRL.

TRL repeats and groups the indices it is given (`RepeatSampler`); which indices those are, and in which order, is
the curriculum's.  TRL's own sampler is therefore asked for n positions, and each stands for the row drawn there:

    draw         rows[0]   rows[1]   rows[2]  ...           n rows, in the curriculum's order
    positions    0 0 0 0   1 1 1 1   2 2 2 2  ...           as TRL repeats them (num_generations = 4)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized

from torch.utils.data import Sampler

from gainrl.errors import UserError


class EpochSampler(Sampler[int]):
    """Dataset rows of one epoch, repeated as TRL repeats positions.

    `begin_epoch` is called when iteration starts, never for the length, and returns the epoch's `prompts` dataset rows.
    `positions` is TRL's sampler over `range(prompts)`; `repeats` is how often it has to yield each.

    Raises UserError if that sampler leaves positions out (it drops what does not fill a generation batch).
    """

    def __init__(
        self,
        begin_epoch: Callable[[], Sequence[int]],
        positions: Sampler[int],
        *,
        prompts: int,
        repeats: int,
    ) -> None:
        if not isinstance(positions, Sized) or len(positions) != prompts * repeats:
            held = len(positions) if isinstance(positions, Sized) else "an unknown number of"
            raise UserError(
                f"TRL's sampler yields {held} rows of an epoch of {prompts} prompts × {repeats}: part of the epoch "
                "would be dropped (prompts_per_epoch must be a multiple of generation_batch_size / num_generations)"
            )
        self._begin_epoch = begin_epoch
        self._positions = positions
        self._length = prompts * repeats

    def __iter__(self) -> Iterator[int]:
        rows = self._begin_epoch()
        for position in self._positions:
            yield rows[position]

    def __len__(self) -> int:
        return self._length
