"""The bed of one family and seed: prompts to train on, a partly able base, fresh problems, exact pass rates.

Characters are tokens, so the chance that a rollout at temperature 1 is a right answer is the product of the answer's
token probabilities (EOS included), summed over right answers: teacher-forced forward passes, without sampling noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from transformers import AutoTokenizer, LlamaForCausalLM

from studies.convergence.base import Pretraining, Size, base_directory
from studies.convergence.families import Family, Problem
from studies.convergence.tokens import encode

Floats = npt.NDArray[np.float64]
_BATCH = 256


@dataclass(frozen=True)
class Bed:
    """One family and seed; the same arguments always give the same prompts and the same base."""

    family: Family
    seed: int
    prompts: int
    fresh: int
    size: Size
    pretraining: Pretraining

    @cached_property
    def problems(self) -> list[Problem]:
        """The prompts that are trained on."""
        return self.family.problems(self.prompts, Random(f"{self.family.name}/training/{self.seed}"))

    @cached_property
    def held_out(self) -> list[Problem]:
        """Fresh problems of the same mix, for evaluation: none of them is trained on, and all are distinct.

        Where a level has hardly more problems than those (sums of single digits), it is tested on what there is.
        """
        taken = {problem.question for problem in self.problems}
        random = Random(f"{self.family.name}/evaluation/{self.seed}")
        found: list[Problem] = []
        for problem in self.family.problems(self.fresh, random):
            for _ in range(50):
                if problem.question not in taken:
                    break
                problem = self.family.draw(problem.level, random)
            taken.add(problem.question)
            found.append(problem)
        return found

    @cached_property
    def directory(self) -> Path:
        """The pretrained base with its tokenizer; pretrained now if it is not in the cache."""
        return base_directory(self.family, self.size, self.pretraining, self.seed)

    def model(self) -> LlamaForCausalLM:
        """A fresh copy of the base."""
        return LlamaForCausalLM.from_pretrained(self.directory, dtype="float32")

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of all families."""
        return AutoTokenizer.from_pretrained(self.directory)

    @property
    def dataset(self) -> Dataset:
        """Rows {prompt, question, answers} in the order of `problems`."""
        return Dataset.from_list(
            [
                {"prompt": self.family.prompt(p), "question": p.question, "answers": list(p.answers)}
                for p in self.problems
            ]
        )

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest right completion, EOS included."""
        return max(len(answer) for problem in self.problems for answer in problem.answers) + 1

    def pass_rates(self, model: torch.nn.Module, problems: Sequence[Problem]) -> Floats:
        """(P,) exact chances that a rollout at temperature 1 is right."""
        return pass_rates(model, self.tokenizer, self.family, problems)


@torch.inference_mode()
def pass_rates(model: torch.nn.Module, tokenizer: Any, family: Family, problems: Sequence[Problem]) -> Floats:
    """(P,) chances that the model's rollout at temperature 1 is right; leaves mode and gradients alone."""
    training = model.training
    model.eval()
    pairs = [(at, problem, answer) for at, problem in enumerate(problems) for answer in problem.answers]
    pairs.sort(key=lambda pair: len(pair[1].question) + len(pair[2]))
    found = np.zeros(len(problems))
    for start in range(0, len(pairs), _BATCH):
        part = pairs[start : start + _BATCH]
        ids, answer = encode(tokenizer, [family.prompt(p) for _, p, _ in part], [right for _, _, right in part])
        first = int(answer.int().argmax(dim=1).min())  # no logits for what lies before every answer
        hidden = model.model(input_ids=ids).last_hidden_state[:, first - 1 : -1]  # type: ignore[operator, union-attr]
        chances = model.lm_head(hidden).float().log_softmax(dim=-1)  # type: ignore[operator]
        of_tokens = chances.gather(2, ids[:, first:, None])[:, :, 0].masked_fill(~answer[:, first:], 0.0)
        np.add.at(found, [at for at, _, _ in part], of_tokens.sum(dim=1).exp().double().numpy())
    model.train(training)
    return found


def right_answers(completions: Sequence[str], answers: Sequence[Sequence[str]], **columns: Any) -> list[float]:
    """Reward: 1 for a right answer reproduced in full, else 0."""
    return [float(completion in right) for completion, right in zip(completions, answers, strict=True)]
