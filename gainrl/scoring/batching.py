"""From rendered prompts to batches, planned from the prompts and the token budget alone.

Prompts are grouped by the tokens that they share, and within a group sorted by length, so that neighbours in a batch
have equal lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gainrl.scoring.forward import NO_TOKENS, Tokens
from gainrl.scoring.prompts import Rendered

MIN_SHARERS = 4
"""A prefix is kept apart from this many prompts on: below, its own forward and smaller batches cost more."""
MIN_SHARED_TOKENS = 8


@dataclass(frozen=True)
class Batch:
    """Prompts forwarded together: `shared` (S,) int32 tokens that all of them begin with, forwarded once before."""

    shared: Tokens
    members: tuple[int, ...]
    """Indices into what was planned."""


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
    `alone_beyond` tokens are forwarded alone and whole.  Prompts without tokens are in no batch.
    """
    usable = [i for i, prompt in enumerate(prompts) if len(prompt.tokens)]
    if alone_beyond is not None:
        yield from (Batch(NO_TOKENS, (i,)) for i in usable if len(prompts[i].tokens) > alone_beyond)
        usable = [i for i in usable if len(prompts[i].tokens) <= alone_beyond]
    for shared, members in _groups(prompts, usable) if share else [(NO_TOKENS, usable)]:
        own = {i: len(prompts[i].tokens) - len(shared) for i in members}
        batch: list[int] = []
        used = 0
        for i in sorted(members, key=lambda i: (own[i], i)):
            cost = own[i] * (len(batch) + 1) if padded else used + own[i]  # sorted: i is the longest so far
            if batch and cost > tokens_per_batch:
                yield Batch(shared, tuple(batch))
                batch, cost = [], own[i]
            batch.append(i)
            used = cost
        if batch:
            yield Batch(shared, tuple(batch))


def _groups(prompts: Sequence[Rendered], usable: Sequence[int]) -> list[tuple[Tokens, list[int]]]:
    """Prompts by the leading tokens that they share: whole prefixes of at least MIN_SHARERS prompts; then the rest with
    the tokens that they all begin with (a system prompt before worked examples that differ, say)."""
    by_prefix: dict[bytes, list[int]] = {}
    for i in usable:
        by_prefix.setdefault(_prefix(prompts[i]).tobytes(), []).append(i)
    groups: list[tuple[Tokens, list[int]]] = []
    rest: list[int] = []
    for members in by_prefix.values():
        prefix = _prefix(prompts[members[0]])
        if len(members) >= MIN_SHARERS and len(prefix) >= MIN_SHARED_TOKENS:
            groups.append((prefix, members))
        else:
            rest += members
    if rest:
        common = _prefix(prompts[rest[0]])
        for i in rest[1:]:
            other = _prefix(prompts[i])[: len(common)]
            differs = np.flatnonzero(common[: len(other)] != other)
            common = common[: int(differs[0]) if len(differs) else len(other)]
        worth = len(rest) >= MIN_SHARERS and len(common) >= MIN_SHARED_TOKENS
        groups.append((common if worth else NO_TOKENS, rest))
    return groups


def _prefix(prompt: Rendered) -> Tokens:
    return prompt.tokens[: prompt.prefix]
