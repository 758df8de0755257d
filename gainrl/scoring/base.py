"""What all scorers do alike: prompts of any form taken, rendered and planned, batches scored, results collected."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from torch.profiler import record_function

from gainrl.errors import UserError, first_line
from gainrl.models import model_identity
from gainrl.scoring.batching import Batch
from gainrl.scoring.data import as_prompts
from gainrl.scoring.prompts import PromptRenderer, Rendered, ScoringPrompt, template_hash, tokenizer_hash
from gainrl.scoring.results import Scores
from gainrl.scoring.settings import CHUNK, Definition, ScoringSettings

logger = logging.getLogger(__name__)

PHASES = ("tokenise", "forward", "angle", "results")
"""What `gainrl profile` tells apart; `angle` includes likelihoods."""


def phase(name: str) -> Any:
    """A context that profilers show as `gainrl:<name>`."""
    return record_function(f"gainrl:{name}")


class BaseScorer(ABC):
    """A model that turns prompts into scores; each kind says how batches are made and what scores one."""

    renderer: PromptRenderer
    model: Any
    dtype: str  # of the weights, by torch's name
    form: str  # what runs the model, and how
    vocabulary: int  # tokens that the model knows
    width: int  # of the hidden states
    options: Mapping[str, Any] = {}  # an engine's own, where they change its numbers

    def __init__(self, settings: ScoringSettings) -> None:
        self.settings, self.tap = settings, settings.tap
        self.definition: Definition = settings.definition
        self.directions, self.nll, self.backend = settings.directions, settings.nll, settings.backend

    @abstractmethod
    def _plan(self, rendered: Sequence[Rendered]) -> Iterable[Batch]:
        """The batches of some prompts."""

    @abstractmethod
    def _attempt(self, batch: Batch, prompts: Sequence[Rendered]) -> Scores:
        """The results of a batch; any exception if that fails."""

    def _failure(self, error: Exception, batch: Batch, prompts: Sequence[Rendered]) -> str:
        """What a row's reason is if this failed with it alone; raises if nothing can go on after it."""
        return f"the model fails ({type(error).__name__}: {first_line(error)})"

    def _forget(self) -> None:  # noqa: B027 -- not every scorer keeps something
        """Keep nothing that was computed of a shared prefix: the weights may change."""

    @cached_property
    def model_hash(self) -> str:
        """Identity of the weights (`gainrl.models.model_identity`)."""
        return model_identity(str(self.settings.model), self.model)

    def score(self, prompts: Any) -> Scores:
        """Score one prompt (a string or a chat) or many.

        Many are a list, `datasets.Dataset`, pandas column or frame of prompts or of rows with a column `prompt`.
        Undefined, skipped and failed prompts are NaN with a status and a reason; the others are never affected.
        Raises UserError if no prompt of this kind can be scored with this model (no chat template, say).
        """
        rows, pieces, indices, first = as_prompts(prompts), [self._without([], [])], list[int](), 0
        while chunk := list(islice(rows, CHUNK)):
            for members, scores in self.batches(chunk):
                pieces.append(scores)
                indices += [first + i for i in members]
            first += len(chunk)
        whole = Scores.joined(pieces, indices)
        prefixed = (np.array(whole.status, dtype=object) == "ok") & (whole.prefix_tokens > 0)
        return whole.settled(bool(prefixed.any()), self.definition)

    def batches(self, prompts: Sequence[ScoringPrompt]) -> Iterator[tuple[list[int], Scores]]:
        """(indices into `prompts`, their results) as batches finish; every index exactly once, in any order.

        A score is that of the prompt by itself (see `Scores.settled`).  Prompts are planned together: give thousands,
        not millions.  Raises UserError if prompts of the first one's kind can never be scored with this model.
        """
        for prompt in prompts[:1]:
            self.renderer.require_usable(prompt.prompt)
        with phase("tokenise"):
            rendered = [_within(prompt, self.vocabulary) for prompt in self.renderer(prompts)]
            plan = list(self._plan(rendered))
        if without := [i for i, prompt in enumerate(rendered) if not len(prompt.tokens)]:
            yield without, self._without([rendered[i].status for i in without], [rendered[i].reason for i in without])
        self._forget()
        try:
            for batch in plan:
                yield from self._score(batch, [rendered[i] for i in batch.members])
        finally:
            self._forget()

    def _score(self, batch: Batch, prompts: Sequence[Rendered]) -> Iterator[tuple[list[int], Scores]]:
        """Score a batch whole; in halves if that fails, so that a row that cannot be scored is found and named."""
        try:
            scores = self._attempt(batch, prompts)
        except UserError:
            raise
        except (RuntimeError, IndexError, ValueError, MemoryError) as error:
            reason = self._failure(error, batch, prompts)
            logger.info("a batch of %d prompts failed: %s", len(prompts), error)
        else:
            yield list(batch.members), scores
            return
        # outside the handler: the traceback, which held the batch's tensors, is gone
        self._forget()
        if len(prompts) == 1:
            yield list(batch.members), self._without(["failed"], [reason])
            return
        for half in (slice(len(prompts) // 2), slice(len(prompts) // 2, None)):
            yield from self._score(Batch(batch.shared, batch.members[half]), prompts[half])

    def _without(self, status: list[str], reasons: list[str | None]) -> Scores:
        return Scores.without(status, reasons, self.width if self.directions else None, self.nll)

    def identity(self) -> dict[str, Any]:
        """What must agree for two results to be comparable: a table's metadata of model, tokenizer and definition."""
        renderer, template = self.renderer, template_hash(self.renderer)
        return {
            "model": str(self.settings.model),
            "model_hash": self.model_hash,
            "tokenizer_hash": tokenizer_hash(renderer.tokenizer),
            "chat_template_hash": template,
            "template_date": self.settings.date.isoformat() if template else "",
            "chat_template_kwargs": self.settings.chat_template_kwargs,
            "question_after": self.settings.question_after,
            "too_long": self.settings.too_long,
            "dtype": self.dtype,
            "tap": self.tap,
            "definition": self.definition.formula,
            "diagonal": self.definition.diagonal,
            "loaded_with": self._loaded_with(),
        }

    def _loaded_with(self) -> dict[str, Any]:
        """What else changes the numbers: how the loaded model is quantised, and an engine's options."""
        given = {"quantization": getattr(self.model.config, "quantization_config", None), **self.options}
        plain = {name: value for name, value in given.items() if value is not None}
        text = json.dumps(plain, default=lambda value: value.to_dict() if hasattr(value, "to_dict") else str(value))
        return dict(json.loads(text))


def _within(prompt: Rendered, vocabulary: int) -> Rendered:
    """The prompt, or why the model cannot take its tokens (on a GPU it would bring the process down)."""
    if (largest := int(prompt.tokens.max(initial=0))) >= vocabulary:
        reason = f"token {largest} is not in the model's vocabulary of {vocabulary}"
        return Rendered(prompt.tokens[:0], 0, "failed", reason)
    return prompt
