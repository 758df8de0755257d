"""What decides a prompt's scores: one dataclass for Python, the command line, Ray's workers and vLLM."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gainrl.angle.backends import NAMES, unavailable
from gainrl.errors import UserError

CHUNK = 4096
"""Prompts that are rendered, planned and kept together; what bounds the memory that prompts take."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
_RENDERING = {"tokenize", "add_generation_prompt", "chat_template", "conversation", "return_tensors", "return_dict"}
_FORM = re.compile(r"intra(?:\+(?:(?P<weight>\d+(?:\.\d*)?|\.\d+)\*)?(?P<inter>inter))?(?P<bare>,no-diagonal)?")


@dataclass(frozen=True)
class Definition:
    """`score = C_intra + inter_weight · C_inter`; the published one (arXiv 2506.02281) is the default."""

    inter_weight: float = 1.0
    diagonal: bool = True
    """Whether C_intra includes i = j: `‖U_q‖²/q²`, or without it `(‖U_q‖² − q)/(q(q−1))`."""

    @property
    def formula(self) -> str:
        """`intra+inter`, `intra` or `intra+0.5*inter`: what a table's metadata holds, beside `diagonal`."""
        if self.inter_weight == 0:
            return "intra"
        return "intra+inter" if self.inter_weight == 1 else f"intra+{self.inter_weight!r}*inter"

    @classmethod
    def parse(cls, text: str) -> Definition:
        """`intra+inter`, `intra`, `intra+0.5*inter`, each also with `,no-diagonal`; UserError for anything else."""
        if (found := _FORM.fullmatch(str(text).replace(" ", ""))) is None:
            raise UserError(
                f"definition {text!r}: give intra+inter (as published), intra, or intra+W*inter with a weight W >= 0; "
                "add ,no-diagonal to leave out each token's cosine with itself"
            )
        return cls(float(found["weight"] or 1) if found["inter"] else 0.0, found["bare"] is None)


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
    """Tokens of one forward pass; by default what the device is fast with, or half of what did not fit."""
    attention: str = "auto"
    """auto, or a form of `gainrl.scoring.forward`: grouped, flex or padded."""
    question_after: str | None = None
    """Plain text: the question is what follows the last occurrence of this text."""
    too_long: str = "skip"
    """Prompts beyond the model's context: skip, or truncate (the question loses its end)."""
    date: Any = datetime.date(2026, 1, 1)
    """What chat templates that print today's date are given; also as 2026-01-31."""
    chat_template_kwargs: Any = None
    """Passed to the chat template, as in training (`enable_thinking`, `reasoning_effort`, ...); also as JSON."""
    tap: str = "final"
    """Where hidden states are taken (`gainrl.scoring.forward`)."""
    definition: Any = "intra+inter"
    """intra+inter (published), intra or intra+W*inter, each also with ,no-diagonal; kept as a `Definition`."""
    directions: bool = False
    """Also each prompt's direction U_q / ‖U_q‖."""
    direction_dtype: str = "float16"
    """float16 or float32: how a table stores directions."""
    nll: bool = False
    """Also the mean negative log-likelihood of each question's tokens, nats per token; with the tap `final`."""

    def __post_init__(self) -> None:
        self.model = str(self.model)
        self.dtype = str(self.dtype).removeprefix("torch.")
        self.device, self.tap = str(self.device), str(self.tap)
        choices = {"dtype": DTYPES, "too_long": ("skip", "truncate"), "direction_dtype": ("float16", "float32")}
        for name, allowed in (choices | {"backend": NAMES}).items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)!r}: choose {', '.join(allowed[:-1])} or {allowed[-1]}")
        if self.tokens_per_batch is not None and self.tokens_per_batch < 1:
            raise UserError(f"tokens_per_batch={self.tokens_per_batch}: give at least 1")
        if self.nll and self.tap != "final":
            raise UserError(f"--nll needs the final hidden states: leave out --tap {self.tap}")
        if self.question_after is not None and (not self.question_after or not isinstance(self.question_after, str)):
            raise UserError("question_after: give the text that stands right before each question")
        if not isinstance(self.date, datetime.date):
            try:
                self.date = datetime.date.fromisoformat(self.date)
            except (TypeError, ValueError):
                raise UserError(f"date {self.date!r}: give it as 2026-01-31") from None
        if not isinstance(self.definition, Definition):
            self.definition = Definition.parse(self.definition)
        given = self.chat_template_kwargs or {}
        try:  # a command line gives JSON
            given = json.loads(given if isinstance(given, str) else json.dumps(given, default=dict))
        except (TypeError, ValueError) as error:
            raise UserError(f"chat_template_kwargs must be plain values, as in JSON: {error}") from None
        if not isinstance(given, dict):
            raise UserError(f"chat_template_kwargs: give names and values, not {given!r}")
        self.chat_template_kwargs = given
        if taken := sorted(_RENDERING.intersection(given)):
            raise UserError(f"chat_template_kwargs: {', '.join(taken)} cannot be set, for the scorer sets it")


def require_backend(backend: str, device: torch.device) -> None:
    """UserError unless the backend that was named serves tensors on `device`; it may begin CUDA in this process."""
    if backend == "auto" or not (why := unavailable(backend, device.type)):
        return
    able = [name for name in NAMES if name not in ("auto", backend) and not unavailable(name, device.type)]
    raise UserError(
        f"--backend {backend}: it cannot serve {device.type} tensors here: {why}; these can: {', '.join(able)}"
    )
