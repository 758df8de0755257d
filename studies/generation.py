"""Rollouts for studies: a prompt is read once, and all rollouts of its group go on from the same cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

Tokens = list[list[int]]


@torch.no_grad()
def generate(
    model: Any, tokenizer: Any, prompts: Sequence[str], group: int, ends: Sequence[int], longest: int
) -> tuple[Tokens, Tokens]:
    """(token ids of each prompt, ids of `group` completions of each, prompt after prompt) at temperature 1.

    A completion ends with the first token of `ends`, which it includes, or after `longest`.
    """
    read, stops = tokenizer(list(prompts), return_tensors="pt", padding=True), torch.tensor(list(ends))
    mask = read["attention_mask"]
    asked = [row[kept.bool()].tolist() for row, kept in zip(read["input_ids"], mask, strict=True)]
    inputs = {"input_ids": read["input_ids"], "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)}
    out = model(**inputs, attention_mask=mask, use_cache=True, logits_to_keep=1)
    cache, logits = out.past_key_values, out.logits[:, -1].repeat_interleave(group, dim=0)
    cache.batch_repeat_interleave(group)
    mask, at = (x.repeat_interleave(group, dim=0) for x in (mask, inputs["position_ids"][:, -1:]))
    drawn: list[torch.Tensor] = []
    over = torch.zeros(len(mask), dtype=torch.bool)
    while True:
        drawn.append(torch.multinomial(logits.float().softmax(dim=-1), 1))
        over |= torch.isin(drawn[-1][:, 0], stops)
        if over.all() or len(drawn) == longest:
            break
        mask, at = torch.cat([mask, torch.ones_like(at)], dim=1), at + 1
        out = model(input_ids=drawn[-1], attention_mask=mask, position_ids=at, past_key_values=cache, use_cache=True)
        logits = out.logits[:, -1]
    ids = torch.cat(drawn, dim=1)
    ended = torch.isin(ids, stops)
    length = torch.where(ended.any(dim=1), ended.int().argmax(dim=1) + 1, ids.shape[1])
    return asked, [row[:n].tolist() for row, n in zip(ids, length.tolist(), strict=True)]
