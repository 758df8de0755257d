"""A window's batches one after the other, and prompts in memory: what all scorers do alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from gainrl.scoring.batching import Batch
from gainrl.scoring.contract import WINDOW, Prepared, Scorer
from gainrl.scoring.prompts import Rendered, ScoringPrompt
from gainrl.scoring.results import RowResult, Scores, collect
from gainrl.table import Prompt

ScoreBatch = Callable[[Batch, Sequence[Rendered]], list[RowResult]]


def score_in_memory(scorer: Scorer, prompts: Iterable[Prompt | ScoringPrompt]) -> Scores:
    """The scores of prompts, in their order."""
    rows = (prompt if isinstance(prompt, ScoringPrompt) else ScoringPrompt(prompt) for prompt in prompts)
    results: list[RowResult] = []
    with scorer.weights_fixed():
        while window := list(islice(rows, WINDOW)):
            in_window: dict[int, RowResult] = {}
            for members, batch_results in scorer.score_window(scorer.prepare(window)):
                in_window.update(zip(members, batch_results, strict=True))
            results += [in_window[i] for i in range(len(window))]
    return collect(results, scorer.definition, directions=scorer.directions, nll=scorer.nll)


def score_batches(
    score_batch: ScoreBatch,
    prepared: Prepared,
    done: frozenset[int],
    mine: Callable[[Sequence[Batch]], Iterable[Batch]],
    *,
    without_tokens: bool,
) -> Iterator[tuple[tuple[int, ...], list[RowResult]]]:
    """(positions in the window, their results) of each batch that is owed; `AngleScorer.score_window` says more."""
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
