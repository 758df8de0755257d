"""The problems: reasoning-gym behind worked examples in plain text, and the exact accuracy of a model on them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml

from gainrl.tasks import load_task
from gainrl.tasks.prompts import PromptTemplate

END = "\n"
_BATCH = 64


class Protocol(SimpleNamespace):
    """What the runs of a family have in common: the fields of protocol.yaml."""

    @property
    def family(self) -> str:
        """Names the problems in the results."""
        return f"{self.dataset}:{self.options}"

    def rows(self, seed: int) -> list[dict[str, Any]]:
        """The training rows of a seed: prompt, question, answer."""
        asked = {row["question"] for row in self.held_out()}
        rows = [row for row in self._load("train", seed, 4 * self.prompts) if row["question"] not in asked]
        return rows[: self.prompts]

    def held_out(self) -> list[dict[str, Any]]:
        """The rows for evaluation, the same for all seeds."""
        return self._load("test", 1_000_000, 10 * self.fresh)[: self.fresh]

    def _load(self, split: str, seed: int, size: int) -> list[dict[str, Any]]:
        examples = tuple((question, answer) for question, answer in self.examples)
        template = PromptTemplate("plain", question=self.question, answer=" {answer}", separator=END, examples=examples)
        name = f"reasoning-gym:{self.dataset}:size={size},seed={seed},{self.options}"
        return load_task(name, prompt=template).load(split)


def load(family: str = "arithmetic") -> Protocol:
    """The protocol on disk, with one of its families."""
    common = yaml.safe_load(Path(__file__).with_name("protocol.yaml").read_text(encoding="utf-8"))
    return Protocol(**common, **common["families"][family])


def right(completions: Sequence[str], answer: Sequence[str], **columns: Any) -> list[float]:
    """Reward: 1 if the first line is the answer, else 0."""
    return [float(text.partition(END)[0] == f" {gold}") for text, gold in zip(completions, answer, strict=True)]


class Accuracy:
    """The chance that a rollout at temperature 1 is right, by teacher forcing: no rollouts and no sampling noise.

    What all prompts begin with is read once.  An answer is counted as the tokenizer writes it; a token that begins with
    a line break, or that ends the text, ends it.
    """

    def __init__(self, tokenizer: Any, rows: Sequence[dict[str, Any]]) -> None:
        asked = [tokenizer(row["prompt"])["input_ids"] for row in rows]
        answers = [tokenizer(f" {row['answer']}", add_special_tokens=False)["input_ids"] for row in rows]
        whole = [a + b for a, b in zip(asked, answers, strict=True)]
        self.longest = max(map(len, answers))
        """Tokens of the longest answer."""
        same = min(map(len, asked)) - 1
        while any(ids[:same] != whole[0][:same] for ids in whole):
            same -= 1
        width = max(map(len, whole)) - same
        padded = [ids[same:] + [tokenizer.pad_token_id] * (width - len(ids) + same) for ids in whole]
        self._prefix, self._rest = torch.tensor([whole[0][:same]]), torch.tensor(padded)
        self._first = torch.tensor([len(ids) - same for ids in asked])  # where the answer begins, and where it ends
        self._last = torch.tensor([len(ids) - same for ids in whole])
        ends = [tokenizer.eos_token_id, *(i for i in range(len(tokenizer)) if tokenizer.decode([i]).startswith(END))]
        self._ends = torch.tensor(sorted(set(ends)))

    @torch.no_grad()
    def __call__(self, model: Any) -> torch.Tensor:
        """(P,) chances."""
        read = model(input_ids=self._prefix, use_cache=True, logits_to_keep=1).past_key_values
        found = []
        for start in range(0, len(self._rest), _BATCH):
            part = slice(start, start + _BATCH)
            ids, first, last = self._rest[part], self._first[part, None], self._last[part, None]
            cache = deepcopy(read)
            cache.batch_repeat_interleave(len(ids))
            begin = int(first.min()) - 1  # no logits for what lies before every answer
            keep = torch.arange(begin, ids.shape[1])
            out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=keep)
            chances = out.logits.float().log_softmax(dim=-1)
            of_answer = chances[:, :-1].gather(2, ids[:, begin + 1 :, None])[:, :, 0]
            outside = (keep[:-1] < first - 1) | (keep[:-1] >= last - 1)
            at_end = chances[torch.arange(len(ids)), last[:, 0] - 1 - begin][:, self._ends].logsumexp(dim=1)
            found.append((of_answer.masked_fill(outside, 0.0).sum(dim=1) + at_end).exp())
        return torch.cat(found)
