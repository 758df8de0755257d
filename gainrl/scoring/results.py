"""The scores of many prompts, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.angle import Status
from gainrl.scoring.prompts import Rendered
from gainrl.scoring.settings import Definition

NOT_FINITE = "the model's hidden states are not finite"
NO_PREFIX = "the prompt has no prefix, others of the dataset have one"


@dataclass
class Scores:
    """The scores of N prompts, in their order; see the score table for the fields (`gainrl.table`)."""

    status: list[str]
    reasons: list[str | None]
    intra: npt.NDArray[np.float64]
    inter: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    """(N,) NaN where the status is not ok."""
    prefix_tokens: npt.NDArray[np.int64]
    question_tokens: npt.NDArray[np.int64]
    directions: npt.NDArray[np.float32] | None = None
    """(N, D) unit vectors U_q / ‖U_q‖, where asked for; zero rows where undefined."""
    nll: npt.NDArray[np.float64] | None = None
    """(N,) mean negative log-likelihoods, where asked for; NaN where undefined."""

    def __len__(self) -> int:
        return len(self.status)

    @classmethod
    def without(cls, status: list[str], reasons: list[str | None], width: int | None, nll: bool) -> Scores:
        """Prompts that have no score; `width` is that of the directions, where they are asked for."""
        nan, none = np.full(len(status), np.nan), np.zeros(len(status), dtype=np.int64)
        directions = None if width is None else np.zeros((len(status), width), dtype=np.float32)
        return cls(status, reasons, nan, nan, nan, none, none, directions, nan if nll else None)

    @classmethod
    def measured(
        cls, prompts: Sequence[Rendered], definition: Definition, values: Any, counts: Any, directions: Any, nll: Any
    ) -> Scores:
        """What was measured of prompts: values (2, N) C_intra and C_inter; counts (3, N) as in `AngleConcentration`.

        Each score is that of the prompt by itself: C_intra alone where it has no prefix (see `settled`).
        """
        (intra, inter), (flags, question, prefix) = np.asarray(values, dtype=np.float64), np.asarray(counts, np.int64)
        status, reasons = ["ok"] * len(prompts), [prompt.reason for prompt in prompts]
        for i in np.flatnonzero(np.isnan(intra)).tolist():
            status[i], reasons[i] = "undefined", "one question token: C_intra without the diagonal needs two"
            if flags[i] & Status.EMPTY_QUESTION:
                reasons[i] = "every hidden state of the question is zero"
            if flags[i] & Status.NON_FINITE:
                status[i], reasons[i] = "failed", NOT_FINITE
        added = np.where((prefix == 0) | (definition.inter_weight == 0), 0.0, definition.inter_weight * inter)
        nll = None if nll is None else np.where(np.isfinite(nll), nll, np.nan)
        return cls(status, reasons, intra, inter, intra + added, prefix, question, directions, nll)

    @classmethod
    def joined(cls, pieces: Sequence[Scores], indices: Sequence[int]) -> Scores:
        """All rows of the pieces, the k-th of them at indices[k]."""
        order = np.argsort(np.array(indices, dtype=np.int64))

        def column(name: str) -> Any:
            columns = [getattr(piece, name) for piece in pieces]
            if isinstance(columns[0], list):
                values = [value for column in columns for value in column]
                return [values[i] for i in order]
            return None if columns[0] is None else np.concatenate(columns)[order]

        return cls(*(column(field.name) for field in fields(cls)))

    def settled(self, any_prefix: bool, definition: Definition) -> Scores:
        """The same, once it is known whether any scored prompt of the dataset has a prefix.

        If one has, a prompt without a prefix has no C_inter and becomes undefined.  If none has, the score is C_intra.
        """
        scored = np.array(self.status, dtype=object) == "ok"
        if not any_prefix or not definition.inter_weight:
            return replace(self, score=np.where(scored, self.intra, np.nan))
        bare = scored & (self.prefix_tokens == 0)
        score = np.where(scored & ~bare, self.intra + definition.inter_weight * self.inter, np.nan)
        status = ["undefined" if without else word for word, without in zip(self.status, bare, strict=True)]
        reasons = [NO_PREFIX if without else why for why, without in zip(self.reasons, bare, strict=True)]
        return replace(self, score=score, status=status, reasons=reasons)
