"""Back-filling: groups whose rewards are all equal teach nothing; spare prompts take their places in the batch.

A generation batch is generated as always.  For the groups without variance in it, as many spare prompts of the same
epoch (`Navigator.spares`) are generated, split evenly over the ranks, and the groups among them that do vary take
those places; what is still missing is tried again with the next spares, up to one spare for each prompt of the batch.
Never more groups are generated than there are places, so none that varies is thrown away; what does not split evenly
over the ranks stays unfilled.  All rollouts are counted and observed, those that were replaced included.

TRL's batch keeps its size, its whole groups and its advantages, which are made group by group.  Everything happens
before the batch is shuffled and split, so nothing is left over at its end and a resumed run needs no more state than
the number of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from gainrl.errors import UserError

Output = dict[str, Any]
Generate = Callable[[Sequence[int]], tuple[Output, list[bool]]]

_LEFT_PADDED = {"prompt_ids", "prompt_mask", "curriculum_roles"}
_TOKENS = {"prompt_ids", "completion_ids"}
_PER_ROLLOUT = {
    *_LEFT_PADDED, "completion_ids", "completion_mask", "advantages", "old_per_token_logps", "ref_per_token_logps",
    "sampling_per_token_logps", "importance_sampling_ratio", "old_logps", "curriculum_rollout",
}  # fmt: skip


def backfill(
    output: Output,
    flat: Sequence[bool],
    spares: Sequence[int],
    generate: Generate,
    *,
    group: int,
    pad_token: int,
    accelerator: Accelerator,
) -> tuple[Output, int]:
    """Fill the places of this rank's groups without variance; returns the batch and how many were filled on all ranks.

    output: what TRL generated and scored on this rank, groups of `group` rollouts one after another.  flat: for each
    of them, whether it has no variance.  spares: dataset rows to use, the same on every rank.  `generate` makes
    `group` rollouts for each row on this rank and says which groups have no variance.  A collective.
    """
    ranks, rank = accelerator.num_processes, accelerator.process_index
    groups = _split(output, group)
    places = _flagged(flat, rank, True)
    used = filled = 0
    while places:
        share = min(len(places), len(spares) - used) // ranks
        if share == 0:
            break
        rows = spares[used + rank * share : used + (rank + 1) * share]
        used += ranks * share
        extra, extra_flat = generate(rows)
        varied = _flagged(extra_flat, rank, False)
        made = _split(extra, group)
        moves = _assign(varied, places)
        for (source, index), (target, place) in moves:
            if source == target == rank:
                groups[place] = made[index]
        leaving = [
            (move, {key: value.cpu() for key, value in made[move[0][1]].items()})
            for move in moves
            if move[0][0] == rank != move[1][0]
        ]
        if any(source != target for (source, _), (target, _) in moves):
            for (_, (target, place)), moved in gather_object(leaving):
                if target == rank:
                    groups[place] = {key: value.to(accelerator.device) for key, value in moved.items()}
        taken = {place for _, place in moves}
        places = [place for place in places if place not in taken]
        filled += len(moves)
    return (_join(groups, output, pad_token, accelerator) if filled else output), filled


def _flagged(flat: Sequence[bool], rank: int, wanted: bool) -> list[tuple[int, int]]:
    """(rank, group) of all groups on all ranks whose flag is `wanted`, the same list on every rank."""
    own = [(rank, index) for index, value in enumerate(flat) if value is wanted]
    return [(int(r), int(i)) for r, i in gather_object(own)]


def _assign(
    made: Sequence[tuple[int, int]], places: Sequence[tuple[int, int]]
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Which group goes where: on its own rank as far as there are places, then wherever one is left."""
    free = list(places)
    moves, homeless = [], []
    for group in made:
        own = next((place for place in free if place[0] == group[0]), None)
        if own is None:
            homeless.append(group)
            continue
        free.remove(own)
        moves.append((group, own))
    return [*moves, *zip(homeless, free, strict=False)]


def _split(output: Output, group: int) -> list[dict[str, Tensor]]:
    """The batch by groups; what belongs to no rollout is left out."""
    unknown = {key for key in output if key not in _PER_ROLLOUT and key != "num_items_in_batch"}
    if unknown:
        raise UserError(
            f"backfill: true cannot be combined with what makes TRL add {', '.join(sorted(unknown))} to a batch "
            "(images, tools): leave it out"
        )
    count = len(output["prompt_ids"]) // group
    per_rollout = {key: value for key, value in output.items() if key in _PER_ROLLOUT}
    return [
        {key: value[index * group : (index + 1) * group] for key, value in per_rollout.items()}
        for index in range(count)
    ]


def _join(groups: Sequence[dict[str, Tensor]], like: Output, pad_token: int, accelerator: Accelerator) -> Output:
    """One batch again, padded to its longest prompt and completion."""
    joined: Output = {}
    for key in like:
        if key == "num_items_in_batch":
            continue
        parts = [part[key] for part in groups]
        if parts[0].ndim > 1:
            width = max(part.shape[1] for part in parts)
            fill = pad_token if key in _TOKENS else 0
            parts = [_widened(part, width, fill, left=key in _LEFT_PADDED) for part in parts]
        joined[key] = torch.cat(parts)
    if "num_items_in_batch" in like:
        joined["num_items_in_batch"] = accelerator.gather(joined["completion_mask"].sum()).sum()
    return joined


def _widened(part: Tensor, width: int, fill: int, *, left: bool) -> Tensor:
    missing = width - part.shape[1]
    if not missing:
        return part
    return torch.nn.functional.pad(part, (missing, 0) if left else (0, missing), value=fill)
