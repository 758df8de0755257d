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
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from gainrl.angle import SharedPrefix, Status, angle_concentration, shared_prefix
from gainrl.errors import UserError
from gainrl.scoring.batching import Batch, plan
from gainrl.scoring.forward import Prefix, choose_forward
from gainrl.scoring.models import load_model, load_tokenizer, require_offsets
from gainrl.scoring.prompts import DEFAULT_DATE, PromptRenderer, Rendered, ScoringPrompt
from gainrl.scoring.taps import context_length, evaluating
from gainrl.table import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

WINDOW = 4096
"""Prompts that are rendered, sorted and batched together; what bounds the memory that prompts take."""
DEFAULT_TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 32768}


@dataclass(frozen=True)
class RowResult:
    """The scores of one prompt."""

    status: str
    reason: str | None
    intra: float = float("nan")
    inter: float = float("nan")
    prefix_tokens: int = 0
    question_tokens: int = 0
    direction: npt.NDArray[np.float32] | None = None


@dataclass
class Scores:
    """The scores of N prompts, in their order; see the score table for the fields (`gainrl.table`)."""

    status: list[str] = field(default_factory=list)
    reasons: list[str | None] = field(default_factory=list)
    intra: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    inter: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    score: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    prefix_tokens: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    question_tokens: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    directions: npt.NDArray[np.float32] | None = None
    """(N, D) unit vectors U_q / ‖U_q‖, where asked for; zero rows where undefined."""


class AngleScorer:
    """Scores prompts by the angle concentration of their final hidden states (design, part 2; arXiv 2506.02281).

    `model` is a name (hub id, local directory, `smollm2-135m`) or a loaded causal language model, which is used where
    it is, without a copy and without changing it; then `tokenizer` must be given too.  `tokens_per_batch` bounds the
    tokens of one forward pass.  `backend` is that of `gainrl.angle_concentration`.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        backend: str = "auto",
        tokens_per_batch: int | None = None,
        question_after: str | None = None,
        too_long: str = "skip",
        date: datetime.date = DEFAULT_DATE,
        directions: bool = False,
    ) -> None:
        if tokens_per_batch is not None and tokens_per_batch < 1:
            raise UserError(f"tokens_per_batch={tokens_per_batch}: give at least 1")
        self.model: Any
        if isinstance(model, str):
            tokenizer = tokenizer or load_tokenizer(model, revision=revision)
            self.model = load_model(model, dtype=dtype, device=device, revision=revision)
        else:
            if tokenizer is None:
                raise UserError("AngleScorer was given a loaded model but no tokenizer: pass tokenizer=")
            require_offsets(tokenizer)
            self.model = model
        self.renderer = PromptRenderer(
            tokenizer,
            question_after=question_after,
            max_tokens=context_length(self.model),
            too_long=too_long,
            date=date,
        )
        self.forward = choose_forward(self.model)
        self.device = self.forward.device
        self.backend = backend
        self.directions = directions
        self.tokens_per_batch = tokens_per_batch or DEFAULT_TOKENS_PER_BATCH.get(
            self.device.type, DEFAULT_TOKENS_PER_BATCH["cuda"]
        )
        self._prefix: tuple[bytes, Prefix, SharedPrefix] | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that renders and splits the prompts."""
        return self.renderer.tokenizer

    # -- in memory -------------------------------------------------------------------------------------------

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
                for members, batch_results in self.score_window(window):
                    in_window.update(zip(members, batch_results, strict=True))
                results += [in_window[i] for i in range(len(window))]
        return _collect(results, self.directions)

    @contextmanager
    def weights_fixed(self) -> Iterator[None]:
        """While inside, shared prefixes are kept from call to call; outside, the model may be trained on."""
        self._prefix = None
        try:
            yield
        finally:
            self._prefix = None

    # -- one window at a time --------------------------------------------------------------------------------

    def score_window(
        self, rows: Sequence[ScoringPrompt], done: frozenset[int] = frozenset()
    ) -> Iterator[tuple[tuple[int, ...], list[RowResult]]]:
        """Score a window of at most `WINDOW` prompts, batch by batch.

        Yields (positions in the window, their results), none of them in `done`; first the rows that have no
        tokens.  Batches whose positions are all in `done` are passed over: a resumed run makes the batches that it
        would have made.
        """
        for row in rows[:1]:
            self.renderer.require_usable(row.prompt)
        rendered = self.renderer(rows)
        without = tuple(i for i, prompt in enumerate(rendered) if not len(prompt.tokens) and i not in done)
        if without:
            yield without, [RowResult(rendered[i].status, rendered[i].reason) for i in without]
        padded = not self.forward.shares_prefix
        share = not padded and self.backend != "reference"  # the quadratic definition needs every row at hand
        alone_beyond = self.forward.alone_beyond
        for batch in plan(rendered, self.tokens_per_batch, share=share, padded=padded, alone_beyond=alone_beyond):
            if done.issuperset(batch.members):
                continue
            results = self._score_batch(batch, [rendered[i] for i in batch.members])
            owed = [(i, result) for i, result in zip(batch.members, results, strict=True) if i not in done]
            yield tuple(i for i, _ in owed), [result for _, result in owed]

    @torch.inference_mode()
    def _score_batch(self, batch: Batch, prompts: Sequence[Rendered]) -> list[RowResult]:
        skip = len(batch.shared)
        own = [prompt.tokens[skip:] for prompt in prompts]
        with evaluating(self.model):
            try:
                prefix, shared = self._shared(batch.shared)
            except _NonFinitePrefix:
                return [_not_finite(prompt) for prompt in prompts]
            hidden, starts = self.forward(own, prefix)
        role = np.zeros(len(hidden), dtype=np.int8)
        for start, tokens, prompt in zip(starts.tolist(), own, prompts, strict=True):
            role[start : start + prompt.prefix - skip] = 1
            role[start + prompt.prefix - skip : start + len(tokens)] = 2
        offsets = np.append(starts, len(hidden))
        result = angle_concentration(
            hidden,
            torch.from_numpy(offsets).to(hidden.device, non_blocking=True),
            torch.from_numpy(role).to(hidden.device, non_blocking=True),
            shared_prefix=shared,
            return_directions=self.directions,
            backend=self.backend,
            check=False,
        )
        intra, inter = result.values[:2].cpu().tolist()  # the one point where a GPU is waited for
        status, question_tokens, prefix_tokens = result.counts.cpu().tolist()
        directions = result.directions.cpu().numpy() if self.directions else [None] * len(prompts)
        columns = (prompts, status, intra, inter, prefix_tokens, question_tokens, directions)
        return [_row_result(*row) for row in zip(*columns, strict=True)]

    def _shared(self, tokens: npt.NDArray[np.int32]) -> tuple[Prefix | None, SharedPrefix | None]:
        """Keys, values and U_p of the shared tokens; the last ones used are kept."""
        if not len(tokens):
            return None, None
        key = tokens.tobytes()
        if self._prefix is None or self._prefix[0] != key:
            self._prefix = None  # free the old one first
            prefix = self.forward.prefix(tokens)
            if not bool(torch.isfinite(prefix.hidden).all()):
                raise _NonFinitePrefix
            self._prefix = (key, prefix, shared_prefix(prefix.hidden, backend=self.backend))
        return self._prefix[1], self._prefix[2]


