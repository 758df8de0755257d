"""What `score_dataset` asks of whatever runs the model: torch in this process (`AngleScorer`), or an engine.

An engine prepares a window of prompts (tokens and batches, by the same rules) and yields each batch's results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from gainrl.scoring.batching import Batch
from gainrl.scoring.definition import Definition
from gainrl.scoring.phases import Clock
from gainrl.scoring.prompts import PromptRenderer, Rendered, ScoringPrompt
from gainrl.scoring.results import RowResult

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WINDOW = 4096
"""Prompts that are rendered, sorted and batched together; what bounds the memory that prompts take."""


@dataclass(frozen=True)
class Prepared:
    """A window of prompts as tokens, and its batches."""

    rendered: Sequence[Rendered]
    batches: Sequence[Batch]


class Scorer(Protocol):
    """Prompts to scores; `AngleScorer` says what each member means."""

    definition: Definition
    renderer: PromptRenderer
    device: torch.device
    backend: str
    directions: bool
    clock: Clock

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def nll(self) -> bool: ...
    @property
    def budget_chosen(self) -> bool: ...
    @property
    def tokens_per_batch(self) -> int: ...
    @tokens_per_batch.setter
    def tokens_per_batch(self, tokens: int) -> None: ...
    @property
    def dtype(self) -> str:
        """The weights' dtype by torch's name: `bfloat16`, ..."""

    @property
    def tap(self) -> str:
        """Canonical name of the tap."""

    @property
    def form(self) -> str:
        """What runs the model, and how: results are only continued with the same."""

    def weights_fixed(self) -> AbstractContextManager[None]: ...
    def render(self, rows: Sequence[ScoringPrompt]) -> list[Rendered]: ...
    def arrange(self, rendered: Sequence[Rendered]) -> Prepared: ...
    def score_window(
        self,
        prepared: Prepared,
        done: frozenset[int] = ...,
        mine: Callable[[Sequence[Batch]], Iterable[Batch]] = ...,
        *,
        without_tokens: bool = ...,
    ) -> Iterator[tuple[tuple[int, ...], list[RowResult]]]: ...


@runtime_checkable
class WindowsScorer(Protocol):
    """A scorer that works on several windows at once, in whatever order their batches are finished."""

    windows_at_once: int

    def score_windows(
        self, windows: Sequence[tuple[Prepared, frozenset[int]]], *, without_tokens: bool = ...
    ) -> Iterator[tuple[int, tuple[int, ...], list[RowResult]]]:
        """(which window, positions in it, their results) of each batch with rows that are not done."""


def within(prompt: Rendered, vocabulary: int) -> Rendered:
    """The prompt, or why the model cannot take its tokens (on a GPU it would bring the process down)."""
    if len(prompt.tokens) and (largest := int(prompt.tokens.max())) >= vocabulary:
        reason = f"token {largest} is not in the model's vocabulary of {vocabulary}"
        return Rendered(prompt.tokens[:0], 0, "failed", reason)
    return prompt
