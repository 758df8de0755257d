"""The scorer in Python: prompts to angle concentration with a model in this process.

scores = AngleScorer("smollm2-135m").score(["What is 2 + 3?", "Prove that ..."])
scores.score, scores.reasons          # (N,) float64, NaN where undefined; why
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gainrl.angle import angle_concentration, shared_prefix
from gainrl.errors import UserError
from gainrl.models import context_length, load_model, load_tokenizer, require_offsets, resolve_device
from gainrl.scoring.base import BaseScorer, phase
from gainrl.scoring.batching import Batch, plan
from gainrl.scoring.forward import choose_forward, evaluating
from gainrl.scoring.nll import LikelihoodHead
from gainrl.scoring.prompts import PromptRenderer, Rendered
from gainrl.scoring.results import NOT_FINITE, Scores
from gainrl.scoring.settings import ScoringSettings, require_backend

logger = logging.getLogger(__name__)

MOST = {"cpu": 2048, "cuda": 65536}
"""Beyond these many tokens a forward pass gets no faster per token (on a CPU slower: activations leave the caches)."""


class AngleScorer(BaseScorer):
    """Scores prompts by the angle concentration of their hidden states (arXiv 2506.02281).

    `model` is a name (hub id, local directory, adapter's directory, `smollm2-135m`) or a loaded causal language model,
    which is used where it is, without a copy; then `tokenizer` (or a processor that has one) must be given too.  The
    other arguments are the fields of `ScoringSettings`.  Raises UserError for what cannot be used.
    """

    def __init__(self, model: Any, tokenizer: Any = None, **settings: Any) -> None:
        named = isinstance(model, str | Path)
        name = str(model) if named else str(getattr(model, "name_or_path", "") or type(model).__name__)
        try:
            super().__init__(given := ScoringSettings(model=name, **settings))
        except TypeError as error:
            raise UserError(f"AngleScorer: {str(error).partition('__init__() ')[2] or error}") from None
        if named:
            device = resolve_device(given.device)
            require_backend(given.backend, torch.device(device))  # before the weights are read
            source: dict[str, Any] = {"revision": given.revision, "trust_remote_code": given.trust_remote_code}
            tokenizer = tokenizer or load_tokenizer(name, **source)
            model = load_model(name, dtype=given.dtype, device=device, **source)
        elif tokenizer is None:
            raise UserError("AngleScorer was given a loaded model but no tokenizer: pass tokenizer=")
        self.model = model
        self.renderer = PromptRenderer(tokenizer, given, context_length(model))
        self.tokenizer = self.renderer.tokenizer
        require_offsets(self.tokenizer)
        self.forward = choose_forward(model, given.tap, given.attention)
        self.device, self.form, self.tap = self.forward.device, self.forward.form, self.forward.tap
        require_backend(given.backend, self.device)
        self._likelihood = LikelihoodHead(model) if given.nll else None
        self.tokens_per_batch = given.tokens_per_batch or MOST.get(self.device.type, MOST["cpu"])
        self._fits: int | None = None  # tokens of half the smallest batch that did not fit
        self.width = int(self.forward.decoder.config.hidden_size)
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self.dtype = str(next(model.parameters()).dtype).removeprefix("torch.")

    def _forget(self) -> None:
        self.forward.forget()

    def _plan(self, rendered: Sequence[Rendered]) -> Iterable[Batch]:
        padded = self.form == "padded"
        share = not padded and self.backend != "reference"  # the quadratic definition needs every row
        return plan(rendered, self.tokens_per_batch, share=share, padded=padded, alone_beyond=self.forward.alone_beyond)

    def _failure(self, error: Exception, batch: Batch, prompts: Sequence[Rendered]) -> str:
        if not _out_of_memory(error):
            if "CUDA error" in str(error):
                raise error  # the device is lost: nothing after this would be right
            return super()._failure(error, batch, prompts)
        if len(prompts) > 1 and not isinstance(error, _KnownTooLarge):  # later batches will be made smaller
            self._fits = _tokens(batch, prompts) // 2
            logger.warning("out of memory with %d tokens at once: going on with %d", 2 * self._fits, self._fits)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return f"out of memory for its {len(prompts[0].tokens)} tokens"

    @torch.inference_mode()
    def _attempt(self, batch: Batch, prompts: Sequence[Rendered]) -> Scores:
        if self._fits is not None and len(prompts) > 1 and _tokens(batch, prompts) > self._fits:
            raise _KnownTooLarge
        skip = len(batch.shared)
        own = [prompt.tokens[skip:] for prompt in prompts]
        nll: Any = None
        with evaluating(self.model):
            with phase("forward"):
                states = self.forward(own, batch.shared)
            if self._likelihood is not None:
                with phase("angle"):
                    nll = self._likelihood(states, own, prompts)
        hidden, starts = states.hidden, states.starts
        role = np.zeros(len(hidden), dtype=np.int8)
        for start, tokens, prompt in zip(starts.tolist(), own, prompts, strict=True):
            role[start : start + prompt.prefix - skip] = 1
            role[start + prompt.prefix - skip : start + len(tokens)] = 2
        with phase("angle"):
            shared = None
            if states.prefix is not None:
                if not bool(torch.isfinite(states.prefix).all()):
                    return self._without(["failed"] * len(prompts), [NOT_FINITE] * len(prompts))
                shared = shared_prefix(states.prefix, backend=self.backend)
            ends = np.append(starts, len(hidden))
            bounds, roles = (torch.from_numpy(x).to(hidden.device, non_blocking=True) for x in (ends, role))
            result = angle_concentration(
                hidden, bounds, roles, shared_prefix=shared, diagonal=self.definition.diagonal,
                return_directions=self.directions, backend=self.backend, check=False,
            )  # fmt: skip
        with phase("results"):  # the one point where a GPU is waited for
            directions = result.directions.cpu().numpy() if self.directions else None
            values, counts = result.values[:2].cpu().numpy(), result.counts.cpu().numpy()
            return Scores.measured(prompts, self.definition, values, counts, directions, nll)


class _KnownTooLarge(MemoryError):
    """A batch is larger than what did not fit before."""


def _out_of_memory(error: Exception) -> bool:
    known = ("can't allocate", "out of memory", "not enough memory")
    reported = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in known)
    return reported or isinstance(error, torch.OutOfMemoryError | MemoryError)


def _tokens(batch: Batch, prompts: Sequence[Rendered]) -> int:
    return sum(len(prompt.tokens) - len(batch.shared) for prompt in prompts)
