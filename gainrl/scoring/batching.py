"""From rendered prompts to batches, planned from the prompts and the token budget alone.

Prompts are grouped by the tokens that they share, and within a group sorted by length, so that neighbours in a batch
have equal lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gainrl.scoring.prompts import Rendered

MIN_SHARERS = 4
"""A prefix is kept apart from this many prompts on: below, its own forward and smaller batches cost more."""
MIN_SHARED_TOKENS = 8


@dataclass(frozen=True)
class Batch:
    """Prompts forwarded together: `shared` (S,) int32 tokens that all of them begin with, forwarded once before."""

    shared: npt.NDArray[np.int32]
    members: tuple[int, ...]
    """Indices into what was planned."""


_NOTHING = np.empty(0, dtype=np.int32)


def plan(
    prompts: Sequence[Rendered],
    tokens_per_batch: int,
    *,
    share: bool = True,
    padded: bool = False,
    alone_beyond: int | None = None,
) -> Iterator[Batch]:
    """Batches of some prompts, each of at most `tokens_per_batch` tokens (one longer prompt makes a batch alone).

    `share=False` never keeps a prefix apart; `padded=True` counts tokens with their padding; prompts of more than
    `alone_beyond` tokens are forwarded alone and whole (see `Forward`).  Rows without tokens are in no batch.
    """
    usable = [i for i, prompt in enumerate(prompts) if len(prompt.tokens)]
    if alone_beyond is not None:
        long = [i for i in usable if len(prompts[i].tokens) > alone_beyond]
        yield from (Batch(_NOTHING, (i,)) for i in long)
        usable = [i for i in usable if len(prompts[i].tokens) <= alone_beyond]
    groups = _groups(prompts, usable) if share else [(_NOTHING, usable)]
    for shared, members in groups:
        own = {i: len(prompts[i].tokens) - len(shared) for i in members}
        members.sort(key=lambda i: (own[i], i))
        batch: list[int] = []
        used = 0
        for i in members:
            cost = own[i] * (len(batch) + 1) if padded else used + own[i]  # sorted: i is the longest so far
            if batch and cost > tokens_per_batch:
                yield Batch(shared, tuple(batch))
                batch, cost = [], own[i]
            batch.append(i)
            used = cost
        if batch:
            yield Batch(shared, tuple(batch))


def _groups(prompts: Sequence[Rendered], usable: Sequence[int]) -> list[tuple[npt.NDArray[np.int32], list[int]]]:
    """Groups of prompts with the leading tokens that each group shares, in order of first appearance.

    First whole prefixes that at least MIN_SHARERS prompts have; then, of the rest, the tokens that all the rest
    begin with (a system prompt before worked examples that differ, say).
    """
    by_prefix: dict[bytes, list[int]] = {}
    for i in usable:
        prompt = prompts[i]
        by_prefix.setdefault(prompt.tokens[: prompt.prefix].tobytes(), []).append(i)
    groups: list[tuple[npt.NDArray[np.int32], list[int]]] = []
    rest: list[int] = []
    for members in by_prefix.values():
        first = prompts[members[0]]
        if len(members) >= MIN_SHARERS and first.prefix >= MIN_SHARED_TOKENS:
            groups.append((first.tokens[: first.prefix], members))
        else:
            rest += members
    if rest:
        rest.sort()
        common = _common_prefix(prompts, rest) if len(rest) >= MIN_SHARERS else _NOTHING
        groups.append((common if len(common) >= MIN_SHARED_TOKENS else _NOTHING, rest))
    return groups


def _common_prefix(prompts: Sequence[Rendered], members: Sequence[int]) -> npt.NDArray[np.int32]:
    """The prefix tokens that all members begin with."""
    common = prompts[members[0]].tokens[: prompts[members[0]].prefix]
    for i in members[1:]:
        other = prompts[i].tokens[: min(prompts[i].prefix, len(common))]
        differs = np.flatnonzero(common[: len(other)] != other)
        common = common[: int(differs[0]) if len(differs) else len(other)]
        if not len(common):
            break
    return common
