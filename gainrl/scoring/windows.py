"""A window's batches one after the other, and a batch in halves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from gainrl.scoring.batching import Batch
from gainrl.scoring.contract import Prepared
from gainrl.scoring.prompts import Rendered
from gainrl.scoring.results import RowResult

ScoreBatch = Callable[[Batch, Sequence[Rendered]], list[RowResult]]


def score_batches(
    score_batch: ScoreBatch,
    prepared: Prepared,
    done: frozenset[int],
    mine: Callable[[Sequence[Batch]], Iterable[Batch]],
    *,
    without_tokens: bool,
) -> Iterator[tuple[tuple[int, ...], list[RowResult]]]:
    """(positions in the window, their results) of each batch that is owed; `BaseScorer.score_window` says more."""
    rendered = prepared.rendered
    without = tuple(i for i, prompt in enumerate(rendered) if not len(prompt.tokens) and i not in done)
    if without and without_tokens:
        yield without, [RowResult(rendered[i].status, rendered[i].reason) for i in without]
    for batch in mine([batch for batch in prepared.batches if not done.issuperset(batch.members)]):
        results = score_batch(batch, [rendered[i] for i in batch.members])
        owed = [(i, result) for i, result in zip(batch.members, results, strict=True) if i not in done]
        yield tuple(i for i, _ in owed), [result for _, result in owed]


def in_halves(score_batch: ScoreBatch, batch: Batch, prompts: Sequence[Rendered]) -> list[RowResult]:
    """The results of a batch that failed, from its two halves."""
    middle = len(prompts) // 2
    parts = ((batch.members[:middle], prompts[:middle]), (batch.members[middle:], prompts[middle:]))
    return [row for members, part in parts for row in score_batch(Batch(batch.shared, members), part)]
