"""Scores, rollouts and gradients of a case, kept in parts under runs/signal/CASE: a run goes on where it stopped.

    scores.npz            C_intra, C_inter, question tokens, NLL per token, directions; one forward pass
    samples-NNNN.json     rollouts (token ids, right or wrong) of the prompts of one part
    gradients-NNNN.json   gradient norms of the prompts of one part

Rollouts are drawn at temperature 1 from bfloat16 weights where the model is large, gradients taken in float32 weights
under bfloat16 autocast (as the demo trains); the tiny models are float32 throughout.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.signal_study.cases import Case, Problems, Row
from benchmarks.signal_study.gradients import advantages, grpo_gradient_norm, likelihood_gradient_norm
from gainrl.errors import UserError
from gainrl.evaluation import Sampling, TransformersEngine
from gainrl.files import atomic_path, write_text
from gainrl.scoring import AngleScorer, ScoringPrompt, load_model, load_tokenizer, model_identity

PART = 8
"""Prompts of one part of rollouts or gradients."""
_LARGE = 20_000_000
"""Parameters from which bfloat16 pays."""


class Recorder(TransformersEngine):
    """The package's own generation, which also keeps each completion's token ids, the token that ended it included."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self.ids: list[list[int]] = []

    def _completed(self, row: list[int], sampling: Sampling) -> Any:
        done = super()._completed(row, sampling)
        self.ids.append(self._until_end(row, sampling.stop))
        return done

    def _until_end(self, row: Sequence[int], stop: Sequence[str]) -> list[int]:
        for index, token in enumerate(row):
            text = self.tokenizer.decode(row[: index + 1], skip_special_tokens=True) if stop else ""
            if token in self._ends or any(mark in text for mark in stop):
                return list(row[: index + 1])
        return list(row)


