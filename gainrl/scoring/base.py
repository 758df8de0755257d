"""What all scorers do alike: prompts of any form taken, rendered and planned, batches scored, results collected."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from gainrl.errors import UserError
from gainrl.scoring.batching import Batch
from gainrl.scoring.contract import Prepared
from gainrl.scoring.definition import Definition
from gainrl.scoring.phases import NO_CLOCK, Clock
from gainrl.scoring.prompts import PromptRenderer, Rendered, ScoringPrompt, tokenizer_hash
from gainrl.scoring.results import RowResult, Scores, collect
from gainrl.scoring.settings import ScoringSettings
from gainrl.scoring.windows import score_batches

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 4096
"""Prompts that are rendered, sorted and batched together; what bounds the memory that prompts take."""


class BaseScorer(ABC):
    """A model that turns prompts into scores; each kind says how batches are made and what scores one."""

    renderer: PromptRenderer
    dtype: str
    """The dtype of the weights by torch's name: `bfloat16`, ..."""
    form: str
    """What runs the model, and how."""
    vocabulary: int
    """Tokens that the model knows."""
    width: int
    """Width of the hidden states."""

    def __init__(self, settings: ScoringSettings) -> None:
        self.settings = settings
        definition = settings.definition
        self.definition = definition if isinstance(definition, Definition) else Definition.parse(definition)
        self.directions, self.nll, self.backend = settings.directions, settings.nll, settings.backend
        self.clock: Clock = NO_CLOCK

    @property
    @abstractmethod
    def model_hash(self) -> str:
        """What tells the weights from others (`gainrl.scoring.models.model_identity`)."""

    @abstractmethod
    def _plan(self, rendered: Sequence[Rendered]) -> Iterable[Batch]:
        """The batches of some prompts."""

    @abstractmethod
    def _score_batch(self, batch: Batch, prompts: Sequence[Rendered]) -> list[RowResult]:
        """The results of a batch, whatever happens to single rows."""

    @contextmanager
    def weights_fixed(self) -> Iterator[None]:
        """While inside, what was computed of a shared prefix may be kept from batch to batch."""
        yield

    @property
    def tap(self) -> str:
        """Canonical name of the tap."""
        return self.settings.tap

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that renders and splits the prompts."""
        return self.renderer.tokenizer

    def score(self, prompts: Any) -> Scores:
        """Score prompts: one (a string or a chat), or many: strings, chats, `ScoringPrompt`s, rows with a column
        `prompt`, a whole `datasets.Dataset`, a pandas column or frame.

        Undefined, skipped and failed prompts are NaN with a status and a reason; the others are never affected.
        Raises UserError if no prompt of this kind can be scored with this model (no chat template, say).
        """
        rows, results = as_prompts(prompts), []
        while chunk := list(islice(rows, CHUNK)):
            in_chunk: dict[int, RowResult] = {}
            for members, found in self._results(chunk):
                in_chunk.update(zip(members, found, strict=True))
            results += [in_chunk[i] for i in range(len(chunk))]
        scores = self._collect(results)
        return scores.settled(_any_prefix(scores), self.definition)

    def batches(self, prompts: Sequence[ScoringPrompt]) -> Iterator[tuple[list[int], Scores]]:
        """(indices into `prompts`, their results) as batches finish; every index exactly once, in any order.

        A score is that of the prompt by itself; `Scores.settled` says what the whole dataset makes of it.  Prompts are
        planned together: give some thousands, not millions.  Raises UserError if prompts of the first one's kind can
        never be scored with this model.
        """
        for members, found in self._results(prompts):
            yield list(members), self._collect(found)

    def _results(self, prompts: Sequence[ScoringPrompt]) -> Iterator[tuple[tuple[int, ...], list[RowResult]]]:
        with self.weights_fixed():
            yield from self.score_window(self.prepare(prompts))

    def _collect(self, results: Sequence[RowResult]) -> Scores:
        return collect(results, self.definition, width=self.width if self.directions else None, nll=self.nll)

    def identity(self) -> dict[str, Any]:
        """What must agree for two results to be comparable: a table's metadata of model, tokenizer and definition."""
        renderer, settings = self.renderer, self.settings
        template = renderer.template_hash
        return {
            "model": str(settings.model),
            "model_hash": self.model_hash,
            "tokenizer_hash": tokenizer_hash(self.tokenizer),
            "chat_template_hash": template,
            "template_date": renderer.date.isoformat() if template else "",
            "chat_template_kwargs": renderer.chat_template_kwargs,
            "question_after": renderer.question_after,
            "too_long": renderer.too_long,
            "dtype": self.dtype,
            "tap": self.tap,
            "definition": self.definition.formula,
            "diagonal": self.definition.diagonal,
        }

    def prepare(self, rows: Sequence[ScoringPrompt]) -> Prepared:
        """Render and tokenise prompts and plan their batches."""
        for row in rows[:1]:
            self.renderer.require_usable(row.prompt)
        return self.arrange(self.render(rows))

    def render(self, rows: Sequence[ScoringPrompt]) -> list[Rendered]:
        """Prompts as tokens, one for each row, whatever the others are."""
        with self.clock("tokenise"):
            return [_within(prompt, self.vocabulary) for prompt in self.renderer(rows)]

    def arrange(self, rendered: Sequence[Rendered]) -> Prepared:
        """Plan the batches of some prompts."""
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
        """(positions, their results) of each batch; the old door, until `batches` is all that is used."""
        return score_batches(self._score_batch, prepared, done, mine, without_tokens=without_tokens)


def as_prompts(given: Any) -> Iterator[ScoringPrompt]:
    """What callers give to `score`, as prompts; UserError where it is no prompt and holds none."""
    if isinstance(given, str | ScoringPrompt) or (isinstance(given, Mapping) and "prompt" in given):
        given = [given]
    elif isinstance(given, Mapping):
        what = f"the splits {sorted(given)}: choose one" if "role" not in given else "one message: give a list"
        raise UserError(f"score takes prompts; this is a mapping with {what}")
    elif hasattr(given, "to_dict") and hasattr(given, "columns"):  # a pandas frame iterates over its column names
        given = given.to_dict("records")
    if not isinstance(given, Iterable):
        raise UserError(f"score takes prompts, not a {type(given).__name__}")
    if isinstance(given, Sequence) and len(given) and isinstance(given[0], Mapping) and "role" in given[0]:
        given = [given]  # one chat
    for row in given:
        if isinstance(row, ScoringPrompt):
            yield row
        elif not isinstance(row, Mapping):
            yield ScoringPrompt(row)
        elif "prompt" in row:
            yield ScoringPrompt(row["prompt"], row.get("question"))
        else:
            raise UserError(f"a row has no column 'prompt', only {sorted(map(str, row))}")


def _any_prefix(scores: Scores) -> bool:
    return any(word == "ok" and tokens for word, tokens in zip(scores.status, scores.prefix_tokens, strict=True))


def _within(prompt: Rendered, vocabulary: int) -> Rendered:
    """The prompt, or why the model cannot take its tokens (on a GPU it would bring the process down)."""
    if len(prompt.tokens) and (largest := int(prompt.tokens.max())) >= vocabulary:
        reason = f"token {largest} is not in the model's vocabulary of {vocabulary}"
        return Rendered(prompt.tokens[:0], 0, "failed", reason)
    return prompt
