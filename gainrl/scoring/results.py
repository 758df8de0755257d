"""Results of scoring: of one prompt, and of many in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from gainrl.angle import Status
from gainrl.scoring.definition import Definition
from gainrl.scoring.prompts import Rendered

NO_PREFIX = "the prompt has no prefix, others of the dataset have one"
NAN = float("nan")


@dataclass(frozen=True)
class RowResult:
    """The scores of one prompt; `nll` in nats per token, None where undefined or not asked for."""

    status: str
    reason: str | None
    intra: float = NAN
    inter: float = NAN
    prefix_tokens: int = 0
    question_tokens: int = 0
    direction: npt.NDArray[np.float32] | None = None
    nll: float | None = None


@dataclass
class Scores:
    """The scores of N prompts, in their order; see the score table for the fields (`gainrl.table`)."""

    status: list[str]
    reasons: list[str | None]
    intra: npt.NDArray[np.float64]
    inter: npt.NDArray[np.float64]
    prefix_tokens: npt.NDArray[np.int64]
    question_tokens: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    score: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """(N,) NaN where the status is not ok."""
    directions: npt.NDArray[np.float32] | None = None
    """(N, D) unit vectors U_q / ‖U_q‖, where asked for; zero rows where undefined."""
    nll: npt.NDArray[np.float64] | None = None
    """(N,) mean negative log-likelihoods, where asked for; NaN where undefined."""

    def __len__(self) -> int:
        return len(self.status)

    def settled(self, any_prefix: bool, definition: Definition) -> Scores:
        """The same, once it is known whether any prompt of the dataset with status ok has a prefix.

        If one has, a prompt without a prefix has no C_inter and becomes undefined.  If none has, the score is C_intra.
        """
        scored = np.array([word == "ok" for word in self.status], dtype=bool)
        if not any_prefix or not definition.inter_weight:
            return replace(self, score=np.where(scored, self.intra, np.nan))
        bare = scored & (self.prefix_tokens == 0)
        score = np.where(scored & ~bare, self.intra + definition.inter_weight * self.inter, np.nan)
        status = ["undefined" if without else word for word, without in zip(self.status, bare, strict=True)]
        reasons = [NO_PREFIX if without else why for why, without in zip(self.reasons, bare, strict=True)]
        return replace(self, score=score, status=status, reasons=reasons)


def failed(reason: str, prompt: Rendered | None = None) -> RowResult:
    """A row that has no score because something went wrong."""
    return RowResult("failed", reason, prefix_tokens=prompt.prefix if prompt is not None else 0)


def not_finite(prompt: Rendered) -> RowResult:
    """A row whose hidden states hold NaN or infinity."""
    return failed("the model's hidden states are not finite", prompt)


def row_result(
    prompt: Rendered,
    status: int,
    intra: float,
    inter: float,
    prefix_tokens: int,
    question_tokens: int,
    direction: npt.NDArray[np.float32] | None = None,
    nll: float | None = None,
) -> RowResult:
    """One sequence's result as a row; an absent prefix is settled later, when the whole dataset is known."""
    if status & Status.NON_FINITE:
        return not_finite(prompt)
    if status & Status.EMPTY_QUESTION:
        return RowResult("undefined", "every hidden state of the question is zero", prefix_tokens=prefix_tokens)
    nll = None if nll is None or not np.isfinite(nll) else nll
    row = RowResult("ok", prompt.reason, intra, inter, prefix_tokens, question_tokens, direction, nll)
    if np.isnan(intra):
        return replace(row, status="undefined", reason="one question token: C_intra without the diagonal needs two")
    return row


def collect(
    results: Sequence[RowResult], definition: Definition, *, width: int | None = None, nll: bool = False
) -> Scores:
    """Results as columns, each row by itself: C_intra alone where it has no prefix (see `Scores.settled`).

    `width` is that of the directions, where they are asked for.
    """
    intra, inter = (np.array([getattr(row, name) for row in results], dtype=float) for name in ("intra", "inter"))
    prefix = np.array([row.prefix_tokens for row in results], dtype=np.int64)
    added = np.where((prefix == 0) | (definition.inter_weight == 0), 0.0, definition.inter_weight * inter)
    scores = Scores(
        status=[row.status for row in results],
        reasons=[row.reason for row in results],
        intra=intra,
        inter=inter,
        score=np.where([row.status == "ok" for row in results], intra + added, np.nan),
        prefix_tokens=prefix,
        question_tokens=np.array([row.question_tokens for row in results], dtype=np.int64),
    )
    if width is not None:
        zero = np.zeros(width, dtype=np.float32)
        directions = [zero if row.direction is None else row.direction for row in results]
        scores.directions = np.array(directions, dtype=np.float32).reshape(len(results), width)
    if nll:
        scores.nll = np.array([np.nan if row.nll is None else row.nll for row in results], dtype=np.float64)
    return scores
