"""What decides a prompt's scores: one dataclass for Python, the command line, Ray's workers and vLLM."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gainrl.angle.checks import check_backend
from gainrl.errors import UserError
from gainrl.scoring.definition import Definition
from gainrl.scoring.prompts import DEFAULT_DATE

DTYPES = ("auto", "float32", "bfloat16", "float16")
_RENDERING = {"tokenize", "add_generation_prompt", "chat_template", "conversation", "return_tensors", "return_dict"}


@dataclass(kw_only=True)
class ScoringSettings:
    """Settings of a scorer; picklable.  Values that can never do raise UserError here, before a model is loaded."""

    model: str | Path
    """Hub id, local directory (also an adapter's), or `smollm2-135m`."""
    dtype: Any = "auto"
    """auto (the checkpoint's, where this machine is fast in it), float32, bfloat16, float16, or torch's own."""
    device: str = "auto"
    """auto (CUDA if there is one), cpu, cuda:1, ..."""
    revision: str | None = None
    trust_remote_code: bool = False
    """Whether Python code that comes with the model may run."""
    backend: str = "auto"
    """As in `gainrl.angle_concentration`."""
    tokens_per_batch: int | None = None
    """Tokens of one forward pass; found from the free memory by default."""
    attention: str = "auto"
    """auto, or a form of `gainrl.scoring.forward`: grouped, flex, varlen or padded."""
    question_after: str | None = None
    """Plain text: the question is what follows the last occurrence of this text."""
    too_long: str = "skip"
    """Prompts beyond the model's context: skip, or truncate (the question loses its end)."""
    date: datetime.date | str = DEFAULT_DATE
    """What chat templates that print today's date are given."""
    chat_template_kwargs: Mapping[str, Any] | None = None
    """Passed to the chat template, as in training (`enable_thinking`, `reasoning_effort`, ...)."""
    tap: str = "final"
    """Where hidden states are taken (`gainrl.scoring.taps`)."""
    definition: str | Definition = "intra+inter"
    """intra+inter (published), intra or intra+W*inter, each also with ,no-diagonal."""
    directions: bool = False
    """Also each prompt's direction U_q / ‖U_q‖."""
    direction_dtype: str = "float16"
    """float16 or float32: how a table stores directions."""
    nll: bool = False
    """Also the mean negative log-likelihood of each question's tokens, nats per token."""

    def __post_init__(self) -> None:
        self.model = str(self.model)
        self.dtype = str(self.dtype).removeprefix("torch.")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype {self.dtype!r}: choose {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
        self.device = str(self.device)
        check_backend(self.backend)
        if self.tokens_per_batch is not None and self.tokens_per_batch < 1:
            raise UserError(f"tokens_per_batch={self.tokens_per_batch}: give at least 1")
        if self.too_long not in ("skip", "truncate"):
            raise UserError(f"too_long={self.too_long!r}: choose 'skip' or 'truncate'")
        if self.question_after == "":
            raise UserError("question_after is empty: give the text that stands right before each question")
        if self.direction_dtype not in ("float16", "float32"):
            raise UserError(f"direction_dtype={self.direction_dtype!r}: choose float16 or float32")
        if not isinstance(self.date, datetime.date):
            try:
                self.date = datetime.date.fromisoformat(self.date)
            except (TypeError, ValueError):
                raise UserError(f"date {self.date!r}: give it as 2026-01-31") from None
        if not isinstance(self.definition, Definition):
            self.definition = Definition.parse(self.definition)
        self.chat_template_kwargs = checked_kwargs(self.chat_template_kwargs)


def checked_kwargs(given: Any) -> dict[str, Any]:
    """The chat template's arguments as a plain dict; UserError for what is none, or decides what scoring decides."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise UserError(f"chat_template_kwargs: give names and values, not {given!r}")
    if taken := sorted(_RENDERING.intersection(given)):
        raise UserError(f"chat_template_kwargs: {', '.join(taken)} cannot be set, for the scorer sets it")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(given)))
    except (TypeError, ValueError) as error:
        raise UserError(f"chat_template_kwargs must be plain values, as in JSON: {error}") from None
    return plain
