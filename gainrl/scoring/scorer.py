"""The scorer: prompts to angle concentration with a loaded model.  `AngleScorer` is the public face in Python.

    scorer = AngleScorer("smollm2-135m")
    scores = scorer.score(["What is 2 + 3?", "Prove that ..."])
    scores.score          # (N,) float64, NaN where undefined
    scores.reasons        # why

`score_dataset` in `gainrl.scoring.run` wraps it for datasets on disk, with a journal and a score table.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gainrl.angle import SharedPrefix, angle_concentration, shared_prefix
from gainrl.errors import UserError
from gainrl.scoring.base import BaseScorer
from gainrl.scoring.batching import Batch, plan
from gainrl.scoring.budget import out_of_memory, tokens_per_batch
from gainrl.scoring.forward import choose_forward
from gainrl.scoring.models import (
    load_model,
    load_tokenizer,
    model_identity,
    name_of,
    require_backend,
    require_offsets,
    resolve_device,
)
from gainrl.scoring.nll import LikelihoodHead
from gainrl.scoring.phases import Clock
from gainrl.scoring.prompts import PromptRenderer, Rendered
from gainrl.scoring.results import RowResult, failed, not_finite, row_result
from gainrl.scoring.settings import ScoringSettings
from gainrl.scoring.taps import context_length, evaluating, first_device
from gainrl.scoring.windows import in_halves

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

logger = logging.getLogger(__name__)


class AngleScorer(BaseScorer):
    """Scores prompts by the angle concentration of their hidden states (design, part 2; arXiv 2506.02281).

    `model` is a name (hub id, local directory, adapter's directory, `smollm2-135m`) or a loaded causal language model,
    which is used where it is, without a copy; then `tokenizer` (or a processor that has one) must be given too.  The
    other arguments are the fields of `ScoringSettings`.  A batch that does not fit into memory is split.

    Raises UserError for settings, names and models that cannot be used.
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        **settings: Any,
    ) -> None:
        named = isinstance(model, str | Path)
        try:
            super().__init__(
                ScoringSettings(model=model if isinstance(model, str | Path) else name_of(model), **settings)
            )
        except TypeError as error:
            raise UserError(f"AngleScorer: {str(error).partition('__init__() ')[2] or error}") from None
        given = self.settings
        self.model: Any
        if named:
            device = resolve_device(given.device)
            require_backend(given.backend, torch.device(device))  # before the weights are read
            tokenizer = tokenizer or load_tokenizer(
                str(given.model), revision=given.revision, trust_remote_code=given.trust_remote_code
            )
            self.model = load_model(
                str(given.model),
                dtype=given.dtype,
                device=device,
                revision=given.revision,
                trust_remote_code=given.trust_remote_code,
            )
        else:
            if tokenizer is None:
                raise UserError("AngleScorer was given a loaded model but no tokenizer: pass tokenizer=")
            self.model = model
            require_backend(given.backend, first_device(self.model))
        text_tokenizer: Any = getattr(tokenizer, "tokenizer", tokenizer)  # a processor has one
        require_offsets(text_tokenizer)
        assert isinstance(given.date, datetime.date)
        self.renderer = PromptRenderer(
            text_tokenizer,
            question_after=given.question_after,
            max_tokens=context_length(self.model),
            too_long=given.too_long,
            date=given.date,
            chat_template_kwargs=given.chat_template_kwargs,
            chat_template=getattr(tokenizer, "chat_template", None),
        )
        self.forward = choose_forward(self.model, given.tap, given.attention)
        self.device = self.forward.device
        self._likelihood = LikelihoodHead(self.model) if given.nll else None
        self.forward.keep_final = given.nll
        self._budget = given.tokens_per_batch
        self._fits: int | None = None  # tokens of half the smallest batch that did not fit
        self._prefix: tuple[Tensor, SharedPrefix] | None = None
        self.width = int(self.forward.decoder.config.hidden_size)
        self.vocabulary = int(self.model.get_input_embeddings().weight.shape[0])
        self.dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        self.form = self.forward.form

    @cached_property
    def model_hash(self) -> str:
        """What tells the weights from others (`gainrl.scoring.models.model_identity`)."""
        return model_identity(str(self.settings.model), self.model)

    @property
    def tap(self) -> str:
        """Canonical name of the tap."""
        return str(self.forward.tap)

    @property
    def budget_chosen(self) -> bool:
        """Whether the token budget stands already (given, or found before)."""
        return self._budget is not None

    @property
    def tokens_per_batch(self) -> int:
        """The token budget of one forward pass; found from the memory at hand if none was given."""
        if self._budget is None:
            self._budget = tokens_per_batch(self.model, self.forward)
        return self._budget

    @tokens_per_batch.setter
    def tokens_per_batch(self, tokens: int) -> None:
        self._budget = tokens

    def measure(self, clock: Clock) -> None:
        """Time the phases of the passes to come (`gainrl.scoring.phases`)."""
        self.clock = clock

    @contextmanager
    def weights_fixed(self) -> Iterator[None]:
        """While inside, shared prefixes are kept from call to call; outside, the model may be trained on."""
        self._forget()
        try:
            yield
        finally:
            self._forget()

    def _forget(self) -> None:
        self._prefix = None
        self.forward.forget()

    def _plan(self, rendered: Sequence[Rendered]) -> Iterable[Batch]:
        padded = not self.forward.shares_prefix
        share = not padded and self.backend != "reference"  # the quadratic definition needs every row at hand
        return plan(rendered, self.tokens_per_batch, share=share, padded=padded, alone_beyond=self.forward.alone_beyond)

    def _score_batch(self, batch: Batch, prompts: Sequence[Rendered]) -> list[RowResult]:
        """Score a batch whole; in halves if that fails, so that a row that cannot be scored is found and named."""
        if self._fits is not None and len(prompts) > 1 and _tokens(batch, prompts) > self._fits:
            return in_halves(self._score_batch, batch, prompts)
        try:
            return self._attempt(batch, prompts)
        except _NonFinitePrefix:
            return [not_finite(prompt) for prompt in prompts]
        except UserError:
            raise
        except (RuntimeError, IndexError, ValueError, MemoryError) as error:
            memory = out_of_memory(error)
            if not memory and "CUDA error" in str(error):
                raise  # the device is lost: nothing after this would be right
            logger.info("a batch of %d prompts failed: %s", len(prompts), error)
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        # outside the handler: the traceback, which held the batch's tensors, is gone
        self._forget()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(prompts) > 1:
            if memory:
                self._fits = _tokens(batch, prompts) // 2
                logger.warning("out of memory with %d tokens at once: going on with %d", 2 * self._fits, self._fits)
            return in_halves(self._score_batch, batch, prompts)
        count = len(prompts[0].tokens)
        return [
            failed(f"out of memory for its {count} tokens" if memory else f"the model fails ({reason})", prompts[0])
        ]

    @torch.inference_mode()
    def _attempt(self, batch: Batch, prompts: Sequence[Rendered]) -> list[RowResult]:
        skip = len(batch.shared)
        own = [prompt.tokens[skip:] for prompt in prompts]
        with evaluating(self.model):
            states = self.forward(own, batch.shared)
            shared = None if states.prefix is None else self._shared(states.prefix)
            hidden, starts = states.hidden, states.starts
            nll: Sequence[float | None] = [None] * len(prompts)
            if self._likelihood is not None:
                with self.clock("nll"):
                    nll = self._likelihood(states, own, prompts)
        role = np.zeros(len(hidden), dtype=np.int8)
        for start, tokens, prompt in zip(starts.tolist(), own, prompts, strict=True):
            role[start : start + prompt.prefix - skip] = 1
            role[start + prompt.prefix - skip : start + len(tokens)] = 2
        with self.clock("transfer"):
            offsets = torch.from_numpy(np.append(starts, len(hidden))).to(hidden.device, non_blocking=True)
            roles = torch.from_numpy(role).to(hidden.device, non_blocking=True)
        with self.clock("score"):
            result = angle_concentration(
                hidden,
                offsets,
                roles,
                shared_prefix=shared,
                diagonal=self.definition.diagonal,
                return_directions=self.directions,
                backend=self.backend,
                check=False,
            )
        intra, inter = result.values[:2].cpu().tolist()  # the one point where a GPU is waited for
        status, question_tokens, prefix_tokens = result.counts.cpu().tolist()
        directions = result.directions.cpu().numpy() if self.directions else [None] * len(prompts)
        columns = (prompts, status, intra, inter, prefix_tokens, question_tokens, directions, nll)
        return [row_result(*row) for row in zip(*columns, strict=True)]

    def _shared(self, states: Tensor) -> SharedPrefix:
        """U_p of the shared tokens; the last one is kept as long as the forward pass keeps its states."""
        kept = self._prefix
        if kept is None or kept[0] is not states:
            if not bool(torch.isfinite(states).all()):
                raise _NonFinitePrefix
            kept = self._prefix = states, shared_prefix(states, backend=self.backend)
        return kept[1]


class _NonFinitePrefix(Exception):
    """The hidden states of the shared tokens are not finite, so neither is anything after them."""


def _tokens(batch: Batch, prompts: Sequence[Rendered]) -> int:
    return sum(len(prompt.tokens) - len(batch.shared) for prompt in prompts)