class _NonFinitePrefix(Exception):
    """The hidden states of the shared tokens are not finite, so neither is anything after them."""


def _not_finite(prompt: Rendered) -> RowResult:
    return RowResult("failed", "the model's hidden states are not finite", prefix_tokens=prompt.prefix)


def _row_result(
    prompt: Rendered,
    status: int,
    intra: float,
    inter: float,
    prefix_tokens: int,
    question_tokens: int,
    direction: npt.NDArray[np.float32] | None,
) -> RowResult:
    """One sequence's result as a row; an absent prefix is settled later, when the whole dataset is known."""
    flags = Status(status)
    if flags & Status.NON_FINITE:
        return _not_finite(prompt)
    if flags & Status.EMPTY_QUESTION:
        return RowResult("undefined", "every hidden state of the question is zero", prefix_tokens=prefix_tokens)
    return RowResult("ok", prompt.reason, intra, inter, prefix_tokens, question_tokens, direction)


def settle(result: RowResult, any_prefix: bool) -> tuple[RowResult, float]:
    """The row and its score, once it is known whether any prompt of the dataset has a prefix.

    With prefixes about, a prompt without one has no C_inter: undefined.  Without any, the score is C_intra alone.
    """
    if result.status != "ok":
        return result, float("nan")
    if not any_prefix:
        return result, result.intra
    if result.prefix_tokens == 0:
        reason = "the prompt has no prefix, others of the dataset have one"
        counts = (result.prefix_tokens, result.question_tokens)
        return RowResult("undefined", reason, result.intra, float("nan"), *counts, result.direction), float("nan")
    return result, result.intra + result.inter


def _collect(results: Sequence[RowResult], directions: bool) -> Scores:
    any_prefix = any(result.prefix_tokens > 0 for result in results if result.status == "ok")
    settled = [settle(result, any_prefix) for result in results]
    scores = Scores(
        status=[row.status for row, _ in settled],
        reasons=[row.reason for row, _ in settled],
        intra=np.array([row.intra for row, _ in settled]),
        inter=np.array([row.inter for row, _ in settled]),
        score=np.array([score for _, score in settled]),
        prefix_tokens=np.array([row.prefix_tokens for row, _ in settled], dtype=np.int64),
        question_tokens=np.array([row.question_tokens for row, _ in settled], dtype=np.int64),
    )
    if directions:
        width = next((len(row.direction) for row, _ in settled if row.direction is not None), 0)
        zero = np.zeros(width, dtype=np.float32)
        scores.directions = np.array(
            [zero if row.direction is None else row.direction for row, _ in settled], dtype=np.float32
        ).reshape(len(settled), width)
    return scores
