"""What all scorers do alike: options checked, prompts rendered and planned, a window scored, prompts in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING

from gainrl.angle.checks import check_backend
from gainrl.errors import UserError
from gainrl.scoring.batching import Batch
from gainrl.scoring.contract import WINDOW, Prepared, within
from gainrl.scoring.definition import Definition
from gainrl.scoring.phases import NO_CLOCK, Clock
from gainrl.scoring.prompts import PromptRenderer, Rendered, ScoringPrompt
from gainrl.scoring.results import RowResult, Scores, collect
from gainrl.scoring.windows import score_batches
from gainrl.table import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class BaseScorer(ABC):
    """A model that turns prompts into scores; each kind says how batches are made and what scores one."""

    renderer: PromptRenderer

    def __init__(
        self, *, backend: str, definition: str | Definition, directions: bool, nll: bool, tokens_per_batch: int | None
    ) -> None:
        """Take the options of all kinds; UserError for values that can never do, before a model is loaded."""
        check_backend(backend)
        if tokens_per_batch is not None and tokens_per_batch < 1:
            raise UserError(f"tokens_per_batch={tokens_per_batch}: give at least 1")
        self.backend = backend
        self.definition = definition if isinstance(definition, Definition) else Definition.parse(definition)
        self.directions = directions
        self.nll = nll
        """Whether the questions' negative log-likelihood is computed too."""
        self.clock: Clock = NO_CLOCK

    @property
    @abstractmethod
    def _vocabulary(self) -> int:
        """Tokens that the model knows."""

    @abstractmethod
    def _plan(self, rendered: Sequence[Rendered]) -> Iterable[Batch]:
        """The batches of a window."""

    @abstractmethod
    def _score_batch(self, batch: Batch, prompts: Sequence[Rendered]) -> list[RowResult]:
        """The results of a batch, whatever happens to single rows."""

    @abstractmethod
    def weights_fixed(self) -> AbstractContextManager[None]:
        """While inside, shared prefixes may be kept from call to call."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that renders and splits the prompts."""
        return self.renderer.tokenizer

    def score(self, prompts: Iterable[Prompt | ScoringPrompt]) -> Scores:
        """Score prompts: plain strings, chats, or `ScoringPrompt`s that name their question.

        Undefined, skipped and failed prompts are NaN with a status and a reason; the others are never affected.
        Raises UserError if no prompt of this kind can be scored with this model (no chat template, say).
        """
        rows = (prompt if isinstance(prompt, ScoringPrompt) else ScoringPrompt(prompt) for prompt in prompts)
        results: list[RowResult] = []
        with self.weights_fixed():
            while window := list(islice(rows, WINDOW)):
                in_window: dict[int, RowResult] = {}
                for members, batch_results in self.score_window(self.prepare(window)):
                    in_window.update(zip(members, batch_results, strict=True))
                results += [in_window[i] for i in range(len(window))]
        return collect(results, self.definition, directions=self.directions, nll=self.nll)

    def prepare(self, rows: Sequence[ScoringPrompt]) -> Prepared:
        """Render and tokenise a window of at most `contract.WINDOW` prompts and plan its batches.

        Raises UserError if prompts of the first row's kind can never be scored with this model.
        """
        for row in rows[:1]:
            self.renderer.require_usable(row.prompt)
        return self.arrange(self.render(rows))

    def render(self, rows: Sequence[ScoringPrompt]) -> list[Rendered]:
        """Prompts as tokens, one for each row, whatever the others are."""
        with self.clock("tokenise"):
            return [within(prompt, self._vocabulary) for prompt in self.renderer(rows)]

    def arrange(self, rendered: Sequence[Rendered]) -> Prepared:
        """Plan the batches of a window of prompts."""
        with self.clock("tokenise"):
            return Prepared(rendered, list(self._plan(rendered)))

    def score_window(
        self,
        prepared: Prepared,
        done: frozenset[int] = frozenset(),
        mine: Callable[[Sequence[Batch]], Iterable[Batch]] = lambda batches: batches,
        *,
        without_tokens: bool = True,
    ) -> Iterator[tuple[tuple[int, ...], list[RowResult]]]:
        """Score a window, batch by batch.

        Yields (positions in the window, their results), none of them in `done`; first the rows that have no
        tokens, unless these are somebody else's.  Batches whose positions are all in `done` are passed over: a
        resumed run makes the batches that it would have made.  `mine` chooses among the batches still owed.
        """
        return score_batches(self._score_batch, prepared, done, mine, without_tokens=without_tokens)