class Measurement:
    """One case, measured as far as its parts go."""

    def __init__(self, name: str, case: Case, folder: Path, *, deadline: float | None = None) -> None:
        self.name, self.case, self.folder = name, case, folder / name
        self.deadline = deadline
        self.problems: Problems = case.open(case.prompts)
        self.rows: list[Row] = list(self.problems.rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._same_settings()

    def _same_settings(self) -> None:
        """UserError if the parts there are of another model, other prompts or settings."""
        own = {
            "model": model_identity(self.problems.model), "prompts": [row["prompt"] for row in self.rows],
            "samples": self.case.samples, "group": self.case.group,
        }  # fmt: skip
        path = self.folder / "settings.json"
        if path.exists() and json.loads(path.read_text(encoding="utf-8")) != own:
            raise UserError(f"runs/signal/{self.name} holds another measurement: remove it to measure anew")
        write_text(path, json.dumps(own) + "\n")

    # -- models ----------------------------------------------------------------------------------------------

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.problems.model)

    @cached_property
    def model(self) -> Any:
        return load_model(self.problems.model, dtype="float32")

    @cached_property
    def large(self) -> bool:
        return sum(parameter.numel() for parameter in self.model.parameters()) >= _LARGE

    @cached_property
    def _engine(self) -> Recorder:
        sampler = load_model(self.problems.model, dtype="bfloat16") if self.large else self.model
        return Recorder(sampler, self.tokenizer)

    @property
    def over(self) -> bool:
        """Whether the time allowed is spent."""
        return self.deadline is not None and time.monotonic() > self.deadline

    # -- stages ----------------------------------------------------------------------------------------------

    def scores(self) -> dict[str, np.ndarray]:
        """Per-prompt arrays (N,), and `directions` (N, D)."""
        path = self.folder / "scores.npz"
        if not path.exists():
            found = score(self.model, self.tokenizer, self.rows)
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, **found)
        with np.load(path) as kept:
            return dict(kept)

    def samples(self) -> list[dict[str, Any]]:
        """Rollouts of each prompt so far, in order: {"ids": lists of tokens, "right": true, false or null}."""
        return self._parts("samples", len(self.rows), self._sample_part)

    def _sample_part(self, start: int, rows: Sequence[Row]) -> list[dict[str, Any]]:
        count, engine = self.case.samples, self._engine
        repeated = [row for row in rows for _ in range(count)]
        sampling = Sampling(1.0, 1.0, self.problems.max_new_tokens, self.problems.stop, 0)
        engine.ids = []
        done = engine.generate([row["prompt"] for row in repeated], sampling, key=start)
        right = self.problems.grade([one.text for one in done], repeated)
        return [
            {"ids": engine.ids[at : at + count], "right": right[at : at + count]}
            for at in range(0, len(repeated), count)
        ]

    def gradients(self) -> list[dict[str, float]]:
        """Gradient norms of the first prompts so far: see `_gradient`."""
        return self._parts("gradients", min(self.case.gradients, len(self.rows)), self._gradient_part)

    def gradients_kept(self) -> list[dict[str, float]]:
        """Those of `gradients` that are there already."""
        kept = sorted(self.folder.glob("gradients-*.json"))
        return [one for path in kept for one in json.loads(path.read_text(encoding="utf-8"))]

    def _gradient_part(self, start: int, rows: Sequence[Row]) -> list[dict[str, float]]:
        kept = self.samples()[start : start + len(rows)]
        return [self._gradient(row, sampled) for row, sampled in zip(rows, kept, strict=True)]

    def _gradient(self, row: Row, sampled: dict[str, Any]) -> dict[str, float]:
        """`grpo`: of a GRPO step on the prompt's first `group` rollouts; `question`, `answer`: of the mean
        negative log-likelihood of the question's tokens behind the prefix, of the gold answer behind the prompt."""
        prompt = self.tokenizer(row["prompt"])["input_ids"]
        gold = self.problems.gold(row) + (self.problems.stop[0] if self.problems.stop else "")
        answer = self.tokenizer(gold, add_special_tokens=False)["input_ids"]
        if not self.problems.stop:
            answer = [*answer, self.tokenizer.eos_token_id]
        asked = self._question_tokens(row)
        group = slice(0, self.case.group)
        rewards = [float(bool(right)) for right in sampled["right"][group]]
        bf16 = self.large
        return {
            "grpo": grpo_gradient_norm(self.model, prompt, sampled["ids"][group], advantages(rewards), bf16=bf16),
            "question": likelihood_gradient_norm(self.model, prompt[:-asked], prompt[-asked:], bf16=bf16),
            "answer": likelihood_gradient_norm(self.model, prompt, answer, bf16=bf16),
            "question_tokens": asked,
            "group_right": sum(rewards),
        }

    def _question_tokens(self, row: Row) -> int:
        """Tokens of the prompt from the question's first one on (what follows the question, as `Answer:`, included)."""
        prompt = row["prompt"]
        begin = prompt.rindex(row["question"])
        offsets = self.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        return sum(end > begin for _, end in offsets)

    def _parts(self, stage: str, count: int, make: Callable[[int, Sequence[Row]], list[Any]]) -> list[Any]:
        """The stage's results for the first `count` rows, in parts; stops before a new part once the time is spent."""
        found: list[Any] = []
        for start in range(0, count, PART):
            path = self.folder / f"{stage}-{start // PART:04d}.json"
            rows = self.rows[start : min(start + PART, count)]
            if not path.exists():
                if self.over:
                    return found
                write_text(path, json.dumps(make(start, rows)) + "\n")
            found += json.loads(path.read_text(encoding="utf-8"))
        return found


def score(model: Any, tokenizer: Any, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """C in each of its forms, length, NLL and directions, by the package's scorer; see `Measurement.scores`."""
    scorer = AngleScorer(model, tokenizer, directions=True, nll=True, tokens_per_batch=1024)
    with torch.inference_mode():
        found = scorer.score([ScoringPrompt(row["prompt"], row["question"]) for row in rows])
    tokens = found.question_tokens
    bare = np.where(tokens > 1, (tokens * found.intra - 1) / np.maximum(tokens - 1, 1), np.nan)  # without i = j
    assert found.directions is not None
    assert found.nll is not None
    return {
        "score": found.score,
        "score_no_diagonal": bare + found.inter,
        "intra": found.intra,
        "intra_no_diagonal": bare,
        "inter": found.inter,
        "question_tokens": found.question_tokens,
        "nll": found.nll,
        "directions": found.directions,
    }
