"""What all scorers do alike: prompts of any form taken, rendered and planned, batches scored, results collected."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch.profiler import record_function

from gainrl.errors import UserError
from gainrl.scoring.batching import Batch
from gainrl.scoring.definition import Definition
from gainrl.scoring.prompts import PromptRenderer, Rendered, ScoringPrompt, tokenizer_hash
from gainrl.scoring.results import RowResult, Scores, collect, failed
from gainrl.scoring.settings import ScoringSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

CHUNK = 4096
"""Prompts that `score` renders, sorts and batches together; what bounds the memory that prompts take."""
PHASES = ("tokenise", "forward", "angle", "results")
"""What `gainrl profile` tells apart; `angle` includes likelihoods."""


def phase(name: str) -> Any:
    """A context that profilers show as `gainrl:<name>`."""
    return record_function(f"gainrl:{name}")


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

    @property
    @abstractmethod
    def model_hash(self) -> str:
        """What tells the weights from others (`gainrl.scoring.models.model_identity`)."""

    @abstractmethod
    def _plan(self, rendered: Sequence[Rendered]) -> Iterable[Batch]:
        """The batches of some prompts."""

    @abstractmethod
    def _attempt(self, batch: Batch, prompts: Sequence[Rendered]) -> list[RowResult]:
        """The results of a batch; any exception if that fails."""

    def _failure(self, error: Exception, batch: Batch, prompts: Sequence[Rendered]) -> str:
        """What a row's reason is if this failed with it alone; raises if nothing can go on after it."""
        lines = str(error).strip().splitlines()
        return f"the model fails ({type(error).__name__}: {lines[0] if lines else ''})"

    def _forget(self) -> None:  # noqa: B027 -- not every scorer keeps something
        """Keep nothing that was computed of a shared prefix: the weights may change."""

    @property
    def tap(self) -> str:
        """Canonical name of the tap."""
        return self.settings.tap

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that renders and splits the prompts."""
        return self.renderer.tokenizer

    def score(self, prompts: Any) -> Scores:
        """Score one prompt (a string or a chat) or many.

        Many are strings, chats, `ScoringPrompt`s, rows with a column `prompt`, a `datasets.Dataset`, or a pandas column
        or frame.

        Undefined, skipped and failed prompts are NaN with a status and a reason; the others are never affected.
        Raises UserError if no prompt of this kind can be scored with this model (no chat template, say).
        """
        rows, results = as_prompts(prompts), []
        while chunk := list(islice(rows, CHUNK)):
            found = {i: row for members, batch in self._results(chunk) for i, row in zip(members, batch, strict=True)}
            results += [found[i] for i in range(len(chunk))]
        scores = self._collect(results)
        any_prefix = any(row.prefix_tokens for row in results if row.status == "ok")
        return scores.settled(any_prefix, self.definition)

    def batches(self, prompts: Sequence[ScoringPrompt]) -> Iterator[tuple[list[int], Scores]]:
        """(indices into `prompts`, their results) as batches finish; every index exactly once, in any order.

        A score is that of the prompt by itself; `Scores.settled` says what the whole dataset makes of it.  Prompts are
        planned together: give some thousands, not millions.  Raises UserError if prompts of the first one's kind can
        never be scored with this model.
        """
        for members, found in self._results(prompts):
            yield list(members), self._collect(found)

    def _results(self, prompts: Sequence[ScoringPrompt]) -> Iterator[tuple[Sequence[int], list[RowResult]]]:
        for prompt in prompts[:1]:
            self.renderer.require_usable(prompt.prompt)
        with phase("tokenise"):
            rendered = [_within(prompt, self.vocabulary) for prompt in self.renderer(prompts)]
            plan = list(self._plan(rendered))
        if without := [i for i, prompt in enumerate(rendered) if not len(prompt.tokens)]:
            yield without, [RowResult(rendered[i].status, rendered[i].reason) for i in without]
        self._forget()
        try:
            for batch in plan:
                yield batch.members, self._score(batch, [rendered[i] for i in batch.members])
        finally:
            self._forget()

    def _score(self, batch: Batch, prompts: Sequence[Rendered]) -> list[RowResult]:
        """Score a batch whole; in halves if that fails, so that a row that cannot be scored is found and named."""
        try:
            return self._attempt(batch, prompts)
        except UserError:
            raise
        except (RuntimeError, IndexError, ValueError, MemoryError) as error:
            reason = self._failure(error, batch, prompts)
            logger.info("a batch of %d prompts failed: %s", len(prompts), error)
        # outside the handler: the traceback, which held the batch's tensors, is gone
        self._forget()
        if len(prompts) == 1:
            return [failed(reason, prompts[0])]
        middle = len(prompts) // 2
        halves = (batch.members[:middle], prompts[:middle]), (batch.members[middle:], prompts[middle:])
        return [row for members, part in halves for row in self._score(Batch(batch.shared, members), part)]

    def _collect(self, results: Sequence[RowResult]) -> Scores:
        return collect(results, self.definition, width=self.width if self.directions else None, nll=self.nll)

    def identity(self) -> dict[str, Any]:
        """What must agree for two results to be comparable: a table's metadata of model, tokenizer and definition."""
        renderer, template = self.renderer, self.renderer.template_hash
        return {
            "model": str(self.settings.model),
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


def as_prompts(given: Any) -> Iterator[ScoringPrompt]:
    """What callers give to `score`, as prompts; UserError where it is no prompt and holds none."""
    if isinstance(given, str | ScoringPrompt) or (isinstance(given, Mapping) and "prompt" in given):
        given = [given]
    elif isinstance(given, Mapping):
        what = "one message: give a list" if "role" in given else f"the splits {sorted(map(str, given))}: choose one"
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


def _within(prompt: Rendered, vocabulary: int) -> Rendered:
    """The prompt, or why the model cannot take its tokens (on a GPU it would bring the process down)."""
    if len(prompt.tokens) and (largest := int(prompt.tokens.max())) >= vocabulary:
        reason = f"token {largest} is not in the model's vocabulary of {vocabulary}"
        return Rendered(prompt.tokens[:0], 0, "failed", reason)
    return prompt
